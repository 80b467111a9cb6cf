//! Tests of the bus against real servers.

mod artifact;
mod connect;
mod consume;
mod embedded;
mod heal;
mod jobs;
mod lease;
mod publish;
mod queue;
mod request;
mod server;
mod topology;
mod watch;
