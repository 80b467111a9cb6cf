//! What a rank tells the coordinator and the event stream: pipelined, bounded, and in such an order
//! that a checkpoint counts only when every event before it is stored.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Bus, ErrorKind, Once, Trouble};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use messages::error::Code;
use messages::event::Event;
use messages::rpc::{Report, ReportAnswer, ReportBody};
use messages::trace::TraceParent;
use messages::{Fence, JobId, TaskId, UnixMs, WireError, WorkerId};
use tokio::sync::mpsc;

use crate::train::outbox::CheckpointReport;
use crate::train::{Outgoing, Stop, StopReason};
use crate::vitals::Vitals;

/// Publications whose acknowledgement is awaited at a time.
const IN_FLIGHT: usize = 64;
/// How often an event's publication is tried; each try repeats by itself within the bus's time-out.
const EVENT_TRIES: u32 = 6;

/// Who tells.
#[derive(Clone)]
pub struct Teller {
    pub bus: Bus,
    pub job: JobId,
    pub task: TaskId,
    pub attempt: u32,
    /// Of the start; a rank's own generation may have a later one.
    pub fence: Fence,
    pub worker: WorkerId,
    pub trace: Option<TraceParent>,
    pub vitals: Arc<Vitals>,
}

impl Teller {
    /// How long a coordinator may be away before a report is given up: a takeover by a standby, and then some.
    fn patience(&self) -> Duration {
        let timings = self.bus.timings();
        Duration::from_millis(3 * timings.lease_ttl_ms + 6 * timings.request_timeout_ms)
    }

    fn fence(&self) -> Fence {
        self.vitals.fence().unwrap_or(self.fence)
    }

    /// Reports until it is accepted or fenced, bounded. Each try is a sign of life to the worker.
    pub async fn report(&self, body: ReportBody) -> Result<ReportAnswer, WireError> {
        let until = Instant::now() + self.patience();
        let each = Duration::from_millis(self.bus.timings().request_timeout_ms * 2);
        let mut told = false;
        loop {
            self.vitals.progress();
            let report = Report {
                job: self.job.clone(),
                task: self.task.clone(),
                attempt: self.attempt,
                fence: self.fence(),
                worker: self.worker.clone(),
                body: body.clone(),
            };
            match self.bus.request(report, Some(&self.job), each).await {
                Err(error) if error.code == Code::Fenced => return Ok(ReportAnswer::Fenced { reason: error.message }),
                Err(error) if error.retry && Instant::now() < until => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, "the coordinator does not answer; asking on");
                    }
                }
                answer => return answer,
            }
        }
    }

    async fn publish(&self, id: &str, at: UnixMs, event: &Event) -> Result<(), WireError> {
        let mut tries = 0;
        let mut trouble = Trouble::default();
        loop {
            let fence = Some((self.fence(), self.attempt));
            let stored =
                self.bus.publish_event(&self.job, id, event.clone(), fence, self.trace.clone(), at, Once::ById);
            match stored.await {
                Ok(_) => return Ok(()),
                // Nobody is to blame, and training waits: until there is room, or the job's deadline ends it.
                Err(error) if error.kind() == ErrorKind::Full && !matches!(event, Event::Progress(_)) => {
                    if trouble.is_new(&error) {
                        tracing::warn!(%error, event = event.name(), "training waits for room in the event stream");
                    }
                    self.vitals.progress();
                    trouble.pause().await;
                }
                Err(error) => {
                    tries += 1;
                    let error = error.to_wire();
                    // Progress is only of use while it is new.
                    if matches!(event, Event::Progress(_)) {
                        tracing::warn!(%error, "a progress event was lost");
                        return Ok(());
                    }
                    if !error.retry || tries >= EVENT_TRIES {
                        return Err(error);
                    }
                    tracing::warn!(%error, event = event.name(), tries, "an event is published again");
                }
            }
        }
    }

    /// Tells everything that training puts out, until it is over and everything is stored. What cannot
    /// be told stops training.
    pub async fn tell(self, mut outbox: mpsc::Receiver<Outgoing>, stop: Stop) -> Result<(), WireError> {
        let told = self.tell_all(&mut outbox, &stop).await;
        if let Err(error) = &told {
            stop.ask(StopReason::Failed(error.clone()));
        }
        // Whoever waits with something to tell learns that nobody listens.
        outbox.close();
        told
    }

    async fn tell_all(&self, outbox: &mut mpsc::Receiver<Outgoing>, stop: &Stop) -> Result<(), WireError> {
        let mut in_flight = FuturesUnordered::new();
        loop {
            let outgoing = tokio::select! {
                Some(stored) = in_flight.next() => {
                    stored?;
                    continue;
                }
                outgoing = outbox.recv(), if in_flight.len() < IN_FLIGHT => outgoing,
            };
            match outgoing {
                Some(Outgoing::Event { id, at, event }) => {
                    in_flight.push(async move { self.publish(&id, at, &event).await });
                }
                Some(Outgoing::Checkpoint { checkpoint, answer }) => {
                    while let Some(stored) = in_flight.next().await {
                        stored?;
                    }
                    let accepted = match self.report(ReportBody::Checkpoint { checkpoint }).await? {
                        ReportAnswer::Accepted => CheckpointReport::Accepted,
                        ReportAnswer::Fenced { reason } => {
                            stop.ask(StopReason::Fenced { reason });
                            CheckpointReport::Refused
                        }
                    };
                    // Training may have ended meanwhile.
                    let _ = answer.send(accepted);
                }
                None => {
                    while let Some(stored) = in_flight.next().await {
                        stored?;
                    }
                    return Ok(());
                }
            }
        }
    }
}
