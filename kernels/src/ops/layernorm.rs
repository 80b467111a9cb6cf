//! Layer normalization over the columns of each row, with gain and bias.

use super::{Env, GradStore, Op, ParamTask, Var};
use crate::cpu;
use crate::cpu::gemm::{Matrix, Scratch};
use crate::cpu::reduce::{Summand, add_assign, column_sums};
use crate::error::{Error, Result};
use crate::params::ParamId;
use crate::tape::Tape;
use std::ops::Range;

/// One recorded norm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerNorm {
    pub input: Var,
    pub output: Var,
    /// (mean, inverse deviation) per row.
    statistics: Var,
    pub gain: ParamId,
    pub bias: ParamId,
    columns: usize,
}

impl Tape<'_> {
    /// (x - mean) / sqrt(var + 1e-5) * gain + bias per row; gain and bias `[columns]`. `Shape` errors name the sizes.
    pub fn layer_norm(&mut self, x: Var, gain: ParamId, bias: ParamId) -> Result<Var> {
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
        let (output, statistics) = (self.fresh(columns)?, self.fresh(2)?);
        self.record(Op::LayerNorm(LayerNorm { input: x, output, statistics, gain, bias, columns }))?;
        Ok(output)
    }
}

impl LayerNorm {
    pub(super) fn forward(&self, env: &Env<'_>, rows: Range<usize>, _: &mut Scratch) {
        let (gain, bias) = (env.params.values(self.gain), env.params.values(self.bias));
        for row in rows {
            let one = row..row + 1;
            let (mean, inverse) =
                cpu::layernorm::forward(env.rows(self.input, &one), gain, bias, env.rows_mut(self.output, &one));
            env.rows_mut(self.statistics, &one).copy_from_slice(&[mean, inverse]);
        }
    }

    pub(super) fn backward(&self, env: &Env<'_>, rows: Range<usize>, stores: [GradStore; 2], scratch: &mut Scratch) {
        if stores[0] == GradStore::Skip {
            return;
        }
        let gain = env.params.values(self.gain);
        scratch.product.resize(self.columns, 0.0);
        for row in rows {
            let one = row..row + 1;
            let (grad, x, statistics) =
                (env.grad(self.output, &one), env.rows(self.input, &one), env.rows(self.statistics, &one));
            let out = env.grad_mut(self.input, &one);
            if stores[0] == GradStore::Set {
                cpu::layernorm::backward(grad, x, gain, statistics[0], statistics[1], out);
            } else {
                cpu::layernorm::backward(grad, x, gain, statistics[0], statistics[1], &mut scratch.product);
                add_assign(out, &scratch.product);
            }
        }
    }

    pub(super) fn param_gradient(&self, env: &Env<'_>, task: &ParamTask<'_>, scratch: &mut Scratch) {
        let grad = Matrix::dense(env.whole(self.output, task.rows).1, task.rows, self.columns);
        let (x, statistics) = (env.whole(self.input, task.rows).0, env.whole(self.statistics, task.rows).0);
        let summand = if task.which == 0 { Summand::Normalized { x, statistics } } else { Summand::Plain };
        // SAFETY: blocks of parameter gradients are disjoint.
        let out = unsafe { task.out.get_mut(task.block.clone()) };
        column_sums(grad, summand, task.bounds, out, &mut scratch.stack);
    }
}
