//! The data_loader from outside: files in, dataset versions and feeds out.

mod bad_input;
mod feed;
mod inputs;
mod mutations;
mod network;
mod plan;
mod prepare;
mod real;
mod sources;
mod split;
mod traps;
mod validation;
