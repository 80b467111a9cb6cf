//! When a checkpoint is due, and how it is saved beside training: at a step boundary the state is copied
//! (a pass over flat memory), a thread of its own hashes, writes and syncs it, and training goes on. What
//! became of it is looked at, without waiting, at later boundaries. At most one is on its way.
//!
//! Every rank keeps the same books (what is saved, which are the best, when the next by steps is due), so
//! that any rank can go on as the leader. Only the leader commits, reports and removes, and only it
//! decides by time; the others write their part where a checkpoint is cut into parts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::now_ms;
use futures::channel::oneshot;
use kernels::train::{StateCopy, Trainer};
use messages::event::{Event, Metrics};
use messages::plan::{CheckpointPlan, JobPlan};
use messages::{Fence, WireError};

use super::outbox::{CheckpointReport, Outbox};
use super::selection::Selection;
use super::session::{Flow, TrainJob};
use super::writer::{Done, Order, Taken, Writer};
use crate::checkpoint::{
    BestEntry, Bits, CHECKPOINT_VERSION, CheckpointStore, ExtraInfo, Position, Running, Seeds, Share, Snapshot,
    TrainState, name_of,
};
use crate::link::Phase;
use crate::vitals::Vitals;

/// How long training waits for the disk before it gives up: longer than any checkpoint should take, and
/// the worker ends a rank without progress before.
const WRITE_PATIENCE: Duration = Duration::from_secs(600);

/// Where training stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// A step was taken; it may have been the last one of its epoch, whose end follows.
    Step { ends_epoch: bool },
    /// An epoch is over; it may be the last one of the training.
    EpochEnd { last: bool },
    /// The task is given back.
    Drain,
}

/// Training at a step boundary, as far as a checkpoint holds it.
pub struct Moment<'a> {
    pub at: At,
    pub position: Position,
    pub running: Running,
    pub trainer: &'a mut Trainer,
    pub selection: &'a mut Selection,
    /// Of the last completed epoch.
    pub metrics: &'a Metrics,
    pub best_model: Option<&'a Arc<Vec<u8>>>,
}

/// A committed checkpoint whose report is on its way.
struct Reported {
    keep: BTreeSet<String>,
    answer: oneshot::Receiver<CheckpointReport>,
}

/// The last checkpoint in the books.
#[derive(Debug, Clone, PartialEq)]
struct Last {
    position: Position,
    step: u64,
    name: String,
    /// The one before, which serves if this one turns out damaged.
    previous: Option<String>,
}

/// Saves the checkpoints of one rank.
pub struct Saver {
    store: CheckpointStore,
    plan: CheckpointPlan,
    epochs: u32,
    rng: Seeds,
    info: ExtraInfo,
    share: Share,
    last: Option<Last>,
    /// When the last one was begun here.
    begun: Instant,
    led: bool,
    /// A former leader died before its last checkpoint was in place.
    owed: bool,
    /// What the last checkpoint pushed from the best ones.
    displaced: Option<BestEntry>,
    /// Memory for the next copy, while no other is on its way.
    copy: Option<Box<StateCopy>>,
    writer: Option<Writer>,
    /// What may stay once the checkpoint on its way counts.
    under_way: Option<BTreeSet<String>>,
    reported: Option<Reported>,
}

impl Saver {
    /// `resumed`: position and step of the checkpoint that training goes on from.
    pub fn new(store: CheckpointStore, job: &TrainJob, plan_blake3: &str, resumed: Option<(Position, u64)>) -> Self {
        Self {
            store,
            plan: job.plan.training.checkpoint.clone(),
            epochs: job.plan.training.epochs,
            rng: seeds(&job.plan),
            info: ExtraInfo {
                job: job.job.clone(),
                task: job.task.clone(),
                attempt: job.attempt,
                fence: job.fence,
                generation: job.generation,
                world_size: 1,
                plan_blake3: plan_blake3.to_owned(),
                dataset_blake3: job.dataset_blake3.clone(),
                params_blake3: String::new(),
            },
            share: Share::WHOLE,
            last: resumed.map(|(position, step)| Last {
                position,
                step,
                name: name_of(position, step),
                previous: None,
            }),
            begun: Instant::now(),
            led: false,
            owed: false,
            displaced: None,
            copy: None,
            writer: None,
            under_way: None,
            reported: None,
        }
    }

    /// The group has changed: `share` is this rank's part of the checkpoints from now on. A rank that comes to lead
    /// tidies up what the leader before it left half done.
    pub fn regroup(
        &mut self,
        fence: Fence,
        generation: u32,
        world_size: u32,
        share: Share,
        leads: bool,
    ) -> Result<(), WireError> {
        (self.info.fence, self.info.generation, self.info.world_size) = (fence, generation, world_size);
        self.share = share;
        self.store = if leads && !self.led {
            CheckpointStore::open(self.store.dir(), fence).map_err(|e| e.to_wire())?
        } else {
            self.store.with_fence(fence)
        };
        self.led &= leads;
        Ok(())
    }

    /// Training goes on from another rank's state.
    pub fn adopt(&mut self, state: &TrainState) {
        let step = state.step;
        self.last = self.last.take().filter(|last| last.step < step);
    }

    /// Training as it stands, on the host, for another rank; `optimizer` is its state in bytes.
    pub fn snapshot(&self, moment: &Moment<'_>, optimizer: Vec<u8>) -> Snapshot {
        let mut state = self.state(moment);
        state.extra_info.params_blake3 = kernels::weights::params_blake3(moment.trainer.model());
        Snapshot { state, model: Vec::new(), optimizer, best: moment.best_model.cloned() }
    }

    /// Takes the memory for copies before training begins, so that the first checkpoint costs no more
    /// than the others. For a rank that writes.
    pub fn prepare(&mut self, trainer: &mut Trainer) -> Result<(), WireError> {
        if self.copy.is_none() && self.under_way.is_none() {
            self.copy = Some(Box::new(trainer.copy_state(None).map_err(|e| internal(&e))?));
        }
        Ok(())
    }

    /// A step boundary: looks at what is on its way, and saves what is due. `now` decides by time.
    pub fn at(
        &mut self,
        mut moment: Moment<'_>,
        outbox: &mut Outbox,
        vitals: &Vitals,
        now: Instant,
    ) -> Result<Flow, WireError> {
        let leads = outbox.leads();
        if leads {
            self.lead(&mut moment, now)?;
        }
        if self.look(outbox)? == Flow::Stopped {
            return Ok(Flow::Stopped);
        }
        match self.due(&moment, leads, now) {
            Due::No => {}
            Due::WhenFree if !self.is_free() => {}
            Due::WhenFree => self.save(moment, leads, Share::WHOLE, now)?,
            Due::Now(share) => {
                vitals.enter(Phase::Checkpointing);
                if self.settle(outbox)? == Flow::Stopped {
                    return Ok(Flow::Stopped);
                }
                self.save(moment, leads, share, now)?;
                vitals.enter(Phase::Training);
            }
        }
        Ok(Flow::On)
    }

    /// This rank leads from now on, if it did not before. A checkpoint that the leader before it has not put in
    /// place is written here if training still stands there; otherwise it is taken out of the books, and a later
    /// one is owed.
    pub fn lead(&mut self, moment: &mut Moment<'_>, now: Instant) -> Result<(), WireError> {
        if std::mem::replace(&mut self.led, true) {
            return Ok(());
        }
        self.begun = now;
        let last = self.last.clone().filter(|last| !self.store.holds(&last.name));
        if let Some(last) = &last
            && last.position == moment.position
        {
            tracing::info!(name = last.name, "the checkpoint that the leader before has not put in place is written");
            let keep = keep(moment, last);
            return self.commit(moment, keep, Share::WHOLE);
        }
        self.owed = last.is_some();
        let displaced = self.displaced.take().filter(|displaced| self.store.holds(&displaced.name));
        for BestEntry { name, .. } in moment.selection.best() {
            if !self.store.holds(&name) {
                let replaced = displaced.clone().filter(|_| last.as_ref().is_some_and(|last| last.name == name));
                moment.selection.withdraw(&name, replaced);
            }
        }
        Ok(())
    }

    /// Waits until nothing is on its way: written, reported, accepted, and what it replaces removed.
    pub fn settle(&mut self, outbox: &mut Outbox) -> Result<Flow, WireError> {
        loop {
            while let Some(writer) = self.writer.as_mut().filter(|writer| writer.is_busy()) {
                let done = writer.wait(WRITE_PATIENCE)?;
                self.take(done, outbox)?;
            }
            let Some(reported) = self.reported.take() else { return Ok(Flow::On) };
            // Not through the stop: a drain, too, has to know whether its checkpoint counts.
            match futures::executor::block_on(reported.answer) {
                Ok(CheckpointReport::Accepted) => self.order(Order::Prune(reported.keep))?,
                _ => return Ok(Flow::Stopped),
            }
        }
    }

    /// Takes what is done, without waiting.
    fn look(&mut self, outbox: &mut Outbox) -> Result<Flow, WireError> {
        while let Some(done) = self.writer.as_mut().and_then(Writer::done) {
            self.take(done, outbox)?;
        }
        let Some(reported) = &mut self.reported else { return Ok(Flow::On) };
        match reported.answer.try_recv() {
            Ok(Some(CheckpointReport::Accepted)) => {
                let keep = std::mem::take(&mut reported.keep);
                self.reported = None;
                self.order(Order::Prune(keep))?;
                Ok(Flow::On)
            }
            Ok(Some(CheckpointReport::Refused)) => Ok(Flow::Stopped),
            // Nobody will answer: the stop that says why is on its way.
            Ok(None) | Err(_) => Ok(Flow::On),
        }
    }

    fn take(&mut self, done: Done, outbox: &mut Outbox) -> Result<(), WireError> {
        match done {
            Done::Committed { copy, committed } => {
                self.copy = Some(copy);
                let keep = self.under_way.take().unwrap_or_default();
                let committed = committed.map_err(|e| e.to_wire())?;
                outbox.event(now_ms(), Event::Checkpoint(committed.clone()));
                self.reported = Some(Reported { keep, answer: outbox.checkpoint(committed) });
            }
            Done::Part { copy, written } => {
                self.copy = Some(copy);
                // The leader writes it then.
                if let Err(error) = written {
                    tracing::warn!(%error, "a part of a checkpoint could not be written");
                }
            }
            Done::Pruned(pruned) => pruned.map_err(|e| e.to_wire())?,
        }
        Ok(())
    }

    fn is_free(&self) -> bool {
        self.reported.is_none() && self.writer.as_ref().is_none_or(|writer| !writer.is_busy())
    }

    fn due(&self, moment: &Moment<'_>, leads: bool, now: Instant) -> Due {
        let (position, step) = (moment.position, moment.trainer.global_step());
        if self.last.as_ref().is_some_and(|last| last.position == position) {
            return Due::No;
        }
        let ends = |epoch: u32| epoch >= self.epochs || epoch.is_multiple_of(self.plan.save_freq.max(1));
        match moment.at {
            At::Drain if leads && position != Position::default() => Due::Now(Share::WHOLE),
            At::EpochEnd { last } if last || ends(position.epoch) => Due::Now(self.share),
            At::Drain | At::EpochEnd { .. } => Due::No,
            At::Step { ends_epoch: true } if ends(position.epoch + 1) => Due::No,
            At::Step { .. } => {
                let every = u64::from(self.plan.save_steps);
                // A step that was left out (f16) does not count.
                let repeated = step == 0 || self.last.as_ref().is_some_and(|last| last.step == step);
                let late = self.plan.save_minutes > 0.0
                    && now.saturating_duration_since(self.begun).as_secs_f64() >= self.plan.save_minutes * 60.0;
                if every > 0 && step.is_multiple_of(every) && !repeated {
                    Due::Now(self.share)
                } else if leads && (late || self.owed) && !repeated {
                    Due::WhenFree
                } else {
                    Due::No
                }
            }
        }
    }

    /// Enters the checkpoint of this moment into the books, and begins to write it.
    fn save(&mut self, mut moment: Moment<'_>, leads: bool, share: Share, now: Instant) -> Result<(), WireError> {
        let (position, step) = (moment.position, moment.trainer.global_step());
        let name = name_of(position, step);
        self.displaced = match position.batch {
            0 => moment.selection.admit(&name, moment.metrics),
            _ => None,
        };
        let previous = self.last.take().map(|previous| previous.name);
        let last = self.last.insert(Last { position, step, name: name.clone(), previous });
        (self.begun, self.owed) = (now, false);
        if leads {
            let keep = keep(&moment, last);
            return self.commit(&mut moment, keep, share);
        }
        if share.of == 1 || share.index >= share.of {
            return Ok(());
        }
        let copy = self.copy_of(moment.trainer)?;
        self.order(Order::Part { name, copy, share })
    }

    fn copy_of(&mut self, trainer: &mut Trainer) -> Result<Box<StateCopy>, WireError> {
        let earlier = self.copy.take().map(|earlier| *earlier);
        Ok(Box::new(trainer.copy_state(earlier).map_err(|e| internal(&e))?))
    }

    /// Begins to write the checkpoint of this moment as the leader.
    fn commit(&mut self, moment: &mut Moment<'_>, keep: BTreeSet<String>, share: Share) -> Result<(), WireError> {
        let copy = self.copy_of(moment.trainer)?;
        self.under_way = Some(keep);
        let state = self.state(moment);
        self.order(Order::Commit(Box::new(Taken { state, copy, best: moment.best_model.cloned(), share })))
    }

    fn state(&self, moment: &Moment<'_>) -> TrainState {
        let (position, step) = (moment.position, moment.trainer.global_step());
        TrainState {
            schema: CHECKPOINT_VERSION,
            epoch: position.epoch,
            step,
            position,
            learning_rate: Bits(moment.trainer.learning_rate()),
            early_stopping: moment.selection.observed().to_vec(),
            best: moment.selection.best(),
            best_model: moment.selection.best_model(),
            running: moment.running,
            rng: self.rng,
            metrics: moment.metrics.clone(),
            timestamp: messages::envelope::rfc3339(now_ms()),
            extra_info: self.info.clone(),
        }
    }

    fn order(&mut self, order: Order) -> Result<(), WireError> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(Writer::start()?),
        };
        writer.order(self.store.clone(), order)
    }
}

/// What may stay once this checkpoint is in place.
fn keep(moment: &Moment<'_>, last: &Last) -> BTreeSet<String> {
    let best = moment.selection.best().into_iter().map(|entry| entry.name);
    best.chain(last.previous.clone()).chain([last.name.clone()]).collect()
}

/// Whether a checkpoint is to be saved at a boundary.
enum Due {
    No,
    /// Once nothing else is on its way.
    WhenFree,
    /// After what is on its way, with this part of it.
    Now(Share),
}

/// The model as [`kernels::weights::save`] writes it without metadata.
pub fn model_bytes(copy: &StateCopy) -> kernels::Result<Vec<u8>> {
    copy.save_announced(&BTreeMap::new())
}

fn seeds(plan: &JobPlan) -> Seeds {
    Seeds { seed: plan.seed, shuffle_seed: plan.data.shuffle_seed, dropout_seed: plan.model.dropout_seed }
}

fn internal(error: &kernels::Error) -> WireError {
    crate::device::training_error(error)
}

#[cfg(test)]
#[path = "saver_tests.rs"]
mod tests;
