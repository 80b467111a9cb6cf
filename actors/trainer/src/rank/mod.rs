//! The rank process: `within rank`. Its runtime only moves messages; training runs on a thread of its
//! own and is connected by bounded channels. A process whose task ended in order waits for another, so that
//! small jobs do not pay for a process and a connection each; any other end is its own end too.
//!
//! Exit codes: 0, the coordinator knows how it ended (or no longer cares); 3, it could not be told; 101, a
//! bug. stdout belongs to the worker ([`crate::link::RankLine`]); logs go to stderr as JSON lines, which
//! the binary sets up before it calls [`rank_main`].

mod feed;
mod life;
mod meeting;
pub(crate) mod telling;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bus::artifact::ArtifactStore;
use bus::{Bus, BusConfig};
use bytes::Bytes;
use frame::Manifest;
use futures::channel::oneshot;
use messages::WireError;
use messages::error::Code;
use messages::event::ModelRef;
use messages::plan::JobPlan;
use messages::rpc::{ReportAnswer, ReportBody};
use messages::work::{TaskOutput, WorkInput};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::sync::mpsc;

use crate::link::{Connection, LOG_ENDS, Phase, RankConfig};
use crate::train::gang::Interrupt;
use crate::train::{BatchSource, Outbox, Outcome, Ports, Stop, StopReason, TrainJob, Trained, train};
use crate::vitals::Vitals;
use feed::FeedContext;
use frame::model_file;
use life::{Configs, EXIT_INFRASTRUCTURE, LastLine, Reporter};
use telling::Teller;

/// Exit code of a panic, as the standard library's.
const EXIT_BUG: u8 = 101;

/// How a rank ends.
enum End {
    /// The coordinator knows that it is done.
    Done,
    /// The coordinator knows, or no longer cares.
    Told,
    /// It does not: the worker must tell it.
    Untold(WireError),
    /// The compute thread panicked.
    Bug,
}

/// Tasks after which a process ends, however little it holds.
const MOST_TASKS: u32 = 1_000;
/// A process that holds more than this, in bytes, gives its memory back by ending.
const MOST_RESIDENT: u64 = 256 << 20;

/// Runs ranks, one after the other, as configurations come on stdin; see the module. Blocks until the
/// worker wants no more, or something went wrong.
pub fn rank_main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (mut configs, runtime) = match (Configs::from_stdin(), runtime) {
        (Ok(configs), Ok(runtime)) => (configs, runtime),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!("cannot start: {error}");
            return ExitCode::from(EXIT_INFRASTRUCTURE);
        }
    };
    let code = runtime.block_on(serve(&mut configs));
    // Reads and writes that a dead disk holds up must not hold the process up.
    runtime.shutdown_timeout(Duration::from_millis(200));
    ExitCode::from(code)
}

/// One task after the other; gives the exit code.
async fn serve(configs: &mut Configs) -> u8 {
    let mut signals = match Signals::watch() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!("cannot watch for signals: {error}");
            return EXIT_INFRASTRUCTURE;
        }
    };
    let mut link = Link::default();
    let mut config = configs.first().await;
    for task in 1.. {
        let config_now = match config {
            Ok(config) => config,
            Err(reason) => {
                tracing::error!("{reason}");
                return EXIT_INFRASTRUCTURE;
            }
        };
        let vitals = Arc::new(Vitals::default());
        let reporter = match Reporter::start(config_now.rank, vitals.clone(), std::io::stdout()) {
            Ok(reporter) => reporter,
            Err(error) => {
                tracing::error!("cannot start: {error}");
                return EXIT_INFRASTRUCTURE;
            }
        };
        match Box::pin(run(config_now, vitals, &mut link, &mut signals)).await {
            End::Done if task < MOST_TASKS && resident() < MOST_RESIDENT && !crate::device::is_lost() => {
                configs.idle();
                eprintln!("{LOG_ENDS}");
                reporter.finish(LastLine { error: None, ready: true });
            }
            end => {
                link.close().await;
                return finish(reporter, end);
            }
        }
        config = tokio::select! {
            next = configs.next() => match next {
                Some(next) => next,
                None => break,
            },
            _ = signals.terminate.recv() => break,
        };
    }
    link.close().await;
    0
}

/// What the worker says by signals.
struct Signals {
    /// Give the task back.
    terminate: SignalStream,
    /// Meet the other ranks again at the next step.
    regroup: SignalStream,
    /// The same, at once.
    regroup_now: SignalStream,
}

impl Signals {
    fn watch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            regroup: signal(SignalKind::user_defined1())?,
            regroup_now: signal(SignalKind::user_defined2())?,
        })
    }

    /// Passes on what is said, while the task lasts; never ends.
    async fn obey(&mut self, stop: &Stop, interrupt: &Interrupt) -> std::convert::Infallible {
        let mut ended = false;
        loop {
            tokio::select! {
                Some(()) = self.terminate.recv() => {
                    tracing::info!("SIGTERM: the task is given back at the next step");
                    stop.ask(StopReason::Drain { reason: "the worker drains".into() });
                }
                Some(()) = self.regroup.recv() => interrupt.at_next_step(),
                Some(()) = self.regroup_now.recv() => interrupt.now(),
                // An exchange under way waits for others, who may never come.
                () = stop.ended(), if !ended => {
                    ended = true;
                    interrupt.now();
                }
                else => return std::future::pending().await,
            }
        }
    }
}

/// The last line of a process that ends with its task; gives the exit code.
fn finish(reporter: Reporter, end: End) -> u8 {
    match end {
        End::Done | End::Told => {
            reporter.finish(LastLine::default());
            0
        }
        End::Untold(error) => {
            tracing::error!(%error, "the rank ends without the coordinator's knowledge");
            reporter.finish(LastLine { error: Some(error), ready: false });
            EXIT_INFRASTRUCTURE
        }
        End::Bug => EXIT_BUG,
    }
}

/// Resident memory of this process, in bytes; the most where it cannot be read.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.map_or(u64::MAX, |pages| pages.saturating_mul(4096))
}

/// The connection to the bus, kept from task to task while it is whole.
#[derive(Default)]
struct Link {
    open: Option<(Connection, Bus)>,
}

impl Link {
    async fn bus(&mut self, config: &RankConfig) -> Result<Bus, WireError> {
        match &self.open {
            Some((to, bus)) if *to == config.connection && bus.disconnected_for().is_none() => {
                return Ok(bus.clone());
            }
            _ => self.close().await,
        }
        let name = format!("rank/{}/{}", config.worker, std::process::id());
        let bus = Bus::connect(config.connection.bus_config(name)).await.map_err(|e| e.to_wire())?;
        self.open = Some((config.connection.clone(), bus.clone()));
        Ok(bus)
    }

    async fn close(&mut self) {
        if let Some((_, bus)) = self.open.take() {
            bus.close().await;
        }
    }
}

impl Connection {
    /// What ranks need of the worker's own connection.
    pub fn of(config: &BusConfig) -> Self {
        use crate::link::Login;
        Self {
            url: config.url.clone(),
            login: match &config.credentials {
                bus::Credentials::None => Login::None,
                bus::Credentials::UserPassword { user, password } => {
                    Login::UserPassword { user: user.clone(), password: password.clone() }
                }
                bus::Credentials::File(path) => Login::File { path: path.clone() },
            },
            tls: config.tls.clone(),
            tenant: config.tenant.clone(),
            timings: config.timings,
        }
    }

    fn bus_config(&self, name: String) -> BusConfig {
        use crate::link::Login;
        BusConfig {
            url: self.url.clone(),
            credentials: match self.login.clone() {
                Login::None => bus::Credentials::None,
                Login::UserPassword { user, password } => bus::Credentials::UserPassword { user, password },
                Login::File { path } => bus::Credentials::File(path),
            },
            tls: self.tls.clone(),
            tenant: self.tenant.clone(),
            name,
            timings: self.timings,
        }
    }
}

async fn run(config: RankConfig, vitals: Arc<Vitals>, link: &mut Link, signals: &mut Signals) -> End {
    let (stop, interrupt) = (Stop::default(), Interrupt::default());
    vitals.enter(Phase::Starting);
    let bus = match link.bus(&config).await {
        Ok(bus) => bus,
        Err(error) => return End::Untold(error),
    };
    let teller = Teller {
        bus: bus.clone(),
        job: config.work.job.clone(),
        task: config.work.task.clone(),
        attempt: config.work.attempt,
        fence: config.fence,
        worker: config.worker.clone(),
        trace: config.trace.clone(),
        vitals: vitals.clone(),
    };
    let work = async {
        tokio::select! {
            prepared = prepare(&config, &vitals) => match prepared {
                Ok(prepared) => train_and_tell(&config, prepared, &teller, &stop, &interrupt).await,
                Err(error) => Ok(Some(failed(error))),
            },
            () = stop.asked() => Ok(Some(stopped(stop.reason()))),
        }
    };
    let result = tokio::select! {
        result = work => result,
        never = signals.obey(&stop, &interrupt) => match never {},
    };
    let seated = vitals.fence().is_some();
    vitals.enter(Phase::Reporting);
    match result {
        Ok(Some(Some(body))) if !seated => tell_end(&teller, of_one_rank(&config, body)).await,
        Ok(Some(Some(body))) => tell_end(&teller, body).await,
        Ok(Some(None)) => End::Told,
        Ok(None) => End::Bug,
        Err(error) => End::Untold(error),
    }
}

/// The last report, if there is one to make.
type LastReport = Option<ReportBody>;

fn failed(error: WireError) -> LastReport {
    // A lease that has passed on is nobody's failure.
    (error.code != Code::Fenced).then_some(ReportBody::Failed { error })
}

fn stopped(reason: Option<&StopReason>) -> LastReport {
    match reason {
        Some(StopReason::Drain { reason }) => Some(ReportBody::Released { reason: reason.clone() }),
        Some(StopReason::Failed(error)) => Some(ReportBody::Failed { error: error.clone() }),
        Some(StopReason::Fenced { .. }) | None => None,
    }
}

/// The end of a rank that has not met the others: the gang's own may go on without it.
fn of_one_rank(config: &RankConfig, body: ReportBody) -> ReportBody {
    let rank = config.rank;
    match body {
        ReportBody::Released { reason } => ReportBody::RankLeft { rank, finished: false, reason },
        // What the first ranks fail of before they begin, each of them would.
        ReportBody::Failed { error } if config.joining => ReportBody::RankLost { rank, error },
        body => body,
    }
}

async fn tell_end(teller: &Teller, body: ReportBody) -> End {
    let done = matches!(body, ReportBody::Done { .. } | ReportBody::RankLeft { .. });
    let own = match &body {
        ReportBody::Failed { error } => Some(error.clone()),
        _ => None,
    };
    match teller.report(body).await {
        Ok(ReportAnswer::Accepted) if done => End::Done,
        Ok(ReportAnswer::Accepted) => End::Told,
        Ok(ReportAnswer::Fenced { reason }) => {
            tracing::info!(reason, "the task is no longer this rank's");
            End::Told
        }
        // What went wrong first is worth more than that it could not be told.
        Err(error) => End::Untold(own.unwrap_or(error)),
    }
}

/// Plan, manifest and store of a rank.
struct Prepared {
    store: ArtifactStore,
    plan: JobPlan,
    manifest: Manifest,
    pretrained: Option<Arc<Vec<u8>>>,
}

async fn prepare(config: &RankConfig, vitals: &Vitals) -> Result<Prepared, WireError> {
    vitals.enter(Phase::Loading);
    let WorkInput::Train { dataset, .. } = &config.work.input else {
        let message = format!("a rank cannot do {:?} work", config.work.input.name());
        return Err(WireError::new(Code::InternalError, message));
    };
    let store = ArtifactStore::open(&config.artifacts).map_err(|e| e.to_wire())?;
    let plan: JobPlan = store.get_json(&config.work.plan).await.map_err(|e| e.to_wire())?;
    vitals.progress();
    let manifest = store.get(dataset).await.map_err(|e| e.to_wire())?;
    let manifest = Manifest::from_json(&manifest).map_err(|e| WireError::new(Code::ArtifactCorrupt, e.to_string()))?;
    vitals.progress();
    let pretrained = match &manifest.pretrained {
        Some(pretrained) => Some(store.get(&pretrained.weights).await.map_err(|e| e.to_wire())?),
        None => None,
    };
    let pretrained = pretrained.map(|bytes| Arc::new(bytes.to_vec()));
    Ok(Prepared { store, plan, manifest, pretrained })
}

/// Trains on a thread of its own while feeds and events flow; then stores the model. None: the compute
/// thread panicked.
async fn train_and_tell(
    config: &RankConfig,
    prepared: Prepared,
    teller: &Teller,
    stop: &Stop,
    interrupt: &Interrupt,
) -> Result<Option<LastReport>, WireError> {
    let WorkInput::Train { dataset, resume } = &config.work.input else {
        return Err(WireError::new(Code::InternalError, "not a training"));
    };
    let context = FeedContext {
        bus: teller.bus.clone(),
        job: config.work.job.clone(),
        fence: config.fence,
        rank: config.rank,
        dataset: dataset.clone(),
        vitals: teller.vitals.clone(),
    };
    let device = crate::device::chosen(&prepared.plan.resources.device, config.device, &config.devices)?;
    let cubins = config.cubins.clone();
    let (opener, requests) = mpsc::channel(4);
    let feeds = tokio::spawn(feed::serve(context, requests));
    let (outbox, outgoing) = Outbox::new(&config.work.job, &config.work.task, config.work.attempt, config.rank);
    let (meetings, rendezvous) = meeting::rendezvous(config, &prepared.plan, teller, interrupt.clone())?;
    let meeting = tokio::spawn(meetings);
    let telling = tokio::spawn(teller.clone().tell(outgoing, stop.clone()));
    let job = TrainJob {
        job: config.work.job.clone(),
        task: config.work.task.clone(),
        attempt: config.work.attempt,
        fence: config.fence,
        generation: config.generation,
        rank: config.rank,
        threads: threads(&prepared.plan, config.threads),
        machine: None,
        manifest: Arc::new(prepared.manifest),
        pretrained: prepared.pretrained,
        plan: prepared.plan,
        dataset_blake3: dataset.blake3.clone(),
        resume: resume.clone(),
        checkpoints: prepared.store.local_dir("checkpoints", config.work.job.as_str()),
    };
    let ports = Ports {
        train: BatchSource::feed(opener.clone()),
        val: BatchSource::feed(opener),
        outbox,
        vitals: teller.vitals.clone(),
        stop: stop.clone(),
        rendezvous: Some(rendezvous),
    };
    let outcome = match on_compute_thread(move || train_on(device, &cubins, job, ports)).await {
        Ok(Some(outcome)) => outcome,
        Ok(None) => return Ok(None),
        Err(error) => return Err(error),
    };
    meeting.abort();
    // Feeds end with the compute side; a feed that could not even be subscribed is why training ended.
    if let Ok(Err(error)) = feeds.await {
        return Ok(Some(failed(error)));
    }
    let told = telling.await.unwrap_or_else(|e| Err(WireError::new(Code::InternalError, e.to_string())));
    match outcome {
        Err(error) => Ok(Some(failed(error))),
        Ok(Outcome::Stopped(reason)) => Ok(Some(stopped(Some(&reason)))),
        Ok(Outcome::Left { finished, reason }) => {
            Ok(Some(Some(ReportBody::RankLeft { rank: config.rank, finished, reason })))
        }
        Ok(Outcome::Finished(trained)) => {
            told?;
            match store_model(&prepared.store, *trained).await {
                Ok(output) => Ok(Some(Some(ReportBody::Done { output }))),
                Err(error) => Ok(Some(failed(error))),
            }
        }
    }
}

/// Trains on a device, where there is one. Its first use may compile kernels, which takes seconds.
fn train_on(device: Option<u32>, cubins: &Path, job: TrainJob, ports: Ports) -> Result<Outcome, WireError> {
    let machine = device.map(|ordinal| crate::device::open(ordinal, cubins)).transpose()?;
    train(TrainJob { machine, ..job }, ports)
}

/// The plan's threads, else this rank's share of the machine.
fn threads(plan: &JobPlan, share: u32) -> u32 {
    if plan.resources.threads > 0 { plan.resources.threads } else { share.max(1) }
}

/// Runs training apart from the runtime. None when it panicked: the panic's text is on stderr.
async fn on_compute_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<Option<T>, WireError> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("compute".into())
        .spawn(move || {
            let _ = sender.send(work());
        })
        .map_err(|e| WireError::new(Code::InternalError, format!("cannot start the compute thread: {e}")))?;
    Ok(receiver.await.ok())
}

async fn store_model(store: &ArtifactStore, trained: Trained) -> Result<TaskOutput, WireError> {
    let file = Bytes::from(trained.file);
    let artifact =
        store.put_bytes(model_file::ARTIFACT_KIND, model_file::ARTIFACT_NAME, file).await.map_err(|e| e.to_wire())?;
    let model = ModelRef {
        uri: artifact.uri,
        file_blake3: artifact.blake3,
        blake3: trained.params_blake3,
        size_bytes: artifact.size_bytes,
    };
    Ok(TaskOutput::Trained {
        model,
        epochs: trained.epochs,
        steps: trained.steps,
        stopped_early: trained.stopped_early,
    })
}
