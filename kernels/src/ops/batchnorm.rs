//! Batch normalization per column (Ioffe and Szegedy 2015): the one operation that couples samples.
//!
//! In training the statistics are those of each logical shard (ghost batches: Hoffer et al. 2017), so that
//! the result does not depend on the number of ranks. Running statistics are parameters of their own whose
//! "gradient" is what a step saw of them, weighed by rows: it goes up the shard tree and over ranks like
//! any gradient, and the training step averages it in instead of descending
//! ([`crate::params::ParamStore::absorb_statistics`]). Otherwise the running statistics are used.

use super::{DeviceEnv, DeviceTask, Env, GradStore, MAX_PARAMS, Op, ParamTask, Var};
use crate::cpu::gemm::{MAX_LEAF, Scratch};
use crate::cuda::launch::MANY_BLOCKS;
use crate::cuda::machine::word;
use crate::cuda::{Argument, BATCH_NORM, Launch};
use crate::error::{Error, Result};
use crate::params::ParamId;
use crate::pool::Pool;
use crate::tape::Tape;
use std::ops::Range;
use std::sync::Mutex;

const OP: &str = "batch_norm";

/// Added to the variance.
pub const EPSILON: f64 = 1e-5;

/// The parameters of one norm: gain and bias [columns] are trained, running mean and variance [columns]
/// and the number of rows seen [1] are statistics.
#[derive(Clone, Copy, Debug)]
pub struct BatchNormParams {
    pub gain: ParamId,
    pub bias: ParamId,
    pub mean: ParamId,
    pub variance: ParamId,
    pub rows: ParamId,
}

/// One recorded norm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchNorm {
    pub input: Var,
    pub output: Var,
    /// Per shard [`PARTS`] runs of columns; none where running statistics are used.
    pub statistics: Option<Var>,
    params: BatchNormParams,
    columns: usize,
}

/// Runs per shard: mean, inverse deviation, unbiased variance, sum of gradients, sum of gradients times
/// normalized inputs.
const PARTS: usize = 5;
const MEAN: usize = 0;
const INVERSE: usize = 1;
const VARIANCE: usize = 2;
const GRADS: usize = 3;
const PRODUCTS: usize = 4;

impl Tape<'_> {
    /// (x - mean) / sqrt(var + 1e-5) * gain + bias per column, over the rows of each logical shard in
    /// training, else with running statistics. `Shape` errors name the sizes.
    pub fn batch_norm(&mut self, x: Var, params: BatchNormParams) -> Result<Var> {
        let columns = self.columns(x);
        let BatchNormParams { gain, bias, mean, variance, rows } = params;
        for (id, len) in [(gain, columns), (bias, columns), (mean, columns), (variance, columns), (rows, 1)] {
            let param = self.params().param(id);
            if param.shape != [len] {
                let got = format!("{:?}", param.shape);
                return Err(Error::shape("batch_norm", format!("{} [{len}]", param.name), got));
            }
        }
        let output = self.fresh_like(x, columns)?;
        let statistics = if self.is_training() { Some(self.fresh_per_shard(PARTS * columns)?) } else { None };
        self.record(Op::BatchNorm(BatchNorm { input: x, output, statistics, params, columns }))?;
        Ok(output)
    }
}

impl BatchNorm {
    /// In training all five; otherwise the trained two, which a gradient may still be asked of.
    pub(super) fn params(&self) -> [Option<ParamId>; MAX_PARAMS] {
        let p = self.params;
        if self.statistics.is_none() {
            return [Some(p.gain), Some(p.bias), None, None, None];
        }
        [Some(p.gain), Some(p.bias), Some(p.mean), Some(p.variance), Some(p.rows)]
    }

    /// One run of a shard's statistics.
    #[allow(clippy::mut_from_ref)]
    fn part<'e>(&self, env: &'e Env<'_>, shard: usize, part: usize, columns: &Range<usize>) -> &'e mut [f32] {
        let var = self.statistics.expect("invariant: statistics of shards in training");
        let at = (shard * PARTS + part) * self.columns;
        // SAFETY: between segments each task owns a range of columns of a shard; within segments it is read.
        unsafe { env.slot(var).data.get_mut(at + columns.start..at + columns.end) }
    }

    /// Runs `task(shard, columns, rows)` for every shard and block of columns.
    fn over_shards(&self, env: &Env<'_>, pool: &Pool, task: impl Fn(usize, Range<usize>, Range<usize>) + Sync) {
        const BLOCK: usize = 64;
        let (shards, blocks) = (env.shards.len() - 1, self.columns.div_ceil(BLOCK));
        pool.parallel_for(shards * blocks, 1, |_, tasks| {
            for at in tasks {
                let (shard, from) = (at / blocks, at % blocks * BLOCK);
                let rows = env.rows_of(self.input, &(env.shards[shard]..env.shards[shard + 1]));
                task(shard, from..(from + BLOCK).min(self.columns), rows);
            }
        });
    }

    pub(super) fn couple_forward(&self, env: &Env<'_>, pool: &Pool, _: &[Mutex<Scratch>]) {
        self.over_shards(env, pool, |shard, columns, rows| {
            let x = env.rows(self.input, &rows);
            let count = rows.len() as f64;
            for c in columns {
                let column = || x[c.min(x.len())..].iter().step_by(self.columns).map(|v| f64::from(*v));
                let mean = if rows.is_empty() { 0.0 } else { column().sum::<f64>() / count };
                let squares: f64 = column().map(|v| (v - mean) * (v - mean)).sum();
                let variance = if rows.is_empty() { 0.0 } else { squares / count };
                let one = c..c + 1;
                self.part(env, shard, MEAN, &one)[0] = mean as f32;
                self.part(env, shard, INVERSE, &one)[0] = (1.0 / (variance + EPSILON).sqrt()) as f32;
                self.part(env, shard, VARIANCE, &one)[0] = (squares / (count - 1.0).max(1.0)) as f32;
            }
        });
    }

    pub(super) fn couple_backward(&self, env: &Env<'_>, pool: &Pool, _: &[Mutex<Scratch>]) {
        self.over_shards(env, pool, |shard, columns, rows| {
            let (x, grad) = (env.rows(self.input, &rows), env.grad(self.output, &rows));
            for c in columns {
                let one = c..c + 1;
                let (mean, inverse) = (self.part(env, shard, MEAN, &one)[0], self.part(env, shard, INVERSE, &one)[0]);
                let pairs = x[c.min(x.len())..]
                    .iter()
                    .step_by(self.columns)
                    .zip(grad[c.min(x.len())..].iter().step_by(self.columns));
                let (sum, product) = pairs.fold((0.0f64, 0.0f64), |(sum, product), (x, g)| {
                    (sum + f64::from(*g), product + f64::from(*g) * f64::from((x - mean) * inverse))
                });
                self.part(env, shard, GRADS, &one)[0] = sum as f32;
                self.part(env, shard, PRODUCTS, &one)[0] = product as f32;
            }
        });
    }

    /// Calls `visit` with each shard's share of the samples: (shard, rows).
    fn shares(env: &Env<'_>, var: Var, samples: &Range<usize>, mut visit: impl FnMut(usize, Range<usize>)) {
        for (shard, bounds) in env.shards.windows(2).enumerate() {
            let own = bounds[0].max(samples.start)..bounds[1].min(samples.end);
            if own.start < own.end {
                visit(shard, env.rows_of(var, &own));
            }
        }
    }

    pub(super) fn forward(&self, env: &Env<'_>, samples: Range<usize>, scratch: &mut Scratch) {
        let (gain, bias) = (env.params.values(self.params.gain), env.params.values(self.params.bias));
        let all = 0..self.columns;
        let normalize = |rows: Range<usize>, mean: &[f32], inverse: &[f32]| {
            let (x, y) = (env.rows(self.input, &rows), env.rows_mut(self.output, &rows));
            for (x, y) in x.chunks_exact(self.columns).zip(y.chunks_exact_mut(self.columns)) {
                for c in 0..self.columns {
                    y[c] = ((x[c] - mean[c]) * inverse[c]).mul_add(gain[c], bias[c]);
                }
            }
        };
        if self.statistics.is_some() {
            return BatchNorm::shares(env, self.input, &samples, |shard, rows| {
                normalize(rows, self.part(env, shard, MEAN, &all), self.part(env, shard, INVERSE, &all));
            });
        }
        let inverse = &mut scratch.planes[0];
        self.running_inverse(env, inverse);
        normalize(env.rows_of(self.input, &samples), env.params.values(self.params.mean), inverse);
    }

    fn running_inverse(&self, env: &Env<'_>, inverse: &mut Vec<f32>) {
        inverse.clear();
        let variance = env.params.values(self.params.variance).iter();
        inverse.extend(variance.map(|v| (1.0 / (f64::from(*v) + EPSILON).sqrt()) as f32));
    }

    pub(super) fn backward(&self, env: &Env<'_>, samples: Range<usize>, stores: [GradStore; 2], scratch: &mut Scratch) {
        if stores[0] == GradStore::Skip {
            return;
        }
        let (gain, all) = (env.params.values(self.params.gain), 0..self.columns);
        let put = |out: &mut f32, term: f32| *out = if stores[0] == GradStore::Set { term } else { *out + term };
        if self.statistics.is_none() {
            let inverse = &mut scratch.planes[0];
            self.running_inverse(env, inverse);
            let rows = env.rows_of(self.input, &samples);
            let (grad, out) = (env.grad(self.output, &rows), env.grad_mut(self.input, &rows));
            for (grad, out) in grad.chunks_exact(self.columns).zip(out.chunks_exact_mut(self.columns)) {
                (0..self.columns).for_each(|c| put(&mut out[c], grad[c] * gain[c] * inverse[c]));
            }
            return;
        }
        BatchNorm::shares(env, self.input, &samples, |shard, rows| {
            let whole = env.rows_of(self.input, &(env.shards[shard]..env.shards[shard + 1]));
            let share = 1.0 / whole.len() as f32;
            let [mean, inverse, _, sums, products] =
                [MEAN, INVERSE, VARIANCE, GRADS, PRODUCTS].map(|part| self.part(env, shard, part, &all));
            let (x, grad) = (env.rows(self.input, &rows), env.grad(self.output, &rows));
            let out = env.grad_mut(self.input, &rows);
            let lines = x.chunks_exact(self.columns).zip(grad.chunks_exact(self.columns));
            for ((x, grad), out) in lines.zip(out.chunks_exact_mut(self.columns)) {
                for c in 0..self.columns {
                    let normalized = (x[c] - mean[c]) * inverse[c];
                    let centered = grad[c] - share * sums[c] - normalized * (share * products[c]);
                    put(&mut out[c], gain[c] * inverse[c] * centered);
                }
            }
        });
    }

    pub(super) fn param_gradient(&self, env: &Env<'_>, task: &ParamTask<'_>, scratch: &mut Scratch) {
        // SAFETY: blocks of parameter gradients are disjoint.
        let out = unsafe { task.out.get_mut(task.block.clone()) };
        if self.statistics.is_none() {
            return self.running_gradient(env, task, out, scratch);
        }
        let stack = &mut scratch.stack;
        for (n, out) in out.chunks_mut(MAX_LEAF).enumerate() {
            let columns = n * MAX_LEAF..n * MAX_LEAF + out.len();
            stack.clear();
            for (bounds, rows) in task.samples.windows(2).zip(task.bounds.windows(2)) {
                let leaf = stack.push(out.len());
                let shard = env.shards.partition_point(|&b| b <= bounds[0]).saturating_sub(1).min(env.shards.len() - 2);
                let count = (rows[1] - rows[0]) as f32;
                match task.which {
                    _ if rows[0] == rows[1] => leaf.fill(0.0),
                    0 => leaf.copy_from_slice(self.part(env, shard, PRODUCTS, &columns)),
                    1 => leaf.copy_from_slice(self.part(env, shard, GRADS, &columns)),
                    4 => leaf.fill(count),
                    which => {
                        let seen = self.part(env, shard, if which == 2 { MEAN } else { VARIANCE }, &columns);
                        leaf.iter_mut().zip(seen).for_each(|(l, s)| *l = count * *s);
                    }
                }
                stack.settle(out.len());
            }
            out.copy_from_slice(stack.finish(out.len()));
        }
    }

    /// The gradient of gain (0) or bias (1) where running statistics are used: sums over the rows of each shard.
    fn running_gradient(&self, env: &Env<'_>, task: &ParamTask<'_>, out: &mut [f32], scratch: &mut Scratch) {
        let Scratch { planes: [inverse, ..], stack, .. } = scratch;
        self.running_inverse(env, inverse);
        let mean = env.params.values(self.params.mean);
        let (x, grad) = (env.whole(self.input, task.rows).0, env.whole(self.output, task.rows).1);
        for (n, out) in out.chunks_mut(MAX_LEAF).enumerate() {
            let first = n * MAX_LEAF;
            stack.clear();
            for rows in task.bounds.windows(2) {
                let leaf = stack.push(out.len());
                leaf.fill(0.0);
                for at in (rows[0]..rows[1]).map(|row| row * self.columns + first) {
                    for (c, sum) in leaf.iter_mut().enumerate() {
                        let normalized = (x[at + c] - mean[first + c]) * inverse[first + c];
                        *sum = grad[at + c].mul_add(if task.which == 0 { normalized } else { 1.0 }, *sum);
                    }
                }
                stack.settle(out.len());
            }
            out.copy_from_slice(stack.finish(out.len()));
        }
    }
}

impl BatchNorm {
    /// Starts a sum down the columns of every shard.
    fn over_shards_on(&self, env: &mut DeviceEnv<'_>, name: &'static str, arguments: &[Argument]) -> Result<()> {
        let launch = Launch::down_columns(OP, self.columns as u64, env.shards as u64, 8);
        env.start(OP, BATCH_NORM, name, launch, arguments)
    }

    pub(super) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        let columns = Argument::Word(word(OP, self.columns)?);
        let (gain, bias) = (env.param(self.params.gain), env.param(self.params.bias));
        let Some(statistics) = self.statistics else {
            let (mean, variance) = (env.param(self.params.mean), env.param(self.params.variance));
            let (x, y, count) = (env.data(self.input), env.data(self.output), env.count(self.output));
            let arguments = [x, mean, variance, gain, bias, y, Argument::Word64(count), columns];
            return env.start(OP, BATCH_NORM, "batch_norm_running", Launch::over(OP, count, 256), &arguments);
        };
        let (x, bounds, statistics) = (env.data(self.input), env.bounds(self.input), env.data(statistics));
        self.over_shards_on(env, "batch_norm_statistics", &[x, bounds, statistics, columns])?;
        let arguments = [x, bounds, statistics, gain, bias, env.data(self.output), columns];
        env.start(OP, BATCH_NORM, "batch_norm_forward", self.elements(env), &arguments)
    }

    /// The elements of every shard: shards along y.
    fn elements(&self, env: &DeviceEnv<'_>) -> Result<Option<Launch>> {
        let fair = env.count(self.output).div_ceil(env.shards.max(1) as u64);
        Launch::new(OP, [fair.div_ceil(256).min(MANY_BLOCKS), env.shards as u64, 1], [256, 1, 1], 0)
    }

    pub(super) fn backward_on(&self, env: &mut DeviceEnv<'_>, stores: [GradStore; 2]) -> Result<()> {
        let Some(statistics) = self.statistics else {
            return Err(Error::value(OP, "a training step on a device", "a gradient through running statistics"));
        };
        let columns = Argument::Word(word(OP, self.columns)?);
        let (x, grad) = (env.data(self.input), env.grad(self.output));
        let (bounds, statistics) = (env.bounds(self.input), env.data(statistics));
        self.over_shards_on(env, "batch_norm_sums", &[x, grad, bounds, statistics, columns])?;
        if stores[0] == GradStore::Skip {
            return Ok(());
        }
        let (gain, out) = (env.param(self.params.gain), env.grad(self.input));
        let arguments = [x, grad, bounds, statistics, gain, out, columns, stores[0].argument()];
        env.start(OP, BATCH_NORM, "batch_norm_backward", self.elements(env), &arguments)
    }

    pub(super) fn param_gradient_on(&self, env: &mut DeviceEnv<'_>, task: &DeviceTask) -> Result<()> {
        let Some(statistics) = self.statistics else {
            return Err(Error::value(OP, "a training step on a device", "a gradient through running statistics"));
        };
        let (part, wide) = match task.which {
            0 => (PRODUCTS, self.columns),
            1 => (GRADS, self.columns),
            2 => (MEAN, self.columns),
            3 => (VARIANCE, self.columns),
            _ => (PARTS, 1),
        };
        let partial = env.partial(task, wide)?;
        // Statistics are of all shards of the tape, in order.
        let Argument::Address(all) = env.data(statistics) else { unreachable!("invariant: an address") };
        let own = Argument::Address(all + (task.node.first * PARTS * self.columns * 4) as u64);
        let columns = Argument::Word(word(OP, self.columns)?);
        let arguments = [own, env.bounds_of(self.input, task), partial, columns, Argument::Word(part as u32)];
        let launch = Launch::new(OP, [wide.div_ceil(256) as u64, task.node.span() as u64, 1], [256, 1, 1], 0);
        env.start(OP, BATCH_NORM, "batch_norm_leaves", launch, &arguments)?;
        env.join(OP, task, partial, wide)
    }
}
