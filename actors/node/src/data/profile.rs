//! `within data profile`: what a table holds, and what is remarkable about it.

use std::path::PathBuf;

use clap::Args;
use data_loader::validate;
use tokio_util::sync::CancellationToken;

use super::input::{InputArgs, failure};
use super::shown;
use crate::config::Config;
use crate::exit::{self, Failure};

#[derive(Debug, Args)]
pub struct ProfileArgs {
    #[command(flatten)]
    pub input: InputArgs,
    /// Write report.json and report.html into this folder
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
}

pub fn command(config: &Config, args: &ProfileArgs) -> Result<u8, Failure> {
    let input = args.input.open(config)?;
    let never = CancellationToken::new();
    let checked = validate::check(&input.data, None, &input.roots, bus::now_ms(), &never).map_err(failure)?;
    let written = args.report.iter().map(|folder| shown::keep(&checked, folder)).collect::<Result<Vec<_>, _>>()?;
    shown::print(config, "profiled", &checked, &written.concat());
    Ok(if checked.report.passed { exit::DONE } else { exit::JOB_FAILED })
}
