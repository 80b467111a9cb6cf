//! The data_loader from outside: files in, dataset versions and feeds out.

#[global_allocator]
static ALLOCATOR: scratch::Scratch = scratch::Scratch;

mod augment;
mod bad_input;
mod cache;
mod features;
mod feed;
mod inputs;
mod larger;
mod methods;
mod mutations;
mod network;
mod plan;
mod prepare;
mod quality;
mod quality_golden;
mod real;
mod sources;
mod split;
mod traps;
mod validation;
