//! Logs: human on a terminal, JSON lines in `<home>/logs/training.log`.

use std::fs::{File, OpenOptions};
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, reload};

/// Changes the filter of standard error while the process runs.
pub type FilterHandle = reload::Handle<EnvFilter, tracing_subscriber::Registry>;

/// What is logged unless told otherwise. The NATS client tells of each attempt to connect, also of those that
/// fail for hours; the bus tells of each outage once.
pub const DEFAULT: &str = "info,async_nats=warn";

/// The log file is begun anew beyond this size; the previous one is kept beside it.
const ROTATE_BYTES: u64 = 64 << 20;

/// Installs the subscriber. `default` is the filter of standard error when the user gives none.
pub fn install(home: &Path, filter: Option<&str>, default: &str, json: bool) -> Result<FilterHandle, String> {
    let text = filter.unwrap_or(default);
    let parsed = EnvFilter::try_new(text).map_err(|error| format!("--log {text:?}: {error}"))?;
    let (parsed, handle) = reload::Layer::new(parsed);
    let stderr = if json {
        fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed()
    } else {
        let ansi = std::io::stderr().is_terminal();
        fmt::layer().with_writer(std::io::stderr).with_ansi(ansi).with_target(false).boxed()
    };
    let file = open(&home.join("logs")).ok().map(|file| {
        fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_writer(Arc::new(file))
            .with_filter(EnvFilter::new(DEFAULT))
    });
    tracing_subscriber::registry().with(stderr.with_filter(parsed)).with(file).try_init().map_err(|e| e.to_string())?;
    Ok(handle)
}

/// A rank speaks to its worker alone: JSON lines on standard error.
pub fn install_for_rank() {
    let filter = EnvFilter::try_from_env("WITHIN_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let layer = fmt::layer().json().flatten_event(true).with_current_span(false).with_writer(std::io::stderr);
    let installed = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    if let Err(error) = installed {
        eprintln!("log: {error}");
    }
}

fn open(folder: &Path) -> std::io::Result<File> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join("training.log");
    if std::fs::metadata(&path).is_ok_and(|meta| meta.len() > ROTATE_BYTES) {
        std::fs::rename(&path, folder.join("training.log.1"))?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}
