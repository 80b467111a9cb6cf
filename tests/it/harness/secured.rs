//! A server with the configuration of deploy/nats, as it stands there but for its paths and its port: TLS with
//! an authority of the test's own, and a user with an nkey for each role.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bus::{Bus, BusConfig, Credentials, Tls};
use messages::Tenant;
use messages::timings::Timings;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{PATIENCE, nats_server, root, wait_for, within_bin};

/// The users of a tenant's account, by the names of their variables.
const USERS: [&str; 8] =
    ["coordinator", "data_loader", "trainer", "evaluator", "tracker", "notifier", "client", "subscriber"];

/// The server; it dies with the thread that started it.
pub struct Secured {
    server: Child,
    url: String,
    runtime: Runtime,
    folder: TempDir,
}

impl Secured {
    /// Starts it with the accounts of two tenants: `default`, and `acme`, made of it as deploy/nats/README.md
    /// says.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("within-secured-").tempdir().expect("a temporary folder");
        let path = folder.path();
        certificates(path);
        let mut keys = BTreeMap::new();
        for (tenant, scope) in [("default", ""), ("acme", "ACME_")] {
            for user in USERS {
                let key = nkeys::KeyPair::new_user();
                std::fs::write(path.join(format!("{tenant}.{user}.nk")), key.seed().expect("a seed")).expect("writes");
                keys.insert(format!("WITHIN_NKEY_{scope}{}", user.to_uppercase()), key.public_key());
            }
        }
        keys.insert("WITHIN_NKEY_OPERATOR".into(), nkeys::KeyPair::new_user().public_key());
        let config = write_config(path);
        // The wrapper asks the kernel for the server's death with this thread.
        let server = Command::new(within_bin())
            .args(["die-with-parent", &std::process::id().to_string(), "--"])
            .arg(nats_server())
            .arg("-c")
            .arg(config)
            .envs(keys)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(path.join("log")).expect("creates"))
            .spawn()
            .expect("starts");
        let ports = path.join(format!("nats-server_{}.ports", server.id()));
        let port = wait_for("the server's port", PATIENCE, || {
            let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(&ports).ok()?).ok()?;
            Some(ports["nats"][0].as_str()?.rsplit(':').next()?.to_owned())
        });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        Self { server, url: format!("tls://127.0.0.1:{port}"), runtime, folder }
    }

    /// The file with a user's seed.
    pub fn seed(&self, tenant: &str, user: &str) -> PathBuf {
        self.folder.path().join(format!("{tenant}.{user}.nk"))
    }

    fn tls(&self) -> Tls {
        let file = |name: &str| Some(self.folder.path().join(name));
        Tls { ca: file("ca.pem"), cert: file("client.pem"), key: file("client.key") }
    }

    /// `nats:` of a `within.yaml`.
    pub fn yaml(&self) -> String {
        let folder = self.folder.path().display();
        let tls = format!("{{ca: '{folder}/ca.pem', cert: '{folder}/client.pem', key: '{folder}/client.key'}}");
        format!("nats: {{url: '{}', tls: {tls}}}\n", self.url)
    }

    /// A connection as this user; None: as nobody.
    pub fn connect(&self, tenant: &str, user: Option<&str>) -> Result<Bus, bus::Error> {
        let config = BusConfig {
            url: self.url.clone(),
            credentials: user.map_or(Credentials::None, |user| Credentials::File(self.seed(tenant, user))),
            tls: self.tls(),
            tenant: Tenant::new(tenant).expect("a tenant"),
            name: "test".into(),
            timings: Timings::default(),
        };
        self.block_on(Bus::connect(config))
    }

    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

/// `text` with each of these replaced; each must be there.
fn replaced(text: String, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "no {from:?} in deploy/nats");
        text.replace(from, to)
    })
}

/// The deployed files with other paths and a free port; returns the path of the main one.
fn write_config(folder: &Path) -> PathBuf {
    let deployed = |name: &str| std::fs::read_to_string(root().join("deploy/nats").join(name)).expect("deployed");
    let shown = folder.display().to_string();
    std::fs::write(folder.join("tenant-default.conf"), deployed("tenant-default.conf")).expect("writes");
    let readme = deployed("README.md");
    let mut blocks = readme.split("```sh\n").filter_map(|rest| rest.split("```").next());
    let command = blocks.find(|block| block.starts_with("sed ")).expect("the README's way to another tenant");
    let status = Command::new("sh").args(["-c", command]).current_dir(folder).status().expect("sh runs");
    assert!(status.success(), "{command}");
    let text = replaced(
        deployed("nats-server.conf"),
        &[
            ("\"0.0.0.0:4222\"", &format!("\"127.0.0.1:-1\"\nports_file_dir: \"{shown}\"")),
            ("/etc/within/nats", &shown),
            ("/var/lib/within/nats", &format!("{shown}/store")),
            ("include \"tenant-default.conf\"", "include \"tenant-default.conf\"\n  include \"tenant-acme.conf\""),
        ],
    );
    let path = folder.join("nats-server.conf");
    std::fs::write(&path, text).expect("writes");
    path
}

/// An authority, and certificates for the server and for clients.
fn certificates(folder: &Path) {
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).expect("writes");
    let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().expect("a key");
    write("ca.pem", ca.self_signed(&ca_key).expect("a certificate").pem());
    let issuer = Issuer::new(ca, ca_key);
    for name in ["server", "client"] {
        let (params, key) = (CertificateParams::new(vec!["127.0.0.1".into()]), KeyPair::generate().expect("a key"));
        let cert = params.expect("parameters").signed_by(&key, &issuer).expect("a certificate");
        write(&format!("{name}.pem"), cert.pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}
