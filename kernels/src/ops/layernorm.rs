//! Layer normalization over the columns of each row, with gain and bias; a residual is added before it in
//! the same pass (post-norm transformers).

use super::{DeviceEnv, DeviceTask, Env, GradStore, Op, ParamTask, Var};
use crate::cpu;
use crate::cpu::gemm::{Matrix, Scratch};
use crate::cpu::reduce::{Summand, add_assign, column_sums};
use crate::cuda::machine::word;
use crate::cuda::{self, Argument, ELEMENTWISE, LAYER_NORM, Launch};
use crate::error::{Error, Result};
use crate::params::ParamId;
use crate::tape::Tape;
use std::ops::Range;

const OP: &str = "layer_norm";

/// Added to the variance unless told otherwise.
pub const EPSILON: f32 = 1e-5;

/// One recorded norm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerNorm {
    pub input: Var,
    pub residual: Option<Var>,
    /// Input plus residual, where there is one.
    sum: Option<Var>,
    pub output: Var,
    /// (mean, inverse deviation) per row.
    statistics: Var,
    pub gain: ParamId,
    pub bias: ParamId,
    columns: usize,
    epsilon: f32,
}

impl Tape<'_> {
    /// (x - mean) / sqrt(var + 1e-5) * gain + bias per row; gain and bias `[columns]`. `Shape` errors name the sizes.
    pub fn layer_norm(&mut self, x: Var, gain: ParamId, bias: ParamId) -> Result<Var> {
        self.layer_norm_of_sum(x, None, gain, bias, EPSILON)
    }

    /// The norm of x + residual, with this epsilon.
    pub fn layer_norm_of_sum(
        &mut self,
        x: Var,
        residual: Option<Var>,
        gain: ParamId,
        bias: ParamId,
        epsilon: f32,
    ) -> Result<Var> {
        let columns = self.columns(x);
        for id in [gain, bias] {
            let param = self.params().param(id);
            if param.shape != [columns] {
                return Err(Error::shape(
                    "layer_norm",
                    format!("{} [{columns}]", param.name),
                    format!("{:?}", param.shape),
                ));
            }
        }
        if let Some(other) = residual
            && (self.columns(other) != columns || self.space(other) != self.space(x))
        {
            let got = format!("{} columns of {:?}", self.columns(other), self.space(other));
            return Err(Error::shape("layer_norm", format!("a residual of {columns} columns and the same rows"), got));
        }
        let sum = residual.map(|_| self.fresh_like(x, columns)).transpose()?;
        let (output, statistics) = (self.fresh_like(x, columns)?, self.fresh_like(x, 2)?);
        self.record(Op::LayerNorm(LayerNorm {
            input: x,
            residual,
            sum,
            output,
            statistics,
            gain,
            bias,
            columns,
            epsilon,
        }))?;
        Ok(output)
    }
}

impl LayerNorm {
    fn normalized(&self) -> Var {
        self.sum.unwrap_or(self.input)
    }

    pub(super) fn forward(&self, env: &Env<'_>, samples: Range<usize>, _: &mut Scratch) {
        let rows = env.rows_of(self.output, &samples);
        let (gain, bias) = (env.params.values(self.gain), env.params.values(self.bias));
        if let (Some(sum), Some(residual)) = (self.sum, self.residual) {
            cpu::layernorm::sums(env.rows(self.input, &rows), env.rows(residual, &rows), env.rows_mut(sum, &rows));
        }
        let (x, y) = (env.rows(self.normalized(), &rows), env.rows_mut(self.output, &rows));
        cpu::layernorm::forward(x, gain, bias, self.epsilon, y, env.rows_mut(self.statistics, &rows));
    }

    pub(super) fn backward(&self, env: &Env<'_>, samples: Range<usize>, stores: [GradStore; 2], scratch: &mut Scratch) {
        let rows = env.rows_of(self.output, &samples);
        let gain = env.params.values(self.gain);
        let (grad, x) = (env.grad(self.output, &rows), env.rows(self.normalized(), &rows));
        let statistics = env.rows(self.statistics, &rows);
        let targets = [Some(self.input), self.residual];
        let set = (0..2).find(|&i| stores[i] == GradStore::Set).and_then(|i| targets[i].map(|var| (i, var)));
        let from: &[f32] = if let Some((_, var)) = set {
            let out = env.grad_mut(var, &rows);
            cpu::layernorm::backward(grad, x, gain, statistics, out);
            out
        } else if stores != [GradStore::Skip; 2] {
            scratch.product.resize(grad.len(), 0.0);
            cpu::layernorm::backward(grad, x, gain, statistics, &mut scratch.product);
            &scratch.product
        } else {
            return;
        };
        for (i, var) in targets.into_iter().enumerate() {
            let Some(var) = var.filter(|_| set.is_none_or(|(first, _)| first != i)) else { continue };
            match stores[i] {
                GradStore::Skip => {}
                GradStore::Set => env.grad_mut(var, &rows).copy_from_slice(from),
                GradStore::Add => add_assign(env.grad_mut(var, &rows), from),
            }
        }
    }

    pub(super) fn param_gradient(&self, env: &Env<'_>, task: &ParamTask<'_>, scratch: &mut Scratch) {
        let grad = Matrix::dense(env.whole(self.output, task.rows).1, task.rows, self.columns);
        let (x, statistics) = (env.whole(self.normalized(), task.rows).0, env.whole(self.statistics, task.rows).0);
        let summand = if task.which == 0 { Summand::Normalized { x, statistics } } else { Summand::Plain };
        // SAFETY: blocks of parameter gradients are disjoint.
        let out = unsafe { task.out.get_mut(task.block.clone()) };
        column_sums(grad, summand, task.bounds, out, &mut scratch.stack);
    }
}

impl LayerNorm {
    pub(super) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        let (rows, columns) = (env.rows(self.output) as u64, word(OP, self.columns)?);
        if let (Some(sum), Some(residual)) = (self.sum, self.residual) {
            let count = env.count(sum);
            let sides = [env.data(self.input), env.data(residual), env.data(sum)];
            let arguments = [sides[0], sides[1], sides[2], Argument::Word64(count), Argument::Word(0)];
            env.start(OP, ELEMENTWISE, "arithmetic_forward", Launch::over(OP, count, 256), &arguments)?;
        }
        let arguments = [
            env.data(self.normalized()),
            env.param(self.gain),
            env.param(self.bias),
            Argument::Float(self.epsilon),
            env.data(self.output),
            env.data(self.statistics),
            Argument::Word64(rows),
            Argument::Word(columns),
        ];
        env.start(OP, LAYER_NORM, "layer_norm_forward", cuda::layernorm::rows(rows, columns), &arguments)
    }

    pub(super) fn backward_on(&self, env: &mut DeviceEnv<'_>, stores: [GradStore; 2]) -> Result<()> {
        let (rows, columns) = (env.rows(self.output) as u64, word(OP, self.columns)?);
        for (var, store) in [Some(self.input), self.residual].into_iter().zip(stores) {
            let Some(var) = var.filter(|_| store != GradStore::Skip) else { continue };
            let arguments = [
                env.grad(self.output),
                env.data(self.normalized()),
                env.param(self.gain),
                env.data(self.statistics),
                env.grad(var),
                Argument::Word64(rows),
                Argument::Word(columns),
                store.argument(),
            ];
            env.start(OP, LAYER_NORM, "layer_norm_backward", cuda::layernorm::rows(rows, columns), &arguments)?;
        }
        Ok(())
    }

    pub(super) fn param_gradient_on(&self, env: &mut DeviceEnv<'_>, task: &DeviceTask) -> Result<()> {
        if task.which == 1 {
            return env.column_sums(OP, self.output, task);
        }
        let partial = env.partial(task, self.columns)?;
        let arguments = [
            env.grad(self.output),
            env.data(self.normalized()),
            env.data(self.statistics),
            env.bounds_of(self.output, task),
            partial,
            Argument::Word(word(OP, self.columns)?),
        ];
        let launch = Launch::down_columns(OP, self.columns as u64, task.node.span() as u64, 4);
        env.start(OP, LAYER_NORM, "layer_norm_gains", launch, &arguments)?;
        env.join(OP, task, partial, self.columns)
    }
}
