//! `within weights`: what a model file or a checkpoint holds, without a job.

use std::path::Path;

use messages::WireError;
use messages::error::Code;

use crate::cli::WeightsCommand;
use crate::config::Config;
use crate::exit::{self, Failure};
use crate::watch::print_line;

/// `within weights hash`.
pub fn command(config: &Config, command: &WeightsCommand) -> Result<u8, Failure> {
    let WeightsCommand::Hash { model } = command;
    let hashes = if model.is_dir() { of_checkpoint(model)? } else { of_file(model)? };
    if config.json {
        let mut line = serde_json::json!({ "event": "hashed", "model": model });
        for (name, hash) in &hashes {
            line[*name] = serde_json::json!(hash);
        }
        print_line(&line.to_string());
    } else {
        for (name, hash) in &hashes {
            print_line(&format!("{name} {hash}"));
        }
    }
    Ok(exit::DONE)
}

type Hashes = Vec<(&'static str, String)>;

fn of_file(path: &Path) -> Result<Hashes, Failure> {
    let bytes = std::fs::read(path).map_err(|error| {
        let expected = "expected a model file or the folder of a checkpoint";
        Failure::Usage(format!("{}: {error}; {expected}", path.display()))
    })?;
    Ok(vec![("params", params(path, &bytes)?)])
}

fn of_checkpoint(path: &Path) -> Result<Hashes, Failure> {
    let checkpoint = trainer::checkpoint::read(path, None).map_err(|error| Failure::Infrastructure(error.to_wire()))?;
    let optimizer = trainer::checkpoint::blake3_hex(&checkpoint.optimizer);
    Ok(vec![("params", params(path, &checkpoint.model)?), ("optimizer", optimizer)])
}

fn params(path: &Path, file: &[u8]) -> Result<String, Failure> {
    let (model, _) = kernels::weights::load(file).map_err(|error| {
        let message = format!("{}: {error}", path.display());
        Failure::Infrastructure(WireError::new(Code::ModelInvalid, message))
    })?;
    Ok(kernels::weights::params_blake3(&model))
}
