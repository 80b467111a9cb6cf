//! What the tests share: the binary in a folder of its own, a server, processes that are killed when
//! the test ends, and waiting for conditions.

mod process;
mod proxy;
mod sandbox;
mod secured;
mod server;
mod table;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

pub use process::{Ended, Running, children, gone, process_with};
pub use proxy::Proxy;
pub use sandbox::{Sandbox, Worker, artifacts};
pub use secured::Secured;
pub use server::Server;
pub use table::{spec, table};

/// How long anything may take that is no declared deadline: slow machines run these tests too.
pub const PATIENCE: Duration = Duration::from_mins(3);

/// Waits until `look` finds something. The only place of these tests that sleeps.
pub fn wait_for<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < patience, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Root of the repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("invariant: tests/ lies in the root").to_owned()
}

/// Something that `make test` provides; `default` is where it lies after a plain build.
fn provided(variable: &str, default: PathBuf) -> PathBuf {
    let path = std::env::var_os(variable).map_or(default, PathBuf::from);
    assert!(path.exists(), "{} does not exist: run `make test`, or set {variable}", path.display());
    path
}

/// The program under test.
pub fn within_bin() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    provided("WITHIN_BIN", target.join("debug/within"))
}

/// The program `nats-server`.
pub fn nats_server() -> PathBuf {
    provided("WITHIN_NATS_SERVER", root().join(".tools/nats-server-2.15.1/nats-server"))
}

/// A Python with nats-py and msgpack.
pub fn python() -> PathBuf {
    provided("WITHIN_PYTHON", root().join(".tools/python/bin/python3"))
}

/// Runs a Python script that prints one JSON value, and gives that.
pub fn python_json(script: &str, arguments: &[&str]) -> Value {
    let output =
        std::process::Command::new(python()).args(["-c", script]).args(arguments).output().expect("python runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"))
}

/// Runs a script of tests/python with lines of JSON in, and gives its lines out.
pub fn script(server: &Server, name: &str, lines: &[Value]) -> Vec<Value> {
    let (user, password) = server.user();
    let mut command = std::process::Command::new(python());
    command.arg(root().join("tests/python").join(name)).args([&server.url(), &user, &password, "default"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("python runs");
    let mut input = child.stdin.take().expect("invariant: piped");
    for line in lines {
        writeln!(input, "{line}").expect("writes");
    }
    drop(input);
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// One GET over a plain connection: status and body.
pub fn http_get(base: &str, path: &str) -> (u16, String) {
    let address = base.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("sets a time-out");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    let status = answer.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status.expect("a status"), body.expect("a body"))
}

/// The file that a `file://` URI names.
pub fn file_of(uri: &Value) -> PathBuf {
    let uri = uri.as_str().expect("a URI is a text");
    PathBuf::from(uri.strip_prefix("file://").unwrap_or_else(|| panic!("{uri}: not in a local store")))
}

/// A number that must be there.
pub fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number at {pointer} of {value:#}"))
}

/// A text that must be there.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no text at {pointer} of {value:#}"))
}
