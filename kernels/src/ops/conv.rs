//! Convolution over pixels, with bias and activation: windows unfolded into scratch, then our products.
//!
//! The weight is [out, kernel rows, kernel columns, in / groups]: channels last, as the pixels lie, so a run
//! of a window is one copy. PyTorch's and ONNX's order is [out, in / groups, kernel rows, kernel columns]: theirs is
//! ours with the second axis moved last (`weight.permute(0, 2, 3, 1)`), ours theirs with the last moved second
//! (`weight.permute(0, 3, 1, 2)`).
//!
//! Order of sums: as a linear layer over windows. A weight's gradient takes the windows of a shard in runs
//! of [`RUN`], each a chain, added in order; shards meet in the tree.

use super::image::Grid;
use super::{DeviceEnv, DeviceTask, Env, GradStore, Op, ParamTask, Var};
use crate::cpu::activation::{self, Activation};
use crate::cpu::conv::{Windows, each_channel, each_channel_back, each_channel_weights, fold, pick_group, unfold};
use crate::cpu::gemm::{Matrix, Right, Scratch, Target, pack_matrix, packed_len, product_to, product_transposed};
use crate::cpu::reduce::{Summand, column_sums};
use crate::cuda::machine::word;
use crate::cuda::product::{Names, kernel};
use crate::cuda::{Argument, CONV, product};
use crate::error::{Error, Result};
use crate::params::ParamId;
use crate::tape::Tape;
use std::ops::Range;

const OP: &str = "conv2d";

/// Windows that are unfolded at a time.
const RUN: usize = 128;

/// How a window moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stride {
    pub stride: usize,
    /// Zeros around the image.
    pub padding: usize,
    /// Channels are cut into this many groups that do not see one another.
    pub groups: usize,
}

impl Default for Stride {
    fn default() -> Self {
        Stride { stride: 1, padding: 0, groups: 1 }
    }
}

/// One recorded convolution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conv {
    pub input: Var,
    pub output: Var,
    /// The activation's input, kept where its derivative needs it.
    kept: Option<Var>,
    pub weight: ParamId,
    pub bias: Option<ParamId>,
    act: Activation,
    windows: Windows,
    groups: usize,
    outputs: usize,
}

/// Windows of `kernel` over a grid. `Shape` error where none fits.
pub(super) fn windows(
    op: &'static str,
    input: Grid,
    kernel: [usize; 2],
    stride: usize,
    padding: usize,
) -> Result<Windows> {
    let fit =
        |size: usize, kernel: usize| (size + 2 * padding).checked_sub(kernel).map(|rest| rest / stride.max(1) + 1);
    match (fit(input.height, kernel[0]), fit(input.width, kernel[1])) {
        (Some(rows), Some(columns)) if stride > 0 && kernel[0] > 0 && kernel[1] > 0 => {
            Ok(Windows { input, kernel, stride, padding, output: [rows, columns] })
        }
        _ => Err(Error::shape(
            op,
            format!("a window within {} x {} with padding {padding}, stride above 0", input.height, input.width),
            format!("{kernel:?}, stride {stride}"),
        )),
    }
}

impl Tape<'_> {
    /// act(conv(x) + b): x are the pixels of `grid`; gives the pixels of the returned grid. `Shape` errors
    /// name the sizes.
    pub fn conv2d(
        &mut self,
        x: Var,
        grid: Grid,
        weight: ParamId,
        bias: Option<ParamId>,
        Stride { stride, padding, groups }: Stride,
        act: Activation,
    ) -> Result<(Var, Grid)> {
        let param = self.params().param(weight);
        let [outputs, rows, columns, inputs] = *param.shape.as_slice() else {
            let got = format!("{:?}", param.shape);
            return Err(Error::shape("conv2d", "a weight [out, rows, columns, in / groups]", got));
        };
        let pixels = self.items(grid.pixels());
        if self.columns(x) != grid.channels || self.space(x) != pixels {
            let got = format!("{} columns of {:?}", self.columns(x), self.space(x));
            return Err(Error::shape("conv2d", format!("the pixels of {grid:?}"), got));
        }
        if groups == 0 || grid.channels != inputs * groups || !outputs.is_multiple_of(groups) {
            let got = format!("{} channels, weight {:?}", grid.channels, param.shape);
            return Err(Error::shape("conv2d", format!("channels in {groups} groups"), got));
        }
        if let Some(bias) = bias
            && self.params().param(bias).shape != [outputs]
        {
            let got = format!("{:?}", self.params().param(bias).shape);
            return Err(Error::shape("conv2d", format!("a bias [{outputs}]"), got));
        }
        let windows = windows("conv2d", grid, [rows, columns], stride, padding)?;
        let space = self.items(windows.count());
        let output = self.fresh_in(space, outputs)?;
        let keeps = act.needs_input() && self.wants_gradients();
        let kept = if keeps { Some(self.fresh_in(space, outputs)?) } else { None };
        self.record(Op::Conv(Conv { input: x, output, kept, weight, bias, act, windows, groups, outputs }))?;
        Ok((output, Grid { height: windows.output[0], width: windows.output[1], channels: outputs }))
    }
}

impl Conv {
    /// Multiply-adds of one window.
    pub(super) fn cost(&self) -> usize {
        self.outputs * self.windows.elements() / self.groups
    }

    /// Outputs per gradient task: few tasks, as each unfolds the windows anew.
    pub(super) fn block_rows(&self, rows: usize) -> usize {
        if rows * self.cost() < 1 << 22 || self.is_depthwise() { self.outputs } else { 64 }
    }

    /// Terms of one output.
    fn terms(&self) -> usize {
        self.windows.elements() / self.groups
    }

    /// Channels of group g, and outputs of it.
    fn group(&self, g: usize) -> (Range<usize>, Range<usize>) {
        let (inputs, outputs) = (self.windows.input.channels / self.groups, self.outputs / self.groups);
        (g * inputs..(g + 1) * inputs, g * outputs..(g + 1) * outputs)
    }

    fn weights<'a>(&self, env: &'a Env<'_>, outputs: Range<usize>) -> Matrix<'a> {
        let terms = self.terms();
        Matrix::dense(&env.params.values(self.weight)[outputs.start * terms..outputs.end * terms], outputs.len(), terms)
    }

    /// Whether every channel is a group of its own (depthwise).
    fn is_depthwise(&self) -> bool {
        self.groups == self.outputs && self.groups == self.windows.input.channels
    }

    /// The weights [channels, kernel] of a depthwise convolution as its windows lie, [kernel, channels].
    fn turned_weights(&self, env: &Env<'_>, turned: &mut Vec<f32>) {
        let (terms, w) = (self.terms(), env.params.values(self.weight));
        turned.clear();
        turned.extend((0..terms).flat_map(|term| w[term..].iter().step_by(terms)));
    }

    pub(super) fn forward(&self, env: &Env<'_>, samples: Range<usize>, scratch: &mut Scratch) {
        let (all, pixels) = (env.rows_of(self.output, &samples), env.rows_of(self.input, &samples));
        let x = env.rows(self.input, &pixels);
        let (elements, terms) = (self.windows.elements(), self.terms());
        let Scratch { edge, planes: [unfolded, picked, panels, ..], .. } = scratch;
        if self.is_depthwise() {
            self.turned_weights(env, panels);
        }
        for from in (0..all.len()).step_by(RUN) {
            let run = from..(from + RUN).min(all.len());
            let rows = all.start + run.start..all.start + run.end;
            unfolded.resize(run.len() * elements, 0.0);
            unfold(&self.windows, x, run.clone(), unfolded);
            let y = env.rows_mut(self.output, &rows);
            if self.is_depthwise() {
                each_channel(unfolded, panels, self.outputs, y);
            } else if self.groups == 1 {
                let right = Right::Packed { panels: env.params.packed(self.weight), n: self.outputs, k: terms };
                let to = Target { data: y, stride: self.outputs, add: false };
                product_to(Matrix::dense(unfolded, run.len(), terms), right, to, edge);
            } else {
                for g in 0..self.groups {
                    let (channels, outputs) = self.group(g);
                    pick_group(&self.windows, unfolded, channels, picked);
                    panels.resize(packed_len(outputs.len(), terms), 0.0);
                    pack_matrix(self.weights(env, outputs.clone()), panels);
                    let right = Right::Packed { panels, n: outputs.len(), k: terms };
                    let to = Target { data: &mut y[outputs.start..], stride: self.outputs, add: false };
                    product_to(Matrix::dense(picked, run.len(), terms), right, to, edge);
                }
            }
            let kept = self.kept.map(|var| env.rows_mut(var, &rows));
            activation::forward(self.act, y, self.bias.map(|b| env.params.values(b)), kept);
        }
    }

    pub(super) fn backward(&self, env: &Env<'_>, samples: Range<usize>, stores: [GradStore; 2], scratch: &mut Scratch) {
        let (all, pixels) = (env.rows_of(self.output, &samples), env.rows_of(self.input, &samples));
        let grad = env.grad_mut(self.output, &all);
        activation::backward(self.act, grad, env.rows(self.kept.unwrap_or(self.output), &all));
        if stores[0] == GradStore::Skip {
            return;
        }
        let dx = env.grad_mut(self.input, &pixels);
        if stores[0] == GradStore::Set {
            dx.fill(0.0);
        }
        let (elements, terms) = (self.windows.elements(), self.terms());
        let Scratch { edge, planes: [unfolded, picked, turned, ..], .. } = scratch;
        if self.is_depthwise() {
            self.turned_weights(env, turned);
        }
        for from in (0..all.len()).step_by(RUN) {
            let run = from..(from + RUN).min(all.len());
            unfolded.resize(run.len() * elements, 0.0);
            if self.is_depthwise() {
                each_channel_back(&grad[run.start * self.outputs..], turned, self.outputs, unfolded);
            }
            for g in 0..if self.is_depthwise() { 0 } else { self.groups } {
                let (channels, outputs) = self.group(g);
                let data = &grad[run.start * self.outputs + outputs.start..];
                let own = Matrix { data, rows: run.len(), columns: outputs.len(), stride: self.outputs };
                let w = Right::Rows(self.weights(env, outputs));
                if self.groups == 1 {
                    product_to(own, w, Target { data: unfolded, stride: elements, add: false }, edge);
                    continue;
                }
                picked.resize(run.len() * terms, 0.0);
                product_to(own, w, Target { data: picked, stride: terms, add: false }, edge);
                let wide = unfolded.chunks_exact_mut(self.windows.input.channels);
                wide.zip(picked.chunks_exact(channels.len())).for_each(|(w, p)| w[channels.clone()].copy_from_slice(p));
            }
            fold(&self.windows, run, unfolded, dx);
        }
    }

    pub(super) fn param_gradient(&self, env: &Env<'_>, task: &ParamTask<'_>, scratch: &mut Scratch) {
        let grad = env.whole(self.output, task.rows).1;
        if task.which == 1 {
            // SAFETY: blocks of parameter gradients are disjoint.
            let out = unsafe { task.out.get_mut(task.block.clone()) };
            let grad = Matrix::dense(grad, task.rows, self.outputs);
            return column_sums(grad, Summand::Plain, task.bounds, out, &mut scratch.stack);
        }
        let (terms, elements) = (self.terms(), self.windows.elements());
        let x = env.whole(self.input, task.rows / self.windows.count() * self.windows.input.pixels()).0;
        let len = task.block.len() * terms;
        let Scratch { edge, planes: [unfolded, picked, ..], tree, .. } = scratch;
        tree.clear();
        for shard in task.bounds.windows(2) {
            let leaf = tree.push(len);
            for from in (shard[0]..shard[1]).step_by(RUN) {
                let run = from..(from + RUN).min(shard[1]);
                unfolded.resize(run.len() * elements, 0.0);
                unfold(&self.windows, x, run.clone(), unfolded);
                if self.is_depthwise() {
                    picked.clear();
                    picked.resize(elements, 0.0);
                    each_channel_weights(&grad[run.start * self.outputs..], unfolded, self.outputs, picked);
                    let own = task.block.clone().zip(leaf.chunks_exact_mut(terms));
                    for (channel, leaf) in own {
                        let sums = picked[channel..].iter().step_by(self.outputs);
                        leaf.iter_mut().zip(sums).for_each(|(leaf, sum)| *leaf += sum);
                    }
                    continue;
                }
                for g in 0..self.groups {
                    let (channels, outputs) = self.group(g);
                    let own = outputs.start.max(task.block.start)..outputs.end.min(task.block.end);
                    if own.is_empty() {
                        continue;
                    }
                    let data = &grad[run.start * self.outputs + own.start..];
                    let a = Matrix { data, rows: run.len(), columns: own.len(), stride: self.outputs };
                    let to = &mut leaf[(own.start - task.block.start) * terms..][..own.len() * terms];
                    let from: &[f32] = if self.groups == 1 {
                        unfolded
                    } else {
                        pick_group(&self.windows, unfolded, channels, picked);
                        picked
                    };
                    let to = Target { data: to, stride: terms, add: true };
                    product_transposed(a, Matrix::dense(from, run.len(), terms), to, edge);
                }
            }
            tree.settle();
        }
        // SAFETY: as above.
        let out = unsafe { task.out.get_mut(task.block.start * terms..task.block.end * terms) };
        out.copy_from_slice(tree.finish(len));
    }
}

/// Kernels for small and for large results.
const FORWARD: [Names; 2] = [
    ["conv_forward", "conv_forward_bf16", "conv_forward_f16"],
    ["conv_forward_large", "conv_forward_large_bf16", "conv_forward_large_f16"],
];
const BACKWARD: Names = ["conv_backward", "conv_backward_bf16", "conv_backward_f16"];
const WEIGHT: Names = ["conv_weight", "conv_weight_bf16", "conv_weight_f16"];

impl Conv {
    pub(super) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        let (rows, of_group) = (env.rows(self.output) as u64, (self.outputs / self.groups) as u64);
        let large = product::is_large(rows, of_group);
        let arguments = [
            env.data(self.input),
            env.param(self.weight),
            env.param_or_none(self.bias),
            env.data(self.output),
            env.data_or_none(self.kept),
            Argument::Word64(rows),
            self.windows.argument()?,
            Argument::Word(word(OP, self.outputs)?),
            Argument::Word(word(OP, self.groups)?),
            Argument::Word(self.act.code()),
        ];
        let precision = env.precision();
        let launch = product::tiles(precision, large, rows, of_group, [self.groups as u64, 1]);
        env.start(OP, CONV, kernel(FORWARD[usize::from(large)], precision), launch, &arguments)
    }

    pub(super) fn backward_on(&self, env: &mut DeviceEnv<'_>, stores: [GradStore; 2]) -> Result<()> {
        super::activation::backward_on(env, self.act, self.output, self.kept.unwrap_or(self.output))?;
        if stores[0] == GradStore::Skip {
            return Ok(());
        }
        let (pixels, channels) = (env.rows(self.input) as u64, (self.windows.input.channels / self.groups) as u64);
        let arguments = [
            env.grad(self.output),
            env.param(self.weight),
            env.grad(self.input),
            Argument::Word64(pixels),
            self.windows.argument()?,
            Argument::Word(word(OP, self.outputs)?),
            Argument::Word(word(OP, self.groups)?),
            stores[0].argument(),
        ];
        let precision = env.precision();
        let launch = product::tiles(precision, false, pixels, channels, [self.groups as u64, 1]);
        env.start(OP, CONV, kernel(BACKWARD, precision), launch, &arguments)
    }

    pub(super) fn param_gradient_on(&self, env: &mut DeviceEnv<'_>, task: &DeviceTask) -> Result<()> {
        if task.which == 1 {
            return env.column_sums(OP, self.output, task);
        }
        let (of_group, terms) = ((self.outputs / self.groups) as u64, self.terms());
        word(OP, terms * self.groups)?;
        let partial = env.partial(task, self.outputs * terms)?;
        let arguments = [
            env.grad(self.output),
            env.data(self.input),
            env.bounds_of(self.output, task),
            partial,
            self.windows.argument()?,
            Argument::Word(word(OP, self.outputs)?),
            Argument::Word(word(OP, self.groups)?),
        ];
        let batch = [self.groups as u64, task.node.span() as u64];
        let precision = env.precision();
        let launch = product::tiles(precision, false, of_group, terms as u64, batch);
        env.start(OP, CONV, kernel(WEIGHT, precision), launch, &arguments)?;
        env.join(OP, task, partial, self.outputs * terms)
    }
}
