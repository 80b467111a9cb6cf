//! Configuration of a process: flag > `WITHIN_*` variable > `within.yaml` > default. (Flags and
//! variables come together from clap; this adds the file and the defaults.)

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bus::{Credentials, Limits, Tls};
use data_loader::cache::{CacheConfig, SIZE_LIMIT_BYTES};
use messages::Tenant;
use messages::timings::Timings;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use trainer::device::Wanted;
use trainer::routes::{Hierarchy, Routes, WithinHost};

use crate::cli::Global;
use crate::exit::Failure;

/// Largest configuration file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// `within.yaml`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    home: Option<PathBuf>,
    #[serde(deserialize_with = "nats")]
    nats: Nats,
    creds: Option<PathBuf>,
    tenant: Option<String>,
    http: Option<String>,
    log: Option<String>,
    roles: Vec<String>,
    slots: Option<u32>,
    threads: Option<u32>,
    collective_tls: bool,
    collective_interface: Option<String>,
    collective_hierarchy: Hierarchy,
    collective_within_host: WithinHost,
    #[serde(deserialize_with = "devices")]
    devices: Wanted,
    data_roots: Vec<PathBuf>,
    remote_sources: Vec<String>,
    remote_options: BTreeMap<String, String>,
    memory_limit_bytes: Option<usize>,
    artifacts: Option<String>,
    tracker_database: Option<String>,
    webhook_hosts: Option<Vec<String>>,
    nats_server: Option<PathBuf>,
    nats_sync_always: bool,
    streams: Streams,
    cache: Cache,
    timings: Timings,
}

/// `cache:`, how long and how much the steps of preparing data keep; of each tier.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Cache {
    ttl_s: Option<u64>,
    size_limit_bytes: Option<u64>,
    share: Option<bool>,
}

impl Cache {
    fn settled(&self) -> Result<CacheConfig, Failure> {
        if self.ttl_s == Some(0) {
            return Err(Failure::Usage("cache.ttl_s: 0, expected at least 1; without it entries do not expire".into()));
        }
        let size_limit_bytes = Some(self.size_limit_bytes.unwrap_or(SIZE_LIMIT_BYTES));
        Ok(CacheConfig { ttl_s: self.ttl_s, size_limit_bytes, share: self.share })
    }
}

/// `nats:`, a URL or this.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Nats {
    url: Option<String>,
    tls: Tls,
}

/// `streams:`, how large the streams may grow. The coordinator creates or changes them accordingly.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Streams {
    pub replicas: u32,
    pub duplicate_window_s: u64,
    pub work_messages: u64,
    pub work_bytes: u64,
    pub event_messages: u64,
    pub event_bytes: u64,
    /// Events are discarded when they are older and the tracker has them.
    pub event_max_age_s: u64,
    pub log_bytes: u64,
    pub dead_letter_bytes: u64,
    pub dead_letter_max_age_s: u64,
}

impl Default for Streams {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            replicas: limits.replicas,
            duplicate_window_s: limits.duplicate_window.as_secs(),
            work_messages: limits.work_messages,
            work_bytes: limits.work_bytes,
            event_messages: limits.event_messages,
            event_bytes: limits.event_bytes,
            event_max_age_s: tracker::Config::default().event_max_age_s,
            log_bytes: limits.log_bytes,
            dead_letter_bytes: limits.dead_letter_bytes,
            dead_letter_max_age_s: limits.dead_letter_max_age.as_secs(),
        }
    }
}

impl Streams {
    pub fn limits(&self) -> Limits {
        Limits {
            replicas: self.replicas,
            duplicate_window: Duration::from_secs(self.duplicate_window_s),
            work_messages: self.work_messages,
            work_bytes: self.work_bytes,
            event_messages: self.event_messages,
            event_bytes: self.event_bytes,
            log_bytes: self.log_bytes,
            dead_letter_bytes: self.dead_letter_bytes,
            dead_letter_max_age: Duration::from_secs(self.dead_letter_max_age_s),
        }
    }

    /// Zero means "unlimited" to the server, and is nothing to promise.
    fn check(&self) -> Result<(), Failure> {
        let values = [
            ("replicas", u64::from(self.replicas)),
            ("duplicate_window_s", self.duplicate_window_s),
            ("work_messages", self.work_messages),
            ("work_bytes", self.work_bytes),
            ("event_messages", self.event_messages),
            ("event_bytes", self.event_bytes),
            ("event_max_age_s", self.event_max_age_s),
            ("log_bytes", self.log_bytes),
            ("dead_letter_bytes", self.dead_letter_bytes),
            ("dead_letter_max_age_s", self.dead_letter_max_age_s),
        ];
        match values.iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(Failure::Usage(format!("streams.{key}: 0, expected at least 1"))),
            None => Ok(()),
        }
    }
}

/// A URL, or a map with more.
fn nats<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Nats, D::Error> {
    struct Either;
    impl<'de> Visitor<'de> for Either {
        type Value = Nats;

        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            f.write_str("a URL, or a map with url and tls")
        }

        fn visit_str<E>(self, url: &str) -> Result<Nats, E> {
            Ok(Nats { url: Some(url.to_owned()), tls: Tls::default() })
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Nats, A::Error> {
            Nats::deserialize(MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_any(Either)
}

/// `auto`, `cpu`, or a list of numbers.
fn devices<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Wanted, D::Error> {
    struct Either;
    impl<'de> Visitor<'de> for Either {
        type Value = Wanted;

        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            f.write_str("auto, cpu, or a list of CUDA devices such as [0, 1]")
        }

        fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Wanted, E> {
            match name {
                "auto" => Ok(Wanted::Auto),
                "cpu" => Ok(Wanted::None),
                other => Err(E::invalid_value(Unexpected::Str(other), &self)),
            }
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Wanted, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(list)).map(Wanted::Only)
        }
    }
    deserializer.deserialize_any(Either)
}

/// Everything settled.
#[derive(Debug, Clone)]
pub struct Config {
    /// Absolute.
    pub home: PathBuf,
    /// None: the embedded server of this home.
    pub nats: Option<String>,
    pub credentials: Credentials,
    pub tls: Tls,
    pub tenant: Tenant,
    pub http: String,
    pub log: Option<String>,
    pub json: bool,
    pub roles: Vec<String>,
    pub slots: u32,
    /// Compute threads of a rank; 0: what the machine gives.
    pub threads: u32,
    /// Ranks exchange sums and states through TLS.
    pub collective_tls: bool,
    /// What ranks' sums travel by.
    pub routes: Routes,
    /// CUDA devices that this worker uses.
    pub devices: Wanted,
    pub data_roots: Vec<PathBuf>,
    /// Origins that a job spec may name files of: `s3://bucket`, `gs://bucket`, `az://container`, `https://host`.
    pub remote_sources: Vec<String>,
    /// Settings of the stores, such as `aws_endpoint`; secrets come from the environment.
    pub remote_options: BTreeMap<String, String>,
    /// What the columns of a preparation may take; none: half of what the machine has.
    pub memory_limit_bytes: Option<usize>,
    /// Location of the artifact store.
    pub artifacts: String,
    pub tracker_database: Option<String>,
    pub webhook_hosts: Option<Vec<String>>,
    pub nats_server: Option<PathBuf>,
    /// The embedded server writes every message to disk before it acknowledges it.
    pub nats_sync_always: bool,
    pub streams: Streams,
    /// The step cache.
    pub cache: CacheConfig,
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
        file.streams.check()?;
        if let Some(hosts) = &file.webhook_hosts {
            notifier::AllowedHosts::new(hosts)
                .map_err(|error| Failure::Usage(format!("webhook_hosts: {}", error.message)))?;
        }
        let mut data_roots = file.data_roots;
        if data_roots.is_empty() {
            data_roots.push(PathBuf::from("."));
            data_roots.extend(std::env::var_os("WITHIN_DATA").map(PathBuf::from));
            data_roots.push(home.join("data"));
        }
        Ok(Self {
            artifacts: file.artifacts.unwrap_or_else(|| home.join("store").display().to_string()),
            nats: global.nats.clone().or(file.nats.url),
            credentials,
            tls: file.nats.tls,
            tenant,
            http: global.http.clone().or(file.http).unwrap_or_else(|| "127.0.0.1:0".into()),
            log: global.log.clone().or(file.log),
            json: global.json,
            roles: file.roles,
            slots: file.slots.unwrap_or(1),
            threads: file.threads.unwrap_or(0),
            collective_tls: file.collective_tls,
            routes: Routes {
                interface: file.collective_interface,
                hierarchy: file.collective_hierarchy,
                within_host: file.collective_within_host,
            },
            devices: file.devices,
            data_roots,
            remote_sources: file.remote_sources,
            remote_options: file.remote_options,
            memory_limit_bytes: file.memory_limit_bytes,
            tracker_database: file.tracker_database,
            webhook_hosts: file.webhook_hosts,
            nats_server: std::env::var_os("WITHIN_NATS_SERVER").map(PathBuf::from).or(file.nats_server),
            nats_sync_always: file.nats_sync_always,
            streams: file.streams,
            cache: file.cache.settled()?,
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

/// A `.creds` file as the nsc tool writes it, the seed of a user's nkey, or one line `user:password`.
fn credentials(path: &Path) -> Result<Credentials, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::Usage(format!("--creds {}: {error}", path.display())))?;
    if text.contains("-----BEGIN NATS USER JWT-----") || bus::nkey_seed(&text).is_some() {
        return Ok(Credentials::File(path.to_owned()));
    }
    match text.trim().split_once(':') {
        Some((user, password)) if !user.is_empty() && !text.trim().contains('\n') => {
            Ok(Credentials::UserPassword { user: user.to_owned(), password: password.to_owned() })
        }
        _ => Err(Failure::Usage(format!(
            "--creds {}: expected a NATS .creds file, the seed of a user's nkey, or one line user:password",
            path.display()
        ))),
    }
}
