//! What training tells the world, through a bounded channel: events, and checkpoints that must be
//! reported before older ones may go. Only the leading rank speaks.

use futures::channel::oneshot;
use messages::event::{Checkpoint, Event};
use messages::{Fence, JobId, TaskId, UnixMs};
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

/// The sending side.
#[derive(Debug)]
pub struct Outbox {
    prefix: String,
    next: u64,
    sender: Option<mpsc::Sender<Outgoing>>,
}

impl Outbox {
    /// The outbox of the leading rank, and what it is read from. Ids are `<job>.<task>.<fence>.<n>`: a
    /// fence is held by one process only, so an id names one event.
    pub fn new(job: &JobId, task: &TaskId, fence: Fence) -> (Self, mpsc::Receiver<Outgoing>) {
        let (sender, receiver) = mpsc::channel(OUTBOX_CAPACITY);
        (Self { prefix: format!("{job}.{task}.{fence}"), next: 0, sender: Some(sender) }, receiver)
    }

    /// The outbox of a rank that does not lead: it says nothing.
    pub fn silent() -> Self {
        Self { prefix: String::new(), next: 0, sender: None }
    }

    /// Whether this rank speaks for the group.
    pub fn leads(&self) -> bool {
        self.sender.is_some()
    }

    /// Publishes in the background. Waits only while [`OUTBOX_CAPACITY`] others wait.
    pub fn event(&mut self, at: UnixMs, event: Event) {
        self.next += 1;
        let id = format!("{}.{}", self.prefix, self.next);
        self.send(Outgoing::Event { id, at, event });
    }

    /// Reports a committed checkpoint in the background; the answer comes once it counts.
    pub fn checkpoint(&mut self, checkpoint: Checkpoint) -> oneshot::Receiver<CheckpointReport> {
        let (answer, receiver) = oneshot::channel();
        self.send(Outgoing::Checkpoint { checkpoint, answer });
        receiver
    }

    fn send(&self, outgoing: Outgoing) {
        if let Some(sender) = &self.sender {
            // Bounded: the reader takes what is there or, having failed, drops its end; the stop that it
            // asked for then is seen at the next step. A drain still tells what it has to tell.
            let _ = futures::executor::block_on(sender.send(outgoing));
        }
    }
}
