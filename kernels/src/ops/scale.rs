//! y = factor x with a gradient factor of its own: scaling, gradient reversal (Ganin and Lempitsky 2015),
//! stop-gradient.

use super::{DeviceEnv, Env, GradStore, Op, Var, pass};
use crate::cpu::gemm::Scratch;
use crate::error::Result;
use crate::tape::Tape;
use std::ops::Range;

/// One recorded scaling.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub input: Var,
    pub output: Var,
    forward: f32,
    backward: f32,
}

impl Tape<'_> {
    /// factor * x.
    pub fn scale(&mut self, x: Var, factor: f32) -> Result<Var> {
        self.scaled(x, factor, factor)
    }

    /// x itself; its gradient is multiplied by -`strength` on the way back.
    pub fn reverse_gradient(&mut self, x: Var, strength: f32) -> Result<Var> {
        self.scaled(x, 1.0, -strength)
    }

    /// x itself; no gradient passes.
    pub fn stop_gradient(&mut self, x: Var) -> Result<Var> {
        let output = self.scaled(x, 1.0, 0.0)?;
        self.cut(output);
        Ok(output)
    }

    fn scaled(&mut self, x: Var, forward: f32, backward: f32) -> Result<Var> {
        let output = self.fresh_like(x, self.columns(x))?;
        self.record(Op::Scale(Scale { input: x, output, forward, backward }))?;
        Ok(output)
    }
}

impl Scale {
    pub(super) fn forward(&self, env: &Env<'_>, samples: Range<usize>, _: &mut Scratch) {
        let rows = env.rows_of(self.output, &samples);
        let x = env.rows(self.input, &rows);
        env.rows_mut(self.output, &rows).iter_mut().zip(x).for_each(|(y, x)| *y = self.forward * x);
    }

    pub(super) fn backward(&self, env: &Env<'_>, samples: Range<usize>, stores: [GradStore; 2], _: &mut Scratch) {
        if stores[0] == GradStore::Skip {
            return;
        }
        let rows = env.rows_of(self.output, &samples);
        let terms = env.grad(self.output, &rows).iter().map(|g| self.backward * g);
        pass(stores[0], env.grad_mut(self.input, &rows), terms);
    }
}

impl Scale {
    pub(super) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        let count = env.count(self.output);
        env.hand_on("scale", env.data(self.input), env.data(self.output), count, self.forward, false)
    }

    pub(super) fn backward_on(&self, env: &mut DeviceEnv<'_>, stores: [GradStore; 2]) -> Result<()> {
        if stores[0] == GradStore::Skip {
            return Ok(());
        }
        let (count, add) = (env.count(self.output), stores[0] == GradStore::Add);
        env.hand_on("scale", env.grad(self.output), env.grad(self.input), count, self.backward, add)
    }
}
