//! The training of one rank from the first batch to the model file: epochs, validation, hooks,
//! checkpoints, early stopping. Time is only read for figures that people look at and for
//! checkpoints by time, neither of which changes a bit.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bus::now_ms;
use frame::{Encoded, Manifest, model_file};
use kernels::cuda::{Gpu, Machine};
use messages::error::Code;
use messages::event::{Checkpoint, Event, Metric, MetricValue, Metrics};
use messages::feed::Split;
use messages::gang::{Joined, Left};
use messages::plan::{AugmentationPlan, JobPlan, StragglerPolicy};
use messages::{Fence, JobId, TaskId, WireError};

use super::engine::{Engine, Fed, StepError};
use super::gang::{Gang, Met, Own, Rendezvous, Samples};
use super::mapping;
use super::outbox::Outbox;
use super::pace::{self, Pace};
use super::resume::{self, Identity};
use super::saver::{At, Moment, Saver};
use super::selection::Selection;
use super::source::{BatchSource, FeedPlan};
use super::stop::{Stop, StopReason};
use super::sync::{self, Standing, SyncError};
use super::validate::Validation;
use crate::checkpoint::{CheckpointStore, Position, Refused, Running, Share, Snapshot, name_of};
use crate::error::Error;
use crate::link::{Doing, Phase};
use crate::vitals::Vitals;

/// Validation parts up to this size are fetched once and kept.
const KEEP_VALIDATION_BYTES: usize = 64 * 1024 * 1024;

/// Parameters and optimizer state from this size on are written by all ranks, each its part, where they have one
/// disk; below, the leader is done sooner alone.
const SHARED_CHECKPOINT_BYTES: usize = 32 * 1024 * 1024;

/// What is trained, and as whom.
#[derive(Debug, Clone)]
pub struct TrainJob {
    pub job: JobId,
    pub task: TaskId,
    pub attempt: u32,
    pub fence: Fence,
    pub generation: u32,
    /// Its number in the attempt. Which seat it has among how many is for the meeting to say.
    pub rank: u32,
    /// Compute threads.
    pub threads: u32,
    /// What gradients are computed on; none: the CPU.
    pub machine: Option<Arc<Gpu>>,
    pub plan: JobPlan,
    pub manifest: Arc<Manifest>,
    /// BLAKE3 of the manifest.
    pub dataset_blake3: String,
    /// The weights that the manifest's pretrained encoder names.
    pub pretrained: Option<Arc<Vec<u8>>>,
    /// The checkpoint that the coordinator knows of.
    pub resume: Option<Checkpoint>,
    /// Folder of this job's checkpoints.
    pub checkpoints: PathBuf,
}

/// What training is connected to.
#[derive(Debug)]
pub struct Ports {
    pub train: BatchSource,
    pub val: BatchSource,
    pub outbox: Outbox,
    pub vitals: Arc<Vitals>,
    pub stop: Stop,
    /// Where it meets the other ranks; none for one that is alone and stays so.
    pub rendezvous: Option<Rendezvous>,
}

/// A trained model.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// One safetensors file with everything that serving needs.
    pub file: Vec<u8>,
    /// BLAKE3 of the parameters in canonical order.
    pub params_blake3: String,
    /// Completed epochs.
    pub epochs: u32,
    /// Completed optimizer steps.
    pub steps: u64,
    pub stopped_early: bool,
}

/// How training ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Finished(Box<Trained>),
    /// A stop was asked for; with a drain the last checkpoint has been reported.
    Stopped(StopReason),
    /// The others go on without this rank, or what there is left to do is the leader's.
    Left {
        finished: bool,
        reason: String,
    },
}

/// Trains until the end or a stop.
pub fn train(job: TrainJob, ports: Ports) -> Result<Outcome, WireError> {
    Session::new(job, ports)?.run()
}

/// Whether an epoch went through.
#[derive(Debug, PartialEq)]
pub(super) enum Flow {
    On,
    Stopped,
    /// The generation is over: the ranks meet again.
    Regroup(Left),
    /// This rank leaves the others.
    Leaves(String),
}

/// Where training begins.
#[derive(Default)]
struct Start {
    position: Position,
    running: Running,
    metrics: Metrics,
    best_model: Option<Arc<Vec<u8>>>,
    should_stop: Option<String>,
    /// Position and step of the checkpoint that training goes on from.
    saved: Option<(Position, u64)>,
}

struct Session {
    job: TrainJob,
    ports: Ports,
    plan_blake3: String,
    /// Before the engine, whose devices' memory its sums use until they end.
    gang: Gang,
    engine: Engine,
    selection: Selection,
    saver: Saver,
    position: Position,
    running: Running,
    samples: Samples,
    /// Of the last completed epoch.
    metrics: Metrics,
    best_model: Option<Arc<Vec<u8>>>,
    should_stop: Option<String>,
    /// A batch that has come before its step.
    ahead: Option<Fed>,
    pace: Pace,
    /// Too few would remain: every rank ends, and the leader gives the task back.
    all_give_back: bool,
    /// What a person should know of the beginning.
    begun: Vec<String>,
    /// Checkpoints that training could not begin with, and the one that it begins with.
    refused: (Vec<Refused>, Option<String>),
}

/// Training as it stands, borrowed beside the saver.
macro_rules! moment {
    ($session:expr, $at:expr) => {
        Moment {
            at: $at,
            position: $session.position,
            running: $session.running.with($session.samples),
            trainer: $session.engine.trainer_mut(),
            selection: &mut $session.selection,
            metrics: &$session.metrics,
            best_model: $session.best_model.as_ref(),
        }
    };
}

impl Session {
    fn new(job: TrainJob, mut ports: Ports) -> Result<Self, WireError> {
        super::validate::wanted(&job.plan)?;
        let steps = steps_per_epoch(&job)?;
        // Whoever comes to lead tidies up; the others find a leader at work, perhaps under an earlier fence.
        let store = match job.rank {
            0 => CheckpointStore::open(&job.checkpoints, job.fence),
            _ => CheckpointStore::beside(&job.checkpoints, job.fence),
        };
        let store = store.map_err(|e| e.to_wire())?;
        let plan_blake3 = job.plan.content_blake3();
        let (mut engine, mut selection) = fresh(&job, steps)?;
        let identity = Identity { plan_blake3: &plan_blake3, dataset_blake3: &job.dataset_blake3 };
        let found = resume::find(&store, job.resume.as_ref(), &identity).map_err(|e| e.to_wire())?;
        let mut refused = found.refused;
        let mut start = Start::default();
        if let Some(snapshot) = found.snapshot {
            match resume::restore(&snapshot, &mut engine, &mut selection) {
                Ok(should_stop) => start = resumed(snapshot, should_stop),
                Err(error) => {
                    refused.push(Refused { name: name_of(snapshot.state.position, snapshot.state.step), error });
                    (engine, selection) = fresh(&job, steps)?;
                }
            }
        }
        let used = start.saved.map(|(position, step)| name_of(position, step));
        let mut begun: Vec<String> = refused.iter().map(|refused| format!("refused: {}", refused.error)).collect();
        begun.extend(used.as_ref().map(|name| format!("resumed from {name}")));
        if job.resume.is_some() && used.is_none() {
            begun.push("begun anew".into());
        }
        for said in &begun {
            tracing::info!("{said}");
        }
        let parameters = engine.trainer().model().parameter_count();
        tracing::info!("training {parameters} parameters, {steps} steps an epoch, {} threads", job.threads);
        let (epochs, interval) = (job.plan.training.epochs, job.plan.training.log_interval.max(1));
        let pace = Pace::new(steps * u64::from(epochs), u64::from(interval), engine.trainer().global_step());
        let saver = Saver::new(store, &job, &plan_blake3, start.saved);
        let gang = Gang::new(ports.rendezvous.take()).on(job.machine.as_ref(), &job.plan.resources);
        let Start { position, running, metrics, best_model, should_stop, saved: _ } = start;
        Ok(Self {
            job,
            ports,
            plan_blake3,
            gang,
            engine,
            selection,
            saver,
            position,
            samples: running.samples(),
            running,
            metrics,
            best_model,
            should_stop,
            ahead: None,
            pace,
            all_give_back: false,
            begun,
            refused: (refused, used),
        })
    }

    fn run(mut self) -> Result<Outcome, WireError> {
        self.ports.vitals.step(self.engine.trainer().global_step());
        match self.meet(None)? {
            Flow::On => {}
            Flow::Leaves(reason) => return Ok(Outcome::Left { finished: false, reason }),
            Flow::Stopped | Flow::Regroup(_) => return self.stopped(),
        }
        self.begun.extend(self.gang.devices.as_ref().map(|devices| devices.how().to_owned()));
        let detail = (!self.begun.is_empty()).then(|| self.begun.join("; "));
        self.hook("on_train_begin", detail);
        self.tell_refused();
        let epochs = self.job.plan.training.epochs;
        while self.position.epoch < epochs && self.should_stop.is_none() {
            let flow = match self.epoch()? {
                Flow::Regroup(left) => self.meet(Some(left))?,
                flow => flow,
            };
            match flow {
                Flow::On => {}
                Flow::Leaves(reason) => {
                    // Its last checkpoint counts, or the next leader's does.
                    self.saver.settle(&mut self.ports.outbox)?;
                    return Ok(Outcome::Left { finished: false, reason });
                }
                Flow::Stopped | Flow::Regroup(_) => return self.stopped(),
            }
        }
        self.finish()
    }

    /// From where it stands to the end of the epoch, or to what comes between.
    fn epoch(&mut self) -> Result<Flow, WireError> {
        if self.position.batch == 0 {
            self.hook("on_epoch_begin", None);
        }
        match self.batches()? {
            Flow::On => {}
            other => return Ok(other),
        }
        match self.validate()? {
            Ok(validation) => self.end_epoch(validation),
            Err(flow) => Ok(flow),
        }
    }

    /// Meets the other ranks in the next generation, comes to where the furthest of them is, and opens the feed
    /// there. What fails between ranks is tried again in the generation after.
    fn meet(&mut self, mut left: Option<Left>) -> Result<Flow, WireError> {
        if left.is_some() {
            // A drain is said at the first step of the generation to come, so that nobody sits there without it.
            self.ports.stop.set_together(true);
        }
        loop {
            self.ports.vitals.enter(Phase::Joining);
            let own = Own {
                job: self.job.job.to_string(),
                rank: self.job.rank,
                shards: self.job.plan.training.logical_shards as usize,
            };
            let failed = match self.gang.meet(&own, left.take(), &self.ports.stop)? {
                Ok(Met::Stopped) => return Ok(Flow::Stopped),
                Ok(Met::Seated { joined }) => match self.begin_generation(joined.as_ref()) {
                    Ok(()) => break,
                    Err(SyncError::Failed(error)) => return Err(error),
                    Err(SyncError::Exchange(error)) => error,
                },
                Err(error) => error,
            };
            tracing::warn!(%failed, generation = self.gang.generation, "the ranks did not come together");
            left = Some(self.left(Some(&failed)));
        }
        self.ports.vitals.enter(Phase::Loading);
        let epochs = self.job.plan.training.epochs;
        if self.position.epoch < epochs && self.should_stop.is_none() {
            let mut first = self.position;
            if first.batch >= self.batches_per_epoch() {
                first = Position { epoch: first.epoch + 1, batch: 0 };
            }
            if first.epoch < epochs {
                self.ahead = None;
                self.ports.train.open(self.train_feed(first), &self.ports.stop)?;
            }
        }
        self.ports.vitals.enter(Phase::Training);
        Ok(Flow::On)
    }

    /// Why this rank leaves its generation.
    fn left(&self, error: Option<&Error>) -> Left {
        Left {
            generation: self.gang.generation,
            step: self.engine.trainer().global_step(),
            suspect: error.and_then(Error::culprit).map(|peer| peer.rank),
            error: error.map(Error::to_wire),
        }
    }

    fn begin_generation(&mut self, joined: Option<&Joined>) -> Result<(), SyncError> {
        let world = self.gang.world_size();
        let leads = self.gang.seat == 0;
        self.ports.stop.set_together(world > 1);
        if let Some(joined) = joined {
            let fence = joined.fence.unwrap_or(self.job.fence);
            self.job.fence = fence;
            self.job.generation = joined.generation;
            self.ports.vitals.set_fence(fence);
            let host = &joined.peers[self.gang.seat as usize].host;
            let bytes = self.engine.trainer().model().parameter_count() * 12;
            let shares = bytes >= SHARED_CHECKPOINT_BYTES && joined.peers.iter().all(|peer| peer.host == *host);
            let share = if shares { Share { index: self.gang.seat, of: world } } else { Share::WHOLE };
            self.saver.regroup(fence, joined.generation, world, share, leads).map_err(SyncError::Failed)?;
        }
        let led = self.ports.outbox.leads();
        self.ports.outbox.lead(leads);
        if leads {
            self.saver.prepare(self.engine.trainer_mut()).map_err(SyncError::Failed)?;
        }
        let given = self.agree()?;
        if given || (leads && !led) {
            // Whoever led may have taken with it what it had not yet told; what it had told is known by its id.
            self.ports.outbox.tell_again();
        }
        if leads {
            let mut moment = moment!(self, At::Step { ends_epoch: false });
            self.saver.lead(&mut moment, Instant::now()).map_err(SyncError::Failed)?;
        }
        if world > 1 {
            tracing::info!(
                generation = self.gang.generation,
                seat = self.gang.seat,
                world,
                step = self.engine.trainer().global_step(),
                "the ranks have met"
            );
        }
        Ok(())
    }

    /// All ranks come to where the furthest is. Whether this one gave its state to others.
    fn agree(&mut self) -> Result<bool, SyncError> {
        let Some(group) = &mut self.gang.group else { return Ok(false) };
        let trainer = self.engine.trainer_mut();
        let state = trainer.save_state().map_err(|e| SyncError::Failed(internal(&e)))?;
        let own =
            Standing { position: self.position, step: trainer.global_step(), state: *blake3::hash(&state).as_bytes() };
        let standings = sync::standings(group, own)?;
        let (source, all) = sync::furthest(&standings)?;
        if all {
            return Ok(false);
        }
        let seat = self.gang.seat as usize;
        let bytes = if seat == source {
            let moment = moment!(self, At::Drain);
            let snapshot = self.saver.snapshot(&moment, state);
            sync::pack(&snapshot).map_err(SyncError::Failed)?
        } else {
            Vec::new()
        };
        let Some(group) = &mut self.gang.group else { return Ok(false) };
        let bytes = sync::broadcast(group, bytes, source)?;
        if standings[seat] != standings[source] {
            let snapshot = sync::unpack(&bytes).map_err(SyncError::Failed)?;
            tracing::info!(from = self.gang.peers[source].rank, step = snapshot.state.step, "took the state of a rank");
            self.adopt(snapshot).map_err(SyncError::Failed)?;
        }
        Ok(seat == source)
    }

    /// Goes on from another rank's state.
    fn adopt(&mut self, snapshot: Snapshot) -> Result<(), WireError> {
        self.selection = Selection::new(&self.job.plan)?;
        let restored = resume::restore(&snapshot, &mut self.engine, &mut self.selection);
        let should_stop = restored.map_err(|e| e.to_wire())?;
        self.saver.adopt(&snapshot.state);
        let Start { position, running, metrics, best_model, should_stop, saved: _ } = resumed(snapshot, should_stop);
        (self.position, self.metrics, self.best_model) = (position, metrics, best_model);
        (self.samples, self.running, self.should_stop) = (running.samples(), running, should_stop);
        self.ports.vitals.step(self.engine.trainer().global_step());
        Ok(())
    }

    fn batches_per_epoch(&self) -> u64 {
        train_feed(&self.job, self.position).batches_per_epoch()
    }

    /// This seat's share of the batches from a position on.
    fn train_feed(&self, position: Position) -> FeedPlan {
        let (rank, world_size) = (self.gang.seat, self.gang.world_size());
        FeedPlan { rank, world_size, ..train_feed(&self.job, position) }
    }

    /// Trains to the end of the epoch under way.
    fn batches(&mut self) -> Result<Flow, WireError> {
        self.ports.vitals.enter(Phase::Training);
        let accumulation = self.job.plan.training.accumulation_steps.max(1) as usize;
        let batches = self.batches_per_epoch();
        while self.position.batch < batches {
            // Gathered before anything is computed, so that a stop never falls between two micro-batches.
            let mut group = Vec::with_capacity(accumulation);
            while group.len() < accumulation && self.position.batch + (group.len() as u64) < batches {
                self.ports.vitals.now(Doing::WaitingForBatch);
                let Some(batch) = self.next()? else { return Ok(Flow::Stopped) };
                self.expect((batch.epoch, batch.batch), self.position.batch + group.len() as u64)?;
                self.ports.vitals.progress();
                group.push(batch);
            }
            if self.position.batch + (group.len() as u64) < batches && self.engine.trainer().is_on_machine() {
                self.ahead = self.ports.train.ready(&self.ports.stop)?.map(|batch| self.engine.fed(batch));
            }
            match self.step(&group)? {
                Flow::On => {}
                other => return Ok(other),
            }
            if self.save(At::Step { ends_epoch: self.position.batch >= batches })? == Flow::Stopped {
                return Ok(Flow::Stopped);
            }
            match self.listen() {
                Flow::On => {}
                other => return Ok(other),
            }
        }
        Ok(Flow::On)
    }

    /// The next batch. None when a stop was asked for.
    fn next(&mut self) -> Result<Option<Fed>, WireError> {
        match self.ahead.take() {
            Some(_) if self.ports.stop.ends_now() => Ok(None),
            Some(ahead) => Ok(Some(ahead)),
            None => Ok(self.ports.train.next(&self.ports.stop)?.map(|batch| self.engine.fed(batch))),
        }
    }

    fn step(&mut self, group: &[Fed]) -> Result<Flow, WireError> {
        let taken = group.len() as u64;
        let says = self.gang.says(&self.ports.stop, Samples::default(), self.engine.computed());
        let stepped = match self.engine.step(group, self.ahead.as_ref(), &mut self.gang, says, &self.ports.vitals) {
            Ok(stepped) => stepped,
            Err(StepError::Failed(error)) => return Err(error),
            Err(StepError::Exchange(_)) if self.ports.stop.ends_now() => return Ok(Flow::Stopped),
            Err(StepError::Exchange(error)) => {
                let step = self.engine.trainer().global_step();
                tracing::warn!(%error, step, generation = self.gang.generation, "the exchange failed; the ranks meet again");
                return Ok(Flow::Regroup(self.left(Some(&error))));
            }
        };
        let outcome = stepped.outcome;
        self.position.batch += taken;
        self.samples.add(stepped.samples);
        self.running.rows += outcome.rows as u64;
        self.running.loss.0 += outcome.loss * outcome.rows as f64;
        self.running.grad_norm.0 += outcome.grad_norm;
        self.running.steps += 1;
        self.ports.vitals.step(outcome.step);
        let (task, epoch, epochs) = (&self.job.task, self.position.epoch + 1, self.job.plan.training.epochs);
        if self.ports.outbox.leads()
            && let Some(progress) = self.pace.step(&outcome, task, epoch, epochs)
        {
            pace::log_progress(&progress);
            self.ports.outbox.event(now_ms(), Event::Progress(progress));
        }
        Ok(Flow::On)
    }

    /// What the ranks said with the step: who leaves, who is too slow, and whether they meet again. All hear the
    /// same, and so decide the same.
    fn listen(&mut self) -> Flow {
        if self.gang.group.is_none() {
            // Alone, and perhaps not for long.
            return if self.gang.is_called() { Flow::Regroup(self.left(None)) } else { Flow::On };
        }
        let resources = &self.job.plan.resources;
        let said = self.engine.said().to_vec();
        let mut leaving: Vec<usize> = (0..said.len()).filter(|seat| said[*seat].drains).collect();
        let slow = self.gang.straggler(&said, resources.straggler_factor);
        let enough = said.len() - leaving.len() > resources.min_world_size as usize;
        if let Some((seat, step_ms, median_ms)) = slow {
            let evicted = resources.straggler_policy == StragglerPolicy::Evict && enough && !said[seat].drains;
            if evicted {
                leaving.push(seat);
            }
            let peer = &self.gang.peers[seat];
            let (task, rank, host) = (self.job.task.clone(), peer.rank, peer.host.clone());
            tracing::warn!(rank, host, step_ms, median_ms, evicted, "a rank is much slower than the others");
            if self.ports.outbox.leads() {
                let event = Event::Straggler { task, rank, host, step_ms, median_ms, evicted };
                self.ports.outbox.event(now_ms(), event);
            }
        }
        let own = leaving.contains(&(self.gang.seat as usize));
        if !leaving.is_empty() && said.len() - leaving.len() < resources.min_world_size as usize {
            // Too few would remain: all give the task back, and the leader leaves a checkpoint.
            self.ports.stop.ask(StopReason::Drain { reason: "too few ranks remain beside a drained worker's".into() });
            self.ports.stop.set_together(false);
            self.all_give_back = true;
            return Flow::Stopped;
        }
        if own {
            let why = if said[self.gang.seat as usize].drains { "the worker drains" } else { "it was too slow" };
            return Flow::Leaves(why.into());
        }
        if !leaving.is_empty() || said.iter().any(|said| said.regroups) {
            return Flow::Regroup(self.left(None));
        }
        Flow::On
    }

    fn expect(&self, (epoch, batch): (u32, u64), wanted: u64) -> Result<(), WireError> {
        if (epoch, batch) == (self.position.epoch, wanted) {
            return Ok(());
        }
        let message =
            format!("the feed sent epoch {epoch} batch {batch}, expected epoch {} batch {wanted}", self.position.epoch);
        Err(WireError::new(Code::InternalError, message))
    }

    /// Metrics of the validation part, which the ranks share; or what came between.
    fn validate(&mut self) -> Result<Result<Metrics, Flow>, WireError> {
        self.ports.vitals.enter(Phase::Validating);
        let manifest = self.job.manifest.clone();
        let average = self.engine.trainer_mut().averaged_model().map_err(|e| internal(&e))?;
        let mut validation = Validation::new(&manifest, average);
        let plan = val_feed(&self.job, self.position.epoch);
        let batches = plan.batches_per_epoch();
        if batches == 0 {
            return validation.finish(&self.job.plan).map(Ok);
        }
        let bytes = (plan.rows as usize).saturating_mul(manifest.row_bytes());
        let keep = bytes <= KEEP_VALIDATION_BYTES && matches!(self.ports.val, BatchSource::Feed { .. });
        let mut kept = Encoded::default();
        self.ports.val.open(plan, &self.ports.stop)?;
        let own = Validation::share(self.gang.seat as usize, self.gang.world_size() as usize, batches);
        for wanted in 0..batches {
            let Some(batch) = self.ports.val.next(&self.ports.stop)? else { return Ok(Err(Flow::Stopped)) };
            self.expect((batch.epoch, batch.batch), wanted)?;
            self.ports.vitals.progress();
            if keep {
                let failed = |e: frame::Error| WireError::new(Code::InternalError, format!("validation part: {e}"));
                kept.append(batch.rows.clone()).map_err(failed)?;
            }
            validation.add(&mut self.engine, batch.rows, (batch.epoch, batch.batch), own.contains(&wanted))?;
        }
        if keep {
            self.ports.val = BatchSource::memory(Arc::new(kept));
        }
        if let Some(group) = &mut self.gang.group {
            self.ports.vitals.now(Doing::SharingValidation);
            match validation.gather(group, &self.engine) {
                Ok(()) => {}
                Err(_) if self.ports.stop.ends_now() => return Ok(Err(Flow::Stopped)),
                Err(error) => {
                    tracing::warn!(%error, "the ranks could not share the validation; they meet again");
                    return Ok(Err(Flow::Regroup(self.left(Some(&error)))));
                }
            }
        }
        validation.finish(&self.job.plan).map(Ok)
    }

    fn end_epoch(&mut self, validation: Metrics) -> Result<Flow, WireError> {
        let running = std::mem::take(&mut self.running);
        let samples = std::mem::take(&mut self.samples);
        self.every_sample_once(samples)?;
        let train_loss = running.loss.0 / running.rows.max(1) as f64;
        let mut metrics = validation;
        metrics.insert("loss".into(), MetricValue::of(train_loss));
        metrics.insert("grad_norm".into(), MetricValue::of(running.grad_norm.0 / running.steps.max(1) as f64));
        metrics.insert("lr".into(), MetricValue::of(self.engine.trainer().learning_rate()));
        let watched = metrics.get("val_loss").and_then(MetricValue::get).unwrap_or(train_loss);
        self.engine
            .trainer_mut()
            .end_epoch(Some(watched))
            .map_err(|e| mapping::config_error("training.scheduler", &e))?;
        self.position = Position { epoch: self.position.epoch + 1, batch: 0 };
        let (epoch, step) = (self.position.epoch, self.engine.trainer().global_step());
        let verdict = self.selection.epoch(epoch, &metrics);
        if verdict.best_model {
            self.best_model = Some(Arc::new(self.weights()?));
        }
        self.should_stop = verdict.stop;
        self.metrics = metrics;
        let event = Metric { task: self.job.task.clone(), epoch, step, metrics: self.metrics.clone() };
        self.ports.outbox.event(now_ms(), Event::Metric(event));
        self.hook("on_epoch_end", Some(format!("{} samples, digest {:016x}", samples.rows, samples.digest)));
        if let Some(reason) = self.should_stop.clone() {
            self.hook("should_stop", Some(reason));
        }
        self.save(At::EpochEnd { last: self.should_stop.is_some() })
    }

    /// Tells the saver where training stands; it saves what is due.
    fn save(&mut self, at: At) -> Result<Flow, WireError> {
        let moment = moment!(self, at);
        self.saver.at(moment, &mut self.ports.outbox, &self.ports.vitals, Instant::now())
    }

    /// No sample of the epoch was left out or taken twice, whoever came and went.
    fn every_sample_once(&self, samples: Samples) -> Result<(), WireError> {
        let feed = train_feed(&self.job, self.position);
        let expected =
            if feed.drop_last { feed.batches_per_epoch() * u64::from(feed.global_batch_size) } else { feed.rows };
        if samples.rows == expected {
            return Ok(());
        }
        let message = format!("epoch {} saw {} samples, expected {expected}", self.position.epoch + 1, samples.rows);
        Err(WireError::new(Code::InternalError, message))
    }

    fn weights(&mut self) -> Result<Vec<u8>, WireError> {
        let announced = self.engine.announced().map_err(|e| internal(&e))?;
        kernels::weights::save(&announced, &BTreeMap::new()).map_err(|e| internal(&e))
    }

    /// A stop was asked for: a drain leaves a checkpoint at the step boundary, everything else nothing.
    fn stopped(mut self) -> Result<Outcome, WireError> {
        if matches!(self.ports.stop.reason(), Some(StopReason::Drain { .. })) {
            if !self.ports.outbox.leads() {
                // Where all end, the leader's word ends the lease; otherwise the others go on.
                let why = if self.all_give_back { "the gang gives its task back" } else { "the worker drains" };
                return Ok(Outcome::Left { finished: self.all_give_back, reason: why.into() });
            }
            if self.save(At::Drain)? == Flow::On {
                self.saver.settle(&mut self.ports.outbox)?;
            }
        }
        let reason = self.ports.stop.reason().cloned().unwrap_or_else(|| {
            StopReason::Failed(WireError::new(Code::InternalError, "a checkpoint's report was not answered"))
        });
        match reason {
            StopReason::Failed(error) => Err(error),
            reason => Ok(Outcome::Stopped(reason)),
        }
    }

    fn finish(mut self) -> Result<Outcome, WireError> {
        self.gang.close();
        self.ports.vitals.enter(Phase::Saving);
        if self.saver.settle(&mut self.ports.outbox)? == Flow::Stopped {
            return self.stopped();
        }
        if !self.ports.outbox.leads() {
            return Ok(Outcome::Left { finished: true, reason: "training is over".into() });
        }
        let best = self.best_model.take();
        let model = match &best {
            Some(bytes) => Some(kernels::weights::load(bytes).map_err(|e| internal(&e))?.0),
            None => None,
        };
        let steps = self.engine.trainer().global_step();
        let last = self.engine.announced().map_err(|e| internal(&e))?;
        let model = model.as_ref().unwrap_or(&last);
        let content = model_file::Content {
            plan: &self.job.plan,
            plan_blake3: &self.plan_blake3,
            manifest: &self.job.manifest,
            dataset_blake3: &self.job.dataset_blake3,
            metrics: &self.metrics,
            epoch: self.selection.best_model().map_or(self.position.epoch, |best| best.epoch),
        };
        pace::log_end(&self.metrics, self.position.epoch, self.should_stop.as_deref());
        let trained = Trained {
            file: model_file::write(model, &content).map_err(|e| internal(&e))?,
            params_blake3: kernels::weights::params_blake3(model),
            epochs: self.position.epoch,
            steps,
            stopped_early: self.should_stop.is_some(),
        };
        self.hook("on_train_end", self.should_stop.clone());
        Ok(Outcome::Finished(Box::new(trained)))
    }

    fn tell_refused(&mut self) {
        let (refused, used) = std::mem::take(&mut self.refused);
        for Refused { name, error } in refused {
            let (task, reason) = (self.job.task.clone(), error.to_string());
            let event = Event::CheckpointRefused { task, name, reason, used: used.clone() };
            self.ports.outbox.event(now_ms(), event);
        }
    }

    fn hook(&mut self, hook: &str, detail: Option<String>) {
        let epoch = match hook {
            "on_epoch_begin" => self.position.epoch + 1,
            _ => self.position.epoch,
        };
        self.ports.outbox.event(now_ms(), Event::Hook { hook: hook.into(), epoch, detail });
    }
}

/// Optimizer steps of an epoch; a train part that gives no batch is refused.
fn steps_per_epoch(job: &TrainJob) -> Result<u64, WireError> {
    let feed = train_feed(job, Position::default());
    if feed.batches_per_epoch() == 0 {
        let message = format!("the train part of {} rows gives no batch of {}", feed.rows, feed.global_batch_size);
        return Err(WireError::new(Code::DatasetValidationError, message)
            .with_hint("lower training.batch_size or set data.drop_last: false"));
    }
    Ok(feed.batches_per_epoch().div_ceil(u64::from(job.plan.training.accumulation_steps.max(1))))
}

/// Model and selection before the first step.
fn fresh(job: &TrainJob, steps_per_epoch: u64) -> Result<(Engine, Selection), WireError> {
    let mut recipe = mapping::recipe(&job.plan, &job.manifest, steps_per_epoch)?;
    recipe.begin_with(&job.manifest, job.pretrained.as_ref())?;
    let engine =
        Engine::new(recipe, job.plan.task, job.threads)?.on(job.machine.clone().map(|gpu| gpu as Arc<dyn Machine>));
    Ok((engine, Selection::new(&job.plan)?))
}

fn resumed(snapshot: Snapshot, should_stop: Option<String>) -> Start {
    let state = snapshot.state;
    Start {
        position: state.position,
        running: state.running,
        metrics: state.metrics,
        best_model: snapshot.best,
        should_stop,
        saved: Some((state.position, state.step)),
    }
}

fn internal(error: &kernels::Error) -> WireError {
    crate::device::training_error(error)
}

/// Batches of the train part from a position to the last epoch.
fn train_feed(job: &TrainJob, position: Position) -> FeedPlan {
    let (data, training) = (&job.plan.data, &job.plan.training);
    FeedPlan {
        split: Split::Train,
        rows: job.manifest.rows(Split::Train),
        global_batch_size: training.batch_size,
        logical_shards: training.logical_shards,
        shuffle_seed: data.shuffle.then_some(data.shuffle_seed),
        shuffle_window_mb: data.shuffle_window_mb,
        augmentation: data.augmentation.clone().filter(AugmentationPlan::acts_in_feed),
        drop_last: data.drop_last,
        position,
        end_epoch: training.epochs,
        rank: 0,
        world_size: 1,
        batch_bytes: frame::frame_bytes_bound(training.batch_size as usize, job.manifest.row_bytes()),
    }
}

/// The whole validation part, in stored order, once.
fn val_feed(job: &TrainJob, epoch: u32) -> FeedPlan {
    FeedPlan {
        split: Split::Val,
        rows: job.manifest.rows(Split::Val),
        shuffle_seed: None,
        augmentation: None,
        drop_last: false,
        end_epoch: epoch + 1,
        ..train_feed(job, Position { epoch, batch: 0 })
    }
}
