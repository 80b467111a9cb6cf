//! y = act(x W^T + b), W [out, in]: the product, bias and activation in one operation.

use super::{DeviceEnv, DeviceTask, Env, GradStore, ParamTask, Var, activation};
use crate::cpu::activation::{self as loops, Activation};
use crate::cpu::gemm::{DOT_BELOW, Matrix, Right, Scratch, ShardProduct, dot, product, product_by_dots, shard_product};
use crate::cpu::reduce::{Summand, add_assign, column_sums};
use crate::cuda::machine::word;
use crate::cuda::product::{Names, kernel};
use crate::cuda::{Argument, PRODUCT, product};
use crate::error::{Error, Result};
use crate::params::{ParamId, ParamStore};
use crate::tape::Tape;
use std::ops::Range;

/// Kernels for small and for large results.
const FORWARD: [Names; 2] = [
    ["linear_forward", "linear_forward_bf16", "linear_forward_f16"],
    ["linear_forward_large", "linear_forward_large_bf16", "linear_forward_large_f16"],
];
const BACKWARD: [Names; 2] = [
    ["linear_backward", "linear_backward_bf16", "linear_backward_f16"],
    ["linear_backward_large", "linear_backward_large_bf16", "linear_backward_large_f16"],
];
const WEIGHT: [Names; 2] = [
    ["linear_weight", "linear_weight_bf16", "linear_weight_f16"],
    ["linear_weight_large", "linear_weight_large_bf16", "linear_weight_large_f16"],
];

/// One recorded linear layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear {
    pub input: Var,
    pub output: Var,
    /// The activation's input, kept where its derivative needs it.
    kept: Option<Var>,
    pub weight: ParamId,
    pub bias: Option<ParamId>,
    act: Activation,
    pub inputs: usize,
    pub outputs: usize,
}

impl Tape<'_> {
    /// act(x W^T + b): x `[rows, in]`, W `[out, in]`, b `[out]`; gives `[rows, out]`. `Shape` errors name the sizes.
    pub fn linear(&mut self, x: Var, weight: ParamId, bias: Option<ParamId>, act: Activation) -> Result<Var> {
        let [outputs, inputs] = *self.params().param(weight).shape.as_slice() else {
            return Err(Error::shape(
                "linear",
                "a weight [out, in]",
                format!("{:?}", self.params().param(weight).shape),
            ));
        };
        if self.columns(x) != inputs {
            return Err(Error::shape("linear", format!("inputs of {inputs} columns"), self.columns(x).to_string()));
        }
        if let Some(bias) = bias
            && self.params().param(bias).shape != [outputs]
        {
            return Err(Error::shape(
                "linear",
                format!("a bias [{outputs}]"),
                format!("{:?}", self.params().param(bias).shape),
            ));
        }
        let output = self.fresh_like(x, outputs)?;
        let kept = if act.needs_input() && self.wants_gradients() { Some(self.fresh_like(x, outputs)?) } else { None };
        self.record(super::Op::Linear(Linear { input: x, output, kept, weight, bias, act, inputs, outputs }))?;
        Ok(output)
    }
}

impl Linear {
    fn weights<'a>(&self, params: &'a ParamStore) -> &'a [f32] {
        params.values(self.weight)
    }

    pub(super) fn forward(&self, env: &Env<'_>, samples: Range<usize>, scratch: &mut Scratch) {
        let rows = env.rows_of(self.input, &samples);
        let x = Matrix::dense(env.rows(self.input, &rows), rows.len(), self.inputs);
        let y = env.rows_mut(self.output, &rows);
        if self.outputs < DOT_BELOW {
            product_by_dots(x, self.weights(env.params), self.outputs, y);
        } else {
            let b = Right::Packed { panels: env.params.packed(self.weight), n: self.outputs, k: self.inputs };
            product(x, b, y, &mut scratch.edge);
        }
        let kept = self.kept.map(|var| env.rows_mut(var, &rows));
        loops::forward(self.act, y, self.bias.map(|b| env.params.values(b)), kept);
    }

    pub(super) fn backward(&self, env: &Env<'_>, samples: Range<usize>, stores: [GradStore; 2], scratch: &mut Scratch) {
        let rows = env.rows_of(self.input, &samples);
        let grad = env.grad_mut(self.output, &rows);
        loops::backward(self.act, grad, env.rows(self.kept.unwrap_or(self.output), &rows));
        if stores[0] == GradStore::Skip {
            return;
        }
        let grad = Matrix::dense(grad, rows.len(), self.outputs);
        let w = Right::Rows(Matrix::dense(self.weights(env.params), self.outputs, self.inputs));
        let out = env.grad_mut(self.input, &rows);
        if stores[0] == GradStore::Set {
            return product(grad, w, out, &mut scratch.edge);
        }
        scratch.product.resize(out.len(), 0.0);
        product(grad, w, &mut scratch.product, &mut scratch.edge);
        add_assign(out, &scratch.product);
    }

    pub(super) fn param_gradient(&self, env: &Env<'_>, task: &ParamTask<'_>, scratch: &mut Scratch) {
        let grad = Matrix::dense(env.whole(self.output, task.rows).1, task.rows, self.outputs);
        if task.which == 1 {
            // SAFETY: blocks of parameter gradients are disjoint.
            let out = unsafe { task.out.get_mut(task.block.clone()) };
            return column_sums(grad, Summand::Plain, task.bounds, out, &mut scratch.stack);
        }
        let x = Matrix::dense(env.whole(self.input, task.rows).0, task.rows, self.inputs);
        let (from, to) = (task.block.start, task.block.end);
        // SAFETY: as above.
        let out = unsafe { task.out.get_mut(from * self.inputs..to * self.inputs) };
        shard_product(&ShardProduct { a: grad, b: x, bounds: task.bounds, node: task.node }, from, to, out, scratch);
    }

    /// The gradient of one sample is the sum of dy_i x_i^T over its rows i, so its squared norm is the sum of
    /// (dy_i . dy_j) (x_i . x_j) over pairs (Li et al. 2022); for a single row |dy|^2 |x|^2. None where forming
    /// the gradient is less work.
    pub(super) fn sample_squares(&self, env: &Env<'_>, which: usize, sample: usize) -> Option<f64> {
        let rows = env.rows_of(self.input, &(sample..sample + 1));
        if rows.len() > 1 && (which == 1 || pairs_cost_more(rows.len(), self.inputs, self.outputs)) {
            return None;
        }
        let (grad, x) = (|i: usize| env.grad(self.output, &(i..i + 1)), |i: usize| env.rows(self.input, &(i..i + 1)));
        let both = |i: usize, j: usize| {
            let product = f64::from(dot(grad(i), grad(j)));
            if which == 1 { product } else { product * f64::from(dot(x(i), x(j))) }
        };
        Some(pair_sum(rows, both))
    }
}

/// Whether going by pairs of rows is more work than forming the gradient [outputs, inputs] of a sample.
pub(super) fn pairs_cost_more(rows: usize, inputs: usize, outputs: usize) -> bool {
    rows * (inputs + outputs) > inputs * outputs
}

/// The sum over all ordered pairs of a symmetric term.
pub(super) fn pair_sum(rows: Range<usize>, term: impl Fn(usize, usize) -> f64) -> f64 {
    let mut sum = 0.0;
    for i in rows.clone() {
        sum += term(i, i) + 2.0 * (rows.start..i).map(|j| term(i, j)).sum::<f64>();
    }
    sum
}

impl Linear {
    pub(super) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        let (rows, columns) = (env.rows(self.input) as u64, self.outputs as u64);
        let large = product::is_large(rows, columns);
        let arguments = [
            env.data(self.input),
            env.param(self.weight),
            env.param_or_none(self.bias),
            env.data(self.output),
            env.data_or_none(self.kept),
            Argument::Word64(rows),
            Argument::Word(word("linear", self.outputs)?),
            Argument::Word(word("linear", self.inputs)?),
            Argument::Word(self.act.code()),
        ];
        let (precision, launch) = (env.precision(), product::tiles(env.precision(), large, rows, columns, [1, 1]));
        env.start("linear", PRODUCT, kernel(FORWARD[usize::from(large)], precision), launch, &arguments)
    }

    pub(super) fn backward_on(&self, env: &mut DeviceEnv<'_>, stores: [GradStore; 2]) -> Result<()> {
        activation::backward_on(env, self.act, self.output, self.kept.unwrap_or(self.output))?;
        if stores[0] == GradStore::Skip {
            return Ok(());
        }
        let (rows, columns) = (env.rows(self.input) as u64, self.inputs as u64);
        let large = product::is_large(rows, columns);
        let arguments = [
            env.grad(self.output),
            env.param(self.weight),
            env.grad(self.input),
            Argument::Word64(rows),
            Argument::Word(word("linear", self.outputs)?),
            Argument::Word(word("linear", self.inputs)?),
            stores[0].argument(),
        ];
        let (precision, launch) = (env.precision(), product::tiles(env.precision(), large, rows, columns, [1, 1]));
        env.start("linear", PRODUCT, kernel(BACKWARD[usize::from(large)], precision), launch, &arguments)
    }

    pub(super) fn param_gradient_on(&self, env: &mut DeviceEnv<'_>, task: &DeviceTask) -> Result<()> {
        if task.which == 1 {
            return env.column_sums("linear", self.output, task);
        }
        let (grad, x) = (env.grad(self.output), env.data(self.input));
        weight_gradient_on("linear", env, task, self.output, (grad, self.outputs), (x, self.inputs))
    }
}

/// The sum over a node's shards of grad^T x, [outputs, inputs]; both have the rows of `space`.
pub(super) fn weight_gradient_on(
    op: &'static str,
    env: &mut DeviceEnv<'_>,
    task: &DeviceTask,
    space: Var,
    (grad, outputs): (Argument, usize),
    (x, inputs): (Argument, usize),
) -> Result<()> {
    let large = product::is_large(outputs as u64, inputs as u64);
    let partial = env.partial(task, outputs * inputs)?;
    let bounds = env.bounds_of(space, task);
    let arguments = [grad, x, bounds, partial, Argument::Word(word(op, outputs)?), Argument::Word(word(op, inputs)?)];
    let batch = [task.node.span() as u64, 1];
    let launch = product::tiles(env.precision(), large, outputs as u64, inputs as u64, batch);
    env.start(op, PRODUCT, kernel(WEIGHT[usize::from(large)], env.precision()), launch, &arguments)?;
    env.join(op, task, partial, outputs * inputs)
}
