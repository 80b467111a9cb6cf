//! Where batches come from: the feed of a data_loader, or rows in memory (the validation part once it
//! has been fetched, and tests). Both give the same rows in the same order for the same plan.

use std::sync::Arc;

use frame::Encoded;
use kernels::philox::{Stream, permutation};
use kernels::shard::{rows_of, shards_of};
use messages::WireError;
use messages::error::Code;
use messages::feed::Split;
use messages::plan::AugmentationPlan;
use tokio::sync::mpsc;

use super::stop::Stop;
use crate::checkpoint::Position;

/// Complete batches that may lie between the feed and the compute thread.
pub const PREFETCH_BATCHES: usize = 4;

/// Which batches, from where, in which order.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedPlan {
    pub split: Split,
    /// Rows of the part.
    pub rows: u64,
    pub global_batch_size: u32,
    pub logical_shards: u32,
    /// None: stored order.
    pub shuffle_seed: Option<u64>,
    /// MB of encoded rows that are shuffled together.
    pub shuffle_window_mb: u32,
    /// What happens to the rows on their way.
    pub augmentation: Option<AugmentationPlan>,
    pub drop_last: bool,
    /// The first batch.
    pub position: Position,
    /// Up to this epoch, exclusive.
    pub end_epoch: u32,
    /// The share of each batch: this rank's of so many.
    pub rank: u32,
    pub world_size: u32,
    /// Largest size of one batch of this rank as a frame, in bytes; bounds the credits.
    pub batch_bytes: usize,
}

impl FeedPlan {
    pub fn batches_per_epoch(&self) -> u64 {
        let size = u64::from(self.global_batch_size.max(1));
        if self.drop_last { self.rows / size } else { self.rows.div_ceil(size) }
    }
}

/// One batch, as far as it is this rank's.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceBatch {
    pub epoch: u32,
    pub batch: u64,
    /// Rows of the whole group's batch.
    pub global_rows: u32,
    /// Index of this rank's first row in it.
    pub first_row: u32,
    pub end_of_epoch: bool,
    pub rows: Encoded,
}

/// Batches as they arrive from a feed.
pub type Arrivals = mpsc::Receiver<Result<SourceBatch, WireError>>;

/// Asks the feed side to open a feed and to push its batches.
#[derive(Debug)]
pub struct OpenRequest {
    pub plan: FeedPlan,
    pub out: mpsc::Sender<Result<SourceBatch, WireError>>,
}

/// Where batches come from.
#[derive(Debug)]
pub enum BatchSource {
    /// `failed` came ahead of its turn.
    Feed {
        opener: mpsc::Sender<OpenRequest>,
        arrivals: Option<Arrivals>,
        failed: Option<WireError>,
    },
    Memory {
        rows: Arc<Encoded>,
        plan: Option<Box<FeedPlan>>,
        next: Position,
        order: Option<(u32, Vec<u32>)>,
    },
}

impl BatchSource {
    pub fn feed(opener: mpsc::Sender<OpenRequest>) -> Self {
        Self::Feed { opener, arrivals: None, failed: None }
    }

    pub fn memory(rows: Arc<Encoded>) -> Self {
        Self::Memory { rows, plan: None, next: Position::default(), order: None }
    }

    /// Begins at the plan's position. What was open before is closed.
    pub fn open(&mut self, wanted: FeedPlan, stop: &Stop) -> Result<(), WireError> {
        match self {
            Self::Feed { opener, arrivals, failed } => {
                let (out, incoming) = mpsc::channel(PREFETCH_BATCHES);
                (*arrivals, *failed) = (Some(incoming), None);
                match stop.or_wait(opener.send(OpenRequest { plan: wanted, out })) {
                    Some(Err(_)) => Err(feed_gone()),
                    _ => Ok(()),
                }
            }
            Self::Memory { rows, plan, next, .. } => {
                if rows.rows as u64 != wanted.rows {
                    return Err(WireError::new(
                        Code::InternalError,
                        format!("{} rows in memory, the plan says {}", rows.rows, wanted.rows),
                    ));
                }
                *next = wanted.position;
                *plan = Some(Box::new(wanted));
                Ok(())
            }
        }
    }

    /// The next batch. None when a stop was asked for.
    pub fn next(&mut self, stop: &Stop) -> Result<Option<SourceBatch>, WireError> {
        if stop.ends_now() {
            return Ok(None);
        }
        match self {
            Self::Feed { arrivals, failed, .. } => {
                if let Some(error) = failed.take() {
                    return Err(error);
                }
                let arrivals = arrivals.as_mut().ok_or_else(feed_gone)?;
                match stop.or_wait(arrivals.recv()) {
                    None => Ok(None),
                    Some(Some(batch)) => batch.map(Some),
                    Some(None) => Err(feed_gone()),
                }
            }
            Self::Memory { rows, plan, next, order } => {
                let plan = plan.as_deref().ok_or_else(feed_gone)?;
                let batch = from_memory(rows, plan, *next, order);
                *next = if batch.end_of_epoch {
                    Position { epoch: next.epoch + 1, batch: 0 }
                } else {
                    Position { batch: next.batch + 1, ..*next }
                };
                Ok(Some(batch))
            }
        }
    }
}

impl BatchSource {
    /// The next batch, if it is there already.
    pub fn ready(&mut self, stop: &Stop) -> Result<Option<SourceBatch>, WireError> {
        match self {
            // A feed that has ended or failed is told of by who needs its next batch.
            Self::Feed { arrivals, failed, .. } => match arrivals.as_mut().map(Arrivals::try_recv) {
                Some(Ok(Ok(batch))) if failed.is_none() => Ok(Some(batch)),
                Some(Ok(Err(error))) => {
                    *failed = Some(error);
                    Ok(None)
                }
                _ => Ok(None),
            },
            Self::Memory { .. } => self.next(stop),
        }
    }
}

fn feed_gone() -> WireError {
    WireError::new(Code::InternalError, "the feed has ended before its last batch")
}

fn from_memory(rows: &Encoded, plan: &FeedPlan, at: Position, order: &mut Option<(u32, Vec<u32>)>) -> SourceBatch {
    let size = u64::from(plan.global_batch_size.max(1));
    let first = (at.batch * size).min(plan.rows);
    let global_rows = size.min(plan.rows - first) as usize;
    let shards = plan.logical_shards.max(1) as usize;
    let held = shards_of(plan.rank as usize, plan.world_size.max(1) as usize, shards);
    let from = rows_of(held.start, shards, global_rows).start;
    let to = if held.is_empty() { from } else { rows_of(held.end - 1, shards, global_rows).end };
    let (begin, end) = (first as usize + from, first as usize + to);
    if order.as_ref().is_none_or(|(epoch, _)| *epoch != at.epoch) {
        let of_epoch = match plan.shuffle_seed {
            Some(seed) => permutation(seed, Stream::Shuffle, u64::from(at.epoch), rows.rows),
            None => (0..rows.rows as u32).collect(),
        };
        *order = Some((at.epoch, of_epoch));
    }
    let indices = order.as_ref().map_or(&[][..], |(_, all)| &all[begin..end]);
    SourceBatch {
        epoch: at.epoch,
        batch: at.batch,
        global_rows: global_rows as u32,
        first_row: from as u32,
        end_of_epoch: at.batch + 1 >= plan.batches_per_epoch(),
        rows: rows.select(indices),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize) -> Arc<Encoded> {
        Arc::new(Encoded {
            rows: n,
            width: 1,
            features: (0..n).map(|i| i as f32).collect(),
            targets: (0..n).map(|i| i as f32).collect(),
            sample_ids: (0..n as u64).collect(),
            ..Encoded::default()
        })
    }

    fn plan(n: u64) -> FeedPlan {
        FeedPlan {
            split: Split::Train,
            rows: n,
            global_batch_size: 8,
            logical_shards: 8,
            shuffle_seed: Some(3),
            shuffle_window_mb: 1_000,
            augmentation: None,
            drop_last: false,
            position: Position { epoch: 0, batch: 0 },
            end_epoch: 2,
            rank: 0,
            world_size: 1,
            batch_bytes: 1_000,
        }
    }

    fn take(source: &mut BatchSource, n: usize) -> Vec<SourceBatch> {
        let stop = Stop::default();
        (0..n).map(|_| source.next(&stop).expect("no error").expect("a batch")).collect()
    }

    #[test]
    fn an_epoch_has_every_row_once_and_any_position_continues() {
        let (mut whole, stop) = (BatchSource::memory(rows(20)), Stop::default());
        whole.open(plan(20), &stop).expect("opens");
        let all = take(&mut whole, 6);
        let mut ids: Vec<u64> = all[..3].iter().flat_map(|b| b.rows.sample_ids.clone()).collect();
        assert_ne!(ids, (0..20).collect::<Vec<_>>(), "shuffled");
        ids.sort_unstable();
        assert_eq!(ids, (0..20).collect::<Vec<_>>());
        assert_eq!(all.iter().map(|b| b.end_of_epoch).collect::<Vec<_>>(), [false, false, true, false, false, true]);
        let mut later = BatchSource::memory(rows(20));
        later.open(FeedPlan { position: Position { epoch: 1, batch: 1 }, ..plan(20) }, &stop).expect("opens");
        assert_eq!(take(&mut later, 2), all[4..]);
    }

    #[test]
    fn ranks_share_a_batch_by_shards() {
        let stop = Stop::default();
        let mut whole = BatchSource::memory(rows(20));
        whole.open(plan(20), &stop).expect("opens");
        let all = take(&mut whole, 3);
        for world_size in [2, 3, 8] {
            let mut joined: Vec<Vec<u64>> = vec![Vec::new(); 3];
            for rank in 0..world_size {
                let mut part = BatchSource::memory(rows(20));
                part.open(FeedPlan { rank, world_size, ..plan(20) }, &stop).expect("opens");
                for (at, batch) in take(&mut part, 3).into_iter().enumerate() {
                    assert_eq!(batch.first_row as usize, joined[at].len());
                    joined[at].extend(batch.rows.sample_ids);
                }
            }
            for (at, batch) in all.iter().enumerate() {
                assert_eq!(joined[at], batch.rows.sample_ids, "world {world_size}");
            }
        }
    }

    #[test]
    fn a_stop_ends_waiting() {
        let (opener, _requests) = mpsc::channel(1);
        let (mut source, stop) = (BatchSource::feed(opener), Stop::default());
        source.open(plan(20), &stop).expect("asked");
        stop.ask(super::super::stop::StopReason::Drain { reason: "t".into() });
        assert_eq!(source.next(&stop), Ok(None));
    }
}
