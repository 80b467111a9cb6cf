//! Items of a sample pooled to one row: the first (a class token), the last (a sequence's end), sum, mean,
//! largest. A sample without items gives zeros.

use super::{DeviceEnv, Env, GradStore, Op, Var};
use crate::cpu::gemm::Scratch;
use crate::cpu::reduce::add_assign;
use crate::cuda::machine::word;
use crate::cuda::{Argument, ITEMS, Launch};
use crate::error::Result;
use crate::tape::{Space, Tape};
use std::ops::Range;

/// How items become one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The first item: BERT's class token.
    #[serde(alias = "first")]
    Cls,
    /// The last item.
    Last,
    Sum,
    #[default]
    Mean,
    Max,
}

/// One recorded pooling.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    pub input: Var,
    pub output: Var,
    kind: Pooling,
}

impl Tape<'_> {
    /// [items, columns] to [samples, columns].
    pub fn pool(&mut self, x: Var, kind: Pooling) -> Result<Var> {
        let output = self.fresh_in(Space::SAMPLES, self.columns(x))?;
        self.record(Op::Pool(Pool { input: x, output, kind }))?;
        Ok(output)
    }
}

impl Pool {
    pub(super) fn forward(&self, env: &Env<'_>, samples: Range<usize>, _: &mut Scratch) {
        let columns = env.columns(self.output).max(1);
        for sample in samples {
            let one = sample..sample + 1;
            let x = env.rows(self.input, &env.rows_of(self.input, &one));
            let y = env.rows_mut(self.output, &one);
            y.fill(0.0);
            let mut items = x.chunks_exact(columns);
            match self.kind {
                Pooling::Cls => items.take(1).for_each(|x| y.copy_from_slice(x)),
                Pooling::Last => items.next_back().into_iter().for_each(|x| y.copy_from_slice(x)),
                Pooling::Sum | Pooling::Mean => {
                    let count = items.len();
                    items.for_each(|x| add_assign(y, x));
                    if self.kind == Pooling::Mean && count > 0 {
                        let share = 1.0 / count as f32;
                        y.iter_mut().for_each(|y| *y *= share);
                    }
                }
                Pooling::Max => {
                    items.next().into_iter().for_each(|x| y.copy_from_slice(x));
                    for x in items {
                        // NaN stays: it compares with nothing.
                        y.iter_mut().zip(x).for_each(|(y, x)| *y = if *x > *y || x.is_nan() { *x } else { *y });
                    }
                }
            }
        }
    }

    pub(super) fn backward(&self, env: &Env<'_>, samples: Range<usize>, stores: [GradStore; 2], _: &mut Scratch) {
        if stores[0] == GradStore::Skip {
            return;
        }
        let columns = env.columns(self.output).max(1);
        for sample in samples {
            let one = sample..sample + 1;
            let items = env.rows_of(self.input, &one);
            let (grad, y) = (env.grad(self.output, &one), env.rows(self.output, &one));
            let (x, out) = (env.rows(self.input, &items), env.grad_mut(self.input, &items));
            if stores[0] == GradStore::Set {
                out.fill(0.0);
            }
            let mut rows = out.chunks_exact_mut(columns);
            match self.kind {
                Pooling::Cls => rows.take(1).for_each(|o| add_assign(o, grad)),
                Pooling::Last => rows.next_back().into_iter().for_each(|o| add_assign(o, grad)),
                Pooling::Sum => rows.for_each(|o| add_assign(o, grad)),
                Pooling::Mean => {
                    let share = 1.0 / rows.len().max(1) as f32;
                    rows.for_each(|o| o.iter_mut().zip(grad).for_each(|(o, g)| *o += share * g));
                }
                Pooling::Max => {
                    for c in 0..columns {
                        // The first of equals gets the gradient.
                        let is_top = |i: &usize| x[i * columns + c] == y[c] || x[i * columns + c].is_nan();
                        if let Some(i) = (0..items.len()).find(is_top) {
                            out[i * columns + c] += grad[c];
                        }
                    }
                }
            }
        }
    }
}

impl Pool {
    pub(super) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        let arguments = [
            env.data(self.input),
            env.offsets(self.input),
            env.data(self.output),
            Argument::Word64(env.samples as u64),
            Argument::Word(word("pool", env.columns(self.output))?),
            Argument::Word(self.kind as u32),
        ];
        env.start("pool", ITEMS, "pool_forward", Launch::over("pool", env.count(self.output), 256), &arguments)
    }

    pub(super) fn backward_on(&self, env: &mut DeviceEnv<'_>, stores: [GradStore; 2]) -> Result<()> {
        if stores[0] == GradStore::Skip {
            return Ok(());
        }
        let arguments = [
            env.grad(self.output),
            env.data(self.input),
            env.data(self.output),
            env.offsets(self.input),
            env.grad(self.input),
            Argument::Word64(env.samples as u64),
            Argument::Word(word("pool", env.columns(self.output))?),
            Argument::Word(self.kind as u32),
            stores[0].argument(),
        ];
        env.start("pool", ITEMS, "pool_backward", Launch::over("pool", env.count(self.output), 256), &arguments)
    }
}
