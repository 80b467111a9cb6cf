//! `within data validate`: files against a data schema.

use std::path::PathBuf;

use clap::Args;

use crate::config::Config;
use crate::exit::Failure;

#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Files of one table
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

pub fn command(_: &Config, args: &ValidateArgs) -> Result<u8, Failure> {
    Err(Failure::Usage(format!("validation of {} files: not yet supported", args.files.len())))
}
