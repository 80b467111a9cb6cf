//! Softmax over the columns of each row, on its own (inside attention it is fused).

use super::{DeviceEnv, Env, GradStore, Op, Var, pass};
use crate::cpu::gemm::Scratch;
use crate::cpu::loss::softmax_row;
use crate::cuda::machine::word;
use crate::cuda::{Argument, Launch, ROWS};
use crate::error::Result;
use crate::tape::Tape;
use std::ops::Range;

/// One recorded softmax.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Softmax {
    pub input: Var,
    pub output: Var,
}

impl Tape<'_> {
    /// e^x / sum of e^x per row.
    pub fn softmax(&mut self, x: Var) -> Result<Var> {
        let output = self.fresh_like(x, self.columns(x))?;
        self.record(Op::Softmax(Softmax { input: x, output }))?;
        Ok(output)
    }
}

impl Softmax {
    pub(super) fn forward(&self, env: &Env<'_>, samples: Range<usize>, _: &mut Scratch) {
        let rows = env.rows_of(self.output, &samples);
        let y = env.rows_mut(self.output, &rows);
        y.copy_from_slice(env.rows(self.input, &rows));
        y.chunks_exact_mut(env.columns(self.output).max(1)).for_each(softmax_row);
    }

    pub(super) fn backward(&self, env: &Env<'_>, samples: Range<usize>, stores: [GradStore; 2], _: &mut Scratch) {
        if stores[0] == GradStore::Skip {
            return;
        }
        for row in env.rows_of(self.output, &samples) {
            let one = row..row + 1;
            let (grad, y) = (env.grad(self.output, &one), env.rows(self.output, &one));
            let dot: f32 = grad.iter().zip(y).map(|(g, y)| g * y).sum();
            pass(stores[0], env.grad_mut(self.input, &one), grad.iter().zip(y).map(|(g, y)| y * (g - dot)));
        }
    }
}

impl Softmax {
    pub(super) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        let (rows, columns) = (env.rows(self.output) as u64, word("softmax", env.columns(self.output))?);
        let arguments = [env.data(self.input), env.data(self.output), Argument::Word64(rows), Argument::Word(columns)];
        env.start("softmax", ROWS, "softmax_forward", Launch::over_rows("softmax", rows), &arguments)
    }

    pub(super) fn backward_on(&self, env: &mut DeviceEnv<'_>, stores: [GradStore; 2]) -> Result<()> {
        if stores[0] == GradStore::Skip {
            return Ok(());
        }
        let (rows, columns) = (env.rows(self.output) as u64, word("softmax", env.columns(self.output))?);
        let arguments = [
            env.grad(self.output),
            env.data(self.output),
            env.grad(self.input),
            Argument::Word64(rows),
            Argument::Word(columns),
            stores[0].argument(),
        ];
        env.start("softmax", ROWS, "softmax_backward", Launch::over_rows("softmax", rows), &arguments)
    }
}
