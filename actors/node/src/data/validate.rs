//! `within data validate`: files against a data schema.

use std::path::PathBuf;

use clap::Args;
use data_loader::validate::{self, builtin, parse_schema, schema::DataSchema};
use tokio_util::sync::CancellationToken;

use super::input::{InputArgs, failure};
use super::shown;
use crate::config::Config;
use crate::exit::{self, Failure};
use crate::watch::print_line;

#[derive(Debug, Args)]
pub struct ValidateArgs {
    #[command(flatten)]
    pub input: InputArgs,
    /// Name of a schema that comes with the program, or a JSON file [default: data.validation of the job]
    #[arg(long, value_name = "SCHEMA")]
    pub schema: Option<String>,
    /// Write report.json, report.html and the rows that are left out into this folder
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
}

/// Ends with 1 where a rule of severity fail is broken.
pub fn command(config: &Config, args: &ValidateArgs) -> Result<u8, Failure> {
    let input = args.input.open(config)?;
    let schema = match &args.schema {
        Some(named) => Some(named_schema(named)?),
        None => validate::schema_of(&input.data.validation, &input.roots).map_err(failure)?,
    };
    let Some(schema) = schema else {
        let names: Vec<&str> = builtin::names().collect();
        let message = format!(
            "no schema: give --schema {}, a JSON file, or a job with data.validation; within data profile needs none",
            names.join("|")
        );
        return Err(Failure::Usage(message));
    };
    let never = CancellationToken::new();
    let checked = validate::check(&input.data, Some(&schema), &input.roots, bus::now_ms(), &never).map_err(failure)?;
    let written = args.report.iter().map(|folder| shown::keep(&checked, folder)).collect::<Result<Vec<_>, _>>()?;
    shown::print(config, "validated", &checked, &written.concat());
    let passed = checked.report.passed;
    if !config.json {
        print_line(if passed { "passed" } else { "failed" });
    }
    Ok(if passed { exit::DONE } else { exit::JOB_FAILED })
}

fn named_schema(named: &str) -> Result<DataSchema, Failure> {
    if let Some(schema) = builtin::schema(named) {
        return Ok(schema);
    }
    let text = std::fs::read_to_string(named).map_err(|error| {
        let names: Vec<&str> = builtin::names().collect();
        Failure::Usage(format!("--schema {named}: {error}; expected a JSON file or one of {}", names.join(", ")))
    })?;
    parse_schema(named, &text).map_err(failure)
}
