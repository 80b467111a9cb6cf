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
use crate::cuda::{Argument, LSTM, Launch};
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

impl Lstm {
    /// Sequences that a block takes together, and its shared memory for so many floats a state of each.
    fn launch(&self, samples: usize, floats: usize) -> Result<(u32, Result<Option<Launch>>)> {
        const MOST_TOGETHER: usize = 4;
        let fits = SHARED_BYTES as usize / (4 * floats * self.hidden);
        let together = fits.min(MOST_TOGETHER);
        if together == 0 {
            let most = SHARED_BYTES as usize / (4 * floats);
            return Err(Error::value(OP, format!("at most {most} hidden units on a device"), self.hidden));
        }
        let blocks = samples.div_ceil(together) as u64;
        let shared = (together * floats * self.hidden * 4) as u32;
        Ok((together as u32, Launch::new(OP, [blocks, 1, 1], [256, 1, 1], shared)))
    }

    pub(super) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        let wide = 4 * self.hidden * self.hidden;
        let turned = Argument::Address(env.scratch(DeviceScratch::First, wide * 4)?);
        let hidden = Argument::Word(word(OP, self.hidden)?);
        let of_turn = [env.param(self.weight), turned, Argument::Word(word(OP, 4 * self.hidden)?), hidden];
        env.start(OP, LSTM, "turn", Launch::over(OP, wide as u64, 256), &of_turn)?;
        // States, cells and four gates.
        let (together, launch) = self.launch(env.samples, 6)?;
        let arguments = [
            env.data(self.input),
            turned,
            env.param_or_none(self.bias),
            env.offsets(self.output),
            env.data(self.output),
            env.data_or_none(self.kept.map(|kept| kept.gates)),
            env.data_or_none(self.kept.map(|kept| kept.cells)),
            env.data_or_none(self.kept.map(|kept| kept.before)),
            Argument::Word64(env.samples as u64),
            hidden,
            Argument::Word(together),
            Argument::Word(u32::from(self.direction == Direction::Backward)),
        ];
        env.start(OP, LSTM, "lstm_forward", launch, &arguments)
    }

    pub(super) fn backward_on(&self, env: &mut DeviceEnv<'_>, stores: [GradStore; 2]) -> Result<()> {
        let Some(kept) = self.kept.filter(|_| stores[0] != GradStore::Skip) else { return Ok(()) };
        // Four parts of the states' gradients, those of the cells, and four gates.
        let (together, launch) = self.launch(env.samples, 9)?;
        let arguments = [
            env.grad(self.output),
            env.param(self.weight),
            env.data(kept.gates),
            env.data(kept.cells),
            env.offsets(self.output),
            env.grad(self.input),
            Argument::Word64(env.samples as u64),
            Argument::Word(word(OP, self.hidden)?),
            Argument::Word(together),
            Argument::Word(u32::from(self.direction == Direction::Backward)),
        ];
        env.start(OP, LSTM, "lstm_backward", launch, &arguments)
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
