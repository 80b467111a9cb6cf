//! `within data profile`: what a table holds.

use std::path::PathBuf;

use clap::Args;

use crate::config::Config;
use crate::exit::Failure;

#[derive(Debug, Args)]
pub struct ProfileArgs {
    /// Files of one table
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

pub fn command(_: &Config, args: &ProfileArgs) -> Result<u8, Failure> {
    Err(Failure::Usage(format!("a profile of {} files: not yet supported", args.files.len())))
}
