//! The data_loader from outside: files in, dataset versions and feeds out.

mod augment;
mod bad_input;
mod cache;
mod features;
mod feed;
mod inputs;
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
