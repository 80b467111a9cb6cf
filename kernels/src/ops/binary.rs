//! Arithmetic of two values of one shape, element by element: residual connections, gates, fusions.

use super::{DeviceEnv, Env, GradStore, Op, Var, pass};
use crate::cpu::gemm::Scratch;
use crate::cpu::reduce::add_assign;
use crate::cuda::{Argument, ELEMENTWISE, Launch};
use crate::error::{Error, Result};
use crate::tape::Tape;
use std::ops::Range;

/// What is computed of left and right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
}

impl Arithmetic {
    pub(super) fn name(self) -> &'static str {
        match self {
            Arithmetic::Add => "add",
            Arithmetic::Subtract => "subtract",
            Arithmetic::Multiply => "multiply",
            Arithmetic::Divide => "divide",
        }
    }
}

/// One recorded operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binary {
    pub kind: Arithmetic,
    pub left: Var,
    pub right: Var,
    pub output: Var,
}

impl Tape<'_> {
    /// left + right. `Shape` error where their rows or columns differ.
    pub fn add(&mut self, left: Var, right: Var) -> Result<Var> {
        self.arithmetic(Arithmetic::Add, left, right)
    }

    /// Element by element. `Shape` error where their rows or columns differ.
    pub fn arithmetic(&mut self, kind: Arithmetic, left: Var, right: Var) -> Result<Var> {
        if self.columns(left) != self.columns(right) || self.space(left) != self.space(right) {
            let shape = |var| format!("{} columns of {:?}", self.columns(var), self.space(var));
            return Err(Error::shape(kind.name(), shape(left), shape(right)));
        }
        let output = self.fresh_like(left, self.columns(left))?;
        self.record(Op::Binary(Binary { kind, left, right, output }))?;
        Ok(output)
    }
}

impl Binary {
    pub(super) fn forward(&self, env: &Env<'_>, samples: Range<usize>, _: &mut Scratch) {
        let rows = env.rows_of(self.output, &samples);
        let (y, right) = (env.rows_mut(self.output, &rows), env.rows(self.right, &rows));
        y.copy_from_slice(env.rows(self.left, &rows));
        match self.kind {
            Arithmetic::Add => add_assign(y, right),
            Arithmetic::Subtract => y.iter_mut().zip(right).for_each(|(y, r)| *y -= r),
            Arithmetic::Multiply => y.iter_mut().zip(right).for_each(|(y, r)| *y *= r),
            Arithmetic::Divide => y.iter_mut().zip(right).for_each(|(y, r)| *y /= r),
        }
    }

    pub(super) fn backward(&self, env: &Env<'_>, samples: Range<usize>, stores: [GradStore; 2], _: &mut Scratch) {
        let rows = env.rows_of(self.output, &samples);
        let grad = env.grad(self.output, &rows);
        let (x, r, y) = (env.rows(self.left, &rows), env.rows(self.right, &rows), env.rows(self.output, &rows));
        if stores[0] != GradStore::Skip {
            let out = env.grad_mut(self.left, &rows);
            match self.kind {
                Arithmetic::Add | Arithmetic::Subtract => hand_on(stores[0], out, grad),
                Arithmetic::Multiply => pass(stores[0], out, grad.iter().zip(r).map(|(g, r)| g * r)),
                Arithmetic::Divide => pass(stores[0], out, grad.iter().zip(r).map(|(g, r)| g / r)),
            }
        }
        if stores[1] != GradStore::Skip {
            let out = env.grad_mut(self.right, &rows);
            match self.kind {
                Arithmetic::Add => hand_on(stores[1], out, grad),
                Arithmetic::Subtract => pass(stores[1], out, grad.iter().map(|g| -g)),
                Arithmetic::Multiply => pass(stores[1], out, grad.iter().zip(x).map(|(g, x)| g * x)),
                Arithmetic::Divide => {
                    pass(stores[1], out, grad.iter().zip(y.iter().zip(r)).map(|(g, (y, r))| -g * y / r));
                }
            }
        }
    }
}

fn hand_on(store: GradStore, out: &mut [f32], grad: &[f32]) {
    match store {
        GradStore::Skip => {}
        GradStore::Set => out.copy_from_slice(grad),
        GradStore::Add => add_assign(out, grad),
    }
}

impl Binary {
    pub(super) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        let (op, count) = (self.kind.name(), env.count(self.output));
        let arguments = [
            env.data(self.left),
            env.data(self.right),
            env.data(self.output),
            Argument::Word64(count),
            Argument::Word(self.kind as u32),
        ];
        env.start(op, ELEMENTWISE, "arithmetic_forward", Launch::over(op, count, 256), &arguments)
    }

    pub(super) fn backward_on(&self, env: &mut DeviceEnv<'_>, stores: [GradStore; 2]) -> Result<()> {
        let (op, count) = (self.kind.name(), env.count(self.output));
        for (second, (side, store)) in [self.left, self.right].into_iter().zip(stores).enumerate() {
            if store == GradStore::Skip {
                continue;
            }
            let arguments = [
                env.grad(self.output),
                env.data(self.left),
                env.data(self.right),
                env.data(self.output),
                env.grad(side),
                Argument::Word64(count),
                Argument::Word(self.kind as u32),
                Argument::Word(second as u32),
                store.argument(),
            ];
            env.start(op, ELEMENTWISE, "arithmetic_backward", Launch::over(op, count, 256), &arguments)?;
        }
        Ok(())
    }
}
