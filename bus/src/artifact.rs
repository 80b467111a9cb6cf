//! The content-addressed artifact store: `<kind>/<first 2 hex>/<blake3>/<name>`. Messages carry URI,
//! BLAKE3 and size, never the blob. What is there is complete: written beside, flushed to disk,
//! renamed into place; and what is read is what the reference names, or an error.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use messages::ArtifactRef;
use messages::error::Code;
use messages::id::is_token;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutPayload, WriteMultipart};
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt;

use crate::error::{Error, ErrorKind, Result};

/// Read and written at once, in bytes.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Longest file name of an artifact, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// A store; clones share it.
#[derive(Clone)]
pub struct ArtifactStore {
    store: Arc<LocalFileSystem>,
    root: Arc<PathBuf>,
}

impl std::fmt::Debug for ArtifactStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ArtifactStore").field(&self.root).finish()
    }
}

impl ArtifactStore {
    /// Opens, and creates where needed, the store in a folder: a path or a `file://` URL.
    pub fn open(location: &str) -> Result<ArtifactStore> {
        let folder = match location.split_once("://") {
            None => PathBuf::from(location),
            Some(("file", rest)) => PathBuf::from(percent_decode(rest).ok_or_else(|| not_a_folder(location))?),
            Some(_) => return Err(not_a_folder(location)),
        };
        if folder.as_os_str().is_empty() {
            return Err(not_a_folder(location));
        }
        let failed = |error: std::io::Error| io_error(&format!("artifact store {}", folder.display()), error);
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let root = folder.canonicalize().map_err(failed)?;
        if root.to_str().is_none() {
            return Err(Error::new(
                ErrorKind::Storage,
                format!("artifact store {}: the path is not UTF-8", root.display()),
            ));
        }
        let store = LocalFileSystem::new_with_prefix(&root)
            .map_err(|error| store_error(&format!("artifact store {}", root.display()), error))?
            .with_fsync(true);
        Ok(ArtifactStore { store: Arc::new(store), root: Arc::new(root) })
    }

    /// Stores bytes; the same bytes under the same name once. `kind` is a token such as `model`,
    /// `name` a file name.
    pub async fn put_bytes(&self, kind: &str, name: &str, bytes: Bytes) -> Result<ArtifactRef> {
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        let size_bytes = bytes.len() as u64;
        let key = content_key(kind, name, &blake3)?;
        if !self.has(&key, size_bytes).await {
            self.write(&key, bytes).await?;
        }
        Ok(ArtifactRef { uri: self.uri(&key), blake3, size_bytes })
    }

    /// The same, and over what is there, which may be damaged.
    pub async fn put_anew(&self, kind: &str, name: &str, bytes: Bytes) -> Result<ArtifactRef> {
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        let size_bytes = bytes.len() as u64;
        let key = content_key(kind, name, &blake3)?;
        self.write(&key, bytes).await?;
        Ok(ArtifactRef { uri: self.uri(&key), blake3, size_bytes })
    }

    async fn write(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let written = self.store.put(key, PutPayload::from_bytes(bytes)).await;
        written.map(|_| ()).map_err(|error| store_error(&format!("writing {key} in {}", self.root.display()), error))
    }

    /// Whether the artifact is there with its size; its content is not looked at.
    pub async fn contains(&self, artifact: &ArtifactRef) -> bool {
        match self.key_of(artifact) {
            Ok(key) => self.has(&key, artifact.size_bytes).await,
            Err(_) => false,
        }
    }

    /// The contents of every artifact of this kind and name, one after another, unchecked. Reads the disk: not for the
    /// async runtime of a role.
    pub fn named(&self, kind: &str, name: &str) -> impl Iterator<Item = Vec<u8>> {
        let below = |folder: PathBuf| {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
            paths.sort();
            paths
        };
        let name = name.to_owned();
        let firsts = below(self.root.join(tame(kind)));
        firsts.into_iter().flat_map(below).filter_map(move |folder| std::fs::read(folder.join(&name)).ok())
    }

    /// Stores a file's content, without holding it in memory.
    pub async fn put_file(&self, kind: &str, name: &str, file: &Path) -> Result<ArtifactRef> {
        let (blake3, size_bytes) = hash_file(file).await?;
        let key = content_key(kind, name, &blake3)?;
        if !self.has(&key, size_bytes).await {
            self.copy_in(&key, file, &blake3).await?;
        }
        Ok(ArtifactRef { uri: self.uri(&key), blake3, size_bytes })
    }

    async fn copy_in(&self, key: &Key, file: &Path, blake3: &str) -> Result<()> {
        let what = format!("writing {key} in {}", self.root.display());
        let failed = |error| store_error(&what, error);
        let mut source =
            tokio::fs::File::open(file).await.map_err(|error| io_error(&file.display().to_string(), error))?;
        let upload = self.store.put_multipart(key).await.map_err(failed)?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, CHUNK_BYTES);
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0u8; CHUNK_BYTES];
        loop {
            let read = match source.read(&mut buffer).await {
                Ok(read) => read,
                Err(error) => {
                    upload.abort().await.ok();
                    return Err(io_error(&file.display().to_string(), error));
                }
            };
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            upload.wait_for_capacity(2).await.map_err(failed)?;
            upload.write(&buffer[..read]);
        }
        if hasher.finalize().to_hex().as_str() != blake3 {
            upload.abort().await.ok();
            return Err(Error::new(ErrorKind::Integrity, format!("{} changed while it was stored", file.display())));
        }
        upload.finish().await.map_err(failed).map(|_| ())
    }

    /// The bytes, with size and BLAKE3 checked ([`ErrorKind::Integrity`]).
    pub async fn get(&self, artifact: &ArtifactRef) -> Result<Bytes> {
        let key = self.key_of(artifact)?;
        let what = format!("reading {key} in {}", self.root.display());
        let found = self.store.get(&key).await.map_err(|error| store_error(&what, error))?;
        check_size(artifact, found.meta.size)?;
        let bytes = found.bytes().await.map_err(|error| store_error(&what, error))?;
        check_hash(artifact, bytes.len() as u64, blake3::hash(&bytes).to_hex().as_str())?;
        Ok(bytes)
    }

    /// The value of a JSON artifact.
    pub async fn get_json<T: DeserializeOwned>(&self, artifact: &ArtifactRef) -> Result<T> {
        let bytes = self.get(artifact).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(ErrorKind::BadMessage, format!("{}: not the JSON that was expected: {error}", artifact.uri))
                .because(error)
        })
    }

    /// Where the artifact lies, its content checked.
    pub async fn local_path(&self, artifact: &ArtifactRef) -> Result<PathBuf> {
        let key = self.key_of(artifact)?;
        let path = self.root.join(key.as_ref());
        let size =
            tokio::fs::metadata(&path).await.map_err(|error| io_error(&path.display().to_string(), error))?.len();
        check_size(artifact, size)?;
        let (blake3, size) = hash_file(&path).await?;
        check_hash(artifact, size, &blake3)?;
        Ok(path)
    }

    /// A folder in the store's own file system, for what is renamed into place by its owner:
    /// `<kind>/<name>`, such as `checkpoints/<job>`. Not created. Characters that may not stand in a
    /// name become `_`.
    pub fn local_dir(&self, kind: &str, name: &str) -> PathBuf {
        self.root.join(tame(kind)).join(tame(name))
    }

    /// The folder of the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    async fn has(&self, key: &Key, size_bytes: u64) -> bool {
        self.store.head(key).await.is_ok_and(|meta| meta.size == size_bytes)
    }

    fn uri(&self, key: &Key) -> String {
        file_uri(&self.root.join(key.as_ref()))
    }

    /// The key that a reference means. A store may be mounted elsewhere on another host, so what is
    /// addressed by content is found by its last four parts; everything else must lie in this store.
    fn key_of(&self, artifact: &ArtifactRef) -> Result<Key> {
        let refuse = || {
            Error::new(
                ErrorKind::Permission,
                format!("{}: not in the artifact store {}", artifact.uri, self.root.display()),
            )
            .coded(Code::Forbidden)
        };
        let path = artifact.uri.strip_prefix("file://").and_then(percent_decode).ok_or_else(refuse)?;
        let inside = path.strip_prefix(self.root.to_str().unwrap_or_default()).and_then(|rest| rest.strip_prefix('/'));
        let relative = match inside {
            Some(inside) => inside.to_owned(),
            None => content_tail(&path, &artifact.blake3).ok_or_else(refuse)?,
        };
        if relative.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return Err(refuse());
        }
        Key::parse(&relative).map_err(|_| refuse())
    }
}

fn not_a_folder(location: &str) -> Error {
    Error::new(ErrorKind::Storage, format!("artifact store {location:?}: expected a folder or a file:// URL"))
}

/// `<kind>/<first 2 hex>/<blake3>/<name>`.
fn content_key(kind: &str, name: &str, blake3: &str) -> Result<Key> {
    let bad = |what: &str, text: &str, expected: &str| {
        Error::new(ErrorKind::Permission, format!("artifact {what} {text:?}: expected {expected}"))
            .coded(Code::Forbidden)
    };
    if !is_token(kind) {
        return Err(bad("kind", kind, "1 to 64 characters of A-Z a-z 0-9 _ -"));
    }
    if !is_file_name(name) {
        return Err(bad("name", name, "1 to 128 characters of A-Z a-z 0-9 . _ -, not beginning with a dot"));
    }
    Ok(Key::from_iter([kind, &blake3[..2], blake3, name]))
}

fn is_file_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// A name made safe for a folder.
fn tame(name: &str) -> String {
    let tamed: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' }).collect();
    match tamed.strip_prefix('.') {
        Some(rest) => format!("_{rest}"),
        None if tamed.is_empty() => "_".into(),
        None => tamed,
    }
}

/// The last four parts of a path, if they are the address of this content.
fn content_tail(path: &str, blake3: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').collect();
    let [kind, first, hash, name] = parts.last_chunk::<4>()?;
    (hash == &blake3 && hash.len() == 64 && hash.get(..2) == Some(first) && is_token(kind) && is_file_name(name))
        .then(|| [*kind, *first, *hash, *name].join("/"))
}

fn check_size(artifact: &ArtifactRef, found: u64) -> Result<()> {
    if found == artifact.size_bytes {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Integrity, format!("{}: {found} bytes, expected {}", artifact.uri, artifact.size_bytes)))
}

fn check_hash(artifact: &ArtifactRef, size: u64, blake3: &str) -> Result<()> {
    check_size(artifact, size)?;
    if blake3.eq_ignore_ascii_case(&artifact.blake3) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Integrity,
        format!("{}: the content has BLAKE3 {blake3}, expected {}", artifact.uri, artifact.blake3),
    ))
}

async fn hash_file(file: &Path) -> Result<(String, u64)> {
    let owned = file.to_owned();
    let hashed = tokio::task::spawn_blocking(move || -> std::io::Result<(String, u64)> {
        let mut hasher = blake3::Hasher::new();
        let mut source = std::fs::File::open(owned)?;
        let size = std::io::copy(&mut source, &mut hasher)?;
        Ok((hasher.finalize().to_hex().to_string(), size))
    });
    match hashed.await {
        Ok(hashed) => hashed.map_err(|error| io_error(&file.display().to_string(), error)),
        Err(error) => {
            Err(Error::new(ErrorKind::Other, format!("{}: hashing did not end", file.display())).because(error))
        }
    }
}

fn io_error(what: &str, error: std::io::Error) -> Error {
    let new = |kind, text: String| Error::new(kind, text);
    match error.kind() {
        std::io::ErrorKind::NotFound => new(ErrorKind::NotFound, format!("{what}: does not exist")),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            new(ErrorKind::Storage, format!("{what}: no space left; free some, or give another artifact folder"))
                .coded(Code::StorageFull)
        }
        // The process's limit of the size of files, or the file system's.
        std::io::ErrorKind::FileTooLarge => {
            new(ErrorKind::Storage, format!("{what}: no room for the file: {error}")).coded(Code::StorageFull)
        }
        _ => new(ErrorKind::Storage, format!("{what}: {error}")),
    }
    .because(error)
}

fn store_error(what: &str, error: object_store::Error) -> Error {
    if matches!(error, object_store::Error::NotFound { .. }) {
        return Error::new(ErrorKind::NotFound, format!("{what}: does not exist")).because(error);
    }
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            let copy = std::io::Error::new(io.kind(), io.to_string());
            return io_error(what, copy);
        }
        source = inner.source();
    }
    Error::new(ErrorKind::Storage, format!("{what}: {error}")).because(error)
}

/// `file:///…` with everything but unreserved characters escaped.
fn file_uri(path: &Path) -> String {
    let mut uri = String::from("file://");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => uri.push(char::from(*byte)),
            _ => {
                let digit = |nibble: u8| char::from(b"0123456789ABCDEF"[usize::from(nibble)]);
                uri.extend(['%', digit(byte >> 4), digit(byte & 15)]);
            }
        }
    }
    uri
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_trouble() {
        let error = |kind: std::io::ErrorKind| {
            let source = Box::new(std::io::Error::from(kind));
            store_error("writing", object_store::Error::Generic { store: "s", source })
        };
        let full = error(std::io::ErrorKind::StorageFull);
        assert_eq!((full.kind(), full.to_wire().code), (ErrorKind::Storage, Code::StorageFull));
        assert!(full.to_wire().retry && full.to_string().contains("no space left"), "{full}");
        assert_eq!(error(std::io::ErrorKind::FileTooLarge).to_wire().code, Code::StorageFull);
        let denied = error(std::io::ErrorKind::PermissionDenied);
        assert_eq!((denied.kind(), denied.to_wire().code), (ErrorKind::Storage, Code::ArtifactStoreUnavailable));
        assert_eq!(error(std::io::ErrorKind::NotFound).kind(), ErrorKind::NotFound);
    }

    #[test]
    fn any_path_survives_a_uri() {
        for path in ["/a b/ü/%41/#?", "/plain", "/tab\there"] {
            let uri = file_uri(Path::new(path));
            assert_eq!(uri.strip_prefix("file://").and_then(percent_decode).as_deref(), Some(path), "{uri}");
        }
    }
}
