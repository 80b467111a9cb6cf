//! An activation on its own, where it does not follow a product at once.

use super::{DeviceEnv, Env, GradStore, Op, Var};
use crate::cpu::activation::{self, Activation};
use crate::cpu::gemm::Scratch;
use crate::cpu::reduce::add_assign;
use crate::cuda::{Argument, ELEMENTWISE, Launch};
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

impl Activate {
    pub(super) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        let count = env.count(self.output);
        let arguments =
            [env.data(self.input), env.data(self.output), Argument::Word64(count), Argument::Word(self.act.code())];
        env.start("activation", ELEMENTWISE, "activation_forward", Launch::over("activation", count, 256), &arguments)
    }

    pub(super) fn backward_on(&self, env: &mut DeviceEnv<'_>, stores: [GradStore; 2]) -> Result<()> {
        if stores[0] == GradStore::Skip {
            return Ok(());
        }
        backward_on(env, self.act, self.output, if self.act.needs_input() { self.input } else { self.output })?;
        let (count, add) = (env.count(self.output), stores[0] == GradStore::Add);
        env.hand_on("activation", env.grad(self.output), env.grad(self.input), count, 1.0, add)
    }
}

/// In place: the gradient of an activation's output becomes that of its input.
pub(super) fn backward_on(env: &mut DeviceEnv<'_>, act: Activation, output: Var, from: Var) -> Result<()> {
    if act == Activation::Identity {
        return Ok(());
    }
    let count = env.count(output);
    let arguments = [env.grad(output), env.data(from), Argument::Word64(count), Argument::Word(act.code())];
    env.start("activation", ELEMENTWISE, "activation_backward", Launch::over("activation", count, 256), &arguments)
}
