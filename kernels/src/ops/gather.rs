//! Rows of each sample picked by index: row i of the output is row `ids[i]` of the same sample's input.

use super::embedding::Ids;
use super::{DeviceEnv, Env, GradStore, Op, RawId, Var};
use crate::cpu::gemm::Scratch;
use crate::cpu::reduce::add_assign;
use crate::cuda::machine::word;
use crate::cuda::{Argument, ITEMS, Launch};
use crate::error::{Error, Result};
use crate::tape::Tape;
use std::ops::Range;

/// One recorded gather.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gather {
    pub input: Var,
    pub output: Var,
    ids: RawId,
}

impl<'a> Tape<'a> {
    /// Rows of x by `ids` (one column), each counted within its sample. `Value` error names a sample whose
    /// index is out of range.
    pub fn gather(&mut self, x: Var, ids: Ids<'a>) -> Result<Var> {
        if ids.columns != 1 {
            return Err(Error::shape("gather", "one index per row", format!("{} columns", ids.columns)));
        }
        let (from, to) = (self.rows_of(self.space(x)), self.rows_of(ids.space));
        for sample in 0..self.samples() {
            let length = from.at(sample + 1) - from.at(sample);
            let own = &ids.values[to.at(sample)..to.at(sample + 1)];
            if let Some(bad) = own.iter().find(|&&i| i as usize >= length) {
                let got = format!("{bad} ({})", self.name_sample(sample));
                return Err(Error::value("gather", format!("indices below {length}"), got));
            }
        }
        let output = self.fresh_in(ids.space, self.columns(x))?;
        self.record(Op::Gather(Gather { input: x, output, ids: ids.raw }))?;
        Ok(output)
    }
}

impl Gather {
    /// (row of the output, row of the input) of the samples.
    fn pairs<'e>(&self, env: &'e Env<'_>, samples: Range<usize>) -> impl Iterator<Item = (usize, usize)> + use<'e> {
        let (ids, from, to) = (env.ids(self.ids), env.space(self.input), env.space(self.output));
        samples.flat_map(move |s| (to.at(s)..to.at(s + 1)).map(move |row| (row, from.at(s) + ids[row] as usize)))
    }

    pub(super) fn forward(&self, env: &Env<'_>, samples: Range<usize>, _: &mut Scratch) {
        for (row, from) in self.pairs(env, samples) {
            env.rows_mut(self.output, &(row..row + 1)).copy_from_slice(env.rows(self.input, &(from..from + 1)));
        }
    }

    pub(super) fn backward(&self, env: &Env<'_>, samples: Range<usize>, stores: [GradStore; 2], _: &mut Scratch) {
        match stores[0] {
            GradStore::Skip => return,
            GradStore::Set => env.grad_mut(self.input, &env.rows_of(self.input, &samples)).fill(0.0),
            GradStore::Add => {}
        }
        for (row, from) in self.pairs(env, samples) {
            add_assign(env.grad_mut(self.input, &(from..from + 1)), env.grad(self.output, &(row..row + 1)));
        }
    }
}

impl Gather {
    pub(super) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        let columns = env.columns(self.output);
        let arguments = [
            env.data(self.input),
            env.raw(self.ids),
            env.offsets(self.input),
            env.offsets(self.output),
            env.data(self.output),
            Argument::Word64(env.samples as u64),
            Argument::Word(word("gather", columns)?),
        ];
        let each = (env.longest(self.output) * columns) as u64;
        let launch = Launch::over_samples("gather", env.samples as u64, each);
        env.start("gather", ITEMS, "gather_forward", launch, &arguments)
    }

    pub(super) fn backward_on(&self, env: &mut DeviceEnv<'_>, stores: [GradStore; 2]) -> Result<()> {
        if stores[0] == GradStore::Skip {
            return Ok(());
        }
        let columns = env.columns(self.output);
        let arguments = [
            env.grad(self.output),
            env.raw(self.ids),
            env.offsets(self.input),
            env.offsets(self.output),
            env.grad(self.input),
            Argument::Word64(env.samples as u64),
            Argument::Word(word("gather", columns)?),
            stores[0].argument(),
        ];
        let launch = Launch::over("gather", (env.samples * columns) as u64, 256);
        env.start("gather", ITEMS, "gather_backward", launch, &arguments)
    }
}
