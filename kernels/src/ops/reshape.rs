//! The numbers of each sample under another shape: [n, c] becomes [m, d] with n c = m d.

use super::{DeviceEnv, Env, GradStore, Op, Var, pass};
use crate::cpu::gemm::Scratch;
use crate::error::{Error, Result};
use crate::tape::{Space, Tape};
use std::ops::Range;

/// One recorded reshape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reshape {
    pub input: Var,
    pub output: Var,
}

impl Tape<'_> {
    /// The same numbers per sample as rows of `columns` in `space`. `Shape` error where a sample's counts
    /// differ.
    pub fn reshape(&mut self, x: Var, space: Space, columns: usize) -> Result<Var> {
        let count = |space: Space, columns: usize, sample: usize| {
            let rows = self.rows_of(space);
            (rows.at(sample + 1) - rows.at(sample)) * columns
        };
        let from = (self.space(x), self.columns(x));
        if let Some(sample) = (0..self.samples()).find(|&s| count(from.0, from.1, s) != count(space, columns, s)) {
            let (expected, got) = (count(from.0, from.1, sample), count(space, columns, sample));
            return Err(Error::shape("reshape", format!("{expected} numbers per sample"), got.to_string()));
        }
        let output = self.fresh_in(space, columns)?;
        self.record(Op::Reshape(Reshape { input: x, output }))?;
        Ok(output)
    }
}

impl Reshape {
    pub(super) fn forward(&self, env: &Env<'_>, samples: Range<usize>, _: &mut Scratch) {
        let (from, to) = (env.rows_of(self.input, &samples), env.rows_of(self.output, &samples));
        env.rows_mut(self.output, &to).copy_from_slice(env.rows(self.input, &from));
    }

    pub(super) fn backward(&self, env: &Env<'_>, samples: Range<usize>, stores: [GradStore; 2], _: &mut Scratch) {
        if stores[0] == GradStore::Skip {
            return;
        }
        let (from, to) = (env.rows_of(self.input, &samples), env.rows_of(self.output, &samples));
        pass(stores[0], env.grad_mut(self.input, &from), env.grad(self.output, &to).iter().copied());
    }
}

impl Reshape {
    pub(super) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        let count = env.count(self.output);
        env.hand_on("reshape", env.data(self.input), env.data(self.output), count, 1.0, false)
    }

    pub(super) fn backward_on(&self, env: &mut DeviceEnv<'_>, stores: [GradStore; 2]) -> Result<()> {
        if stores[0] == GradStore::Skip {
            return Ok(());
        }
        let (count, add) = (env.count(self.output), stores[0] == GradStore::Add);
        env.hand_on("reshape", env.grad(self.output), env.grad(self.input), count, 1.0, add)
    }
}
