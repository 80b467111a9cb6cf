//! A rank's share of a step: some nodes of the gradient tree, and the loss of each held shard.
//!
//! With a collective between ranks: [`Trainer::mark`], then [`Trainer::exchange`], which computes and submits
//! operation by operation while what was submitted travels; when all of them are over,
//! [`Trainer::accumulate_exchanged`], and after the last micro-batch [`Trainer::apply`]. Nothing is copied: the root
//! comes to stand where the first node's gradient stood. Where a rank is lost on the way, [`Trainer::back_to`] the
//! mark, and the same step again with whoever is left: the same bits as if nothing had happened.
//!
//! [`Trainer::partial`] and [`Trainer::accumulate_root`] are the same by copies, for whoever completes the tree by
//! itself ([`crate::shard::complete`] shows the order).

use super::batch::RankBatch;
use super::engine::Trainer;
use crate::collective::{Op, Values};
use crate::error::{Error, Result};
use crate::ops::loss::LossSum;
use crate::shard::{Node, shards_of};
use crate::tape::DeviceBucket;

/// What a rank computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Partial {
    /// Nodes of the tree with their gradients, flat, in the layout of the parameter store.
    pub nodes: Vec<(Node, Vec<f32>)>,
    /// Loss of each held shard.
    pub losses: Vec<(usize, LossSum)>,
}

/// Why a rank's part was not handed over.
#[derive(Debug)]
pub enum Interrupted<E> {
    /// It could not be computed.
    Compute(Error),
    /// It was not taken.
    Submit(E),
}

impl<E> From<Error> for Interrupted<E> {
    fn from(error: Error) -> Interrupted<E> {
        Interrupted::Compute(error)
    }
}

/// Where a training stands between two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    micro_step: u64,
    epoch: u64,
    steps: u64,
}

/// What is handed to a collective beside the gradients.
#[derive(Default)]
pub(super) struct Handed {
    /// Losses of all shards, [`LOSS_BYTES`] each.
    losses: Vec<u8>,
    /// Every operation of an exchange was submitted.
    pub(super) whole: bool,
    /// The gradient is whole already and on the device: none was submitted.
    stays: bool,
}

/// Bytes of a shard's loss on its way between ranks.
const LOSS_BYTES: usize = 24;

fn encode(loss: &LossSum, bytes: &mut [u8]) {
    bytes[..8].copy_from_slice(&loss.sum.to_le_bytes());
    bytes[8..16].copy_from_slice(&loss.weight.to_le_bytes());
    bytes[16..].copy_from_slice(&(loss.rows as u64).to_le_bytes());
}

fn decode(bytes: &[u8]) -> LossSum {
    let at = |from: usize| -> [u8; 8] { std::array::from_fn(|i| bytes[from + i]) };
    let (sum, weight) = (f64::from_le_bytes(at(0)), f64::from_le_bytes(at(8)));
    LossSum { sum, weight, rows: u64::from_le_bytes(at(16)) as usize }
}

/// Cuts between parameters, so that a bucket holds at most so many numbers, or one parameter; filled from the end,
/// where the gradients are ready first.
fn cuts(starts: &[usize], len: usize, bucket: usize) -> Vec<usize> {
    let mut cuts = vec![len];
    let (mut end, mut begin) = (len, len);
    for &start in starts.iter().rev() {
        if end - start > bucket && begin < end {
            cuts.push(begin);
            end = begin;
        }
        begin = start;
    }
    if len > 0 {
        cuts.push(0);
    }
    cuts.reverse();
    cuts
}

impl Trainer {
    /// Where this training stands, for [`Trainer::back_to`].
    pub fn mark(&self) -> Mark {
        Mark { micro_step: self.micro_step, epoch: self.epoch, steps: self.global_step() }
    }

    /// Forgets what was computed and accumulated since the mark, so that the step can be repeated with the same
    /// bits. `Value` error where the training has stepped on since: that cannot be taken back.
    pub fn back_to(&mut self, mark: Mark) -> Result<()> {
        if (mark.epoch, mark.steps) != (self.epoch, self.global_step()) {
            let expected = format!("a mark of epoch {}, step {}", self.epoch, self.global_step());
            return Err(Error::value("back to", expected, format!("epoch {}, step {}", mark.epoch, mark.steps)));
        }
        self.discard();
        self.micro_step = mark.micro_step;
        Ok(())
    }

    /// Computes this rank's part of a global batch and hands it to `submit`, operation by operation in an order that
    /// is the same on every rank: the losses of all shards first, then the gradients in buckets of at most
    /// `bucket_elements` numbers (or one parameter), the last layers first, each while the earlier ones are still to
    /// be computed. The held shards must be those of a rank of `world`. When all operations are over,
    /// [`Trainer::accumulate_exchanged`] takes the result.
    pub fn exchange<'t, E>(
        &'t mut self,
        part: &RankBatch<'_>,
        world: usize,
        bucket_elements: usize,
        submit: impl FnMut(u32, Op<'t>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), Interrupted<E>> {
        let on_host = None::<fn(&DeviceBucket<'_>) -> std::result::Result<(), E>>;
        self.hand_over(part, world, bucket_elements, submit, on_host)
    }

    /// The same on a device whose gradients are summed where they are: `submit` gets the losses of all shards only, and
    /// each bucket is handed to `sum` when the device was asked for it, such as [`crate::cuda::nccl::DeviceSum::begin`].
    /// The roots stand when all that `sum` began is done.
    pub fn exchange_on_device<'t, E>(
        &'t mut self,
        part: &RankBatch<'_>,
        world: usize,
        bucket_elements: usize,
        submit: impl FnMut(u32, Op<'t>) -> std::result::Result<(), E>,
        sum: impl FnMut(&DeviceBucket<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), Interrupted<E>> {
        if self.device.is_none() {
            return Err(Interrupted::Compute(Error::value("exchange", "a device that trains", "the CPU")));
        }
        self.hand_over(part, world, bucket_elements, submit, Some(sum))
    }

    fn hand_over<'t, E>(
        &'t mut self,
        part: &RankBatch<'_>,
        world: usize,
        bucket_elements: usize,
        mut submit: impl FnMut(u32, Op<'t>) -> std::result::Result<(), E>,
        sum: Option<impl FnMut(&DeviceBucket<'_>) -> std::result::Result<(), E>>,
    ) -> std::result::Result<(), Interrupted<E>> {
        let shards = self.config.logical_shards;
        if !(1..=shards).contains(&world) || !(0..world).any(|rank| shards_of(rank, world, shards) == part.held) {
            let got = format!("{:?}", part.held);
            let expected = format!("the shards of a rank of {world}");
            return Err(Interrupted::Compute(Error::value("exchange", expected, got)));
        }
        let bounds: Vec<usize> = (0..=world).map(|rank| rank * shards / world * LOSS_BYTES).collect();
        let starts: Vec<usize> = self.model.params().entries().iter().map(|param| param.range.start).collect();
        let cuts = cuts(&starts, self.model.params().flat_len(), bucket_elements);
        self.handed.losses.resize(shards * LOSS_BYTES, 0);
        let alone = part.held.len() == shards;
        let (mut tape, held, mut workings) = self.ask_part(part).map_err(Interrupted::Compute)?;
        let stays = alone && tape.is_on_device() && sum.is_none();
        if stays {
            tape.param_gradients_stay(held)?;
        }
        workings.bring_next(&mut tape).map_err(Interrupted::Compute)?;
        let handed = &mut workings.handed.losses;
        for (shard, own) in part.held.clone().zip(held.bounds.windows(2)) {
            encode(&tape.loss_sum(own[0]..own[1]), &mut handed[shard * LOSS_BYTES..][..LOSS_BYTES]);
        }
        submit(0, Op::AllGather { values: Values::Bytes(handed), bounds }).map_err(Interrupted::Submit)?;
        if let Some(mut sum) = sum {
            tape.param_gradients_on_device(held, &cuts, |bucket| sum(bucket).map_err(Interrupted::Submit))?;
            (workings.handed.stays, workings.handed.whole) = (true, true);
            return Ok(());
        }
        workings.handed.stays = stays;
        if stays {
            workings.handed.whole = true;
            return Ok(());
        }
        let outs = workings.gradients.iter_mut().map(|gradient| &mut **gradient).collect();
        let hand_over = |bucket: usize, parts: Vec<&'t mut [f32]>| {
            let nodes = held.nodes.iter().copied().zip(parts).collect();
            submit(bucket as u32 + 1, Op::AllReduce { nodes }).map_err(Interrupted::Submit)
        };
        tape.param_gradients_in_buckets(workings.pool, held, &cuts, outs, hand_over)?;
        workings.handed.whole = true;
        Ok(())
    }

    /// Adds what the operations of the last [`Trainer::exchange`] came to, to the next step. `Value` error where it
    /// was not submitted whole, or was taken already.
    pub fn accumulate_exchanged(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.handed.whole) {
            return Err(Error::value("accumulate", "a whole exchange", "none"));
        }
        let losses: Vec<LossSum> = self.handed.losses.chunks_exact(LOSS_BYTES).map(decode).collect();
        self.take_root(total(&losses), self.handed.stays)
    }

    /// As [`Trainer::diagnose`], of this rank's part of the micro-batch that began at `mark`, after a step on it
    /// failed as `Numeric`. Where several ranks find something, the first in rank order is what a single process
    /// would name first, if it is the same operation.
    pub fn diagnose_part(&mut self, part: &RankBatch<'_>, mark: Mark) -> Result<Option<(String, Vec<u64>)>> {
        let now = std::mem::replace(&mut self.micro_step, mark.micro_step);
        let found = self.diagnose_at(part);
        self.micro_step = now;
        found
    }
}

/// The loss of a global batch from those of its shards, in shard order, by the tree.
pub(super) fn total(shards: &[LossSum]) -> LossSum {
    match shards {
        [] => LossSum::default(),
        [one] => *one,
        _ => {
            let (left, right) = shards.split_at(shards.len().next_power_of_two() / 2);
            let mut sum = total(left);
            sum.merge(total(right));
            sum
        }
    }
}
