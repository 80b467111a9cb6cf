//! Which rows are in which frame. Pure: a function of what the feed was opened with.

use std::ops::Range;

use frame::frame_bytes_bound;
use kernels::shard;
use messages::WireError;
use messages::error::Code;
use messages::feed::OpenFeed;

use super::window::Layout;

/// What a feed sends, but for the rows' contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    rows: usize,
    global_batch: usize,
    drop_last: bool,
    logical_shards: usize,
    rank: usize,
    world: usize,
    layout: Layout,
    frame_rows: usize,
    end_epoch: u32,
}

/// One frame's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub epoch: u32,
    pub batch: u64,
    pub part: u32,
}

/// One frame's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Places in the epoch's order.
    pub places: Range<usize>,
    pub global_rows: u32,
    /// Place of the rank's first row within the global batch.
    pub first_row: u32,
    pub parts: u32,
    pub end_of_epoch: bool,
}

impl Order {
    /// The order of a feed over shards of so many rows of at most `row_bytes` bytes, and its first position.
    pub fn new(open: &OpenFeed, shards: &[u64], row_bytes: usize) -> Result<(Self, Position), WireError> {
        check(open)?;
        let layout = Layout::new(shards, row_bytes, open.shuffle_window_mb, open.shuffle_seed);
        let rows = layout.rows();
        let overhead = frame_bytes_bound(0, row_bytes);
        let frame_rows = (open.max_frame_bytes as usize).saturating_sub(overhead) / row_bytes.max(1);
        if frame_rows == 0 {
            let message =
                format!("a row takes up to {row_bytes} bytes, more than a frame of {} may hold", open.max_frame_bytes);
            return Err(WireError::new(Code::TooLarge, message));
        }
        let order = Self {
            rows,
            global_batch: open.global_batch_size as usize,
            drop_last: open.drop_last,
            logical_shards: open.logical_shards as usize,
            rank: open.rank as usize,
            world: open.world_size as usize,
            layout,
            frame_rows,
            end_epoch: open.end_epoch,
        };
        let batches = order.batches_per_epoch();
        if batches == 0 {
            let message = format!("{rows} rows make no batch of {} with drop_last", open.global_batch_size);
            return Err(WireError::new(Code::DatasetValidationError, message)
                .with_hint("lower training.batch_size, or set data.drop_last: false"));
        }
        if open.batch > batches {
            return Err(refused(format!("batch {} of an epoch of {batches}", open.batch)));
        }
        // The end of an epoch is the beginning of the next one.
        let first = if open.batch == batches { (open.epoch + 1, 0) } else { (open.epoch, open.batch) };
        Ok((order, Position { epoch: first.0, batch: first.1, part: 0 }))
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn batches_per_epoch(&self) -> u64 {
        let full = self.rows / self.global_batch;
        let last = usize::from(!self.drop_last && !self.rows.is_multiple_of(self.global_batch));
        (full + last) as u64
    }

    /// Which rows are in memory together, and in which order they come.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Places within `range` whose rows this rank gets.
    pub fn my_places(&self, range: &Range<usize>) -> Vec<usize> {
        let end = range.end.min(self.batches_per_epoch() as usize * self.global_batch);
        let mut places = Vec::new();
        let mut first = range.start / self.global_batch * self.global_batch;
        while first < end {
            let mine = self.mine(self.global_batch.min(self.rows - first));
            places.extend((first + mine.start).max(range.start)..(first + mine.end).min(end));
            first += self.global_batch;
        }
        places
    }

    /// The frame at a position; none after the last epoch.
    pub fn piece(&self, at: Position) -> Option<Piece> {
        if at.epoch >= self.end_epoch {
            return None;
        }
        let first = at.batch as usize * self.global_batch;
        let global_rows = self.global_batch.min(self.rows - first);
        let mine = self.mine(global_rows);
        // A rank without rows in a short batch still gets a frame, to stay in step.
        let parts = mine.len().div_ceil(self.frame_rows).max(1);
        let begin = mine.start + at.part as usize * self.frame_rows;
        let end = mine.end.min(begin + self.frame_rows);
        let last_batch = at.batch + 1 == self.batches_per_epoch();
        Some(Piece {
            places: first + begin..first + end,
            global_rows: global_rows as u32,
            first_row: mine.start as u32,
            parts: parts as u32,
            end_of_epoch: last_batch && at.part as usize + 1 == parts,
        })
    }

    /// The rank's run of shards of a batch, as rows within it.
    fn mine(&self, global_rows: usize) -> Range<usize> {
        let shards = shard::shards_of(self.rank, self.world, self.logical_shards);
        let first = shard::rows_of(shards.start, self.logical_shards, global_rows).start;
        let end = shard::rows_of(shards.end - 1, self.logical_shards, global_rows).end;
        first..end
    }

    /// The position after a piece.
    pub fn after(at: Position, piece: &Piece) -> Position {
        if at.part + 1 < piece.parts {
            Position { part: at.part + 1, ..at }
        } else if piece.end_of_epoch {
            Position { epoch: at.epoch + 1, batch: 0, part: 0 }
        } else {
            Position { batch: at.batch + 1, part: 0, ..at }
        }
    }
}

fn refused(message: impl std::fmt::Display) -> WireError {
    WireError::new(Code::BadMessage, format!("feed refused: {message}"))
}

fn check(open: &OpenFeed) -> Result<(), WireError> {
    if open.world_size == 0 || open.rank >= open.world_size {
        return Err(refused(format!("rank {} of a world of {}", open.rank, open.world_size)));
    }
    if open.world_size > open.logical_shards {
        let message = format!(
            "a world of {} ranks shares {} logical shards, expected at least one a rank",
            open.world_size, open.logical_shards
        );
        return Err(WireError::new(Code::ConfigError, message)
            .with_hint("raise training.logical_shards or lower resources.world_size"));
    }
    if open.global_batch_size == 0 {
        return Err(refused("a global batch of 0 rows"));
    }
    if open.epoch >= open.end_epoch {
        return Err(refused(format!("epoch {} up to {}", open.epoch, open.end_epoch)));
    }
    Ok(())
}
