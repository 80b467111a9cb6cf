//! The NATS server that a command talks to: the one of `--nats`, the embedded one that another
//! process of this home runs, or one that this process starts for itself.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bus::embedded::{EmbeddedConfig, EmbeddedServer};
use bus::{Bus, BusConfig, Credentials, ErrorKind};
use messages::WireError;
use messages::error::Code;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::exit::Failure;

/// Where the embedded server of a home can be reached; readable by its owner only.
#[derive(Debug, Serialize, Deserialize)]
struct Running {
    pid: u32,
    url: String,
    user: String,
    password: String,
}

/// A connection, and the server itself if it is ours.
pub struct Link {
    pub bus: Bus,
    pub url: String,
    pub credentials: Credentials,
    /// Dies with this value.
    pub server: Option<EmbeddedServer>,
    notice: Option<PathBuf>,
}

impl Link {
    /// Drains the connection, then stops the server if it is ours.
    pub async fn close(mut self) {
        self.bus.close().await;
        if let Some(path) = self.notice.take() {
            let _ = std::fs::remove_file(path);
        }
        if let Some(mut server) = self.server.take()
            && let Err(error) = server.stop().await
        {
            tracing::warn!(%error, "the embedded server did not stop in order");
        }
    }
}

/// Connects, starting the embedded server if there is none yet.
pub async fn open(config: &Config, name: &str) -> Result<Link, Failure> {
    if let Some(url) = &config.nats {
        let bus = connect(config, url, config.credentials.clone(), name).await?;
        return Ok(Link { bus, url: url.clone(), credentials: config.credentials.clone(), server: None, notice: None });
    }
    let notice = config.home.join("nats.json");
    if let Some(link) = join_running(config, &notice, name).await {
        return Ok(link);
    }
    let server = EmbeddedServer::start(EmbeddedConfig {
        sync_always: config.nats_sync_always,
        wrapper: Some(wrapper()?),
        ..EmbeddedConfig::new(find_binary(config)?, config.home.join("nats"))
    })
    .await?;
    let (url, credentials) = (server.url(), server.credentials());
    if let Credentials::UserPassword { user, password } = &credentials {
        let running =
            Running { pid: std::process::id(), url: url.clone(), user: user.clone(), password: password.clone() };
        write_private(&notice, &running).map_err(|error| {
            let message = format!("{}: {error}", notice.display());
            Failure::Infrastructure(WireError::new(Code::ArtifactStoreUnavailable, message))
        })?;
    }
    let bus = connect(config, &url, credentials.clone(), name).await?;
    Ok(Link { bus, url, credentials, server: Some(server), notice: Some(notice) })
}

async fn connect(config: &Config, url: &str, credentials: Credentials, name: &str) -> Result<Bus, Failure> {
    let config = BusConfig {
        url: url.to_owned(),
        credentials,
        tls: config.tls.clone(),
        tenant: config.tenant.clone(),
        name: format!("within {name}"),
        timings: config.timings,
    };
    Bus::connect(config).await.map_err(|error| {
        let wire = error.to_wire();
        Failure::Infrastructure(match error.kind() {
            ErrorKind::Unreachable => {
                wire.with_hint("start nats-server there, or check --nats and the firewall in between")
            }
            _ => wire,
        })
    })
}

/// Held by a `within run` for as long as it has its own platform in this home: jobs of two runs would be
/// worked on by either of them, and each knows only its own job's folder.
pub struct Turn {
    _lock: File,
}

/// The home for this run alone, or who has it.
pub fn take_turn(home: &Path) -> Result<Turn, Failure> {
    let path = home.join("run.lock");
    let failed = |text: String| {
        let error = WireError::new(Code::ArtifactStoreUnavailable, text);
        Failure::Infrastructure(error)
    };
    let mut lock = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| failed(format!("{}: {error}", path.display())))?;
    if lock.try_lock().is_err() {
        let mut holder = String::new();
        // Who it is only helps the reader.
        let _ = lock.read_to_string(&mut holder);
        let text = format!("home {}: another `within run` (process {}) uses it", home.display(), holder.trim());
        let hint = "wait for its end, give this one another --home, or start `within worker` once and `within submit` \
                    each job";
        return Err(Failure::Infrastructure(WireError::new(Code::ArtifactStoreUnavailable, text).with_hint(hint)));
    }
    let written = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
    written.map_err(|error| failed(format!("{}: {error}", path.display())))?;
    Ok(Turn { _lock: lock })
}

/// The server of another process of this home, if it is still there.
async fn join_running(config: &Config, notice: &Path, name: &str) -> Option<Link> {
    let running: Running = serde_json::from_slice(&std::fs::read(notice).ok()?).ok()?;
    if !Path::new(&format!("/proc/{}", running.pid)).exists() {
        return None;
    }
    let credentials = Credentials::UserPassword { user: running.user, password: running.password };
    let bus = connect(config, &running.url, credentials.clone(), name).await.ok()?;
    Some(Link { bus, url: running.url, credentials, server: None, notice: None })
}

fn write_private(path: &Path, running: &Running) -> std::io::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(&serde_json::to_vec(running)?)?;
    file.sync_all()?;
    std::fs::rename(temporary, path)
}

/// This program itself, as the wrapper that makes the server die with this process.
fn wrapper() -> Result<Vec<String>, Failure> {
    let me = std::env::current_exe().map_err(|error| {
        Failure::Infrastructure(WireError::new(Code::InternalError, format!("own program file: {error}")))
    })?;
    Ok(vec![me.display().to_string(), "die-with-parent".into(), std::process::id().to_string(), "--".into()])
}

/// The server's program: configured, on PATH, or where `make run` provisions it.
pub fn find_binary(config: &Config) -> Result<PathBuf, Failure> {
    if let Some(path) = &config.nats_server {
        return Ok(path.clone());
    }
    let on_path = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|paths| std::env::split_paths(&paths).map(|folder| folder.join("nats-server")).collect::<Vec<_>>());
    let provisioned = [".tools/nats-server-2.15.1/nats-server".into(), config.home.join("bin/nats-server")];
    on_path.chain(provisioned).find(|path| path.is_file()).ok_or_else(|| {
        let error = WireError::new(Code::BusUnavailable, "no nats-server: not on PATH, not in .tools, not configured")
            .with_hint(
                "`make run` fetches it; or set WITHIN_NATS_SERVER to one of version 2.12 or newer, or use --nats URL",
            );
        Failure::Infrastructure(error)
    })
}
