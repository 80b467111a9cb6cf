//! `within worker`: serves roles until it is told to stop.

use std::time::Duration;

use messages::worker::Control;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::cli::WorkerArgs;
use crate::config::Config;
use crate::exit::{self, Failure};
use crate::logging::FilterHandle;
use crate::watch::print_line;
use crate::{environment, http, roles, server, supervisor};

pub async fn run(config: &Config, args: &WorkerArgs, filter: FilterHandle) -> Result<u8, Failure> {
    let mut config = config.clone();
    if let Some(slots) = args.slots {
        config.slots = slots;
    }
    let names = if args.roles.is_empty() { &config.roles } else { &args.roles };
    let wanted = roles::parse(names)?;
    let recorder = http::recorder()?;
    let link = server::open(&config, "worker").await?;
    let env = environment::build(&config, &link, args.name.as_deref(), Vec::new())?;
    let settings = roles::settings(&config, &link)?;
    let mut crew = supervisor::start(env.clone(), settings, wanted.clone()).await?;
    let address = http::serve(&config.http, recorder, crew.ready.clone()).await?;
    listen_to_control(&env, filter).await?;
    let roles: Vec<_> = wanted.iter().map(|role| role.as_str()).collect();
    if config.json {
        let line = serde_json::json!({
            "event": "worker_started", "worker": env.identity.worker, "roles": roles,
            "http": format!("http://{address}"), "nats": env.bus.server_info().url,
        });
        print_line(&line.to_string());
    } else {
        print_line(&format!(
            "worker {} serves {} on {}; http://{address}/metrics",
            env.identity.worker,
            roles.join(", "),
            env.bus.server_info().url
        ));
    }
    let mut ready = crew.ready.clone();
    let json = config.json;
    let worker = env.identity.worker.clone();
    tokio::spawn(async move {
        if ready.wait_for(|up| *up).await.is_ok() && json {
            print_line(&serde_json::json!({ "event": "worker_ready", "worker": worker }).to_string());
        }
    });
    let signals = async {
        let failed = |error: std::io::Error| Failure::Usage(format!("signals: {error}"));
        let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut term = signal(SignalKind::terminate()).map_err(failed)?;
        let code = tokio::select! {
            _ = int.recv() => exit::INTERRUPTED,
            _ = term.recv() => exit::DONE,
            () = env.drain.cancelled() => return Ok(exit::DONE),
        };
        tokio::spawn(async move {
            tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
            warn!("second signal: the process ends at once");
            std::process::exit(exit::TERMINATED.into());
        });
        Ok::<u8, Failure>(code)
    };
    let code = tokio::select! {
        code = signals => code?,
        _ = crew.failure() => exit::INFRASTRUCTURE,
    };
    info!("draining");
    let drained = crew.drain(&env, Duration::from_millis(config.timings.drain_grace_ms)).await;
    link.close().await;
    drained?;
    Ok(code)
}

/// Drain and log level come over the bus too.
async fn listen_to_control(env: &bus::role::RoleEnv, filter: FilterHandle) -> Result<(), Failure> {
    use futures::StreamExt;
    for subject in env.bus.subjects().ctl_of(&env.identity.worker) {
        let mut messages = env.bus.subscribe(&subject).await?;
        let (drain, filter) = (env.drain.clone(), filter.clone());
        tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                match message.decode::<Control>().map(|envelope| envelope.data) {
                    Ok(Control::Drain) => drain.cancel(),
                    Ok(Control::LogLevel { filter: text }) => match text.parse::<tracing_subscriber::EnvFilter>() {
                        Ok(parsed) => drop(filter.reload(parsed)),
                        Err(error) => warn!(%error, "log filter {text:?} was not understood"),
                    },
                    Ok(Control::StopTask { .. }) | Err(_) => {}
                }
            }
        });
    }
    Ok(())
}
