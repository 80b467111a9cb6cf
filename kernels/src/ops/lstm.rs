//! One direction of one LSTM layer over whole sequences. The input's part of the gates is a linear layer
//! over all items; here the samples of a task go step by step together, one product with the recurrent
//! weight per step. Sequences differ in length: longer ones come first, and those that have ended drop out.

use super::linear::{pair_sum, pairs_cost_more, weight_gradient_on};
use super::{Activation, DeviceEnv, DeviceTask, Env, GradStore, Op, ParamTask, Var};
use crate::cpu;
use crate::cpu::gemm::{Matrix, Right, Scratch, ShardProduct, Target, dot, product_to, shard_product};
use crate::cpu::reduce::{Summand, column_sums};
use crate::cuda::launch::SHARED_BYTES;
use crate::cuda::machine::word;
use crate::cuda::product::{Names, kernel};
use crate::cuda::{Argument, LSTM, LSTM_TENSOR, Launch};
use crate::dtype::Precision;
use crate::error::{Error, Result};
use crate::params::ParamId;
use crate::tape::{Scratch as DeviceScratch, Tape};
use std::ops::Range;

const OP: &str = "lstm";

/// The direction in which a sequence is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}

/// The parameters of one direction of one layer, in PyTorch's layout: gates are input, forget, candidate, output.
#[derive(Clone, Copy, Debug)]
pub struct LstmParams {
    /// [4 hidden, inputs]
    pub input_weight: ParamId,
    /// [4 hidden, hidden]
    pub hidden_weight: ParamId,
    /// [4 hidden] each
    pub input_bias: Option<ParamId>,
    pub hidden_bias: Option<ParamId>,
}

/// One recorded recurrence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lstm {
    /// The input's part of the gates, [items, 4 hidden]. Nobody else reads it, so its gradient is the
    /// gates' own, which the recurrent weight's gradient needs.
    pub input: Var,
    /// [items, hidden]
    pub output: Var,
    kept: Option<Kept>,
    pub weight: ParamId,
    pub bias: Option<ParamId>,
    pub hidden: usize,
    direction: Direction,
}

/// What the way back needs.
#[derive(Clone, Copy, Debug)]
struct Kept {
    /// The gates after their activations, [items, 4 hidden].
    gates: Var,
    /// Cell states, [items, hidden].
    cells: Var,
    /// The hidden state that each step began with, [items, hidden].
    before: Var,
}

impl Tape<'_> {
    /// The hidden states of every item, [items, hidden], for x [items, inputs]. States begin at zero.
    pub fn lstm(&mut self, x: Var, params: LstmParams, direction: Direction) -> Result<Var> {
        let shape = &self.params().param(params.hidden_weight).shape;
        let [gates, hidden] = *shape.as_slice() else {
            return Err(Error::shape("lstm", "a recurrent weight [4 hidden, hidden]", format!("{shape:?}")));
        };
        if hidden == 0 || gates != 4 * hidden {
            return Err(Error::shape("lstm", "a recurrent weight [4 hidden, hidden]", format!("{shape:?}")));
        }
        if let Some(bias) = params.hidden_bias
            && self.params().param(bias).shape != [gates]
        {
            let got = format!("{:?}", self.params().param(bias).shape);
            return Err(Error::shape("lstm", format!("a bias [{gates}]"), got));
        }
        let input = self.linear(x, params.input_weight, params.input_bias, Activation::Identity)?;
        if self.columns(input) != gates {
            let got = self.columns(input).to_string();
            return Err(Error::shape("lstm", format!("an input weight of {gates} rows"), got));
        }
        let output = self.fresh_like(x, hidden)?;
        let kept = if self.wants_gradients() {
            let gates = self.fresh_like(x, gates)?;
            Some(Kept { gates, cells: self.fresh_like(x, hidden)?, before: self.fresh_like(x, hidden)? })
        } else {
            None
        };
        let (weight, bias) = (params.hidden_weight, params.hidden_bias);
        self.record(Op::Lstm(Lstm { input, output, kept, weight, bias, hidden, direction }))?;
        Ok(output)
    }
}

/// The sequences of a task, longest first: (length, first item), packed to be sorted without memory.
struct Sequences<'s> {
    /// `!length` above, first item below.
    sorted: &'s [u64],
}

impl Sequences<'_> {
    fn sort<'s>(op: &Lstm, env: &Env<'_>, samples: Range<usize>, pairs: &'s mut Vec<u64>) -> Sequences<'s> {
        pairs.clear();
        let space = env.space(op.output);
        pairs.extend(samples.map(|s| {
            let (from, to) = (space.at(s), space.at(s + 1));
            u64::from(!((to - from) as u32)) << 32 | from as u64
        }));
        pairs.sort_unstable();
        Sequences { sorted: pairs }
    }

    fn length(&self, i: usize) -> usize {
        !((self.sorted[i] >> 32) as u32) as usize
    }

    /// The number of sequences longer than `step`.
    fn active(&self, step: usize) -> usize {
        self.sorted.partition_point(|pair| !((pair >> 32) as u32) as usize > step)
    }

    /// The item that sequence i reads at `step`.
    fn item(&self, i: usize, step: usize, direction: Direction) -> usize {
        let first = (self.sorted[i] & u64::from(u32::MAX)) as usize;
        match direction {
            Direction::Forward => first + step,
            Direction::Backward => first + self.length(i) - 1 - step,
        }
    }
}

impl Lstm {
    pub(super) fn forward(&self, env: &Env<'_>, samples: Range<usize>, scratch: &mut Scratch) {
        let (n, count) = (self.hidden, samples.len());
        let Scratch { pairs, planes: [states, cells, products, ..], edge, .. } = scratch;
        let sequences = Sequences::sort(self, env, samples, pairs);
        for (plane, len) in [(&mut *states, n), (&mut *cells, n), (&mut *products, 4 * n)] {
            plane.clear();
            plane.resize(count * len, 0.0);
        }
        let w = Right::Packed { panels: env.params.packed(self.weight), n: 4 * n, k: n };
        let bias = self.bias.map(|b| env.params.values(b));
        for step in 0..if count == 0 { 0 } else { sequences.length(0) } {
            let active = sequences.active(step);
            let z = &mut products[..active * 4 * n];
            if step == 0 {
                z.fill(0.0);
            } else {
                let h = Matrix::dense(&states[..active * n], active, n);
                product_to(h, w, Target { data: z, stride: 4 * n, add: false }, edge);
            }
            for i in 0..active {
                let item = sequences.item(i, step, self.direction);
                let one = item..item + 1;
                let (z, c, h) = (&mut z[i * 4 * n..][..4 * n], &mut cells[i * n..][..n], &mut states[i * n..][..n]);
                if let Some(kept) = self.kept {
                    env.rows_mut(kept.before, &one).copy_from_slice(h);
                }
                cpu::lstm::forward(z, env.rows(self.input, &one), bias, c, h);
                env.rows_mut(self.output, &one).copy_from_slice(h);
                if let Some(kept) = self.kept {
                    env.rows_mut(kept.gates, &one).copy_from_slice(z);
                    env.rows_mut(kept.cells, &one).copy_from_slice(c);
                }
            }
        }
    }

    pub(super) fn backward(&self, env: &Env<'_>, samples: Range<usize>, stores: [GradStore; 2], scratch: &mut Scratch) {
        let Some(kept) = self.kept.filter(|_| stores[0] != GradStore::Skip) else { return };
        let (n, count) = (self.hidden, samples.len());
        let Scratch { pairs, planes: [dstates, dcells, slopes, zeros, ..], edge, .. } = scratch;
        let sequences = Sequences::sort(self, env, samples, pairs);
        for (plane, len) in
            [(&mut *dstates, count * n), (&mut *dcells, count * n), (&mut *slopes, count * 4 * n), (&mut *zeros, n)]
        {
            plane.clear();
            plane.resize(len, 0.0);
        }
        let w = Right::Rows(Matrix::dense(env.params.values(self.weight), 4 * n, n));
        for step in (0..if count == 0 { 0 } else { sequences.length(0) }).rev() {
            let active = sequences.active(step);
            for i in 0..active {
                let item = sequences.item(i, step, self.direction);
                let one = item..item + 1;
                let (dh, dz) = (&mut dstates[i * n..][..n], &mut slopes[i * 4 * n..][..4 * n]);
                cpu::reduce::add_assign(dh, env.grad(self.output, &one));
                let before: &[f32] = if step == 0 {
                    zeros
                } else {
                    let item = sequences.item(i, step - 1, self.direction);
                    env.rows(kept.cells, &(item..item + 1))
                };
                let (gates, cells) = (env.rows(kept.gates, &one), env.rows(kept.cells, &one));
                cpu::lstm::backward(gates, cells, before, dh, &mut dcells[i * n..][..n], dz);
                env.grad_mut(self.input, &one).copy_from_slice(dz);
            }
            if step > 0 {
                let dz = Matrix::dense(&slopes[..active * 4 * n], active, 4 * n);
                product_to(dz, w, Target { data: &mut dstates[..active * n], stride: n, add: false }, edge);
            }
        }
    }

    pub(super) fn param_gradient(&self, env: &Env<'_>, task: &ParamTask<'_>, scratch: &mut Scratch) {
        let n = self.hidden;
        let grad = Matrix::dense(env.whole(self.input, task.rows).1, task.rows, 4 * n);
        if task.which == 1 {
            // SAFETY: blocks of parameter gradients are disjoint.
            let out = unsafe { task.out.get_mut(task.block.clone()) };
            return column_sums(grad, Summand::Plain, task.bounds, out, &mut scratch.stack);
        }
        let kept = self.kept.expect("invariant: gradients are wanted");
        let before = Matrix::dense(env.whole(kept.before, task.rows).0, task.rows, n);
        let (from, to) = (task.block.start, task.block.end);
        // SAFETY: as above.
        let out = unsafe { task.out.get_mut(from * n..to * n) };
        shard_product(
            &ShardProduct { a: grad, b: before, bounds: task.bounds, node: task.node },
            from,
            to,
            out,
            scratch,
        );
    }
    /// As a linear layer over the states that steps began with: see `Linear::sample_squares`.
    pub(super) fn sample_squares(&self, env: &Env<'_>, which: usize, sample: usize) -> Option<f64> {
        let rows = env.rows_of(self.output, &(sample..sample + 1));
        let kept = self.kept.filter(|_| which == 0 && !pairs_cost_more(rows.len(), self.hidden, 4 * self.hidden))?;
        let one = |i: usize| i..i + 1;
        let both = |i: usize, j: usize| {
            let states = dot(env.rows(kept.before, &one(i)), env.rows(kept.before, &one(j)));
            f64::from(dot(env.grad(self.input, &one(i)), env.grad(self.input, &one(j)))) * f64::from(states)
        };
        Some(pair_sum(rows, both))
    }
}

/// Rounding the weight, and both ways with factors of two bytes; in f32 they are others.
const NARROW: Names = ["turn", "lstm_narrow_bf16", "lstm_narrow_f16"];
const FORWARD: Names = ["lstm_forward", "lstm_forward_bf16", "lstm_forward_f16"];
const BACKWARD: Names = ["lstm_backward", "lstm_backward_bf16", "lstm_backward_f16"];

/// A block's sequences and its shared memory, where a sequence needs so many bytes of it.
///
/// # Errors
/// [`Error::Value`] where a block has no room for one.
fn launch(hidden: usize, samples: usize, bytes: usize, most_together: usize) -> Result<(u32, Result<Option<Launch>>)> {
    let together = (SHARED_BYTES as usize / bytes).min(most_together);
    if together == 0 {
        let most = hidden * SHARED_BYTES as usize / bytes;
        return Err(Error::value(OP, format!("at most about {most} hidden units on a device"), hidden));
    }
    let (blocks, shared) = (samples.div_ceil(together) as u64, (together * bytes) as u32);
    Ok((together as u32, Launch::new(OP, [blocks, 1, 1], [256, 1, 1], shared)))
}

/// The way forward in f32: states, cells and four gates of each hidden unit.
fn forward_launch(hidden: usize, samples: usize) -> Result<(u32, Result<Option<Launch>>)> {
    launch(hidden, samples, 6 * hidden * 4, 4)
}

/// The way back in f32: four parts of the states' gradients, those of the cells, and four gates.
fn backward_launch(hidden: usize, samples: usize) -> Result<(u32, Result<Option<Launch>>)> {
    launch(hidden, samples, 9 * hidden * 4, 4)
}

/// With factors of two bytes: two rows of words, of `runs` padded runs of hidden units, and the cells. As many sequences
/// together as a product has rows, fewer where that would leave a large device without blocks.
fn narrow_launch(hidden: usize, samples: usize, runs: usize) -> Result<(u32, Result<Option<Launch>>)> {
    const ROWS: usize = 16;
    const BLOCKS: usize = 128;
    let row_words = runs * words(hidden) + 4;
    launch(hidden, samples, (2 * row_words + hidden) * 4, samples.div_ceil(BLOCKS).clamp(1, ROWS))
}

/// Words of a run of hidden units, two to each, padded to sixteen units.
fn words(hidden: usize) -> usize {
    hidden.div_ceil(16) * 8
}

impl Lstm {
    /// The recurrent weight as the kernels read it: turned in f32, else rounded to words.
    fn weight_on(&self, env: &mut DeviceEnv<'_>, turned: bool) -> Result<Argument> {
        let (precision, hidden) = (env.precision(), Argument::Word(word(OP, self.hidden)?));
        let count = match (precision, turned) {
            (Precision::F32, _) => 4 * self.hidden * self.hidden,
            _ => 4 * self.hidden * words(self.hidden),
        };
        let out = Argument::Address(env.scratch(DeviceScratch::First, count * 4)?);
        let launch = Launch::over(OP, count as u64, 256);
        match precision {
            Precision::F32 => {
                let arguments = [env.param(self.weight), out, Argument::Word(word(OP, 4 * self.hidden)?), hidden];
                env.start(OP, LSTM, kernel(NARROW, precision), launch, &arguments)?;
            }
            _ => {
                let arguments = [env.param(self.weight), out, hidden, Argument::Word(u32::from(turned))];
                env.start(OP, LSTM_TENSOR, kernel(NARROW, precision), launch, &arguments)?;
            }
        }
        Ok(out)
    }

    pub(super) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        let (precision, weight) = (env.precision(), self.weight_on(env, false)?);
        let (source, (together, launch)) = match precision {
            Precision::F32 => (LSTM, forward_launch(self.hidden, env.samples)?),
            _ => (LSTM_TENSOR, narrow_launch(self.hidden, env.samples, 1)?),
        };
        let arguments = [
            env.data(self.input),
            weight,
            env.param_or_none(self.bias),
            env.offsets(self.output),
            env.data(self.output),
            env.data_or_none(self.kept.map(|kept| kept.gates)),
            env.data_or_none(self.kept.map(|kept| kept.cells)),
            env.data_or_none(self.kept.map(|kept| kept.before)),
            Argument::Word64(env.samples as u64),
            Argument::Word(word(OP, self.hidden)?),
            Argument::Word(together),
            Argument::Word(u32::from(self.direction == Direction::Backward)),
        ];
        env.start(OP, source, kernel(FORWARD, precision), launch, &arguments)
    }

    pub(super) fn backward_on(&self, env: &mut DeviceEnv<'_>, stores: [GradStore; 2]) -> Result<()> {
        let Some(kept) = self.kept.filter(|_| stores[0] != GradStore::Skip) else { return Ok(()) };
        let precision = env.precision();
        let (source, weight, (together, launch)) = match precision {
            Precision::F32 => (LSTM, env.param(self.weight), backward_launch(self.hidden, env.samples)?),
            _ => (LSTM_TENSOR, self.weight_on(env, true)?, narrow_launch(self.hidden, env.samples, 4)?),
        };
        let arguments = [
            env.grad(self.output),
            weight,
            env.data(kept.gates),
            env.data(kept.cells),
            env.offsets(self.output),
            env.grad(self.input),
            Argument::Word64(env.samples as u64),
            Argument::Word(word(OP, self.hidden)?),
            Argument::Word(together),
            Argument::Word(u32::from(self.direction == Direction::Backward)),
        ];
        env.start(OP, source, kernel(BACKWARD, precision), launch, &arguments)
    }

    pub(super) fn param_gradient_on(&self, env: &mut DeviceEnv<'_>, task: &DeviceTask) -> Result<()> {
        if task.which == 1 {
            return env.column_sums(OP, self.input, task);
        }
        let kept = self.kept.expect("invariant: gradients are wanted");
        let (grad, before) = (env.grad(self.input), env.data(kept.before));
        weight_gradient_on(OP, env, task, self.output, (grad, 4 * self.hidden), (before, self.hidden))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_fit_devices_at_any_size() {
        for samples in [1, 5, 1 << 20, 1 << 34] {
            for hidden in [1, 7, 128, 512, 1_024] {
                let ways = [
                    forward_launch(hidden, samples),
                    backward_launch(hidden, samples),
                    narrow_launch(hidden, samples, 1),
                    narrow_launch(hidden, samples, 4),
                ];
                for (together, launch) in ways.map(|way| way.expect("fits")) {
                    assert!((1..=16).contains(&together));
                    // More blocks than a grid has are refused, and no number wraps.
                    let blocks = samples.div_ceil(together as usize) as u64;
                    match launch {
                        Ok(launch) => assert_eq!(launch.map(|launch| u64::from(launch.grid[0])), Some(blocks)),
                        Err(error) => assert!(blocks > i32::MAX as u64, "{error}"),
                    }
                }
            }
        }
        assert_eq!(forward_launch(8, 0).expect("fits").1, Ok(None));
        let error = backward_launch(5_000, 1).expect_err("no room").to_string();
        assert!(error.contains("at most about 1365 hidden units on a device, got 5000"), "{error}");
        assert!(narrow_launch(5_000, 1, 4).is_err() && narrow_launch(2_000, 1, 4).is_ok());
    }
}
