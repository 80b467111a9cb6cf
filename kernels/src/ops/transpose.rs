//! Rows and columns of each sample exchanged: [n, c] becomes [c, n]; n is fixed.

use super::{DeviceEnv, Env, GradStore, Op, Var};
use crate::cpu::gemm::Scratch;
use crate::cuda::machine::word;
use crate::cuda::{Argument, ITEMS, Launch};
use crate::error::{Error, Result};
use crate::tape::Tape;
use std::ops::Range;

/// One recorded transposition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transpose {
    pub input: Var,
    pub output: Var,
    rows: usize,
}

impl Tape<'_> {
    /// Per sample [n, c] to [c, n]. `Shape` error where samples differ in n.
    pub fn transpose(&mut self, x: Var) -> Result<Var> {
        let space = self.rows_of(self.space(x));
        let length = |s: usize| space.at(s + 1) - space.at(s);
        let rows = if self.samples() == 0 { 1 } else { length(0) };
        if let Some(sample) = (0..self.samples()).find(|&s| length(s) != rows) {
            return Err(Error::shape("transpose", format!("{rows} rows per sample"), length(sample).to_string()));
        }
        let columns = self.columns(x);
        let space = self.items(columns);
        let output = self.fresh_in(space, rows)?;
        self.record(Op::Transpose(Transpose { input: x, output, rows }))?;
        Ok(output)
    }
}

impl Transpose {
    pub(super) fn forward(&self, env: &Env<'_>, samples: Range<usize>, _: &mut Scratch) {
        let columns = env.columns(self.input);
        for sample in samples {
            let one = sample..sample + 1;
            let x = env.rows(self.input, &env.rows_of(self.input, &one));
            let y = env.rows_mut(self.output, &env.rows_of(self.output, &one));
            for i in 0..self.rows {
                for j in 0..columns {
                    y[j * self.rows + i] = x[i * columns + j];
                }
            }
        }
    }

    pub(super) fn backward(&self, env: &Env<'_>, samples: Range<usize>, stores: [GradStore; 2], _: &mut Scratch) {
        if stores[0] == GradStore::Skip {
            return;
        }
        let columns = env.columns(self.input);
        for sample in samples {
            let one = sample..sample + 1;
            let grad = env.grad(self.output, &env.rows_of(self.output, &one));
            let out = env.grad_mut(self.input, &env.rows_of(self.input, &one));
            for i in 0..self.rows {
                for j in 0..columns {
                    let (o, g) = (&mut out[i * columns + j], grad[j * self.rows + i]);
                    *o = if stores[0] == GradStore::Set { g } else { *o + g };
                }
            }
        }
    }
}

impl Transpose {
    pub(super) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        self.start(env, env.data(self.input), env.data(self.output), [0, 0])
    }

    pub(super) fn backward_on(&self, env: &mut DeviceEnv<'_>, stores: [GradStore; 2]) -> Result<()> {
        if stores[0] == GradStore::Skip {
            return Ok(());
        }
        let add = u32::from(stores[0] == GradStore::Add);
        self.start(env, env.grad(self.output), env.grad(self.input), [1, add])
    }

    fn start(&self, env: &mut DeviceEnv<'_>, x: Argument, y: Argument, [back, add]: [u32; 2]) -> Result<()> {
        let count = env.count(self.input);
        let arguments = [
            x,
            y,
            Argument::Word64(count),
            Argument::Word(word("transpose", self.rows)?),
            Argument::Word(word("transpose", env.columns(self.input))?),
            Argument::Word(back),
            Argument::Word(add),
        ];
        env.start("transpose", ITEMS, "transpose_items", Launch::over("transpose", count, 256), &arguments)
    }
}
