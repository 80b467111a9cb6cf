//! Posting one notice to one webhook: HTTP, bounded in time, without redirects and without a proxy.

use std::time::Duration;

use messages::WireError;
use messages::envelope::CONTENT_JSON;
use messages::error::Code;
use messages::subject::HEADER_TRACEPARENT;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, ClientBuilder, Url, redirect};

use crate::state::Answer;

/// What is posted, the same bytes at every try.
#[derive(Debug, Clone)]
pub struct Notice {
    /// The event's id, also its `Idempotency-Key`.
    pub id: String,
    pub traceparent: Option<String>,
    pub body: Vec<u8>,
}

/// Posts notices.
#[derive(Debug, Clone)]
pub struct Poster {
    plain: Client,
    /// None, and why, on a host without certificate authorities.
    secure: Result<Client, String>,
    timeout: Duration,
}

impl Poster {
    pub fn new(timeout_ms: u64) -> Result<Self, WireError> {
        let timeout = Duration::from_millis(timeout_ms.max(1));
        let failed = |error: reqwest::Error| {
            WireError::new(Code::InternalError, format!("the notifier's HTTP client: {}", causes(&error)))
        };
        // http:// needs no authorities, so that a host without any can still reach its neighbors.
        let plain = client(timeout).tls_certs_only([]).build().map_err(failed)?;
        let secure = client(timeout).https_only(true).build().map_err(|error| causes(&error));
        Ok(Self { plain, secure, timeout })
    }

    /// One try.
    pub async fn post(&self, url: &Url, notice: &Notice) -> Answer {
        let client = match (url.scheme(), &self.secure) {
            ("http", _) => &self.plain,
            (_, Ok(secure)) => secure,
            (_, Err(error)) => {
                return Answer::Refused {
                    reason: format!(
                        "https cannot be used here ({error}): install the certificate authorities (package ca-certificates)"
                    ),
                };
            }
        };
        let mut request = client
            .post(url.clone())
            .header(CONTENT_TYPE, CONTENT_JSON)
            .header("Idempotency-Key", &notice.id)
            .body(notice.body.clone());
        if let Some(traceparent) = &notice.traceparent {
            request = request.header(HEADER_TRACEPARENT, traceparent);
        }
        match request.send().await {
            Ok(response) => {
                let seconds =
                    response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
                Answer::Status {
                    code: response.status().as_u16(),
                    retry_after_ms: seconds.map(|seconds| seconds.saturating_mul(1_000)),
                }
            }
            Err(error) if error.is_timeout() => Answer::None { reason: format!("no answer within {:?}", self.timeout) },
            Err(error) if error.is_builder() => Answer::Refused { reason: causes(&error.without_url()) },
            Err(error) => Answer::None { reason: causes(&error.without_url()) },
        }
    }
}

fn client(timeout: Duration) -> ClientBuilder {
    Client::builder()
        .timeout(timeout)
        .redirect(redirect::Policy::none())
        .no_proxy()
        .user_agent(concat!("within/", env!("CARGO_PKG_VERSION")))
}

/// The error and what it comes from: `error sending request: connection refused`.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::body::Bytes;
    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::post;
    use tokio::net::TcpListener;

    use super::*;

    type Seen = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

    /// A receiver on a free port that answers as the path says.
    async fn receiver() -> (String, Seen) {
        let seen = Seen::default();
        let note = Arc::clone(&seen);
        let keep = move |headers: HeaderMap, body: Bytes| async move {
            note.lock().expect("lock").push((headers, body));
            StatusCode::NO_CONTENT
        };
        let router = Router::new()
            .route("/ok", post(keep))
            .route("/busy", post(|| async { (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "7")]) }))
            .route("/moved", post(|| async { (StatusCode::TEMPORARY_REDIRECT, [("location", "/ok")]) }))
            .route("/silent", post(std::future::pending::<StatusCode>));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("address");
        tokio::spawn(async move { axum::serve(listener, router).await });
        (format!("http://{address}"), seen)
    }

    fn notice() -> Notice {
        Notice { id: "evt.j1.completed.1".into(), traceparent: Some("00-a-b-01".into()), body: b"{\"a\":1}".to_vec() }
    }

    #[tokio::test]
    async fn a_notice_arrives_with_its_headers() {
        let (at, seen) = receiver().await;
        let poster = Poster::new(5_000).expect("client");
        let url = |path: &str| Url::parse(&format!("{at}{path}")).expect("url");
        assert_eq!(poster.post(&url("/ok"), &notice()).await, Answer::Status { code: 204, retry_after_ms: None });
        assert_eq!(
            poster.post(&url("/busy"), &notice()).await,
            Answer::Status { code: 503, retry_after_ms: Some(7_000) }
        );
        // A redirect is an answer: what it points to is never asked.
        assert_eq!(poster.post(&url("/moved"), &notice()).await, Answer::Status { code: 307, retry_after_ms: None });
        let seen = seen.lock().expect("lock");
        assert_eq!(seen.len(), 1);
        let (headers, body) = &seen[0];
        assert_eq!(headers["content-type"], CONTENT_JSON);
        assert_eq!(headers["idempotency-key"], "evt.j1.completed.1");
        assert_eq!(headers["traceparent"], "00-a-b-01");
        assert_eq!(&body[..], b"{\"a\":1}");
    }

    #[tokio::test]
    async fn silence_and_absence_are_no_answer() {
        let (at, _) = receiver().await;
        let poster = Poster::new(100).expect("client");
        let silent = poster.post(&Url::parse(&format!("{at}/silent?token=s3cret")).expect("url"), &notice()).await;
        assert_eq!(silent, Answer::None { reason: "no answer within 100ms".into() });
        let free = TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("address");
        let absent = poster.post(&Url::parse(&format!("http://{free}/?token=s3cret")).expect("url"), &notice()).await;
        let Answer::None { reason } = absent else { panic!("{absent:?}") };
        assert!(reason.contains("refused") && !reason.contains("s3cret"), "{reason}");
    }
}
