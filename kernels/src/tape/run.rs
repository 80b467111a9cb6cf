//! The regions that run a tape: blocks of samples through the operations of a segment, forward, then back.

use super::{Items, Tape, Workspace, lock};
use crate::buffer::{AlignedBuf, Shared};
use crate::error::Result;
use crate::ops::loss::{Loss, LossSum};
use crate::ops::{Env, GradStore, Slot, Var};
use crate::pool::Pool;
use std::ops::Range;
use std::sync::Mutex;

/// Fills the gradient of a block of output rows, and loss and weight per sample: (samples, columns,
/// outputs, gradient, sums).
type Head<'h> = dyn Fn(Range<usize>, usize, &[f32], &mut [f32], &mut [[f64; 2]]) + Sync + 'h;

impl Tape<'_> {
    /// Reserves gradients from `output` backwards and decides who writes and who adds.
    fn plan_backward(&mut self, output: Var) -> Result<()> {
        let on_device = self.is_on_device();
        let Workspace { values, live, ops, allocations, .. } = &mut *self.ws;
        values[..*live].iter_mut().for_each(|v| v.has_grad = false);
        let mut reserve = |value: &mut super::Value| -> Result<GradStore> {
            if value.has_grad {
                return Ok(GradStore::Add);
            }
            value.has_grad = true;
            if !on_device {
                *allocations += u64::from(value.grad.renew(value.shape.elements())?);
            }
            Ok(GradStore::Set)
        };
        reserve(&mut values[output.0])?;
        for recorded in ops.iter_mut().rev() {
            recorded.live = values[recorded.op.output().0].has_grad;
            for (store, input) in recorded.stores.iter_mut().zip(recorded.op.inputs()) {
                *store = match input {
                    Some(var) if recorded.live && values[var.0].needs_grad => reserve(&mut values[var.0])?,
                    _ => GradStore::Skip,
                };
            }
        }
        Ok(())
    }

    /// Views of every value for the threads; scratch for each.
    pub(super) fn prepare(&mut self, threads: usize) {
        let ws = &mut *self.ws;
        ws.slots.clear();
        for value in &mut ws.values[..ws.live] {
            let columns = value.shape.columns();
            let grad = if value.has_grad { AlignedBuf::shared(&mut value.grad) } else { Shared::EMPTY };
            ws.slots.push(Slot { data: value.data.shared(), grad, columns, space: value.space });
        }
        if ws.scratch.len() < threads {
            ws.scratch.resize_with(threads, Mutex::default);
        }
    }

    pub(super) fn env(&self) -> Env<'_> {
        Env {
            slots: &self.ws.slots,
            spaces: self.ws.spaces.all(),
            params: self.params,
            sample_ids: self.rows.sample_ids,
            randomness: self.rows.randomness,
            raws: &self.raws[..self.raw_count],
            shards: &self.ws.shards,
        }
    }

    /// The end of the segment that begins at operation `from`.
    fn segment(&self, from: usize) -> usize {
        let ops = &self.ws.ops;
        (from + 1..ops.len()).find(|&i| ops[i].op.couples()).unwrap_or(ops.len())
    }

    /// Runs forward only, for [`Tape::value`] of `output`: on a device no other comes to the host.
    pub fn forward(&mut self, pool: &Pool, output: Var) -> Result<()> {
        if self.is_on_device() {
            return self.forward_on_device(output);
        }
        self.prepare(pool.threads());
        let (env, ws) = (self.env(), &*self.ws);
        let mut from = 0;
        while from < ws.ops.len() {
            let end = self.segment(from);
            if ws.ops[from].op.couples() {
                ws.ops[from].op.couple_forward(&env, pool, &ws.scratch);
            }
            let grain = self.grain(&env, pool.threads(), from..end, 1);
            pool.parallel_for(self.rows.count, grain, |worker, samples| {
                let mut scratch = lock(&ws.scratch[worker]);
                ws.ops[from..end].iter().for_each(|r| r.op.forward(&env, samples.clone(), &mut scratch));
            });
            from = end;
        }
        Ok(())
    }

    /// Runs forward to `output`, the loss, and backward to every value; gradients are of the *sum* over
    /// samples. The parameters' gradients are a second call.
    pub fn forward_backward(&mut self, pool: &Pool, output: Var, loss: &Loss<'_>) -> Result<()> {
        self.ask_forward_backward(pool, output, loss)?;
        self.losses_from_device()
    }

    /// The same; a device has yet to begin it, and [`Tape::losses_from_device`] waits for what [`Tape::loss_sum`] needs.
    pub(crate) fn ask_forward_backward(&mut self, pool: &Pool, output: Var, loss: &Loss<'_>) -> Result<()> {
        self.plan_for(output, loss)?;
        if self.is_on_device() {
            return self.forward_backward_on_device(output, loss);
        }
        self.run(pool, output, &|samples, columns, outputs, grad, sums| {
            loss.rows(samples, columns, outputs, grad, sums);
        })
    }

    /// Checks the loss and plans the way back from it.
    pub(crate) fn plan_for(&mut self, output: Var, loss: &Loss<'_>) -> Result<()> {
        loss.check(self.rows.count, self.columns(output), self.rows.sample_ids)?;
        self.plan_backward(output)
    }

    /// As [`Tape::forward_backward`] with column `column` of the output in place of a loss: gradients of its sum over samples,
    /// which per sample is the gradient of that sample's output.
    pub fn forward_backward_of(&mut self, pool: &Pool, output: Var, column: usize) -> Result<()> {
        if column >= self.columns(output) {
            let expected = format!("a column below {}", self.columns(output));
            return Err(crate::Error::value("gradient of an output", expected, column));
        }
        self.plan_backward(output)?;
        self.run(pool, output, &|_, columns, _, grad, sums| {
            grad.fill(0.0);
            grad.iter_mut().skip(column).step_by(columns).for_each(|g| *g = 1.0);
            sums.fill([0.0; 2]);
        })
    }

    /// The way back is planned.
    fn run(&mut self, pool: &Pool, output: Var, head: &Head<'_>) -> Result<()> {
        self.ws.row_sums.resize(self.rows.count, [0.0; 2]);
        self.prepare(pool.threads());
        let sums = Shared::of(&mut self.ws.row_sums);
        let (env, ws) = (self.env(), &*self.ws);
        let slot = env.slots[output.0];
        let mut from = 0;
        loop {
            let end = self.segment(from);
            let coupled = ws.ops.get(from).is_some_and(|r| r.op.couples());
            if coupled {
                ws.ops[from].op.couple_forward(&env, pool, &ws.scratch);
            }
            let last = end == ws.ops.len();
            let grain = self.grain(&env, pool.threads(), from..end, if last { 2 } else { 1 });
            pool.parallel_for(self.rows.count, grain, |worker, samples| {
                let mut scratch = lock(&ws.scratch[worker]);
                ws.ops[from..end].iter().for_each(|r| r.op.forward(&env, samples.clone(), &mut scratch));
                if !last {
                    return;
                }
                let span = samples.start * slot.columns..samples.end * slot.columns;
                // SAFETY: this task owns these samples.
                let (outputs, grad, sums) =
                    unsafe { (slot.data.get(span.clone()), slot.grad.get_mut(span), sums.get_mut(samples.clone())) };
                head(samples.clone(), slot.columns, outputs, grad, sums);
                // The coupling operation that begins the segment goes back in a region of its own.
                let own = from + usize::from(coupled)..end;
                ws.ops[own].iter().rev().filter(|r| r.live).for_each(|r| {
                    r.op.backward(&env, samples.clone(), r.stores, &mut scratch);
                });
            });
            if last {
                break;
            }
            from = end;
        }
        self.run_back(pool, &env, from);
        Ok(())
    }

    /// Backward from the coupling operation at `end` (the start of the last segment), segment by segment.
    fn run_back(&self, pool: &Pool, env: &Env<'_>, mut end: usize) {
        let ws = &*self.ws;
        while end > 0 {
            let begin = (0..end).rev().find(|&i| ws.ops[i].op.couples()).unwrap_or(0);
            if ws.ops[end].live {
                ws.ops[end].op.couple_backward(env, pool, &ws.scratch);
            }
            let first = begin + usize::from(ws.ops[begin].op.couples());
            let grain = self.grain(env, pool.threads(), begin..end, 2);
            pool.parallel_for(self.rows.count, grain, |worker, samples| {
                let mut scratch = lock(&ws.scratch[worker]);
                ws.ops[first..=end].iter().rev().filter(|r| r.live).for_each(|r| {
                    r.op.backward(env, samples.clone(), r.stores, &mut scratch);
                });
            });
            end = begin;
        }
        // An operation that couples and is the very first has no segment before it.
        if ws.ops.first().is_some_and(|r| r.live && r.op.couples()) {
            ws.ops[0].op.couple_backward(env, pool, &ws.scratch);
            let mut scratch = lock(&ws.scratch[0]);
            ws.ops[0].op.backward(env, 0..self.rows.count, ws.ops[0].stores, &mut scratch);
        }
    }

    /// The loss of the samples from `range` after [`Tape::forward_backward`], summed in order.
    pub fn loss_sum(&self, range: Range<usize>) -> LossSum {
        let rows = range.len();
        let [sum, weight] =
            self.ws.row_sums[range].iter().fold([0.0; 2], |[s, w], [loss, weight]| [s + loss, w + weight]);
        LossSum { sum, weight, rows }
    }

    /// Samples per task: enough work to be worth handing out, few enough to stay in the second-level cache,
    /// where rows are samples a multiple of the tallest tile. Changes no bits.
    fn grain(&self, env: &Env<'_>, threads: usize, ops: Range<usize>, passes: usize) -> usize {
        const TALL: usize = 12;
        const WORTH: usize = 1 << 19;
        let count = self.rows.count.max(1);
        let rows_of = |items: &Items| items.at(self.rows.count);
        let (mut cost, mut widest, mut in_step) = (1, 1, false);
        for recorded in &self.ws.ops[ops] {
            let rows = rows_of(&env.spaces[env.slots[recorded.op.output().0].space.0]);
            cost += passes * recorded.op.cost(env) * rows / count;
            widest = widest.max(rows / count);
            in_step |= recorded.op.steps_together();
        }
        let fair = count.div_ceil(threads);
        if in_step {
            // Samples that take time steps together share a pass over the weights.
            return fair.min(96);
        }
        if widest > 1 {
            let few = ((1 << 27) / cost).clamp(1, 8);
            return (4 * WORTH / cost).min(fair.div_ceil(2)).max(few).min(96);
        }
        if cost.saturating_mul(count) < 2 * WORTH || threads == 1 {
            return (4 * WORTH / cost).clamp(TALL, 8 * TALL).next_multiple_of(TALL);
        }
        (4 * WORTH / cost).min(count.div_ceil(2 * threads)).clamp(TALL, 8 * TALL).next_multiple_of(TALL)
    }
}
