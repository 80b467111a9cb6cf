//! Files of object stores and web servers, read only: copied whole into a folder of this host before anything reads
//! them, so that a reader may jump and read twice, and what it sees does not change under it.
//!
//! A URL comes from a job spec, so nothing is asked of a host that the operator has not named ([`Remote::new`]); and a
//! server that redirects is refused, because where it leads to was not named. Every wait is bounded, and so is the size.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, TryStreamExt};
use messages::error::Code;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{HttpClient, HttpConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path as Key;
use object_store::{BackoffConfig, ClientOptions, Error as StoreError, GetOptions, GetRange, ObjectStore, RetryConfig};
use tokio::io::AsyncWriteExt;

use crate::error::{Error, ErrorKind, Result};

/// Files that are copied at once.
const AT_ONCE: usize = 16;

/// What the operator allows and bears.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `s3://bucket`, `gs://bucket`, `az://container`, `https://host`, `http://host:port`; none: nothing is read.
    pub allowed: Vec<String>,
    /// Settings of the stores beside the environment's, such as `aws_endpoint`, by the names of their variables in lower
    /// case. Secrets belong into the environment.
    pub options: BTreeMap<String, String>,
    /// Largest file, in bytes.
    pub max_bytes: u64,
    /// Most files that a pattern finds.
    pub max_files: usize,
    /// Until a connection stands, an answer begins, or its next bytes come.
    pub stall: Duration,
    /// A transfer that takes longer than `stall` is given up below this.
    pub min_bytes_per_s: u64,
    /// How often a transfer that breaks off goes on where it stood.
    pub resumes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            allowed: Vec::new(),
            options: BTreeMap::new(),
            max_bytes: 1 << 40,
            max_files: 10_000,
            stall: Duration::from_secs(30),
            min_bytes_per_s: 1024,
            resumes: 5,
        }
    }
}

/// Reads what is allowed; clones share it.
#[derive(Debug, Clone)]
pub struct Remote {
    limits: Arc<Limits>,
}

impl Default for Remote {
    /// Reads nothing.
    fn default() -> Self {
        Self { limits: Arc::new(Limits::default()) }
    }
}

/// A URL in its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place<'a> {
    scheme: &'a str,
    /// Bucket, container, or host with port.
    host: &'a str,
    path: &'a str,
}

impl<'a> Place<'a> {
    fn of(url: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let known = matches!(scheme, "s3" | "gs" | "az" | "http" | "https");
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        (known && !host.is_empty() && host.chars().all(legal)).then_some(Self { scheme, host, path })
    }

    fn origin(self) -> String {
        format!("{}://{}", self.scheme, self.host)
    }
}

/// Whether a path of a plan is a URL that this module reads.
pub fn is_remote(path: &str) -> bool {
    ["s3://", "gs://", "az://", "http://", "https://"].iter().any(|scheme| path.starts_with(scheme))
}

/// A client that goes where it was told, and nowhere else.
#[derive(Debug)]
struct Direct {
    stall: Duration,
    plain: bool,
}

impl HttpConnector for Direct {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .https_only(!self.plain)
            .connect_timeout(self.stall)
            .read_timeout(self.stall)
            .user_agent(concat!("within/", env!("CARGO_PKG_VERSION")))
            .build();
        let failed = |error| StoreError::Generic { store: "http", source: Box::new(error) };
        client.map(HttpClient::new).map_err(failed)
    }
}

impl Remote {
    /// `Err` where an entry of `allowed` is no origin.
    pub fn new(limits: Limits) -> Result<Self> {
        for entry in &limits.allowed {
            if Place::of(entry).is_none_or(|place| !matches!(place.path, "" | "/")) {
                let message = format!(
                    "remote_sources: {entry:?}, expected an origin: s3://bucket, gs://bucket, az://container, https://host"
                );
                return Err(Error::new(ErrorKind::Other, message).coded(Code::ConfigError));
            }
        }
        Ok(Self { limits: Arc::new(limits) })
    }

    /// Copies the file at `url` into `folder`, at its URL as a path: `s3:/bucket/key`; of a pattern, all files that
    /// `names` says it means, by the path behind the origin. Gives where they lie.
    pub async fn mirror(
        &self,
        url: &str,
        names: &(dyn Fn(&str) -> bool + Sync),
        folder: &Path,
    ) -> Result<Vec<PathBuf>> {
        let place = self.allowed(url)?;
        let store = self.store(place)?;
        let keys = if place.path.contains(['*', '?', '[']) {
            self.list(&*store, place, url, names).await?
        } else {
            vec![key_of(place, url)?]
        };
        let pattern = place.path.contains(['*', '?', '[']);
        let mut files = Vec::new();
        for key in keys {
            let name = if pattern { key.as_ref() } else { place.path };
            let at = target(place, name, folder)?;
            self.copy(&*store, &key, &format!("{}/{key}", place.origin()), &at).await?;
            files.push(at);
        }
        Ok(files)
    }

    /// Copies each of the files at these URLs, several at once, as [`Remote::mirror`] does one. What is not there is left
    /// out: whoever looks for it can say which row names it.
    pub async fn mirror_each(&self, urls: &BTreeSet<String>, folder: &Path) -> Result<()> {
        if let Some(beyond) = urls.iter().nth(self.limits.max_files) {
            let message = format!("{beyond}: one of {} files, expected at most {}", urls.len(), self.limits.max_files);
            return Err(Error::new(ErrorKind::Other, message).coded(Code::TooLarge));
        }
        let mut stores = BTreeMap::new();
        let mut wanted = Vec::new();
        for url in urls {
            let place = self.allowed(url)?;
            let store = match stores.get(&place.origin()) {
                Some(store) => Arc::clone(store),
                None => Arc::clone(stores.entry(place.origin()).or_insert(self.store(place)?)),
            };
            let at = target(place, place.path, folder)?;
            wanted.push(self.copy_if_there(store, key_of(place, url)?, url, at).boxed());
        }
        futures::stream::iter(wanted).buffer_unordered(AT_ONCE).try_collect().await
    }

    async fn copy_if_there(&self, store: Arc<dyn ObjectStore>, key: Key, url: &str, at: PathBuf) -> Result<()> {
        match self.copy(&*store, &key, url, &at).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tokio::fs::remove_file(&at).await.map_err(|error| disk_error(&at, error))
            }
            other => other,
        }
    }

    /// Whether there is anything that may be read.
    pub fn is_allowed_any(&self) -> bool {
        !self.limits.allowed.is_empty()
    }

    /// The URL's parts, where the operator has named its origin.
    fn allowed<'a>(&self, url: &'a str) -> Result<Place<'a>> {
        let place = Place::of(url).ok_or_else(|| forbidden(format!("{url}: no URL of files that can be read")))?;
        let named = |entry: &String| Place::of(entry).is_some_and(|entry| entry.origin() == place.origin());
        if self.limits.allowed.iter().any(named) {
            return Ok(place);
        }
        let origin = place.origin();
        Err(forbidden(format!(
            "{url}: the operator of this worker does not allow {origin}: add it to remote_sources in within.yaml"
        )))
    }

    /// The store of an origin. Credentials and endpoints come from the environment, by the names that the stores' own
    /// tools use (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_NAME` …).
    fn store(&self, place: Place<'_>) -> Result<Arc<dyn ObjectStore>> {
        let stall = self.limits.stall;
        let retry = RetryConfig {
            max_retries: 3,
            retry_timeout: stall.saturating_mul(2),
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(2),
                base: 2.0,
            },
        };
        let failed = |error| store_error(&place.origin(), error);
        let direct = |plain| Direct { stall, plain };
        Ok(match place.scheme {
            "s3" => {
                let mut builder = AmazonS3Builder::from_env().with_bucket_name(place.host).with_retry(retry);
                for (key, value) in self.options("aws_") {
                    builder = builder.with_config(key.parse().map_err(failed)?, value);
                }
                Arc::new(builder.with_http_connector(direct(true)).build().map_err(failed)?)
            }
            "gs" => {
                let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(place.host).with_retry(retry);
                for (key, value) in self.options("google_") {
                    builder = builder.with_config(key.parse().map_err(failed)?, value);
                }
                Arc::new(builder.with_http_connector(direct(true)).build().map_err(failed)?)
            }
            "az" => {
                let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(place.host).with_retry(retry);
                for (key, value) in self.options("azure_") {
                    builder = builder.with_config(key.parse().map_err(failed)?, value);
                }
                Arc::new(builder.with_http_connector(direct(true)).build().map_err(failed)?)
            }
            _ => {
                let builder = HttpBuilder::new().with_url(place.origin()).with_retry(retry);
                Arc::new(builder.with_http_connector(direct(place.scheme == "http")).build().map_err(failed)?)
            }
        })
    }

    fn options(&self, prefix: &'static str) -> impl Iterator<Item = (&String, &String)> {
        self.limits.options.iter().filter(move |(key, _)| key.starts_with(prefix))
    }

    /// The keys that a pattern names, in their order.
    async fn list(
        &self,
        store: &dyn ObjectStore,
        place: Place<'_>,
        url: &str,
        names: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<Vec<Key>> {
        if place.scheme.starts_with("http") {
            let message = format!("{url}: a web server lists no files: name them one by one");
            return Err(Error::new(ErrorKind::Other, message).coded(Code::NotSupported));
        }
        let fixed =
            place.path.split('/').take_while(|part| !part.contains(['*', '?', '['])).collect::<Vec<_>>().join("/");
        let prefix = Key::parse(&fixed).map_err(|error| forbidden(format!("{url}: {error}")))?;
        let mut found = store.list((!fixed.is_empty()).then_some(&prefix));
        let mut keys = Vec::new();
        while let Some(object) = self.in_time(url, found.next()).await? {
            let key = object.map_err(|error| store_error(url, error))?.location;
            if names(key.as_ref()) {
                keys.push(key);
            }
            if keys.len() > self.limits.max_files {
                let message = format!("{url}: names more than {} files", self.limits.max_files);
                return Err(Error::new(ErrorKind::Other, message).coded(Code::TooLarge));
            }
        }
        if keys.is_empty() {
            let message = format!("{url}: no file there has a name of this pattern");
            return Err(Error::new(ErrorKind::NotFound, message).coded(Code::DatasetNotFound));
        }
        keys.sort();
        Ok(keys)
    }

    async fn in_time<T>(&self, url: &str, wait: impl Future<Output = T>) -> Result<T> {
        tokio::time::timeout(self.limits.stall, wait).await.map_err(|_| {
            let seconds = self.limits.stall.as_secs_f64();
            Error::new(ErrorKind::Timeout, format!("{url}: nothing came for {seconds} s")).coded(Code::DeadlineExceeded)
        })
    }

    /// Copies one file; goes on where it stood when the transfer breaks off, as long as the file is the same.
    async fn copy(&self, store: &dyn ObjectStore, key: &Key, url: &str, at: &Path) -> Result<()> {
        let failed = |error: std::io::Error| disk_error(at, error);
        if let Some(folder) = at.parent() {
            tokio::fs::create_dir_all(folder).await.map_err(failed)?;
        }
        let mut file = tokio::fs::File::create(at).await.map_err(failed)?;
        let began = tokio::time::Instant::now();
        let mut copied = Copied { bytes: 0, size: None, etag: None };
        let mut broken = 0;
        loop {
            match self.transfer(store, key, url, &mut copied, &mut file, began).await {
                Ok(()) => break,
                // Some bytes more, and then it broke off.
                Err(Broken::Off(error)) if broken < self.limits.resumes => {
                    broken += 1;
                    tracing::debug!("{url}: {error}; goes on at byte {}", copied.bytes);
                }
                Err(Broken::Off(error) | Broken::Final(error)) => return Err(error),
            }
        }
        file.flush().await.map_err(failed)?;
        Ok(())
    }

    async fn transfer(
        &self,
        store: &dyn ObjectStore,
        key: &Key,
        url: &str,
        copied: &mut Copied,
        file: &mut tokio::fs::File,
        began: tokio::time::Instant,
    ) -> Result<(), Broken> {
        let options = GetOptions {
            range: (copied.bytes > 0).then_some(GetRange::Offset(copied.bytes)),
            if_match: copied.etag.clone().filter(|etag| copied.bytes > 0 && !etag.starts_with("W/")),
            ..GetOptions::default()
        };
        // The store's own client tries again by itself for twice the stall.
        let answer = tokio::time::timeout(self.limits.stall.saturating_mul(3), store.get_opts(key, options)).await;
        let found = match answer {
            Ok(found) => found.map_err(|error| Broken::Final(store_error(url, error)))?,
            Err(_) => return Err(Broken::Final(stalled(url, self.limits.stall.saturating_mul(3)))),
        };
        let size = found.meta.size;
        if size > self.limits.max_bytes {
            let message = format!("{url}: has {size} bytes, expected at most {}", self.limits.max_bytes);
            return Err(Broken::Final(Error::new(ErrorKind::Other, message).coded(Code::TooLarge)));
        }
        if copied.size.replace(size).is_some_and(|before| before != size) {
            return Err(Broken::Final(changed(url)));
        }
        copied.etag.clone_from(&found.meta.e_tag);
        let mut stream = found.into_stream();
        while let Some(bytes) = self.in_time(url, stream.next()).await.map_err(Broken::Final)? {
            let bytes = bytes.map_err(|error| Broken::Off(store_error(url, error)))?;
            copied.bytes += bytes.len() as u64;
            if copied.bytes > size {
                return Err(Broken::Final(changed(url)));
            }
            file.write_all(&bytes).await.map_err(|error| Broken::Final(disk_error(Path::new(url), error)))?;
            let seconds = began.elapsed().as_secs_f64();
            if began.elapsed() > self.limits.stall
                && (copied.bytes as f64) < seconds * self.limits.min_bytes_per_s as f64
            {
                let message = format!("{url}: {} bytes came in {seconds:.0} s, which is too slow", copied.bytes);
                return Err(Broken::Final(Error::new(ErrorKind::Timeout, message).coded(Code::DeadlineExceeded)));
            }
        }
        if copied.bytes < size {
            let message = format!("{url}: ends after {} of {size} bytes", copied.bytes);
            return Err(Broken::Off(Error::new(ErrorKind::Unreachable, message).coded(Code::DatasetNotFound)));
        }
        Ok(())
    }
}

/// How far a copy is, and of what.
struct Copied {
    bytes: u64,
    size: Option<u64>,
    etag: Option<String>,
}

/// How a transfer ends before its end.
enum Broken {
    /// It may go on where it stood.
    Off(Error),
    Final(Error),
}

fn key_of(place: Place<'_>, url: &str) -> Result<Key> {
    let key = if place.scheme.starts_with("http") { Key::from_url_path(place.path) } else { Key::parse(place.path) };
    key.map_err(|error| forbidden(format!("{url}: {error}")))
}

/// Where the copy of `name` lies; it is no way out of the folder.
fn target(place: Place<'_>, name: &str, folder: &Path) -> Result<PathBuf> {
    let mut at = folder.join(format!("{}:", place.scheme)).join(place.host);
    for part in name.split('/') {
        if matches!(part, "" | "." | "..") || part.contains('\0') || part.len() > 255 {
            return Err(forbidden(format!("{}/{name}: no name that a file can have", place.origin())));
        }
        at.push(part);
    }
    Ok(at)
}

fn forbidden(message: String) -> Error {
    Error::new(ErrorKind::Permission, message).coded(Code::Forbidden)
}

fn changed(url: &str) -> Error {
    let message = format!("{url}: changed while it was read");
    Error::new(ErrorKind::Integrity, message).coded(Code::DatasetValidationError)
}

fn stalled(url: &str, waited: Duration) -> Error {
    let seconds = waited.as_secs_f64();
    Error::new(ErrorKind::Timeout, format!("{url}: no answer within {seconds} s")).coded(Code::DeadlineExceeded)
}

fn disk_error(at: &Path, error: std::io::Error) -> Error {
    let full = error.kind() == std::io::ErrorKind::StorageFull;
    let code = if full { Code::StorageFull } else { Code::ArtifactStoreUnavailable };
    Error::new(ErrorKind::Storage, format!("{}: the copy cannot be written: {error}", at.display()))
        .coded(code)
        .because(error)
}

/// What a store answered, in a user's words. The store's own text may be long, and is kept as the source.
fn store_error(url: &str, error: StoreError) -> Error {
    let (kind, code, message) = match &error {
        StoreError::NotFound { .. } => (ErrorKind::NotFound, Code::DatasetNotFound, "is not there (404)".to_owned()),
        StoreError::PermissionDenied { .. } => (
            ErrorKind::Permission,
            Code::Forbidden,
            "the store refuses it to this worker's credentials (403)".to_owned(),
        ),
        StoreError::Unauthenticated { .. } => (
            ErrorKind::Permission,
            Code::Forbidden,
            "the store wants credentials that this worker does not have (401)".to_owned(),
        ),
        StoreError::Precondition { .. } | StoreError::NotModified { .. } => {
            (ErrorKind::Integrity, Code::DatasetValidationError, "changed while it was read".to_owned())
        }
        other => {
            let text = causes(other);
            (ErrorKind::Unreachable, Code::DatasetNotFound, format!("cannot be read: {text}"))
        }
    };
    Error::new(kind, format!("{url}: {message}")).coded(code).because(error)
}

/// The innermost cause and the outermost, each shortened.
fn causes(error: &dyn std::error::Error) -> String {
    const LONGEST: usize = 200;
    let short = |text: String| match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    };
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let (outer, inner) = (short(error.to_string()), short(innermost.to_string()));
    if outer.contains(&inner) { outer } else { format!("{outer}: {inner}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(allowed: &[&str]) -> Remote {
        let allowed = allowed.iter().map(|&entry| entry.to_owned()).collect();
        Remote::new(Limits { allowed, ..Limits::default() }).expect("origins")
    }

    #[test]
    fn only_named_origins_are_asked() {
        let some = remote(&["s3://ads", "https://data.example.org", "http://localhost:9000/"]);
        for url in ["s3://ads/a.csv", "https://data.example.org/x/y.csv", "http://localhost:9000/a"] {
            assert!(some.allowed(url).is_ok(), "{url}");
        }
        for url in [
            "s3://ads2/a.csv",
            "gs://ads/a.csv",
            "http://data.example.org/x",
            "https://data.example.org:8443/x",
            "https://data.example.org.evil.org/x",
            "https://user@data.example.org/x",
            "http://169.254.169.254/latest",
            "ftp://ads/a",
            "s3:///a",
        ] {
            let error = some.allowed(url).expect_err(url).to_wire();
            assert_eq!(error.code, Code::Forbidden, "{url}");
        }
        assert!(Remote::default().allowed("s3://ads/a.csv").is_err());
        let wrong = Limits { allowed: vec!["s3://ads/folder".into()], ..Limits::default() };
        assert_eq!(Remote::new(wrong).expect_err("no origin").to_wire().code, Code::ConfigError);
    }

    #[test]
    fn no_key_leads_out_of_the_folder() {
        let place = Place::of("s3://ads/x").expect("a URL");
        let at = |name: &str| target(place, name, Path::new("mirror"));
        assert_eq!(at("a/b=1/c.csv").expect("inside"), Path::new("mirror/s3:/ads/a/b=1/c.csv"));
        for wrong in ["a/../b", "", "a//b", "./a", &"x".repeat(300)] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
    }
}
