//! Sum or mean over the columns of each row.

use super::{DeviceEnv, Env, GradStore, Op, Var};
use crate::cpu::gemm::Scratch;
use crate::cuda::machine::word;
use crate::cuda::{Argument, Launch, ROWS};
use crate::error::Result;
use crate::tape::Tape;
use std::ops::Range;

/// One recorded reduction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reduce {
    pub input: Var,
    pub output: Var,
    factor: f32,
}

impl Tape<'_> {
    /// The sum of each row, [rows, 1].
    pub fn sum_columns(&mut self, x: Var) -> Result<Var> {
        self.reduce(x, 1.0)
    }

    /// The mean of each row, [rows, 1].
    pub fn mean_columns(&mut self, x: Var) -> Result<Var> {
        self.reduce(x, 1.0 / self.columns(x).max(1) as f32)
    }

    fn reduce(&mut self, x: Var, factor: f32) -> Result<Var> {
        let output = self.fresh_like(x, 1)?;
        self.record(Op::Reduce(Reduce { input: x, output, factor }))?;
        Ok(output)
    }
}

impl Reduce {
    pub(super) fn forward(&self, env: &Env<'_>, samples: Range<usize>, _: &mut Scratch) {
        for row in env.rows_of(self.output, &samples) {
            let one = row..row + 1;
            env.rows_mut(self.output, &one)[0] = env.rows(self.input, &one).iter().sum::<f32>() * self.factor;
        }
    }

    pub(super) fn backward(&self, env: &Env<'_>, samples: Range<usize>, stores: [GradStore; 2], _: &mut Scratch) {
        for row in env.rows_of(self.output, &samples) {
            let one = row..row + 1;
            let grad = env.grad(self.output, &one)[0] * self.factor;
            match stores[0] {
                GradStore::Skip => {}
                GradStore::Set => env.grad_mut(self.input, &one).fill(grad),
                GradStore::Add => env.grad_mut(self.input, &one).iter_mut().for_each(|g| *g += grad),
            }
        }
    }
}

impl Reduce {
    pub(super) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        let rows = env.rows(self.input) as u64;
        let arguments = [
            env.data(self.input),
            env.data(self.output),
            Argument::Word64(rows),
            Argument::Word(word("reduce", env.columns(self.input))?),
            Argument::Float(self.factor),
        ];
        env.start("reduce", ROWS, "reduce_forward", Launch::over_rows("reduce", rows), &arguments)
    }

    pub(super) fn backward_on(&self, env: &mut DeviceEnv<'_>, stores: [GradStore; 2]) -> Result<()> {
        if stores[0] == GradStore::Skip {
            return Ok(());
        }
        let rows = env.rows(self.input) as u64;
        let arguments = [
            env.grad(self.output),
            env.grad(self.input),
            Argument::Word64(rows),
            Argument::Word(word("reduce", env.columns(self.input))?),
            Argument::Float(self.factor),
            stores[0].argument(),
        ];
        env.start("reduce", ROWS, "reduce_backward", Launch::over_rows("reduce", rows), &arguments)
    }
}
