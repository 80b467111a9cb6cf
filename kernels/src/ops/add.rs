//! The sum of two values of one shape: residual connections, fusions.

use super::{Env, GradStore, Op, Var};
use crate::cpu::gemm::Scratch;
use crate::cpu::reduce::add_assign;
use crate::error::{Error, Result};
use crate::tape::Tape;
use std::ops::Range;

/// One recorded sum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Add {
    pub left: Var,
    pub right: Var,
    pub output: Var,
}

impl Tape<'_> {
    /// left + right. `Shape` error where their columns differ.
    pub fn add(&mut self, left: Var, right: Var) -> Result<Var> {
        if self.columns(left) != self.columns(right) {
            return Err(Error::shape(
                "add",
                format!("{} columns", self.columns(left)),
                self.columns(right).to_string(),
            ));
        }
        let output = self.fresh(self.columns(left))?;
        self.record(Op::Add(Add { left, right, output }))?;
        Ok(output)
    }
}

impl Add {
    pub(super) fn forward(&self, env: &Env<'_>, rows: Range<usize>, _: &mut Scratch) {
        let y = env.rows_mut(self.output, &rows);
        y.copy_from_slice(env.rows(self.left, &rows));
        add_assign(y, env.rows(self.right, &rows));
    }

    pub(super) fn backward(&self, env: &Env<'_>, rows: Range<usize>, stores: [GradStore; 2], _: &mut Scratch) {
        let grad = env.grad(self.output, &rows);
        for (var, store) in [self.left, self.right].into_iter().zip(stores) {
            match store {
                GradStore::Skip => {}
                GradStore::Set => env.grad_mut(var, &rows).copy_from_slice(grad),
                GradStore::Add => add_assign(env.grad_mut(var, &rows), grad),
            }
        }
    }
}
