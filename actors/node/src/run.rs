//! `within run`: the whole platform in this process, for one job.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bus::Bus;
use bus::role::RoleEnv;
use messages::event::Event;
use messages::job::Role;
use messages::rpc::{GetRun, RunStatus, Submit};
use messages::subject::CONSUMER_NOTIFIER;
use messages::{Envelope, JobId};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::RunArgs;
use crate::config::Config;
use crate::exit::{self, Failure};
use crate::watch::{self, Show, print_line};
use crate::{environment, generate, http, jobs, roles, server, spec_file, supervisor};

/// The job that runs when none is named: on data that is generated.
const QUICKSTART: &str = include_str!("../../../deploy/jobs/quickstart.yaml");
/// Rows of the generated data.
const QUICKSTART_ROWS: u64 = 5_000;
/// Between two looks at tracker and notifier.
const SETTLE_LOOK: Duration = Duration::from_millis(20);

/// Runs a job to its end.
pub async fn run(config: &Config, args: &RunArgs) -> Result<u8, Failure> {
    let mut set = args.set.clone();
    if let Some(world) = args.world {
        set.push(format!("resources.world_size={world}"));
    }
    if args.force {
        set.push("data.cache=refresh".into());
    }
    let (loaded, folder) = match &args.job {
        Some(path) => (spec_file::load(path, &set)?, path.parent().map(Path::to_owned)),
        None => (quickstart(config, &set)?, None),
    };
    let recorder = http::recorder()?;
    let _turn = match config.nats {
        None => Some(server::take_turn(&config.home)?),
        Some(_) => None,
    };
    let link = server::open(config, "run").await?;
    let env = environment::build(config, &link, None, folder.into_iter().map(non_empty).collect())?;
    let mut settings = roles::settings(config, &link)?;
    // Here are all ranks that the job begins with; it grows when other processes join.
    settings.trainer.slots = settings.trainer.slots.max(loaded.plan.resources.world_size);
    let mut crew = supervisor::start(env.clone(), settings, Role::ALL.to_vec()).await?;
    http::serve(&config.http, recorder, crew.ready.clone()).await?;

    let job = jobs::event_id(args.id.as_deref(), &loaded.plan.name)?;
    let show = Show::new(config.json);
    // An interrupt cancels the job, and its end may be seen before the answer to that.
    let signalled = Cell::new(None);
    let code = {
        let work = async {
            env.bus.bind(Duration::from_millis(env.bus.timings().claim_timeout_ms)).await?;
            publish(&env, &job, loaded.submit).await?;
            let stored = watch::follow(&env.bus, &job, &show).await?;
            Ok::<_, Failure>(stored.envelope.data)
        };
        tokio::select! {
            ended = work => {
                let event = ended?;
                if !matches!(event, Event::Rejected { .. }) {
                    settle(&env.bus, &job).await;
                }
                conclude(config, &job, &event);
                let code = if matches!(event, Event::Completed(_)) { exit::DONE } else { failed_code(&event) };
                signalled.get().unwrap_or(code)
            }
            _ = crew.failure() => exit::INFRASTRUCTURE,
            code = interrupted(&env, &job, &signalled) => code?,
        }
    };
    let drained = crew.drain(&env, Duration::from_millis(config.timings.drain_grace_ms)).await;
    link.close().await;
    drained?;
    Ok(code)
}

/// Tracker and notifier come after the job's last event: waits, within the time of one request, until they
/// have done with it. What they leave, the next process of this home does.
async fn settle(bus: &Bus, job: &JobId) {
    let limit = Duration::from_millis(bus.timings().request_timeout_ms);
    let done = async {
        while !(is_tracked(bus, job, limit).await && is_announced(bus).await) {
            tokio::time::sleep(SETTLE_LOOK).await;
        }
    };
    if tokio::time::timeout(limit, done).await.is_err() {
        tracing::warn!("tracker or notifier did not come to the end of the job; the next process goes on with it");
    }
}

async fn is_tracked(bus: &Bus, job: &JobId, limit: Duration) -> bool {
    let run = bus.request(GetRun { run: job.clone(), history: false }, Some(job), limit).await;
    run.is_ok_and(|run| run.summary.status != RunStatus::Running)
}

async fn is_announced(bus: &Bus) -> bool {
    let streams = bus.topology().await.unwrap_or_default();
    let mut consumers = streams.iter().flat_map(|stream| &stream.consumers);
    consumers.any(|c| c.name == CONSUMER_NOTIFIER && c.pending == 0 && c.ack_pending == 0)
}

/// A rejected job is a wrong spec.
fn failed_code(event: &Event) -> u8 {
    if matches!(event, Event::Rejected { .. }) { exit::USAGE } else { exit::JOB_FAILED }
}

fn non_empty(path: PathBuf) -> PathBuf {
    if path.as_os_str().is_empty() { PathBuf::from(".") } else { path }
}

async fn publish(env: &RoleEnv, job: &JobId, submit: Submit) -> Result<(), Failure> {
    let envelope = Envelope::new(job.as_str(), format!("/within/run/{}", env.identity.host), bus::now_ms(), submit);
    env.bus.submit(&envelope).await?;
    Ok(())
}

/// SIGINT cancels the job; SIGTERM leaves it in the store, for the next process of this home to go on
/// with. A second signal ends at once.
async fn interrupted(env: &RoleEnv, job: &JobId, signalled: &Cell<Option<u8>>) -> Result<u8, Failure> {
    let failed = |error: std::io::Error| Failure::Usage(format!("signals: {error}"));
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let code = tokio::select! {
        _ = int.recv() => exit::INTERRUPTED,
        _ = term.recv() => exit::TERMINATED,
    };
    signalled.set(Some(code));
    tokio::spawn(async move {
        tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
        std::process::exit(code.into());
    });
    if code == exit::INTERRUPTED {
        eprintln!("interrupted: job {job} is being cancelled");
        let cancelled = jobs::cancel(&env.bus, job, Some("interrupted".into())).await;
        match cancelled {
            Ok(_) => {}
            Err(error) => eprintln!("interrupted: job {job} could not be cancelled: {error}"),
        }
    } else {
        eprintln!("terminated: job {job} stays in the store; the next process of this home goes on with it");
    }
    Ok(code)
}

/// The quickstart's spec, with its data generated where they are missing.
fn quickstart(config: &Config, set: &[String]) -> Result<spec_file::Loaded, Failure> {
    let file = config.home.join("data").join("ads.csv");
    if !file.exists() {
        generate::write(&file, QUICKSTART_ROWS, 42)?;
        eprintln!("generated {} ({QUICKSTART_ROWS} rows)", file.display());
    }
    spec_file::from_text(Path::new("quickstart.yaml"), QUICKSTART, set)
}

/// The end of the job, for a person or as the last line of JSON.
fn conclude(config: &Config, job: &JobId, event: &Event) {
    if config.json {
        print_line(&watch::summary_json(job, event).to_string());
        return;
    }
    let Event::Completed(done) = event else { return };
    print_line(&format!("\n{} completed in {:.1} s", done.name, done.duration_s));
    let metrics = &done.metrics;
    print_line(&watch::metric_table(&metrics.val, &metrics.test, &metrics.baseline));
    if let Some(model) = &done.model {
        print_line(&format!("  model   {}\n          parameters blake3 {}", model.uri, model.blake3));
    }
    if let Some(report) = &done.report {
        print_line(&format!("  report  {}", report.uri));
    }
    print_line(&format!("  run     {} in {}", done.run, config.home.join("tracker.db").display()));
    print_line(&format!("  events  within jobs events {job} --home {}", config.home.display()));
}
