//! `within data`: looking into data without running a job. Each command is a file of its own here: its arguments, what
//! it does, how it prints.

mod augment;
mod diff;
mod input;
mod lineage;
mod profile;
mod shown;
mod split;
mod validate;
mod version;

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
    /// What differs between two dataset versions: files, columns, preprocessing, rows, distributions
    Diff(diff::DiffArgs),
    /// What a model was made of: files, dataset versions, model, report
    Lineage(lineage::LineageArgs),
    /// Show the parts that a job's split makes: sizes, classes, groups, times
    Split(split::SplitArgs),
    /// Show what a job's augmentation makes of its data
    Augment(augment::AugmentArgs),
}

pub async fn command(config: &Config, command: &DataCommand) -> Result<u8, Failure> {
    if let Some(limit) = config.memory_limit_bytes {
        data_loader::memory::set_limit_bytes(limit);
    }
    // What is larger than memory lies in files while a command of files runs.
    let scoped = |run: &dyn Fn() -> Result<u8, Failure>| {
        let scope = data_loader::memory::scope(&config.home);
        let inside = scope.enter();
        let outcome = run();
        drop(inside);
        if let Some(told) = data_loader::memory::without_files(&scope) {
            tracing::warn!("{told}");
        }
        outcome
    };
    match command {
        DataCommand::Validate(args) => scoped(&|| validate::command(config, args)),
        DataCommand::Profile(args) => scoped(&|| profile::command(config, args)),
        DataCommand::Split(args) => scoped(&|| split::command(config, args)),
        DataCommand::Augment(args) => scoped(&|| augment::command(config, args)),
        DataCommand::Diff(args) => diff::command(config, args).await,
        DataCommand::Lineage(args) => lineage::command(config, args).await,
    }
}
