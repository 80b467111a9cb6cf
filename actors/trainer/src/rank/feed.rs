//! The rank's side of feeds. One subscription for all of them; frames are told apart by their feed id.
//! A feed that breaks (a gap, silence, a data_loader that is gone) is opened again at the next batch
//! that is needed, under a new id, by whichever data_loader answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bus::{Bus, Subscription, now_ms};
use bytes::Bytes;
use frame::{Encoded, decode_frame};
use futures::StreamExt;
use messages::envelope::Envelope;
use messages::error::Code;
use messages::feed::{FeedControl, FeedOpened, FrameHeader, OpenFeed};
use messages::subject::HEADER_FRAME;
use messages::{ArtifactRef, Fence, JobId, WireError};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::checkpoint::Position;
use crate::train::source::OpenRequest;
use crate::train::{FeedPlan, SourceBatch};
use crate::vitals::Vitals;

/// Most frames on their way; fewer where frames are large.
const MAX_CREDITS: u32 = 16;
/// Memory for frames on their way, in bytes.
const CREDIT_BYTES: usize = 64 * 1024 * 1024;
/// How often in a row a feed is opened again without a batch in between.
const MAX_REOPENS: u32 = 8;
/// Longest pause before a feed is opened again.
const MAX_PAUSE_MS: u64 = 2_000;

/// What every feed of a rank needs.
#[derive(Clone)]
pub struct FeedContext {
    pub bus: Bus,
    pub job: JobId,
    pub fence: Fence,
    pub rank: u32,
    pub dataset: ArtifactRef,
    pub vitals: Arc<Vitals>,
}

impl FeedContext {
    /// Of the generation under way.
    fn fence(&self) -> Fence {
        self.vitals.fence().unwrap_or(self.fence)
    }
}

/// One frame as it came.
#[derive(Debug)]
struct Frame {
    header: FrameHeader,
    payload: Bytes,
}

/// Changes of the routing table; processed before any frame that arrives later.
enum Route {
    To(String, mpsc::Sender<Frame>),
    Forget(String),
}

/// Opens feeds on request until the compute side is gone.
pub async fn serve(context: FeedContext, mut requests: mpsc::Receiver<OpenRequest>) -> Result<(), WireError> {
    let subject = context.bus.subjects().feed(&context.job, context.rank);
    let frames = context.bus.subscribe(&subject).await.map_err(|e| e.to_wire())?;
    let (routes, table) = mpsc::channel(16);
    let router = tokio::spawn(route(frames, table));
    let opened = Arc::new(AtomicU64::new(0));
    let mut pumps = tokio::task::JoinSet::new();
    while let Some(request) = requests.recv().await {
        while pumps.try_join_next().is_some() {}
        let pump = Pump {
            context: context.clone(),
            routes: routes.clone(),
            opened: opened.clone(),
            deliver_subject: subject.clone(),
            next: request.plan.position,
            plan: request.plan,
            out: request.out,
        };
        pumps.spawn(pump.run());
    }
    pumps.shutdown().await;
    router.abort();
    Ok(())
}

/// Hands each frame to the feed that it is of; what nobody waits for is dropped.
async fn route(mut frames: Subscription, mut table: mpsc::Receiver<Route>) {
    let mut feeds: HashMap<String, mpsc::Sender<Frame>> = HashMap::new();
    loop {
        tokio::select! {
            biased;
            change = table.recv() => match change {
                Some(Route::To(id, sender)) => { feeds.insert(id, sender); }
                Some(Route::Forget(id)) => { feeds.remove(&id); }
                None => return,
            },
            message = frames.next() => {
                let Some(message) = message else { return };
                let Some(header) = message.header(HEADER_FRAME).and_then(|text| serde_json::from_str::<FrameHeader>(text).ok())
                else {
                    tracing::warn!(subject = message.subject, "a frame without a readable header");
                    continue;
                };
                if let Some(sender) = feeds.get(&header.feed) {
                    // Full means that the data_loader sent without credit: the gap is seen and the feed reopened.
                    let _ = sender.try_send(Frame { header, payload: message.payload });
                }
            }
        }
    }
}

/// Why one opening of a feed ended.
enum End {
    /// Every batch was delivered, or nobody wants them any more.
    Over,
    Broken(WireError),
}

/// Delivers the batches of one plan, over as many openings as it takes.
struct Pump {
    context: FeedContext,
    routes: mpsc::Sender<Route>,
    opened: Arc<AtomicU64>,
    deliver_subject: String,
    plan: FeedPlan,
    /// The next batch that is needed.
    next: Position,
    out: mpsc::Sender<Result<SourceBatch, WireError>>,
}

impl Pump {
    async fn run(mut self) {
        let mut failures = 0;
        loop {
            let before = self.next;
            let (id, receiver, credits) = self.register().await;
            let end = self.one_opening(&id, receiver, credits).await;
            // The router may be gone with the connection; then there is nothing to forget.
            let _ = self.routes.send(Route::Forget(id)).await;
            let End::Broken(error) = end else { return };
            failures = if self.next == before { failures + 1 } else { 1 };
            self.context.vitals.progress();
            if failures > MAX_REOPENS || !error.retry || self.out.is_closed() {
                let _ = self.out.send(Err(error)).await;
                return;
            }
            let Position { epoch, batch } = self.next;
            if failures == 1 {
                tracing::warn!(%error, epoch, batch, "the feed broke; it is opened again");
            } else {
                tracing::debug!(%error, epoch, batch, failures, "the feed was not opened; trying on");
            }
            let first_ms = self.context.bus.timings().retry_backoff_ms;
            sleep(Duration::from_millis((first_ms << (failures - 1)).min(MAX_PAUSE_MS))).await;
        }
    }

    async fn register(&self) -> (String, mpsc::Receiver<Frame>, u32) {
        let context = &self.context;
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let split = self.plan.split.as_str();
        let id = format!("{}-{}-r{}-{split}-{number}", context.job, context.fence(), context.rank);
        let frame_bytes = self.plan.batch_bytes.clamp(1, context.bus.max_frame_bytes());
        let credits = ((CREDIT_BYTES / frame_bytes) as u32).clamp(2, MAX_CREDITS);
        let (sender, receiver) = mpsc::channel(credits as usize);
        let _ = self.routes.send(Route::To(id.clone(), sender)).await;
        (id, receiver, credits)
    }

    async fn one_opening(&mut self, id: &str, mut frames: mpsc::Receiver<Frame>, credits: u32) -> End {
        let opened = match self.open(id, credits).await {
            Ok(opened) => opened,
            Err(error) => return End::Broken(error),
        };
        let end = self.receive(id, &opened, &mut frames, credits).await;
        // Best effort: a feed without credits ends by itself.
        let _ = self.control(&opened.credit_subject, FeedControl::Close { id: id.to_owned() }).await;
        end
    }

    async fn open(&self, id: &str, credits: u32) -> Result<FeedOpened, WireError> {
        let (plan, context) = (&self.plan, &self.context);
        let request = OpenFeed {
            feed: id.to_owned(),
            job: context.job.clone(),
            fence: context.fence(),
            rank: plan.rank,
            world_size: plan.world_size,
            subject_rank: Some(context.rank),
            deliver_subject: self.deliver_subject.clone(),
            dataset: context.dataset.clone(),
            split: plan.split,
            global_batch_size: plan.global_batch_size,
            logical_shards: plan.logical_shards,
            shuffle_seed: plan.shuffle_seed,
            shuffle_window_mb: plan.shuffle_window_mb,
            augmentation: plan.augmentation.clone(),
            drop_last: plan.drop_last,
            epoch: self.next.epoch,
            batch: self.next.batch,
            end_epoch: plan.end_epoch,
            credits,
            max_frame_bytes: u32::try_from(context.bus.max_frame_bytes()).unwrap_or(u32::MAX),
        };
        let patience = Duration::from_millis(context.bus.timings().feed_timeout_ms);
        let opened = context.bus.request(request, Some(&context.job), patience).await?;
        if (opened.rows, opened.batches_per_epoch) != (plan.rows, plan.batches_per_epoch()) {
            let message = format!(
                "the {} part at {} has {} rows in {} batches, the manifest says {} in {}",
                plan.split.as_str(),
                opened.worker,
                opened.rows,
                opened.batches_per_epoch,
                plan.rows,
                plan.batches_per_epoch()
            );
            return Err(WireError::new(Code::InternalError, message));
        }
        Ok(opened)
    }

    async fn receive(
        &mut self,
        id: &str,
        opened: &FeedOpened,
        frames: &mut mpsc::Receiver<Frame>,
        credits: u32,
    ) -> End {
        let patience = Duration::from_millis(self.context.bus.timings().feed_timeout_ms);
        let (mut sequence, mut taken) = (0u64, 0u32);
        let mut parts = Assembly::default();
        loop {
            let frame = match timeout(patience, frames.recv()).await {
                Ok(Some(frame)) => frame,
                Ok(None) => return End::Broken(broken("the connection's subscription has ended")),
                Err(_) => {
                    let silent_s = patience.as_secs_f64();
                    return End::Broken(broken(format!(
                        "data_loader {} sent nothing for {silent_s:.1} s although credit is out",
                        opened.worker
                    )));
                }
            };
            if let Some(error) = frame.header.error {
                return End::Broken(error);
            }
            if frame.header.sequence != sequence {
                return End::Broken(broken(format!(
                    "frame {} of the feed instead of {sequence}",
                    frame.header.sequence
                )));
            }
            sequence += 1;
            taken += 1;
            match parts.add(frame, self.next) {
                Err(error) => return End::Broken(error),
                Ok(None) => {}
                Ok(Some(batch)) => {
                    self.next = after(&batch);
                    if !self.deliver(batch, id, &opened.credit_subject).await || self.next.epoch >= self.plan.end_epoch
                    {
                        return End::Over;
                    }
                }
            }
            if taken >= credits.div_ceil(2) {
                let grant = FeedControl::Credit { id: id.to_owned(), frames: std::mem::take(&mut taken) };
                if let Err(error) = self.control(&opened.credit_subject, grant).await {
                    return End::Broken(error);
                }
            }
        }
    }

    /// Waits until the compute side has room, and tells the data_loader meanwhile that it still wants
    /// the feed. False when the compute side is gone.
    async fn deliver(&self, batch: SourceBatch, id: &str, credit_subject: &str) -> bool {
        let alive = Duration::from_millis(self.context.bus.timings().feed_timeout_ms);
        loop {
            if let Ok(permit) = timeout(alive, self.out.reserve()).await {
                return permit.map(|permit| permit.send(Ok(batch))).is_ok();
            }
            let sign = FeedControl::Credit { id: id.to_owned(), frames: 0 };
            if let Err(error) = self.control(credit_subject, sign).await {
                tracing::debug!(%error, "no sign of life to the feed");
            }
        }
    }

    async fn control(&self, subject: &str, control: FeedControl) -> Result<(), WireError> {
        let context = &self.context;
        let source = format!("/within/rank/{}/{}", context.job, context.rank);
        let envelope = Envelope::new(format!("{}.{}", source, now_ms()), source, now_ms(), control).job(&context.job);
        context.bus.publish(subject, &envelope).await.map_err(|e| e.to_wire())
    }
}

fn after(batch: &SourceBatch) -> Position {
    if batch.end_of_epoch {
        Position { epoch: batch.epoch + 1, batch: 0 }
    } else {
        Position { epoch: batch.epoch, batch: batch.batch + 1 }
    }
}

fn broken(message: impl Into<String>) -> WireError {
    WireError::new(Code::BusUnavailable, format!("feed: {}", message.into()))
}

/// Parts of a batch until it is whole.
#[derive(Debug, Default)]
struct Assembly {
    received: u32,
    rows: Encoded,
    first_row: u32,
}

impl Assembly {
    /// Adds the next part of the batch `wanted`; the batch, once it is whole.
    fn add(&mut self, frame: Frame, wanted: Position) -> Result<Option<SourceBatch>, WireError> {
        let FrameHeader { epoch, batch, part, parts, .. } = frame.header;
        if (epoch, batch, part) != (wanted.epoch, wanted.batch, self.received) || part >= parts {
            return Err(broken(format!(
                "epoch {epoch} batch {batch} part {part} of {parts} instead of epoch {} batch {} part {}",
                wanted.epoch, wanted.batch, self.received
            )));
        }
        let rows = decode_frame(&frame.payload).map_err(|e| broken(e.to_string()))?;
        if part == 0 {
            (self.rows, self.first_row) = (rows, frame.header.first_row);
        } else {
            self.rows.append(rows).map_err(|e| broken(e.to_string()))?;
        }
        self.received = part + 1;
        if self.received < parts {
            return Ok(None);
        }
        self.received = 0;
        Ok(Some(SourceBatch {
            epoch,
            batch,
            global_rows: frame.header.global_rows,
            first_row: self.first_row,
            end_of_epoch: frame.header.end_of_epoch,
            rows: std::mem::take(&mut self.rows),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(batch: u64, part: u32, parts: u32, ids: std::ops::Range<u64>) -> Frame {
        let n = (ids.end - ids.start) as usize;
        let rows = Encoded {
            inputs: kernels::nn::Inputs::default(),
            rows: n,
            width: 1,
            features: vec![0.5; n],
            targets: vec![1.0; n],
            sample_ids: ids.collect(),
            weights: None,
        };
        let header = FrameHeader {
            feed: "f".into(),
            sequence: 0,
            epoch: 2,
            batch,
            global_rows: 5,
            first_row: part * 2,
            part,
            parts,
            end_of_epoch: batch == 9 && part + 1 == parts,
            error: None,
        };
        Frame { header, payload: frame::encode_frame(rows).expect("encodes") }
    }

    #[test]
    fn parts_make_a_batch_in_order() {
        let mut parts = Assembly::default();
        let wanted = Position { epoch: 2, batch: 9 };
        assert_eq!(parts.add(frame(9, 0, 3, 0..2), wanted), Ok(None));
        assert_eq!(parts.add(frame(9, 1, 3, 2..4), wanted), Ok(None));
        let batch = parts.add(frame(9, 2, 3, 4..5), wanted).expect("fits").expect("whole");
        assert_eq!(batch.rows.sample_ids, [0, 1, 2, 3, 4]);
        assert_eq!((batch.global_rows, batch.first_row, batch.end_of_epoch), (5, 0, true));
        assert_eq!(after(&batch), Position { epoch: 3, batch: 0 });
    }

    #[test]
    fn what_is_not_the_next_part_breaks_the_feed() {
        let wanted = Position { epoch: 2, batch: 3 };
        for bad in [frame(4, 0, 1, 0..1), frame(3, 1, 2, 0..1), frame(3, 0, 0, 0..1)] {
            let error = Assembly::default().add(bad, wanted).expect_err("out of order");
            assert!(error.retry, "{error}");
        }
        let mut garbage = frame(3, 0, 1, 0..1);
        garbage.payload = Bytes::from_static(b"garbage");
        assert!(Assembly::default().add(garbage, wanted).is_err());
    }
}
