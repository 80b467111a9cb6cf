//! An activation on its own, where it does not follow a product at once.

use super::{Env, GradStore, Op, Var};
use crate::cpu::activation::{self, Activation};
use crate::cpu::gemm::Scratch;
use crate::cpu::reduce::add_assign;
use crate::error::Result;
use crate::tape::Tape;
use std::ops::Range;

/// One recorded activation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Activate {
    pub input: Var,
    pub output: Var,
    pub act: Activation,
}

impl Tape<'_> {
    /// act(x), element by element.
    pub fn activation(&mut self, x: Var, act: Activation) -> Result<Var> {
        let output = self.fresh_like(x, self.columns(x))?;
        self.record(Op::Activation(Activate { input: x, output, act }))?;
        Ok(output)
    }
}

impl Activate {
    pub(super) fn forward(&self, env: &Env<'_>, samples: Range<usize>, _: &mut Scratch) {
        let rows = env.rows_of(self.input, &samples);
        let y = env.rows_mut(self.output, &rows);
        y.copy_from_slice(env.rows(self.input, &rows));
        activation::forward(self.act, y, None, None);
    }

    pub(super) fn backward(&self, env: &Env<'_>, samples: Range<usize>, stores: [GradStore; 2], _: &mut Scratch) {
        let rows = env.rows_of(self.input, &samples);
        if stores[0] == GradStore::Skip {
            return;
        }
        let grad = env.grad_mut(self.output, &rows);
        let from = if self.act.needs_input() { self.input } else { self.output };
        activation::backward(self.act, grad, env.rows(from, &rows));
        let out = env.grad_mut(self.input, &rows);
        match stores[0] {
            GradStore::Add => add_assign(out, grad),
            _ => out.copy_from_slice(grad),
        }
    }
}
