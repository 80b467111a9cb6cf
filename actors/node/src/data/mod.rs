//! `within data`: looking into data without running a job. Each command is a file of its own here: its arguments, what
//! it does, how it prints.

mod input;
mod profile;
mod shown;
mod validate;

use clap::Subcommand;

use crate::config::Config;
use crate::exit::Failure;

/// The commands below `within data`.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Check files against a data schema, and name what a reader should know of them
    Validate(validate::ValidateArgs),
    /// Describe files: columns, distributions, and what is remarkable about them
    Profile(profile::ProfileArgs),
}

pub fn command(config: &Config, command: &DataCommand) -> Result<u8, Failure> {
    match command {
        DataCommand::Validate(args) => validate::command(config, args),
        DataCommand::Profile(args) => profile::command(config, args),
    }
}
