//! Black-box tests: the real binary, a real `nats-server`, clients of another language, killed
//! processes. `make test` builds the binary and says where everything is (see [`harness`]).

mod bad_data;
mod bad_input;
mod cache;
mod clients;
mod commands;
mod datasets;
mod device;
#[path = "../elastic/mod.rs"]
mod elastic;
#[path = "../fault/mod.rs"]
mod fault;
mod harness;
mod heal;
mod models;
mod nccl;
mod permissions;
mod quality;
mod resume;
mod roles;
mod run;
mod subscriber;
mod tidy;
mod weights;
