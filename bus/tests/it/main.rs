//! Tests of the bus against real servers.

extern crate within_bus as bus;

mod artifact;
mod connect;
mod consume;
mod embedded;
mod heal;
mod jobs;
mod lease;
mod publish;
mod queue;
mod remote;
mod request;
mod server;
mod subscriber;
mod tls;
mod topology;
mod watch;
