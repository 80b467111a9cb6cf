//! Operations: one per file, each with its shape checks, its dispatch to a device's loops and its
//! backward pass. `Op` is what the tape records.
//!
//! An operation works on a range of rows, and what it computes for a row depends on that row only; the
//! gradients of parameters are sums over rows and are computed apart, by `Op::param_gradient`, shard by
//! shard in the order of the tree.

pub mod activation;
pub mod add;
pub mod dropout;
pub mod layernorm;
pub mod linear;
pub mod loss;

use crate::buffer::Shared;
use crate::cpu::gemm::Scratch;
use crate::params::{ParamId, ParamStore};
use crate::shard::Node;
use std::ops::Range;

pub use crate::cpu::activation::Activation;

/// A value on the tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Var(pub(crate) usize);

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

/// Storage of one value while the tape runs: rows of `columns`, and the gradient in the same layout
/// (empty where none is needed).
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    pub data: Shared<f32>,
    pub grad: Shared<f32>,
    pub columns: usize,
}

/// What operations see while the tape runs.
///
/// Safety of the slots: within a region each task owns a range of rows. It writes only those rows, of
/// outputs in the forward pass and of inputs' gradients in the backward pass.
pub(crate) struct Env<'a> {
    pub slots: &'a [Slot],
    pub params: &'a ParamStore,
    pub sample_ids: &'a [u64],
    /// Seed of dropout and its step, epoch.
    pub randomness: Randomness,
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

/// A recorded operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Linear(linear::Linear),
    Activation(activation::Activate),
    Add(add::Add),
    Dropout(dropout::Dropout),
    LayerNorm(layernorm::LayerNorm),
}

/// Delegates to the operation's own method.
macro_rules! each {
    ($self:ident, $op:ident => $call:expr) => {
        match $self {
            Op::Linear($op) => $call,
            Op::Activation($op) => $call,
            Op::Add($op) => $call,
            Op::Dropout($op) => $call,
            Op::LayerNorm($op) => $call,
        }
    };
}

impl Op {
    /// For messages, such as `linear layers.0`.
    pub(crate) fn describe(&self, params: &ParamStore) -> String {
        let named = |op: &str, id: ParamId| {
            let name = &params.param(id).name;
            format!("{op} {}", name.rsplit_once('.').map_or(name.as_str(), |(layer, _)| layer))
        };
        match self {
            Op::Linear(op) => named("linear", op.weight),
            Op::LayerNorm(op) => named("layer_norm", op.gain),
            Op::Activation(op) => format!("{:?}", op.act).to_lowercase(),
            Op::Add(_) => "add".into(),
            Op::Dropout(_) => "dropout".into(),
        }
    }

    pub(crate) fn output(&self) -> Var {
        each!(self, op => op.output)
    }

    pub(crate) fn inputs(&self) -> [Option<Var>; 2] {
        match self {
            Op::Add(op) => [Some(op.left), Some(op.right)],
            Op::Linear(op) => [Some(op.input), None],
            Op::Activation(op) => [Some(op.input), None],
            Op::Dropout(op) => [Some(op.input), None],
            Op::LayerNorm(op) => [Some(op.input), None],
        }
    }

    pub(crate) fn params(&self) -> [Option<ParamId>; 2] {
        match self {
            Op::Linear(op) => [Some(op.weight), op.bias],
            Op::LayerNorm(op) => [Some(op.gain), Some(op.bias)],
            _ => [None, None],
        }
    }

    pub(crate) fn forward(&self, env: &Env<'_>, rows: Range<usize>, scratch: &mut Scratch) {
        each!(self, op => op.forward(env, rows, scratch));
    }

    /// From the gradient of the output to those of the inputs; may replace the former by the gradient
    /// that [`Op::param_gradient`] needs.
    pub(crate) fn backward(&self, env: &Env<'_>, rows: Range<usize>, stores: [GradStore; 2], scratch: &mut Scratch) {
        each!(self, op => op.backward(env, rows, stores, scratch));
    }

    /// Rough cost of a row in multiply-adds, to choose how finely to cut.
    pub(crate) fn cost(&self, env: &Env<'_>) -> usize {
        match self {
            Op::Linear(op) => op.inputs * op.outputs,
            other => 8 * env.slots[other.output().0].columns,
        }
    }

    /// Writes a block of one parameter's gradient, summed over the node's shards.
    pub(crate) fn param_gradient(&self, env: &Env<'_>, task: &ParamTask<'_>, scratch: &mut Scratch) {
        match self {
            Op::Linear(op) => op.param_gradient(env, task, scratch),
            Op::LayerNorm(op) => op.param_gradient(env, task, scratch),
            Op::Activation(_) | Op::Add(_) | Op::Dropout(_) => {}
        }
    }
}

/// A block of the gradient of one of an operation's parameters.
pub(crate) struct ParamTask<'a> {
    /// Which of [`Op::params`].
    pub which: usize,
    /// Rows of the parameter ([out, in]: of out).
    pub block: Range<usize>,
    /// All rows of the rank.
    pub rows: usize,
    /// Row bounds of the node's shards within the rank's rows.
    pub bounds: &'a [usize],
    pub node: Node,
    /// The node's gradient, in the layout of the parameter store.
    pub out: Shared<f32>,
}
