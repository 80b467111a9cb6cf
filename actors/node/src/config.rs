//! Configuration of a process: flag > `WITHIN_*` variable > `within.yaml` > default. (Flags and
//! variables come together from clap; this adds the file and the defaults.)

use std::path::{Path, PathBuf};

use bus::Credentials;
use messages::Tenant;
use messages::timings::Timings;
use serde::Deserialize;

use crate::cli::Global;
use crate::exit::Failure;

/// Largest configuration file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// `within.yaml`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    home: Option<PathBuf>,
    nats: Option<String>,
    creds: Option<PathBuf>,
    tenant: Option<String>,
    http: Option<String>,
    log: Option<String>,
    roles: Vec<String>,
    slots: Option<u32>,
    threads: Option<u32>,
    data_roots: Vec<PathBuf>,
    artifacts: Option<String>,
    tracker_database: Option<String>,
    webhook_hosts: Option<Vec<String>>,
    nats_server: Option<PathBuf>,
    nats_sync_always: bool,
    timings: Timings,
}

/// Everything settled.
#[derive(Debug, Clone)]
pub struct Config {
    /// Absolute.
    pub home: PathBuf,
    /// None: the embedded server of this home.
    pub nats: Option<String>,
    pub credentials: Credentials,
    pub tenant: Tenant,
    pub http: String,
    pub log: Option<String>,
    pub json: bool,
    pub roles: Vec<String>,
    pub slots: u32,
    /// Compute threads of a rank; 0: what the machine gives.
    pub threads: u32,
    pub data_roots: Vec<PathBuf>,
    /// Location of the artifact store.
    pub artifacts: String,
    pub tracker_database: Option<String>,
    pub webhook_hosts: Option<Vec<String>>,
    pub nats_server: Option<PathBuf>,
    /// The embedded server writes every message to disk before it acknowledges it.
    pub nats_sync_always: bool,
    pub timings: Timings,
}

impl Config {
    /// Reads the file and settles every value.
    pub fn load(global: &Global) -> Result<Self, Failure> {
        let file = read_file(global.config.as_deref())?;
        let home = global.home.clone().or(file.home).unwrap_or_else(|| PathBuf::from(".within"));
        std::fs::create_dir_all(&home).map_err(|error| unusable(&home, &error))?;
        let home = home.canonicalize().map_err(|error| unusable(&home, &error))?;
        let tenant = match global.tenant.clone().or(file.tenant) {
            None => Tenant::default(),
            Some(name) => Tenant::new(name).map_err(|error| Failure::Usage(error.to_string()))?,
        };
        let credentials = match global.creds.clone().or(file.creds) {
            None => Credentials::None,
            Some(path) => credentials(&path)?,
        };
        let mut data_roots = file.data_roots;
        if data_roots.is_empty() {
            data_roots.push(PathBuf::from("."));
            data_roots.extend(std::env::var_os("WITHIN_DATA").map(PathBuf::from));
            data_roots.push(home.join("data"));
        }
        Ok(Self {
            artifacts: file.artifacts.unwrap_or_else(|| home.join("store").display().to_string()),
            nats: global.nats.clone().or(file.nats),
            credentials,
            tenant,
            http: global.http.clone().or(file.http).unwrap_or_else(|| "127.0.0.1:0".into()),
            log: global.log.clone().or(file.log),
            json: global.json,
            roles: file.roles,
            slots: file.slots.unwrap_or(1),
            threads: file.threads.unwrap_or(0),
            data_roots,
            tracker_database: file.tracker_database,
            webhook_hosts: file.webhook_hosts,
            nats_server: std::env::var_os("WITHIN_NATS_SERVER").map(PathBuf::from).or(file.nats_server),
            nats_sync_always: file.nats_sync_always,
            timings: file.timings,
            home,
        })
    }
}

fn unusable(home: &Path, error: &std::io::Error) -> Failure {
    use messages::error::Code;
    let error = messages::WireError::new(
        Code::ArtifactStoreUnavailable,
        format!("the home folder {} cannot be used: {error}", home.display()),
    )
    .with_hint("give another one with --home");
    Failure::Infrastructure(error)
}

fn read_file(explicit: Option<&Path>) -> Result<File, Failure> {
    let path = explicit.unwrap_or_else(|| Path::new("within.yaml"));
    let text = match std::fs::metadata(path) {
        Ok(meta) if meta.len() > MAX_BYTES => {
            return Err(Failure::Usage(format!(
                "{}: {} bytes, expected at most {MAX_BYTES}",
                path.display(),
                meta.len()
            )));
        }
        Ok(_) => std::fs::read_to_string(path),
        Err(error) if explicit.is_none() && error.kind() == std::io::ErrorKind::NotFound => return Ok(File::default()),
        Err(error) => Err(error),
    };
    let text = text.map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    serde_saphyr::from_str(&text).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

/// A `.creds` file as the nsc tool writes it, or one line `user:password`.
fn credentials(path: &Path) -> Result<Credentials, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::Usage(format!("--creds {}: {error}", path.display())))?;
    if text.contains("-----BEGIN NATS USER JWT-----") {
        return Ok(Credentials::File(path.to_owned()));
    }
    match text.trim().split_once(':') {
        Some((user, password)) if !user.is_empty() && !text.trim().contains('\n') => {
            Ok(Credentials::UserPassword { user: user.to_owned(), password: password.to_owned() })
        }
        _ => Err(Failure::Usage(format!(
            "--creds {}: expected a NATS .creds file, or one line user:password",
            path.display()
        ))),
    }
}
