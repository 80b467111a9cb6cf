//! What training tells the world, through a bounded channel: events, and checkpoints that must be
//! reported before older ones may go. Only the leading rank speaks.

use std::collections::VecDeque;

use futures::channel::oneshot;
use messages::event::{Checkpoint, Event};
use messages::{JobId, TaskId, UnixMs};
use tokio::sync::mpsc;

/// Events that may wait for their publication before training waits for them.
pub const OUTBOX_CAPACITY: usize = 1_024;

/// What became of a reported checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointReport {
    Accepted,
    /// Not accepted; the stop says why.
    Refused,
}

/// One thing to tell.
#[derive(Debug)]
pub enum Outgoing {
    Event {
        id: String,
        at: UnixMs,
        event: Event,
    },
    /// To be reported after every event before it is stored.
    Checkpoint {
        checkpoint: Checkpoint,
        answer: oneshot::Sender<CheckpointReport>,
    },
}

/// How many events are kept for telling them again.
const KEPT: usize = 64;

/// The sending side. Every rank of a gang puts the same events in; those of the one that leads go out, and the
/// others keep the last ones, so that whoever leads next tells what the one before may have taken with it.
#[derive(Debug)]
pub struct Outbox {
    prefix: String,
    own: String,
    next: u64,
    sender: mpsc::Sender<Outgoing>,
    leads: bool,
    kept: VecDeque<(String, UnixMs, Event)>,
}

impl Outbox {
    /// The outbox of a rank, and what it is read from. An event that all ranks of an attempt come to has the id
    /// `<job>.<task>.<attempt>.<name>.<epoch>`, the same on each; one that only the leader knows of has its number
    /// and the leader's rank.
    pub fn new(job: &JobId, task: &TaskId, attempt: u32, rank: u32) -> (Self, mpsc::Receiver<Outgoing>) {
        let (sender, receiver) = mpsc::channel(OUTBOX_CAPACITY);
        let prefix = format!("{job}.{task}.{attempt}");
        let own = format!("{prefix}.r{rank}");
        (Self { prefix, own, next: 0, sender, leads: rank == 0, kept: VecDeque::new() }, receiver)
    }

    /// Whether this rank speaks for the group.
    pub fn leads(&self) -> bool {
        self.leads
    }

    /// From now on this rank speaks for the group, or no longer.
    pub fn lead(&mut self, leads: bool) {
        self.leads = leads;
    }

    /// Tells again what was put in last, with the same ids: what is stored already is known by them.
    pub fn tell_again(&mut self) {
        for (id, at, event) in std::mem::take(&mut self.kept) {
            self.send(Outgoing::Event { id: id.clone(), at, event: event.clone() });
            self.kept.push_back((id, at, event));
        }
    }

    /// Publishes in the background, if this rank leads. Waits only while [`OUTBOX_CAPACITY`] others wait.
    pub fn event(&mut self, at: UnixMs, event: Event) {
        let shared = match &event {
            Event::Metric(metric) => Some(format!("metric.{}", metric.epoch)),
            Event::Hook { hook, epoch, .. } => Some(format!("{hook}.{epoch}")),
            _ => None,
        };
        let id = if let Some(name) = shared {
            let id = format!("{}.{name}", self.prefix);
            if self.kept.len() == KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back((id.clone(), at, event.clone()));
            id
        } else {
            self.next += 1;
            format!("{}.{}", self.own, self.next)
        };
        if self.leads {
            self.send(Outgoing::Event { id, at, event });
        }
    }

    /// Reports a committed checkpoint in the background; the answer comes once it counts.
    pub fn checkpoint(&mut self, checkpoint: Checkpoint) -> oneshot::Receiver<CheckpointReport> {
        let (answer, receiver) = oneshot::channel();
        self.send(Outgoing::Checkpoint { checkpoint, answer });
        receiver
    }

    fn send(&self, outgoing: Outgoing) {
        // Bounded: the reader takes what is there or, having failed, drops its end; the stop that it
        // asked for then is seen at the next step. A drain still tells what it has to tell.
        let _ = futures::executor::block_on(self.sender.send(outgoing));
    }
}
