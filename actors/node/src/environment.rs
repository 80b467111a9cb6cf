//! The environment of this process's roles: identity, artifact store, data roots.

use std::path::PathBuf;
use std::sync::Arc;

use bus::artifact::ArtifactStore;
use bus::remote::{Limits, Remote};
use bus::role::{Identity, RoleEnv};
use kernels::device::Device;
use messages::error::Code;
use messages::{WireError, WorkerId};
use tokio_util::sync::CancellationToken;
use trainer::device::Devices;

use crate::config::Config;
use crate::exit::Failure;
use crate::server::Link;

/// Builds it. `roots` come before the configured data roots.
pub fn build(config: &Config, link: &Link, name: Option<&str>, roots: Vec<PathBuf>) -> Result<RoleEnv, Failure> {
    let host = host_name();
    let worker = match name {
        Some(name) => WorkerId::new(name).map_err(|error| Failure::Usage(format!("--name: {error}")))?,
        None => unique_name(&host),
    };
    let identity = Identity {
        worker,
        host,
        pid: std::process::id(),
        build: build_version(),
        // Ranks on devices of one kind make a gang, and ranks that encrypt, or such that do not.
        fingerprint: kernels::fingerprint::fingerprint(&Device::Cpu)
            + &devices(config)?.fingerprint()
            + if config.collective_tls { "+tls" } else { "" },
    };
    let roots = roots.into_iter().chain(config.data_roots.iter().cloned());
    let mut data_roots: Vec<PathBuf> = Vec::new();
    for root in roots.filter_map(|root| root.canonicalize().ok()) {
        if !data_roots.contains(&root) {
            data_roots.push(root);
        }
    }
    Ok(RoleEnv {
        bus: link.bus.clone(),
        identity: Arc::new(identity),
        artifacts: ArtifactStore::open(&config.artifacts)?,
        drain: CancellationToken::new(),
        data_roots: Arc::new(data_roots),
        remote: Remote::new(remote_limits(config))?,
        home: Arc::new(config.home.clone()),
    })
}

fn remote_limits(config: &Config) -> Limits {
    Limits { allowed: config.remote_sources.clone(), options: config.remote_options.clone(), ..Limits::default() }
}

/// The CUDA devices of this worker.
pub fn devices(config: &Config) -> Result<Devices, Failure> {
    trainer::device::find(&config.devices).map_err(|why| {
        let error = WireError::new(Code::DeviceError, format!("devices: {why}"));
        Failure::Infrastructure(error.with_hint("within doctor says what is missing; devices: cpu does without"))
    })
}

/// Version of this binary, as heartbeats show it.
pub fn build_version() -> String {
    match option_env!("WITHIN_COMMIT") {
        Some(commit) => format!("{}+{commit}", env!("CARGO_PKG_VERSION")),
        None => env!("CARGO_PKG_VERSION").to_owned(),
    }
}

pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "localhost".into(), |s| s.trim().to_owned())
}

/// `<host>-<pid>-<four hexadecimal digits of the start time>`.
fn unique_name(host: &str) -> WorkerId {
    let host: String = host.chars().filter(char::is_ascii_alphanumeric).take(24).collect();
    let host = if host.is_empty() { "host".to_owned() } else { host };
    let salt = bus::now_ms() & 0xffff;
    WorkerId::new(format!("{host}-{}-{salt:04x}", std::process::id())).expect("invariant: made of token characters")
}
