//! `within data split`: the parts that a job's split makes, without running the job.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use messages::WireError;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::exit::{DONE, Failure};
use crate::spec_file;

#[derive(Debug, Args)]
pub struct SplitArgs {
    /// Job spec (YAML or JSON)
    pub job: PathBuf,
    /// Override any key: --set data.split.fold=1
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Write each sample's id and part into this CSV file
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,
}

pub fn command(config: &Config, args: &SplitArgs) -> Result<u8, Failure> {
    let loaded = spec_file::load(&args.job, &args.set)?;
    let folder = args.job.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut roots = vec![folder.to_path_buf()];
    roots.extend(config.data_roots.iter().cloned());
    let plan = &loaded.plan;
    let roots: Vec<PathBuf> = roots.into_iter().filter_map(|root| root.canonicalize().ok()).collect();
    let prepared = data_loader::prepare::prepare(&plan.data, plan.task, &roots, &CancellationToken::new())
        .map_err(|error| Failure::Usage(said(&error)))?;
    let (report, assigned) = prepared.split_report(&plan.data);
    if let Some(file) = &args.write {
        let failed = |error: std::io::Error| Failure::Usage(format!("--write {}: {error}", file.display()));
        let mut out = std::io::BufWriter::new(std::fs::File::create(file).map_err(failed)?);
        writeln!(out, "sample_id,part").map_err(failed)?;
        for (id, part) in &assigned {
            writeln!(out, "{id},{}", part.as_str()).map_err(failed)?;
        }
        out.flush().map_err(failed)?;
    }
    if config.json {
        println!("{}", serde_json::to_string(&report).expect("invariant: a report serializes"));
    } else {
        for warning in prepared.warnings() {
            eprintln!("warning: {warning}");
        }
        print!("{}", report.to_text());
    }
    Ok(DONE)
}

/// What is wrong with the data, and what may help.
fn said(error: &WireError) -> String {
    match &error.hint {
        Some(hint) => format!("{}\nhint: {hint}", error.message),
        None => error.message.clone(),
    }
}
