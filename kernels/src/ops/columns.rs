//! A run of columns copied from one value to another: slices, and the parts of a concatenation.

use super::{DeviceEnv, Env, GradStore, Op, Var};
use crate::cpu::gemm::Scratch;
use crate::cuda::machine::word;
use crate::cuda::{Argument, ELEMENTWISE, Launch};
use crate::error::{Error, Result};
use crate::tape::{Space, Tape};
use std::ops::Range;

/// One recorded copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns {
    pub input: Var,
    pub output: Var,
    /// First column in the input and in the output.
    from: usize,
    to: usize,
    width: usize,
}

impl Tape<'_> {
    /// Columns `range` of x.
    pub fn slice(&mut self, x: Var, range: Range<usize>) -> Result<Var> {
        if range.start > range.end || range.end > self.columns(x) {
            return Err(Error::shape("slice", format!("columns within 0..{}", self.columns(x)), format!("{range:?}")));
        }
        let output = self.fresh_like(x, range.len())?;
        self.record(Op::Columns(Columns { input: x, output, from: range.start, to: 0, width: range.len() }))?;
        Ok(output)
    }

    /// The columns of all parts side by side. `Shape` error where their rows differ or there is none.
    pub fn concat(&mut self, parts: &[Var]) -> Result<Var> {
        let Some(&first) = parts.first() else {
            return Err(Error::shape("concat", "at least one part", "none"));
        };
        if let Some(&other) = parts.iter().find(|&&p| self.space(p) != self.space(first)) {
            let (expected, got) = (format!("rows of {:?}", self.space(first)), format!("{:?}", self.space(other)));
            return Err(Error::shape("concat", expected, got));
        }
        if parts.len() == 1 {
            return Ok(first);
        }
        let output = self.side_by_side(self.space(first), parts.iter().map(|&p| self.columns(p)).sum())?;
        let mut to = 0;
        for &part in parts {
            to = self.put(part, output, to)?;
        }
        Ok(output)
    }

    /// A value whose columns are put in part by part by [`Tape::put`]; all of them have to be.
    pub fn side_by_side(&mut self, space: Space, columns: usize) -> Result<Var> {
        self.fresh_in(space, columns)
    }

    /// Puts a part into columns `to..` and returns the column after it. `Shape` error where it does not fit.
    pub fn put(&mut self, part: Var, output: Var, to: usize) -> Result<usize> {
        let width = self.columns(part);
        if to + width > self.columns(output) || self.space(part) != self.space(output) {
            let expected = format!("{} columns of {:?}", self.columns(output).saturating_sub(to), self.space(output));
            return Err(Error::shape("concat", expected, format!("{width} of {:?}", self.space(part))));
        }
        self.record(Op::Columns(Columns { input: part, output, from: 0, to, width }))?;
        Ok(to + width)
    }
}

impl Columns {
    pub(super) fn forward(&self, env: &Env<'_>, samples: Range<usize>, _: &mut Scratch) {
        let rows = env.rows_of(self.output, &samples);
        let (wide, narrow) = (env.columns(self.output).max(1), env.columns(self.input).max(1));
        let (y, x) = (env.rows_mut(self.output, &rows), env.rows(self.input, &rows));
        for (y, x) in y.chunks_exact_mut(wide).zip(x.chunks_exact(narrow)) {
            y[self.to..self.to + self.width].copy_from_slice(&x[self.from..self.from + self.width]);
        }
    }

    pub(super) fn backward(&self, env: &Env<'_>, samples: Range<usize>, stores: [GradStore; 2], _: &mut Scratch) {
        if stores[0] == GradStore::Skip {
            return;
        }
        let rows = env.rows_of(self.output, &samples);
        let (wide, narrow) = (env.columns(self.output).max(1), env.columns(self.input).max(1));
        let (grad, out) = (env.grad(self.output, &rows), env.grad_mut(self.input, &rows));
        if stores[0] == GradStore::Set && self.width < narrow {
            out.fill(0.0);
        }
        for (g, o) in grad.chunks_exact(wide).zip(out.chunks_exact_mut(narrow)) {
            let (g, o) = (&g[self.to..self.to + self.width], &mut o[self.from..self.from + self.width]);
            match stores[0] {
                GradStore::Set => o.copy_from_slice(g),
                _ => o.iter_mut().zip(g).for_each(|(o, g)| *o += g),
            }
        }
    }
}

impl Columns {
    pub(super) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        let sides = (env.data(self.input), env.data(self.output));
        self.start(env, sides, (self.input, self.output), (self.from, self.to), [0, 0])
    }

    pub(super) fn backward_on(&self, env: &mut DeviceEnv<'_>, stores: [GradStore; 2]) -> Result<()> {
        if stores[0] == GradStore::Skip {
            return Ok(());
        }
        let sides = (env.grad(self.output), env.grad(self.input));
        let set = stores[0] == GradStore::Set;
        self.start(env, sides, (self.output, self.input), (self.to, self.from), [u32::from(!set), u32::from(set)])
    }

    fn start(
        &self,
        env: &mut DeviceEnv<'_>,
        (x, y): (Argument, Argument),
        (from, to): (Var, Var),
        (first, second): (usize, usize),
        [add, fill]: [u32; 2],
    ) -> Result<()> {
        let (rows, wide) = (env.rows(to) as u64, env.columns(to));
        let across = if fill == 1 { wide } else { self.width };
        let sizes = [env.columns(from), wide, first, second, self.width];
        let [a, b, c, d, e] = sizes.map(|size| word("concat", size));
        let arguments = [
            x,
            y,
            Argument::Word64(rows),
            Argument::Word(a?),
            Argument::Word(b?),
            Argument::Word(c?),
            Argument::Word(d?),
            Argument::Word(e?),
            Argument::Word(add),
            Argument::Word(fill),
        ];
        let launch = Launch::over("concat", rows * across as u64, 256);
        env.start("concat", ELEMENTWISE, "columns_copy", launch, &arguments)
    }
}
