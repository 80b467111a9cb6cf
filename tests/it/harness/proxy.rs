//! A TCP proxy between a client and its server that can fall silent: it keeps its connections and forwards
//! nothing, as a network does that drops every packet.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Forwards until dropped.
pub struct Proxy {
    address: SocketAddr,
    silent: watch::Sender<bool>,
    _runtime: Runtime,
}

impl Proxy {
    /// Forwards to a port of this host.
    pub fn start(to: u16) -> Self {
        Self::start_at("127.0.0.1:0", to)
    }

    /// The same, listening at this address.
    pub fn start_at(address: &str, to: u16) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind(address)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let (silent, forwards) = watch::channel(false);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let forwards = forwards.clone();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    tokio::spawn(forward(from_client, to_server, forwards.clone()));
                    forward(from_server, to_client, forwards).await;
                });
            }
        });
        Self { address, silent, _runtime: runtime }
    }

    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// From now on nothing is forwarded, and nothing is closed.
    pub fn fall_silent(&self) {
        self.silent.send_replace(true);
    }

    /// Forwards again, what came meanwhile first.
    pub fn speak(&self) {
        self.silent.send_replace(false);
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut silent: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if silent.wait_for(|silent| !*silent).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
