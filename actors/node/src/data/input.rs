//! The table that a command of `within data` looks at: files on the command line, read as they turn out to be written, or
//! those of a job.

use std::path::{Path, PathBuf};

use clap::Args;
use data_loader::validate::sniff::{Sniff, sniff};
use messages::WireError;
use messages::error::Code;
use messages::plan::DataPlan;
use serde_json::json;

use crate::config::Config;
use crate::exit::Failure;
use crate::spec_file;

#[derive(Debug, Args)]
pub struct InputArgs {
    /// Files of one table; with --job, in place of the job's
    #[arg(value_name = "FILE", required_unless_present = "job")]
    pub files: Vec<PathBuf>,
    /// Read as this job reads, and, without FILE, what it reads
    #[arg(long, value_name = "JOB")]
    pub job: Option<PathBuf>,
}

/// How to read the files, and below which folders they lie.
pub struct Input {
    pub data: DataPlan,
    pub roots: Vec<PathBuf>,
}

impl InputArgs {
    pub fn open(&self, config: &Config) -> Result<Input, Failure> {
        let here = PathBuf::from(".");
        let mut roots = vec![here];
        let mut data = match &self.job {
            Some(job) => {
                let folder = job.parent().filter(|folder| !folder.as_os_str().is_empty());
                roots.extend(folder.map(Path::to_path_buf));
                roots.extend(config.data_roots.iter().cloned());
                spec_file::load(job, &[])?.plan.data
            }
            None => self.guessed()?,
        };
        if !self.files.is_empty() {
            data.test_path = Vec::new();
            data.path = Vec::new();
            for file in &self.files {
                let (path, root) = placed(file)?;
                data.path.push(path);
                roots.extend(root);
            }
        }
        Ok(Input { data, roots })
    }

    /// A plan that reads the files as the first of them is written.
    fn guessed(&self) -> Result<DataPlan, Failure> {
        let sniffed = self.files.first().and_then(|file| sniff(file));
        let delimiter = sniffed.as_ref().and_then(|sniffed| sniffed.delimiter).unwrap_or(',');
        let header = sniffed.as_ref().is_none_or(|sniffed| sniffed.header);
        let mut csv = json!({ "delimiter": delimiter, "header": header });
        if sniffed.as_ref().is_some_and(is_of_lines) {
            // Sentences: nothing cuts them, and quotes are part of them.
            csv = json!({ "delimiter": "\u{1f}", "quote": "\u{1e}", "header": header });
        }
        let spec = json!({ "task": "regression", "data": { "path": ["data"], "target": "none", "csv": csv } });
        let loaded = spec_file::from_text(Path::new("files.json"), &spec.to_string(), &[])?;
        Ok(loaded.plan.data)
    }
}

fn is_of_lines(sniffed: &Sniff) -> bool {
    sniffed.delimiter.is_none() && !sniffed.header
}

/// The file as a plan names it, and its folder where that is not the working one.
fn placed(file: &Path) -> Result<(String, Option<PathBuf>), Failure> {
    let text = file.to_str().ok_or_else(|| Failure::Usage(format!("{}: the name is not UTF-8", file.display())))?;
    let upwards = file.components().any(|part| part == std::path::Component::ParentDir);
    let pattern = text.contains(['*', '?', '[']);
    if !pattern && !file.exists() {
        return Err(Failure::Usage(format!("{text}: no such file")));
    }
    if file.is_relative() && !upwards {
        return Ok((text.to_owned(), None));
    }
    let absolute = if pattern { Ok(file.to_path_buf()) } else { file.canonicalize() };
    let absolute = absolute.map_err(|error| Failure::Usage(format!("{text}: {error}")))?;
    let folder = absolute.parent().map(Path::to_path_buf);
    Ok((absolute.display().to_string(), folder))
}

/// The user's mistake, or something that is not there.
pub fn failure(error: WireError) -> Failure {
    let mistake = matches!(
        error.code,
        Code::ConfigError | Code::DatasetNotFound | Code::Forbidden | Code::NotSupported | Code::TooLarge
    );
    if !mistake {
        return Failure::Infrastructure(error);
    }
    let hint = error.hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    Failure::Usage(error.message + &hint)
}
