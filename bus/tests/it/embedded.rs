//! The embedded server: found out early, one per store, dies with its parent.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bus::embedded::{EmbeddedConfig, EmbeddedServer};
use bus::{Bus, ErrorKind, Once};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::publish::cancelled;
use crate::server::{TestServer, binary, until};

fn script(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("nats-server");
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("executable");
    path
}

#[tokio::test]
async fn a_binary_that_is_old_or_none_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let old = script(dir.path(), "#!/bin/sh\necho nats-server: v2.9.10\n");
    for (binary, kind, text) in [
        (old, ErrorKind::ServerTooOld, "2.9.10"),
        (PathBuf::from("/no/such/nats-server"), ErrorKind::NotFound, "/no/such/nats-server"),
        (PathBuf::from("/bin/true"), ErrorKind::ServerTooOld, "/bin/true"),
    ] {
        let started = EmbeddedServer::start(EmbeddedConfig::new(binary, dir.path().join("s"))).await;
        let error = started.err().expect("refused");
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(text) && error.to_string().contains("2.12"), "{error}");
    }
}

#[tokio::test]
async fn it_keeps_port_store_and_credentials_over_restarts() {
    let mut server = TestServer::start_with(|config| config.sync_always = true).await;
    let (url, pid) = (server.server.url(), server.server.pid());
    let bus = server.bus("one").await;
    bus.ensure_topology().await.expect("topology");
    cancelled(&bus, "j", "e1", Once::ById).await.expect("stored");
    let mode = std::fs::metadata(server.server.config_file()).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the credentials are nobody else's");
    server.server.kill9();
    assert_eq!(server.server.pid(), None);
    server.server.restart().await.expect("starts again");
    assert_eq!(server.server.url(), url);
    assert_ne!(server.server.pid(), pid);
    let bus = server.bus("two").await;
    assert_eq!(bus.topology().await.expect("lists")[1].messages, 1);
    server.server.stop().await.expect("stops");
    assert!(Bus::connect(server.config("three")).await.is_err());
}

#[tokio::test]
async fn a_store_in_use_and_a_taken_port_are_named() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let config = EmbeddedConfig::new(binary(), dir.path().join("a"));
    let server = EmbeddedServer::start(config.clone()).await.expect("starts");
    let error = EmbeddedServer::start(config).await.err().expect("in use");
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(error.to_string().contains("another process uses it"), "{error}");
    let mut other = EmbeddedConfig::new(binary(), dir.path().join("b"));
    other.port = Some(server.port());
    let error = EmbeddedServer::start(other).await.err().expect("taken");
    assert!(error.to_string().contains("address already in use"), "{error}");
    let mut file = EmbeddedConfig::new(binary(), dir.path().join("c"));
    std::fs::write(&file.store_dir, "a file").expect("written");
    let error = EmbeddedServer::start(file.clone()).await.err().expect("no folder");
    assert_eq!(error.kind(), ErrorKind::Storage);
    file.store_dir = dir.path().join("with \"quotes\" and \\");
    EmbeddedServer::start(file).await.expect("any path will do");
}

#[tokio::test]
async fn a_wrapper_becomes_the_server() {
    let mut server = TestServer::start_with(|config| config.wrapper = Some(vec!["env".into()])).await;
    server.bus("one").await.ensure_topology().await.expect("topology");
    let pid = server.server.pid();
    server.server.restart().await.expect("starts again");
    assert_ne!(server.server.pid(), pid);
    server.bus("two").await.bind(crate::server::LONG).await.expect("bound");
}

#[tokio::test]
async fn a_server_that_ends_by_itself_is_noticed() {
    let mut server = TestServer::start().await;
    assert_eq!(server.server.exited(), None);
    let pid = Pid::from_raw(i32::try_from(server.server.pid().expect("runs")).expect("pid"));
    kill(pid, Signal::SIGTERM).expect("sent");
    let deadline = tokio::time::Instant::now() + crate::server::LONG;
    while server.server.exited().is_none() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(server.server.exited().expect("ended").contains("nats-server.log"));
}

/// Whether a process runs (a zombie does not).
fn runs(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn it_dies_with_its_parent_however_that_dies() {
    let example = std::env::current_exe().expect("a path");
    let example = example.parent().and_then(Path::parent).expect("target folder").join("examples/embedded");
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut parent =
        Command::new(example).arg(binary()).arg(dir.path()).stdout(Stdio::piped()).spawn().expect("the example runs");
    let mut line = String::new();
    BufReader::new(parent.stdout.take().expect("piped")).read_line(&mut line).expect("prints");
    let pid: i32 = line.split_whitespace().last().and_then(|pid| pid.parse().ok()).expect("a pid");
    assert!(runs(pid));
    parent.kill().expect("killed");
    parent.wait().expect("ended");
    until("the server's end", || async { (!runs(pid)).then_some(()) }).await;
    let config = EmbeddedConfig::new(binary(), dir.path());
    EmbeddedServer::start(config).await.expect("its store can be used at once");
}
