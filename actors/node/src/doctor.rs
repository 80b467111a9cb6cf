//! `within doctor`: what is here, what is missing, and what to do about it.

use std::time::Duration;

use kernels::cuda::probe;
use nix::sys::statvfs::statvfs;
use serde_json::{Value, json};

use crate::config::Config;
use crate::environment;
use crate::exit::{self, Failure};
use crate::server;
use crate::watch::print_line;

/// Less free space than this is worth a word.
const LOW_DISK_BYTES: u64 = 1 << 30;

/// One finding.
struct Finding {
    name: &'static str,
    ok: bool,
    text: String,
    detail: Value,
}

pub async fn command(config: &Config) -> Result<u8, Failure> {
    let mut findings = vec![version(), cpu(), disk(config), clock(), ports(), cuda()];
    findings.extend(nats(config).await);
    let healthy = findings.iter().all(|f| f.ok);
    for f in &findings {
        if config.json {
            print_line(&json!({ "check": f.name, "ok": f.ok, "text": f.text, "detail": f.detail }).to_string());
        } else {
            print_line(&format!("{} {:<12} {}", if f.ok { "ok  " } else { "BAD " }, f.name, f.text));
        }
    }
    Ok(if healthy { exit::DONE } else { exit::INFRASTRUCTURE })
}

fn finding(name: &'static str, ok: bool, text: impl Into<String>, detail: Value) -> Finding {
    Finding { name, ok, text: text.into(), detail }
}

fn version() -> Finding {
    let build = environment::build_version();
    finding("within", true, format!("version {build}"), json!({ "version": build }))
}

fn cpu() -> Finding {
    let threads = kernels::pool::available_threads();
    let fingerprint = kernels::fingerprint::fingerprint(&kernels::device::Device::Cpu);
    let text = format!("{threads} compute threads; kernel fingerprint {fingerprint}");
    finding("cpu", threads > 0, text, json!({ "threads": threads, "fingerprint": fingerprint }))
}

fn disk(config: &Config) -> Finding {
    match statvfs(&config.home) {
        Ok(stat) => {
            let free = stat.blocks_available() * stat.fragment_size();
            let text = format!("{} free in {}", gib(free), config.home.display());
            finding("disk", free >= LOW_DISK_BYTES, text, json!({ "home": config.home, "free_bytes": free }))
        }
        Err(error) => finding("disk", false, format!("{}: {error}", config.home.display()), Value::Null),
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}

/// A clock far off makes times in events and deadlines wrong; leases do not depend on it.
fn clock() -> Finding {
    let now = bus::now_ms();
    let text = messages::envelope::rfc3339(now);
    // Later than this program was written.
    let plausible = now > 1_763_000_000_000;
    finding("clock", plausible, text.clone(), json!({ "now": text }))
}

fn ports() -> Finding {
    match std::net::TcpListener::bind("127.0.0.1:0") {
        Ok(_) => finding("ports", true, "a free loopback port can be bound", Value::Null),
        Err(error) => finding("ports", false, format!("127.0.0.1:0: {error}"), Value::Null),
    }
}

/// No GPU is no fault: the CPU path serves.
fn cuda() -> Finding {
    let report = probe(&trainer::device::environment());
    let libraries = report.libraries.iter().map(|library| match (&library.found, &library.error) {
        (Some(path), error) => {
            let why = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            format!("{} {} ({path}){why}", library.name, library.version.as_deref().unwrap_or("?"))
        }
        (None, Some(error)) => format!("{} does not open: {error}", library.name),
        (None, None) => format!("{} not found (sought {})", library.name, library.sought.join(", ")),
    });
    let devices = match (&report.device_error, report.devices.len()) {
        (_, n) if n > 0 => report.devices.iter().map(|d| format!("{} ({})", d.name, d.compute_capability)).collect(),
        (Some(error), _) => vec![format!("no device: {error}; the CPU serves")],
        (None, _) => vec!["no device; the CPU serves".to_owned()],
    };
    let text: Vec<String> = devices.into_iter().chain(libraries).collect();
    finding("cuda", true, text.join("\n                  "), serde_json::to_value(&report).unwrap_or_default())
}

fn stream_json(stream: &bus::StreamSummary) -> Value {
    json!({
        "name": stream.name, "messages": stream.messages, "bytes": stream.bytes, "max_messages": stream.max_messages,
        "max_bytes": stream.max_bytes, "max_age_s": stream.max_age.map(|age| age.as_secs()),
        "replicas": stream.replicas, "storage": stream.storage,
    })
}

async fn nats(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if config.nats.is_none() {
        match server::find_binary(config) {
            Ok(path) => {
                findings.push(finding("nats-server", true, path.display().to_string(), json!({ "path": path })))
            }
            Err(error) => {
                findings.push(finding("nats-server", false, error.to_string(), Value::Null));
                return findings;
            }
        }
    }
    let link = match server::open(config, "doctor").await {
        Ok(link) => link,
        Err(error) => {
            findings.push(finding("nats", false, error.to_string(), Value::Null));
            return findings;
        }
    };
    let info = link.bus.server_info();
    let text = format!("version {} at {}", info.version, info.url);
    findings.push(finding("nats", true, text, json!({ "version": info.version, "url": info.url })));
    match link.bus.topology().await {
        Ok(streams) if streams.is_empty() => {
            findings.push(finding("streams", true, "none yet; the first coordinator creates them", json!([])));
        }
        Ok(streams) => {
            let text: Vec<String> =
                streams.iter().map(|s| format!("{} {} messages {} bytes", s.name, s.messages, s.bytes)).collect();
            findings.push(finding(
                "streams",
                true,
                text.join("; "),
                json!(streams.iter().map(stream_json).collect::<Vec<_>>()),
            ));
        }
        Err(error) => findings.push(finding("streams", false, error.to_string(), Value::Null)),
    }
    let _ = tokio::time::timeout(Duration::from_secs(10), link.close()).await;
    findings
}
