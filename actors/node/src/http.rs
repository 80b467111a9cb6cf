//! `/metrics`, `/healthz` and `/readyz` of a worker.

use std::net::SocketAddr;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use messages::WireError;
use messages::error::Code;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Installs the recorder; once a process, before the first metric.
pub fn recorder() -> Result<PrometheusHandle, WireError> {
    let recorder = PrometheusBuilder::new()
        .install_recorder()
        .map_err(|error| WireError::new(Code::InternalError, format!("metrics recorder: {error}")))?;
    metrics::gauge!("within_build_info", "version" => crate::environment::build_version()).set(1.0);
    Ok(recorder)
}

/// Listens; answers until the process ends.
pub async fn serve(
    address: &str,
    recorder: PrometheusHandle,
    ready: watch::Receiver<bool>,
) -> Result<SocketAddr, WireError> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        WireError::new(Code::AddressUnavailable, format!("--http {address}: {error}"))
            .with_hint("choose another port, or 127.0.0.1:0 for a free one")
    })?;
    let bound = listener
        .local_addr()
        .map_err(|error| WireError::new(Code::InternalError, format!("--http {address}: {error}")))?;
    let upkeep = recorder.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(std::time::Duration::from_secs(30)).await;
            upkeep.run_upkeep();
        }
    });
    let app = Router::new()
        .route("/metrics", get(move || async move { recorder.render() }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || async move {
                if *ready.borrow() {
                    (StatusCode::OK, "ready\n")
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
                }
            }),
        );
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::warn!(%error, "the HTTP server ended");
        }
    });
    Ok(bound)
}
