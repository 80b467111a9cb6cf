//! `within data diff`: what differs between two dataset versions.

use std::path::PathBuf;

use clap::Args;
use data_loader::versions::{diff, show};

use super::version::{Place, write};
use crate::config::Config;
use crate::exit::{self, Failure};
use crate::watch::print_line;

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// A job, the file of a manifest, or the first digits of a version's id
    pub a: String,
    /// The same, of what it is compared with
    pub b: String,
    /// Also as a page with pictures
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

pub async fn command(config: &Config, args: &DiffArgs) -> Result<u8, Failure> {
    let mut place = Place::open(config)?;
    let a = place.version(&args.a).await?;
    let b = place.version(&args.b).await?;
    let diff = diff::diff(&place.artifacts, &a, &b).await?;
    if let Some(path) = &args.html {
        write(path, &show::html(&diff))?;
    }
    if config.json {
        print_line(&serde_json::to_string(&diff).unwrap_or_default());
    } else {
        print_line(&show::text(&diff));
    }
    place.close().await;
    Ok(exit::DONE)
}
