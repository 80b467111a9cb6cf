//! What a step is fed: a global batch, or the part of one that a rank holds.

use crate::error::{Error, Result};
use crate::nn::{Feed, Inputs};
use crate::ops::loss::Targets;
use crate::shard::rows_of;
use std::ops::Range;

/// Rows with their targets, in the global batch's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub rows: usize,
    /// [rows, input_dim], row-major.
    pub features: Vec<f32>,
    /// Tokens, images, categories, sequences, where the model reads them.
    pub inputs: Inputs,
    pub targets: Targets,
    /// One weight per row, at least 0; none means 1 each.
    pub weights: Option<Vec<f32>>,
    /// One id per row, the same wherever the sample turns up: dropout is addressed by it.
    pub sample_ids: Vec<u64>,
}

impl Batch {
    /// The rows as a model reads them.
    pub fn feed(&self) -> Feed<'_> {
        Feed::new(self.rows, &self.features, &self.inputs)
    }
}

/// The rows of a run of logical shards of a global batch.
#[derive(Clone, Debug)]
pub struct RankBatch<'a> {
    /// The rows of the held shards only.
    pub batch: &'a Batch,
    /// Rows of the whole global batch.
    pub global_rows: usize,
    /// The held shards.
    pub held: Range<usize>,
}

impl RankBatch<'_> {
    /// Refuses a batch whose rows are not those of the held shards.
    pub(super) fn check(&self, shards: usize) -> Result<()> {
        if self.held.start > self.held.end || self.held.end > shards {
            return Err(Error::value("rank batch", format!("shards within 0..{shards}"), format!("{:?}", self.held)));
        }
        let rows = match self.held.len() {
            0 => 0,
            _ => {
                rows_of(self.held.end - 1, shards, self.global_rows).end
                    - rows_of(self.held.start, shards, self.global_rows).start
            }
        };
        if rows != self.batch.rows {
            let expected = format!("{rows} rows for shards {:?} of {} rows", self.held, self.global_rows);
            return Err(Error::shape("rank batch", expected, self.batch.rows.to_string()));
        }
        Ok(())
    }
}
