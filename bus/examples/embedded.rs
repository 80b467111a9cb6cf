//! Runs an embedded NATS server for as long as this process lives, and prints where it is:
//! `embedded NATS_SERVER FOLDER`.

use std::error::Error;
use std::future::pending;

use within_bus::embedded::{EmbeddedConfig, EmbeddedServer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [binary, folder] = arguments.as_slice() else { return Err("expected: NATS_SERVER FOLDER".into()) };
    let server = EmbeddedServer::start(EmbeddedConfig::new(binary, folder)).await?;
    println!("{} pid {}", server.url(), server.pid().unwrap_or_default());
    pending::<()>().await;
    Ok(())
}
