//! TLS with an authority of the test's own: the server's certificate is checked, and the client shows its
//! own where the server wants one. The users' nkeys too: the seed stays with the client.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use bus::{Bus, BusConfig, Credentials, ErrorKind, Once, Tls};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::publish::cancelled;
use crate::server::{binary, config, until};

/// Files in PEM.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        let this = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().expect("a key");
        this.write("ca.pem", &ca.self_signed(&ca_key).expect("a certificate").pem());
        let issuer = Issuer::new(ca, ca_key);
        for name in ["server", "client"] {
            let (params, key) = (CertificateParams::new(vec!["127.0.0.1".into()]), KeyPair::generate().expect("a key"));
            let cert = params.expect("parameters").signed_by(&key, &issuer).expect("a certificate");
            this.write(&format!("{name}.pem"), &cert.pem());
            this.write(&format!("{name}.key"), &key.serialize_pem());
        }
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("writes");
    }

    /// All that a client may show and trust.
    fn tls(&self) -> Tls {
        Tls { ca: Some(self.path("ca.pem")), cert: Some(self.path("client.pem")), key: Some(self.path("client.key")) }
    }
}

/// A server with this configuration on a free port; it dies with the value.
async fn start(files: &Files, more: &str) -> (Child, String) {
    let folder = files.folder.path();
    let show = |path: &Path| format!("\"{}\"", path.display());
    files.write(
        "server.conf",
        &format!(
            "listen: \"127.0.0.1:-1\"\nports_file_dir: {0}\njetstream {{ store_dir: {0} }}\n\
             tls {{ cert_file: {1}, key_file: {2}, ca_file: {3}, timeout: 10, verify: true }}\n{more}",
            show(folder),
            show(&files.path("server.pem")),
            show(&files.path("server.key")),
            show(&files.path("ca.pem")),
        ),
    );
    let mut command = Command::new(binary());
    command.arg("-c").arg(files.path("server.conf")).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let child = command.spawn().expect("starts");
    let ports = folder.join(format!("nats-server_{}.ports", child.id().expect("runs")));
    let port = until("the server's port", || async {
        let text = std::fs::read_to_string(&ports).ok()?;
        let ports: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(ports["nats"][0].as_str()?.rsplit(':').next()?.to_owned())
    });
    let url = format!("tls://127.0.0.1:{}", port.await);
    (child, url)
}

async fn refused(config: BusConfig) -> bus::Error {
    let error = Bus::connect(config).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    assert!(error.to_wire().hint.is_some_and(|hint| hint.contains("nats.tls")));
    error
}

#[tokio::test]
async fn both_sides_are_checked_by_their_certificates() {
    let files = Files::new();
    let (_server, url) = start(&files, "").await;
    let with = |tls: Tls| BusConfig { tls, ..config(&url, Credentials::None, "tls") };
    let bus = Bus::connect(with(files.tls())).await.expect("connects");
    bus.ensure_topology().await.expect("topology");
    cancelled(&bus, "j", "e1", Once::ById).await.expect("stored");

    let error = refused(with(Tls::default())).await;
    assert!(error.to_string().contains("TLS") && error.to_string().contains("UnknownIssuer"), "{error}");
    let error = refused(with(Tls { cert: None, key: None, ..files.tls() })).await;
    assert!(error.to_string().contains("certificate"), "{error}");
    let error = refused(with(Tls { ca: Some(files.path("gone.pem")), ..files.tls() })).await;
    assert!(error.to_string().contains("gone.pem"), "{error}");
    let error = refused(with(Tls { key: None, ..files.tls() })).await;
    assert!(error.to_string().contains("cert and key"), "{error}");
}

#[tokio::test]
async fn a_user_is_known_by_an_nkey() {
    let [user, stranger] = [(); 2].map(|()| nkeys::KeyPair::new_user());
    let public = user.public_key();
    let files = Files::new();
    let (_server, url) = start(&files, &format!("authorization {{ users = [ {{ nkey: {public} }} ] }}\n")).await;
    files.write("user.nk", &format!("# the trainer's\n{}\n", user.seed().expect("a seed")));
    let with = |name: &str| BusConfig { tls: files.tls(), ..config(&url, Credentials::File(files.path(name)), "nkey") };
    Bus::connect(with("user.nk")).await.expect("connects");
    let seed = stranger.seed().expect("a seed");
    files.write("other.nk", &seed);
    let error = refused(with("other.nk")).await;
    assert!(error.to_string().contains("other.nk") && !error.to_string().contains(&seed), "{error}");
}
