//! The connection: made within a bounded time or refused with a clear error, remade for ever after.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

use async_nats::{ConnectErrorKind, ConnectOptions, ServerAddr};
use messages::envelope::{Envelope, Payload};
use messages::job::Role;
use messages::subject::Subjects;
use messages::timings::Timings;
use messages::{Tenant, WireError};
use serde::{Deserialize, Serialize};

use crate::clock::now_ms;
use crate::error::{Error, ErrorKind, Result};
use crate::link::Link;
use crate::room::Room;

/// Oldest server that keeps what we ask of it; older ones drop configuration without an error.
pub(crate) const MIN_SERVER: (u64, u64) = (2, 12);
/// Advised ceiling of a message, in bytes, whatever the server allows.
const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;
/// Room for subject and headers of a frame.
const FRAME_OVERHEAD_BYTES: usize = 4 * 1024;
/// Longest pause between two attempts to connect again.
const MAX_RECONNECT_PAUSE: Duration = Duration::from_secs(2);
/// How long closing waits for a connection that is lost.
const CLOSE_UNCONNECTED: Duration = Duration::from_secs(1);
/// Messages buffered for one subscription before the newest are dropped. Feeds stay below it by credit.
const SUBSCRIPTION_CAPACITY: usize = 65_536;
/// Commands buffered while the connection is down; a publish waits (bounded) beyond it.
const COMMAND_CAPACITY: usize = 2_048;
/// Characters of an nkey seed.
const NKEY_SEED_LEN: usize = 58;

/// How to reach NATS, and as whom.
#[derive(Debug, Clone)]
pub struct BusConfig {
    /// `nats://HOST:PORT` or `tls://HOST:PORT`; several separated by commas.
    pub url: String,
    pub credentials: Credentials,
    pub tls: Tls,
    pub tenant: Tenant,
    /// Who speaks: shown by the server, and the source of messages (`/within/<name>`).
    pub name: String,
    pub timings: Timings,
}

/// How to authenticate.
#[derive(Clone)]
pub enum Credentials {
    None,
    UserPassword {
        user: String,
        password: String,
    },
    /// A `.creds` file (JWT and nkey seed), or a file with the nkey seed of a user alone.
    File(PathBuf),
}

/// Files of TLS, in PEM. Without any, a server that wants TLS is checked against the system's certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Whom to trust, instead of the system's certificates.
    pub ca: Option<PathBuf>,
    /// The client's own certificate, where the server verifies clients.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::UserPassword { user, .. } => write!(f, "UserPassword({user}, redacted)"),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

/// The server at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSummary {
    pub name: String,
    pub version: String,
    /// Without credentials.
    pub url: String,
    /// Largest message that the server accepts, in bytes.
    pub max_payload_bytes: usize,
    pub jetstream: bool,
}

pub(crate) struct Inner {
    pub(crate) client: async_nats::Client,
    pub(crate) link: Arc<Link>,
    pub(crate) room: tokio::sync::Mutex<Room>,
    subjects: Subjects,
    timings: Timings,
    tenant: Tenant,
    source: String,
    url: String,
}

/// A connection to NATS; clones share it.
#[derive(Clone)]
pub struct Bus {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").field("url", &self.inner.url).field("tenant", &self.inner.tenant).finish_non_exhaustive()
    }
}

impl Bus {
    /// Connects within `timings.request_timeout_ms`, once; later losses are healed for ever, with a
    /// capped pause. The server must be 2.12 or newer.
    pub async fn connect(config: BusConfig) -> Result<Bus> {
        install_crypto();
        let url = redact(&config.url);
        let addresses = parse_addresses(&config.url, &url)?;
        let limit = Duration::from_millis(config.timings.request_timeout_ms);
        let link = Arc::new(Link::new(&config.name));
        let options = options(&config, limit, Arc::clone(&link)).await?;
        let client = match tokio::time::timeout(limit, options.connect(addresses)).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(connect_error(&url, &config.credentials, error)),
            Err(_) => return Err(timed_out(&url, limit)),
        };
        let info = client.server_info();
        check_version(&url, &info.version)?;
        Ok(Bus {
            inner: Arc::new(Inner {
                client,
                link,
                room: tokio::sync::Mutex::default(),
                subjects: Subjects::new(&config.tenant),
                timings: config.timings,
                tenant: config.tenant,
                source: source(&config.name),
                url,
            }),
        })
    }

    pub fn subjects(&self) -> &Subjects {
        &self.inner.subjects
    }

    pub fn timings(&self) -> &Timings {
        &self.inner.timings
    }

    pub fn tenant(&self) -> &Tenant {
        &self.inner.tenant
    }

    /// Largest payload to put into one message, in bytes: the smaller of the server's limit and
    /// 8 MiB, less room for subject and headers.
    pub fn max_frame_bytes(&self) -> usize {
        self.inner.client.max_payload().min(MAX_MESSAGE_BYTES).saturating_sub(FRAME_OVERHEAD_BYTES)
    }

    pub fn server_info(&self) -> ServerSummary {
        let info = self.inner.client.server_info();
        ServerSummary {
            name: info.server_name,
            version: info.version,
            url: self.inner.url.clone(),
            max_payload_bytes: info.max_payload,
            jetstream: info.jetstream,
        }
    }

    /// Sends what is buffered, lets subscriptions end, and closes; bounded by
    /// `timings.request_timeout_ms` twice, and by a second each where there is no connection.
    /// `drain` of the client alone returns before all is sent.
    pub async fn close(&self) {
        let limit = match self.disconnected_for() {
            Some(_) => self.request_timeout().min(CLOSE_UNCONNECTED),
            None => self.request_timeout(),
        };
        let mut closed = self.inner.link.closed();
        if !matches!(tokio::time::timeout(limit, self.round_trip()).await, Ok(Ok(()))) {
            tracing::warn!(url = %self.inner.url, "closing without an answer from NATS: what was not sent is lost");
        }
        let wait = async {
            if self.inner.client.drain().await.is_ok() {
                closed.wait_for(|closed| *closed).await.ok();
            }
        };
        tokio::time::timeout(limit, wait).await.ok();
        self.inner.link.on_event(&async_nats::Event::Closed);
    }

    /// Since when there is no connection; None while there is one.
    pub fn disconnected_for(&self) -> Option<Duration> {
        self.inner.link.down_for()
    }

    /// Says that `role` cannot run on this connection: nothing that waiting heals. The first one counts.
    pub fn cannot_run(&self, role: Role, error: &Error) {
        self.inner.link.give_up(role, error.to_wire());
    }

    /// Ends when a role of this process cannot run: which one, and why.
    pub async fn given_up(&self) -> (Role, WireError) {
        let mut given_up = self.inner.link.given_up();
        let found = given_up.wait_for(Option::is_some).await.map(|found| found.clone());
        match found {
            Ok(Some(found)) => found,
            _ => std::future::pending().await,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.inner.link.closed().borrow()
    }

    pub(crate) fn url(&self) -> &str {
        &self.inner.url
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.inner.timings.request_timeout_ms)
    }

    /// An id that no other call, process or host makes.
    pub(crate) fn fresh_id(&self) -> String {
        let inbox = self.inner.client.new_inbox();
        inbox.rsplit('.').next().unwrap_or(&inbox).to_owned()
    }

    /// An envelope of this process, with an id of its own.
    pub(crate) fn envelope<T: Payload>(&self, data: T) -> Envelope<T> {
        self.envelope_with(self.fresh_id(), now_ms(), data)
    }

    pub(crate) fn envelope_with<T: Payload>(&self, id: String, at: messages::UnixMs, data: T) -> Envelope<T> {
        let mut envelope = Envelope::new(id, self.inner.source.clone(), at, data);
        envelope.tenant = Some(self.inner.tenant.clone());
        envelope
    }

    /// "not connected for 3 s" or nothing, for messages to a person.
    pub(crate) fn link_note(&self) -> String {
        self.inner
            .link
            .down_for()
            .map_or_else(String::new, |d| format!(" (not connected for {:.1} s)", d.as_secs_f64()))
    }
}

/// TLS needs a provider of cryptography: aws-lc-rs, installed once for the process.
fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error means that the process has installed one already.
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    });
}

async fn options(config: &BusConfig, limit: Duration, link: Arc<Link>) -> Result<ConnectOptions> {
    // A silent partition is seen after three pings.
    let ping = Duration::from_millis((config.timings.heartbeat_ms * 5 / 2).clamp(500, 5_000));
    let options = ConnectOptions::new()
        .name(&config.name)
        .connection_timeout(limit)
        .request_timeout(Some(limit))
        .ping_interval(ping)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .client_capacity(COMMAND_CAPACITY)
        .reconnect_delay_callback(reconnect_pause)
        .event_callback(move |event| {
            link.on_event(&event);
            std::future::ready(())
        });
    let options = secured(options, &config.tls)?;
    match &config.credentials {
        Credentials::None => Ok(options),
        Credentials::UserPassword { user, password } => Ok(options.user_and_password(user.clone(), password.clone())),
        Credentials::File(path) => {
            let refuse = |error: std::io::Error| {
                Error::new(
                    ErrorKind::Unauthorized,
                    format!(
                        "credentials file {}: {error}; expected a .creds file with a JWT and an nkey seed, or a user's seed",
                        path.display()
                    ),
                )
            };
            let text = tokio::fs::read_to_string(path).await.map_err(refuse)?;
            match nkey_seed(&text) {
                Some(seed) => Ok(options.nkey(seed.to_owned())),
                None => options.credentials(&text).map_err(refuse),
            }
        }
    }
}

/// The seed of a user in a file that holds nothing else but comments, as `nk -gen user` writes it.
pub fn nkey_seed(text: &str) -> Option<&str> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let seed = lines.next().filter(|line| line.starts_with("SU") && line.len() == NKEY_SEED_LEN)?;
    (lines.next().is_none() && seed.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(seed)
}

/// TLS as it is configured. A file that cannot be read is named here; the client's own error names none.
fn secured(mut options: ConnectOptions, tls: &Tls) -> Result<ConnectOptions> {
    let readable = |what: &str, path: &Path| {
        std::fs::File::open(path).map(|_| path.to_owned()).map_err(|error| {
            Error::new(ErrorKind::Unauthorized, format!("TLS {what} {}: {error}; expected a PEM file", path.display()))
        })
    };
    if let Some(ca) = &tls.ca {
        options = options.add_root_certificates(readable("ca", ca)?).require_tls(true);
    }
    match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            let (cert, key) = (readable("cert", cert)?, readable("key", key)?);
            Ok(options.add_client_certificate(cert, key).require_tls(true))
        }
        (None, None) => Ok(options),
        _ => Err(Error::new(ErrorKind::Unauthorized, "TLS: expected both or none of cert and key")),
    }
}

/// Attempt 1 comes at once; then 50 ms, doubled, up to [`MAX_RECONNECT_PAUSE`].
fn reconnect_pause(attempt: usize) -> Duration {
    match attempt {
        0 | 1 => Duration::ZERO,
        _ => Duration::from_millis(50u64 << (attempt - 2).min(10)).min(MAX_RECONNECT_PAUSE),
    }
}

/// The `source` of messages: a URI reference, so without blanks and the like.
fn source(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/') { c } else { '-' };
    format!("/within/{}", name.chars().map(plain).collect::<String>())
}

/// The URL without user and password.
pub(crate) fn redact(url: &str) -> String {
    let parts = url.split(',').map(|part| {
        let (scheme, rest) = part.trim().split_once("://").map_or(("", part.trim()), |(s, r)| (s, r));
        let host = rest.rsplit('@').next().unwrap_or(rest);
        if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") }
    });
    parts.collect::<Vec<_>>().join(",")
}

fn parse_addresses(url: &str, shown: &str) -> Result<Vec<ServerAddr>> {
    let bad = |reason: String| {
        Error::new(
            ErrorKind::Other,
            format!("NATS URL {shown:?}: {reason}; expected nats://HOST:PORT or tls://HOST:PORT"),
        )
    };
    url.split(',').map(|part| part.trim().parse::<ServerAddr>().map_err(|error| bad(error.to_string()))).collect()
}

fn timed_out(url: &str, limit: Duration) -> Error {
    Error::new(
        ErrorKind::Unreachable,
        format!(
            "NATS at {url}: no answer within {:.1} s; is a NATS server listening there, and no firewall between?",
            limit.as_secs_f64()
        ),
    )
}

fn connect_error(url: &str, credentials: &Credentials, error: async_nats::ConnectError) -> Error {
    let cause = root_cause(&error);
    let (kind, text) = match error.kind() {
        ConnectErrorKind::Dns => (ErrorKind::Unreachable, format!("the host name is not known ({cause})")),
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            let what = match credentials {
                Credentials::None => "the server wants credentials: give --creds, or user and password".to_owned(),
                Credentials::UserPassword { user, .. } => format!("the server refuses user {user:?} or its password"),
                Credentials::File(path) => format!("the server refuses the credentials in {}", path.display()),
            };
            (ErrorKind::Unauthorized, what)
        }
        ConnectErrorKind::TimedOut => (ErrorKind::Unreachable, "no answer in time".to_owned()),
        _ if error.kind() == ConnectErrorKind::Tls || is_tls(&error) => (
            ErrorKind::Unauthorized,
            format!(
                "TLS failed: {cause}; expected a certificate for this host that `ca` vouches for, and one of ours where the server wants it"
            ),
        ),
        ConnectErrorKind::ServerParse => (ErrorKind::Other, format!("not a server address: {cause}")),
        ConnectErrorKind::Io | ConnectErrorKind::Tls | ConnectErrorKind::MaxReconnects => {
            (ErrorKind::Unreachable, format!("{cause}; is nats-server running there?"))
        }
    };
    Error::new(kind, format!("NATS at {url}: {text}")).because(error)
}

/// Whether the handshake failed: the client tells that as an error of reading or writing.
fn is_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let inner = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if inner.is_some() || error.is::<rustls::Error>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// The innermost source's text.
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// `2.12.1-RC.2` is 2.12.
pub(crate) fn parse_version(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.trim().trim_start_matches('v').split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What to do about a server that is too old.
pub(crate) const UPGRADE: &str =
    "install nats-server 2.12 or newer (make provisions 2.15.1), or set WITHIN_NATS_SERVER to one";

fn check_version(url: &str, version: &str) -> Result<()> {
    if parse_version(version).is_some_and(|found| found >= MIN_SERVER) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::ServerTooOld,
        format!(
            "NATS at {url} is version {version:?}; expected 2.12 or newer, because older servers silently drop what streams need: {UPGRADE}"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_never_stand_in_a_text() {
        assert_eq!(redact("nats://u:p@ss@h:4222, tls://v:q@i"), "nats://h:4222,tls://i");
        assert_eq!(redact("127.0.0.1:4222"), "127.0.0.1:4222");
        let credentials = Credentials::UserPassword { user: "u".into(), password: "secret".into() };
        assert!(!format!("{credentials:?}").contains("secret"));
    }

    #[test]
    fn a_seed_alone_is_told_from_a_creds_file() {
        let seed = format!("SU{}", "A".repeat(56));
        assert_eq!(nkey_seed(&format!("# of the trainer\n{seed}\n")), Some(seed.as_str()));
        for other in ["", "user:password", "-----BEGIN NATS USER JWT-----\nx", &format!("{seed}\n{seed}"), &seed[..50]]
        {
            assert_eq!(nkey_seed(other), None, "{other}");
        }
    }

    #[test]
    fn a_source_is_a_uri_reference() {
        assert_eq!(source("within worker/w1é"), "/within/within-worker/w1-");
    }

    #[test]
    fn only_2_12_and_newer_is_accepted() {
        for good in ["2.12.0", "2.15.1", "2.12.0-RC.1", "3.0.0", "v2.12.3"] {
            assert!(check_version("u", good).is_ok(), "{good}");
        }
        for old in ["2.9.10", "2.11.99", "1.4.1", "", "x"] {
            let error = check_version("u", old).expect_err(old);
            assert_eq!(error.kind(), ErrorKind::ServerTooOld);
            assert!(error.to_string().contains("2.12"), "{error}");
        }
    }

    #[test]
    fn the_pause_between_attempts_grows_to_a_cap() {
        let pauses: Vec<_> = (1..9).map(|attempt| reconnect_pause(attempt).as_millis()).collect();
        assert_eq!(pauses, [0, 50, 100, 200, 400, 800, 1600, 2000]);
        assert_eq!(reconnect_pause(usize::MAX), MAX_RECONNECT_PAUSE);
    }
}
