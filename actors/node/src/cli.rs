//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::data::DataCommand;

/// WITHIN trains, evaluates, tracks and announces models; jobs and results travel over NATS.
#[derive(Debug, Parser)]
#[command(name = "within", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Settings of every command: flag > `WITHIN_*` variable > `within.yaml` > default.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Folder of the store, caches and logs [default: .within]
    #[arg(long, global = true, env = "WITHIN_HOME", value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// A NATS server to use; without one, `run` and the others use the embedded server of this home
    #[arg(long, global = true, env = "WITHIN_NATS", value_name = "URL")]
    pub nats: Option<String>,
    /// Credentials: a .creds file, or user:password in a file
    #[arg(long, global = true, env = "WITHIN_CREDS", value_name = "FILE")]
    pub creds: Option<PathBuf>,
    /// The tenant that this process serves [default: default]
    #[arg(long, global = true, env = "WITHIN_TENANT", value_name = "NAME")]
    pub tenant: Option<String>,
    /// Where /metrics, /healthz and /readyz listen [default: 127.0.0.1:0]
    #[arg(long, global = true, env = "WITHIN_HTTP", value_name = "ADDRESS")]
    pub http: Option<String>,
    /// Configuration file [default: within.yaml, if it is there]
    #[arg(long, global = true, env = "WITHIN_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One JSON object a line instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Filter of the log on standard error, such as debug or within_bus=debug
    #[arg(long, global = true, env = "WITHIN_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a job on this machine, with everything it needs, and wait for its end
    Run(RunArgs),
    /// Serve roles: start as many of these as there is work
    Worker(WorkerArgs),
    /// Publish a job
    Submit(SubmitArgs),
    /// Look at jobs and cancel them
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Write deterministic, ads-like data
    Generate(GenerateArgs),
    /// Look at what the steps of jobs have kept, and remove it
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Look into data without running a job
    #[command(subcommand)]
    Data(DataCommand),
    /// Look into model files and checkpoints
    #[command(subcommand)]
    Weights(WeightsCommand),
    /// Print or write the JSON Schemas, the error codes and the AsyncAPI document
    Schema(SchemaArgs),
    /// Show versions, libraries, disk, clock and the server, and what is wrong with them
    Doctor,
    /// A training rank; started by a worker
    #[command(hide = true)]
    Rank,
    /// Runs a program that ends when its parent ends
    #[command(hide = true)]
    DieWithParent(DieWithParentArgs),
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Job spec (YAML or JSON); without one, the quickstart on generated data
    pub job: Option<PathBuf>,
    /// Override any key: --set training.epochs=3
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Ranks that train together
    #[arg(long, value_name = "N")]
    pub world: Option<u32>,
    /// Event id, and so the job's id; the same id never runs twice
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Compute every step anew, and keep that instead of what is in the step cache: --set data.cache=refresh
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// Roles, separated by commas [default: all]
    #[arg(long, value_delimiter = ',', env = "WITHIN_ROLES", value_name = "ROLE")]
    pub roles: Vec<String>,
    /// Training ranks at once on this worker [default: 1]
    #[arg(long, env = "WITHIN_SLOTS", value_name = "N")]
    pub slots: Option<u32>,
    /// Name of this worker in events and logs; must be unique
    #[arg(long, env = "WITHIN_WORKER", value_name = "NAME")]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// Job spec (YAML or JSON)
    pub job: PathBuf,
    /// Override any key: --set training.epochs=3
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Event id, and so the job's id; the same id never runs twice
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Stay and show the job until it ends
    #[arg(long)]
    pub watch: bool,
}

#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// The newest jobs
    List {
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// One job: state, tasks, plan with the origin of every value
    Show { job: String },
    /// The events of a job
    Events {
        job: String,
        /// Wait for more until the job ends
        #[arg(long)]
        follow: bool,
    },
    /// The log lines of a job
    Logs { job: String },
    /// Cancel a job
    Cancel {
        job: String,
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// What is kept, the entry that was used last first
    Ls,
    /// Remove what has expired, what is damaged, and what is beyond the size limit
    Prune {
        /// Also what was not used for so long: 30d, 12h, 90m, 45s; 0s empties the cache
        #[arg(long, value_name = "AGE", value_parser = crate::cache::age)]
        older_than: Option<std::time::Duration>,
    },
}

#[derive(Debug, Subcommand)]
pub enum WeightsCommand {
    /// BLAKE3 of the parameters, and of a checkpoint's optimizer state; equal bits give equal hashes
    Hash {
        /// A model file, or the folder of a checkpoint
        model: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// File to write; its suffix says CSV or Parquet
    pub file: PathBuf,
    #[arg(long, default_value_t = 5_000)]
    pub rows: u64,
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
}

#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Write every file into this folder; without it, list their names
    #[arg(long, value_name = "DIR")]
    pub write: Option<PathBuf>,
    /// Print one file
    #[arg(long, value_name = "NAME", conflicts_with = "write")]
    pub show: Option<String>,
}

#[derive(Debug, Args)]
pub struct DieWithParentArgs {
    /// The parent's process id, to see whether it died meanwhile
    pub parent: i32,
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}
