//! The one binary `within`: command line, configuration, supervision. The composition root: the only
//! crate that knows every role.

mod cache;
mod cli;
mod config;
mod data;
mod doctor;
mod environment;
mod exit;
mod generate;
mod http;
mod jobs;
mod logging;
mod parent;
mod roles;
mod run;
mod schema;
mod server;
mod spec_file;
mod supervisor;
mod watch;
mod weights;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::config::Config;
use crate::exit::Failure;

/// Preparations of data that are larger than memory lie in files.
#[global_allocator]
static ALLOCATOR: scratch::Scratch = scratch::Scratch;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match &cli.command {
        Command::DieWithParent(args) => return parent::exec(args),
        Command::Rank => {
            logging::install_for_rank();
            return trainer::rank_main();
        }
        _ => {}
    }
    // One message for a person and one object for a program, never a backtrace.
    match run(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            report(&cli, &failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(cli: &Cli) -> Result<u8, Failure> {
    let config = Config::load(&cli.global)?;
    // What goes wrong with a job is shown as its events; the log need not say it again.
    let default = match cli.command {
        Command::Worker(_) => logging::DEFAULT,
        _ => "warn,within_data_loader=error,within_evaluator=error,trainer=error",
    };
    let filter = logging::install(&config.home, config.log.as_deref(), default, config.json).map_err(Failure::Usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Usage(format!("runtime: {error}")))?;
    let code = runtime.block_on(async {
        match &cli.command {
            Command::Run(args) => run::run(&config, args).await,
            Command::Worker(args) => worker::run(&config, args, filter).await,
            Command::Submit(args) => jobs::submit(&config, args).await,
            Command::Jobs(command) => jobs::command(&config, command).await,
            Command::Generate(args) => generate::command(&config, args),
            Command::Cache(command) => cache::command(&config, command),
            Command::Data(command) => data::command(&config, command).await,
            Command::Weights(command) => weights::command(&config, command),
            Command::Schema(args) => schema::command(&config, args),
            Command::Doctor => doctor::command(&config).await,
            Command::Rank | Command::DieWithParent(_) => Ok(exit::DONE),
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    code
}

fn report(cli: &Cli, failure: &Failure) {
    let wire = failure.to_wire();
    if cli.global.json {
        let mut line = serde_json::json!({
            "event": "failed", "class": wire.class, "code": wire.code, "message": wire.message, "hint": wire.hint,
            "retry": wire.retry,
        });
        if let Failure::Spec(errors) = failure {
            line["errors"] = serde_json::json!(errors);
        }
        watch::print_line(&line.to_string());
        return;
    }
    eprintln!("error: {failure}");
    if let Some(hint) = wire.hint {
        eprintln!("hint: {hint}");
    }
}
