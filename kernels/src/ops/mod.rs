//! Operations: one per file, each with its shape checks, its dispatch to a device's loops and its
//! backward pass. `Op` is what the tape records.
//!
//! An operation works on a range of samples, that is on a range of rows of each value it touches, and what
//! it computes for a sample depends on that sample only; the gradients of parameters are sums over rows
//! and are computed apart, by `Op::param_gradient`, shard by shard in the order of the tree. The one
//! exception, an operation that couples samples, says so by `Op::couples`.

pub mod activation;
pub mod attention;
pub mod batchnorm;
pub mod binary;
pub mod columns;
pub mod conv;
pub mod dropout;
pub mod embedding;
pub mod gather;
pub mod image;
pub mod layernorm;
pub mod linear;
pub mod loss;
pub mod lstm;
pub mod pool;
pub mod reduce;
pub mod reshape;
pub mod scale;
pub mod softmax;
pub mod transpose;
pub mod window;

use crate::buffer::Shared;
use crate::cpu::gemm::Scratch;
use crate::cuda::Argument;
use crate::error::Result;
use crate::params::{ParamId, ParamStore};
use crate::pool::Pool;
use crate::shard::Node;
use crate::tape::{Items, Space};
use std::ops::Range;
use std::sync::Mutex;

pub use crate::cpu::activation::Activation;
pub(crate) use crate::tape::{DeviceEnv, DeviceTask};
pub use binary::Arithmetic;
pub use pool::Pooling;
pub use window::WindowPooling;

/// A value on the tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Var(pub(crate) usize);

/// An input that is read as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawId(pub(crate) usize);

/// Inputs of other element types than f32, and those that need no copy.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Raw<'a> {
    /// Token ids, categories, indices.
    Ids(&'a [u32]),
    /// Pixels as bytes.
    Bytes(&'a [u8]),
    /// Pixels as numbers.
    Floats(&'a [f32]),
}

/// What a backward pass does with the gradient of an operation's input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum GradStore {
    /// Nobody needs it.
    #[default]
    Skip,
    /// This operation is the first to write it.
    Set,
    /// Another has written: add.
    Add,
}

impl GradStore {
    /// What a device's kernels are told: whether to add.
    pub(crate) fn argument(self) -> Argument {
        Argument::Word(u32::from(self == GradStore::Add))
    }
}

/// Storage of one value while the tape runs: rows of `columns`, and the gradient in the same layout
/// (empty where none is needed).
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    pub data: Shared<f32>,
    pub grad: Shared<f32>,
    pub columns: usize,
    pub space: Space,
}

/// What operations see while the tape runs.
///
/// Safety of the slots: within a region each task owns a range of samples. It writes only their rows, of
/// outputs in the forward pass and of inputs' gradients in the backward pass.
pub(crate) struct Env<'a> {
    pub slots: &'a [Slot],
    pub spaces: &'a [Items],
    pub params: &'a ParamStore,
    pub sample_ids: &'a [u64],
    /// Seed of dropout and its step, epoch.
    pub randomness: Randomness,
    pub raws: &'a [Raw<'a>],
    /// Bounds of the logical shards in samples.
    pub shards: &'a [usize],
}

/// What addresses the random numbers of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Randomness {
    pub seed: u64,
    pub epoch: u64,
    pub step: u32,
}

impl Env<'_> {
    fn slot(&self, var: Var) -> Slot {
        self.slots[var.0]
    }

    /// The row space of a value.
    fn space(&self, var: Var) -> &Items {
        &self.spaces[self.slots[var.0].space.0]
    }

    /// The rows of a value that belong to a range of samples.
    fn rows_of(&self, var: Var, samples: &Range<usize>) -> Range<usize> {
        self.space(var).range(samples)
    }

    fn columns(&self, var: Var) -> usize {
        self.slots[var.0].columns
    }

    fn ids(&self, raw: RawId) -> &[u32] {
        match self.raws[raw.0] {
            Raw::Ids(ids) => ids,
            _ => unreachable!("invariant: held as ids"),
        }
    }

    fn span(&self, var: Var, rows: &Range<usize>) -> Range<usize> {
        let columns = self.slots[var.0].columns;
        rows.start * columns..rows.end * columns
    }

    /// Rows of a value that this task may read: inputs of the operation that runs.
    fn rows(&self, var: Var, rows: &Range<usize>) -> &[f32] {
        // SAFETY: a task reads rows that it owns, and nothing writes a value while an operation reads it.
        unsafe { self.slot(var).data.get(self.span(var, rows)) }
    }

    /// Rows of a value that this task writes: the output of the operation that runs.
    #[allow(clippy::mut_from_ref)]
    fn rows_mut(&self, var: Var, rows: &Range<usize>) -> &mut [f32] {
        // SAFETY: the task owns the rows, and an operation's output is none of its inputs.
        unsafe { self.slot(var).data.get_mut(self.span(var, rows)) }
    }

    fn grad(&self, var: Var, rows: &Range<usize>) -> &[f32] {
        // SAFETY: as in `rows`.
        unsafe { self.slot(var).grad.get(self.span(var, rows)) }
    }

    #[allow(clippy::mut_from_ref)]
    fn grad_mut(&self, var: Var, rows: &Range<usize>) -> &mut [f32] {
        // SAFETY: as in `rows_mut`.
        unsafe { self.slot(var).grad.get_mut(self.span(var, rows)) }
    }

    /// Rows of a gradient that nobody writes any more, of all rows of the rank.
    fn whole(&self, var: Var, rows: usize) -> (&[f32], &[f32]) {
        let span = self.span(var, &(0..rows));
        let slot = self.slot(var);
        // SAFETY: parameter gradients run in a region of their own, which only reads slots.
        unsafe { (slot.data.get(span.clone()), if slot.grad.is_empty() { &[] } else { slot.grad.get(span) }) }
    }
}

/// Passes a gradient on: `terms` into `out` as `store` says.
fn pass(store: GradStore, out: &mut [f32], terms: impl Iterator<Item = f32>) {
    match store {
        GradStore::Skip => {}
        GradStore::Set => out.iter_mut().zip(terms).for_each(|(o, t)| *o = t),
        GradStore::Add => out.iter_mut().zip(terms).for_each(|(o, t)| *o += t),
    }
}

/// The most parameters of one operation.
pub(crate) const MAX_PARAMS: usize = 5;

/// A recorded operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Linear(linear::Linear),
    Activation(activation::Activate),
    Binary(binary::Binary),
    Scale(scale::Scale),
    Dropout(dropout::Dropout),
    LayerNorm(layernorm::LayerNorm),
    BatchNorm(batchnorm::BatchNorm),
    Embedding(embedding::Embedding),
    Attention(attention::Attention),
    Softmax(softmax::Softmax),
    Pool(pool::Pool),
    Reduce(reduce::Reduce),
    Columns(columns::Columns),
    Reshape(reshape::Reshape),
    Transpose(transpose::Transpose),
    Gather(gather::Gather),
    Image(image::Image),
    Conv(conv::Conv),
    Window(window::WindowPool),
    Lstm(lstm::Lstm),
}

/// Delegates to the operation's own method.
macro_rules! each {
    ($self:ident, $op:ident => $call:expr) => {
        match $self {
            Op::Linear($op) => $call,
            Op::Activation($op) => $call,
            Op::Binary($op) => $call,
            Op::Scale($op) => $call,
            Op::Dropout($op) => $call,
            Op::LayerNorm($op) => $call,
            Op::BatchNorm($op) => $call,
            Op::Embedding($op) => $call,
            Op::Attention($op) => $call,
            Op::Softmax($op) => $call,
            Op::Pool($op) => $call,
            Op::Reduce($op) => $call,
            Op::Columns($op) => $call,
            Op::Reshape($op) => $call,
            Op::Transpose($op) => $call,
            Op::Gather($op) => $call,
            Op::Image($op) => $call,
            Op::Conv($op) => $call,
            Op::Window($op) => $call,
            Op::Lstm($op) => $call,
        }
    };
}

impl Op {
    /// For messages, such as `linear layers.0`.
    pub(crate) fn describe(&self, params: &ParamStore) -> String {
        let kind = match self {
            Op::Linear(_) => "linear",
            Op::Activation(op) => return format!("{:?}", op.act).to_lowercase(),
            Op::Binary(op) => op.kind.name(),
            Op::Scale(_) => "scale",
            Op::Dropout(_) => "dropout",
            Op::LayerNorm(_) => "layer_norm",
            Op::BatchNorm(_) => "batch_norm",
            Op::Embedding(_) => "embedding",
            Op::Attention(_) => "attention",
            Op::Softmax(_) => "softmax",
            Op::Pool(_) => "pool",
            Op::Reduce(_) => "reduce",
            Op::Columns(_) => "columns",
            Op::Reshape(_) => "reshape",
            Op::Transpose(_) => "transpose",
            Op::Gather(_) => "gather",
            Op::Image(_) => "image",
            Op::Conv(_) => "conv2d",
            Op::Window(_) => "pool2d",
            Op::Lstm(_) => "lstm",
        };
        match self.params().into_iter().flatten().next() {
            Some(id) => {
                let name = &params.param(id).name;
                format!("{kind} {}", name.rsplit_once('.').map_or(name.as_str(), |(layer, _)| layer))
            }
            None => kind.into(),
        }
    }

    pub(crate) fn output(&self) -> Var {
        each!(self, op => op.output)
    }

    pub(crate) fn inputs(&self) -> [Option<Var>; 2] {
        match self {
            Op::Binary(op) => [Some(op.left), Some(op.right)],
            Op::LayerNorm(op) => [Some(op.input), op.residual],
            Op::Embedding(_) | Op::Image(_) => [None, None],
            Op::Linear(op) => [Some(op.input), None],
            Op::Activation(op) => [Some(op.input), None],
            Op::Scale(op) => [Some(op.input), None],
            Op::Dropout(op) => [Some(op.input), None],
            Op::BatchNorm(op) => [Some(op.input), None],
            Op::Attention(op) => [Some(op.input), None],
            Op::Softmax(op) => [Some(op.input), None],
            Op::Pool(op) => [Some(op.input), None],
            Op::Reduce(op) => [Some(op.input), None],
            Op::Columns(op) => [Some(op.input), None],
            Op::Reshape(op) => [Some(op.input), None],
            Op::Transpose(op) => [Some(op.input), None],
            Op::Gather(op) => [Some(op.input), None],
            Op::Conv(op) => [Some(op.input), None],
            Op::Window(op) => [Some(op.input), None],
            Op::Lstm(op) => [Some(op.input), None],
        }
    }

    pub(crate) fn params(&self) -> [Option<ParamId>; MAX_PARAMS] {
        match self {
            Op::Linear(op) => [Some(op.weight), op.bias, None, None, None],
            Op::Conv(op) => [Some(op.weight), op.bias, None, None, None],
            Op::LayerNorm(op) => [Some(op.gain), Some(op.bias), None, None, None],
            Op::Lstm(op) => [Some(op.weight), op.bias, None, None, None],
            Op::BatchNorm(op) => op.params(),
            Op::Embedding(op) => op.params(),
            _ => [None; MAX_PARAMS],
        }
    }

    pub(crate) fn forward(&self, env: &Env<'_>, samples: Range<usize>, scratch: &mut Scratch) {
        each!(self, op => op.forward(env, samples, scratch));
    }

    /// From the gradient of the output to those of the inputs; may replace the former by the gradient
    /// that [`Op::param_gradient`] needs.
    pub(crate) fn backward(&self, env: &Env<'_>, samples: Range<usize>, stores: [GradStore; 2], scratch: &mut Scratch) {
        each!(self, op => op.backward(env, samples, stores, scratch));
    }

    /// Whether what it computes for a sample depends on other samples: it ends a segment.
    pub(crate) fn couples(&self) -> bool {
        matches!(self, Op::BatchNorm(op) if op.statistics.is_some())
    }

    /// Whether samples of one task go through it step by step together, so that more of them cost less.
    pub(crate) fn steps_together(&self) -> bool {
        matches!(self, Op::Lstm(_))
    }

    /// What an operation that couples does between segments, forward.
    pub(crate) fn couple_forward(&self, env: &Env<'_>, pool: &Pool, scratch: &[Mutex<Scratch>]) {
        if let Op::BatchNorm(op) = self {
            op.couple_forward(env, pool, scratch);
        }
    }

    /// The same, backward.
    pub(crate) fn couple_backward(&self, env: &Env<'_>, pool: &Pool, scratch: &[Mutex<Scratch>]) {
        if let Op::BatchNorm(op) = self {
            op.couple_backward(env, pool, scratch);
        }
    }

    /// Rough cost of a row in multiply-adds, to choose how finely to cut.
    pub(crate) fn cost(&self, env: &Env<'_>) -> usize {
        match self {
            Op::Linear(op) => op.inputs * op.outputs,
            Op::Conv(op) => op.cost(),
            Op::Lstm(op) => 4 * op.hidden * op.hidden,
            Op::Attention(op) => 64 * env.columns(op.output),
            other => 8 * env.columns(other.output()),
        }
    }

    /// Rows of a parameter of this shape that one gradient task takes, for a batch of `rows`.
    pub(crate) fn block_rows(&self, which: usize, shape: &[usize], rows: usize) -> usize {
        /// Multiply-adds of a task that is worth handing out.
        const WORTH: usize = 1 << 20;
        match self {
            Op::Conv(op) if which == 0 => op.block_rows(rows),
            Op::Embedding(_) => (WORTH / shape[1].max(1)).max(1),
            _ if shape.len() < 2 => shape[0],
            _ => (WORTH / (shape[1] * rows + 1)).clamp(1, 1 << 20).next_multiple_of(12),
        }
    }

    /// [`Op::forward`] of all samples on a device, coupled or not.
    pub(crate) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        each!(self, op => op.forward_on(env))
    }

    /// [`Op::backward`] of all samples on a device, coupled or not.
    pub(crate) fn backward_on(&self, env: &mut DeviceEnv<'_>, stores: [GradStore; 2]) -> Result<()> {
        each!(self, op => op.backward_on(env, stores))
    }

    /// The whole of one parameter's gradient on a device, summed over the node's shards.
    pub(crate) fn param_gradient_on(&self, env: &mut DeviceEnv<'_>, task: &DeviceTask) -> Result<()> {
        match self {
            Op::Linear(op) => op.param_gradient_on(env, task),
            Op::LayerNorm(op) => op.param_gradient_on(env, task),
            Op::BatchNorm(op) => op.param_gradient_on(env, task),
            Op::Embedding(op) => op.param_gradient_on(env, task),
            Op::Conv(op) => op.param_gradient_on(env, task),
            Op::Lstm(op) => op.param_gradient_on(env, task),
            _ => unreachable!("invariant: an operation with parameters"),
        }
    }

    /// Writes a block of one parameter's gradient, summed over the node's shards.
    pub(crate) fn param_gradient(&self, env: &Env<'_>, task: &ParamTask<'_>, scratch: &mut Scratch) {
        match self {
            Op::Linear(op) => op.param_gradient(env, task, scratch),
            Op::LayerNorm(op) => op.param_gradient(env, task, scratch),
            Op::BatchNorm(op) => op.param_gradient(env, task, scratch),
            Op::Embedding(op) => op.param_gradient(env, task, scratch),
            Op::Conv(op) => op.param_gradient(env, task, scratch),
            Op::Lstm(op) => op.param_gradient(env, task, scratch),
            _ => unreachable!("invariant: an operation with parameters"),
        }
    }

    /// The squared norm of one sample's gradient of a parameter, where a closed form spares forming it.
    pub(crate) fn sample_squares(&self, env: &Env<'_>, which: usize, sample: usize) -> Option<f64> {
        match self {
            Op::Linear(op) => op.sample_squares(env, which, sample),
            Op::Embedding(op) => Some(op.sample_squares(env, which, sample)),
            Op::Lstm(op) => op.sample_squares(env, which, sample),
            _ => None,
        }
    }
}

/// A block of the gradient of one of an operation's parameters.
pub(crate) struct ParamTask<'a> {
    /// Which of [`Op::params`].
    pub which: usize,
    /// Rows of the parameter ([out, in]: of out).
    pub block: Range<usize>,
    /// All rows of the rank, in the space of the operation's output.
    pub rows: usize,
    /// Bounds of the node's shards among those rows.
    pub bounds: &'a [usize],
    /// Bounds of the node's shards among the samples.
    pub samples: &'a [usize],
    pub node: Node,
    /// The parameter's part of the node's gradient.
    pub out: Shared<f32>,
}
