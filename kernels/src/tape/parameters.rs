//! Gradients of the parameters, for the nodes of the shard tree and for single samples.
//!
//! A task is a block of one parameter for one node; it sums over the node's shards in the order of the
//! tree. Where several operations share a parameter their sums are added in the order of recording.
//!
//! Single samples (differential privacy: Abadi et al. 2016): the squared norm of a sample's gradient is
//! the sum over the operations of what each says of itself; a linear layer over one row per sample says
//! |dy|^2 |x|^2 without forming the gradient (Goodfellow 2015), one over few rows and an embedding go by
//! pairs of rows (Li et al. 2022), as does a recurrence over few steps; others form it in scratch. Clipping scales the values' gradients of
//! a sample by its factor: parameters' gradients are linear in them.

use super::{Tape, lock};
use crate::buffer::{AlignedBuf, Shared};
use crate::cpu::gemm::Scratch;
use crate::cpu::reduce::{add_assign, squares};
use crate::error::{Error, Result};
use crate::ops::{Env, Op, ParamTask};
use crate::pool::Pool;
use crate::shard::Node;
use std::ops::Range;

/// A block of a parameter's gradient to compute, for one node.
#[derive(Clone, Copy, Debug)]
pub(super) struct TaskSpec {
    op: usize,
    which: usize,
    from: usize,
    to: usize,
    node: usize,
}

/// The shards of a batch that this process holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldShards {
    /// The whole nodes that make up the held shards.
    pub nodes: Vec<Node>,
    /// First sample of each held shard and the end of the last, relative to the first held sample.
    pub bounds: Vec<usize>,
    /// First held shard.
    pub first: usize,
}

impl HeldShards {
    fn of<'b>(&self, bounds: &'b [usize], node: Node) -> &'b [usize] {
        &bounds[node.first - self.first..=node.end - self.first]
    }
}

impl Tape<'_> {
    /// The parameters' gradients after [`Tape::forward_backward`]: for each held node its sum over shards,
    /// in the layout of the parameter store.
    pub fn param_gradients(&mut self, pool: &Pool, held: &HeldShards, outs: &mut [AlignedBuf]) -> Result<()> {
        assert_eq!(held.nodes.len(), outs.len(), "invariant: one gradient per node");
        if self.is_on_device() {
            let cuts = [0, self.params.flat_len()];
            return self.param_gradients_on_device(held, &cuts, |bucket| {
                outs.iter_mut().enumerate().try_for_each(|(node, out)| bucket.fetch(node, out))
            });
        }
        self.plan_tasks(held);
        self.plan_bounds(held);
        self.ws.views.clear();
        self.ws.views.extend(outs.iter_mut().map(AlignedBuf::shared));
        self.run_tasks(pool, held, 0..self.ws.tasks.len(), &(0..self.params.flat_len()));
        Ok(())
    }

    /// The same in buckets: `cuts` rise from 0 to the length of a gradient and fall between parameters. The last
    /// bucket is computed first, because the last layers' parameters usually stand there, and each is handed to
    /// `done` as soon as it is whole: its number from the end and its part of every out. Changes no bits.
    pub fn param_gradients_in_buckets<'o, E: From<Error>>(
        &mut self,
        pool: &Pool,
        held: &HeldShards,
        cuts: &[usize],
        mut outs: Vec<&'o mut [f32]>,
        mut done: impl FnMut(usize, Vec<&'o mut [f32]>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        assert_eq!(held.nodes.len(), outs.len(), "invariant: one gradient per node");
        if self.is_on_device() {
            return self.param_gradients_on_device(held, cuts, |bucket| {
                let mut parts = split_off(&mut outs, bucket.range.start);
                parts.iter_mut().enumerate().try_for_each(|(node, part)| bucket.fetch(node, part))?;
                done(bucket.number, parts)
            });
        }
        self.plan_tasks(held);
        self.plan_bounds(held);
        let ws = &mut *self.ws;
        let bucket_of = |spec: &TaskSpec| {
            let id = ws.ops[spec.op].op.params()[spec.which].expect("invariant: planned for a parameter");
            cuts.partition_point(|&cut| cut <= self.params.param(id).range.start)
        };
        ws.tasks.sort_by_cached_key(|spec| std::cmp::Reverse(bucket_of(spec)));
        // How many tasks each bucket has, from the last bucket on.
        let counts: Vec<usize> =
            (1..cuts.len()).rev().map(|bucket| ws.tasks.iter().filter(|t| bucket_of(t) == bucket).count()).collect();
        let mut first = 0;
        for (number, bucket) in cuts.windows(2).rev().enumerate() {
            let (range, mut parts) = (bucket[0]..bucket[1], split_off(&mut outs, bucket[0]));
            self.ws.views.clear();
            self.ws.views.extend(parts.iter_mut().map(|part| Shared::of(part)));
            self.run_tasks(pool, held, first..first + counts[number], &range);
            first += counts[number];
            done(number, parts)?;
        }
        Ok(())
    }

    /// Computes these tasks into the views, which are of `range` of every gradient; zeroes the parameters there
    /// that no live operation uses, and the gaps between parameters.
    fn run_tasks(&self, pool: &Pool, held: &HeldShards, tasks: Range<usize>, range: &Range<usize>) {
        let (env, ws) = (self.env(), &*self.ws);
        let place = |param: &Range<usize>| param.start - range.start..param.end - range.start;
        let mut params = self.params.iter().map(|(param, _)| param.range.clone()).enumerate().peekable();
        while let Some((id, param)) = params.next() {
            let next = params.peek().map_or(self.params.flat_len(), |(_, next)| next.start);
            if param.start < range.start || next > range.end {
                continue;
            }
            // The gap too: an exchange that failed may have left anything there.
            let unwritten = if ws.used[id] { param.end..next } else { param.start..next };
            for view in &ws.views {
                // SAFETY: no task has begun.
                unsafe { view.get_mut(place(&unwritten)) }.fill(0.0);
            }
        }
        let tasks = &ws.tasks[tasks];
        pool.parallel_for(tasks.len(), 1, |worker, some| {
            let mut scratch = lock(&ws.scratch[worker]);
            for spec in &tasks[some] {
                let op = &ws.ops[spec.op].op;
                let space = env.slots[op.output().0].space.0;
                let node = held.nodes[spec.node];
                let id = op.params()[spec.which].expect("invariant: planned for a parameter");
                let task = ParamTask {
                    which: spec.which,
                    block: spec.from..spec.to,
                    rows: env.spaces[space].at(self.rows.count),
                    bounds: held.of(&ws.bounds[space], node),
                    samples: held.of(&held.bounds, node),
                    node,
                    out: ws.views[spec.node].part(place(&self.params.param(id).range)),
                };
                op.param_gradient(&env, &task, &mut scratch);
                self.add_other_uses(&env, spec, &task, held, &mut scratch);
            }
        });
    }

    /// Adds what the operations recorded before this one contribute to the same block.
    fn add_other_uses(
        &self,
        env: &Env<'_>,
        spec: &TaskSpec,
        task: &ParamTask<'_>,
        held: &HeldShards,
        scratch: &mut Scratch,
    ) {
        let id = self.ws.ops[spec.op].op.params()[spec.which];
        let Some(id) = id.filter(|id| self.ws.shared_params.get(id.0) == Some(&true)) else { return };
        let param = self.params.param(id);
        let width = param.range.len() / param.shape[0].max(1);
        let block = task.block.start * width..task.block.end * width;
        let mut addend = std::mem::take(&mut scratch.addend);
        addend.resize(param.range.len(), 0.0);
        for recorded in self.ws.ops[..spec.op].iter().rev().filter(|r| r.live) {
            let space = env.slots[recorded.op.output().0].space.0;
            for which in uses(&recorded.op, id.0) {
                let other = ParamTask {
                    which,
                    block: task.block.clone(),
                    rows: env.spaces[space].at(self.rows.count),
                    bounds: held.of(&self.ws.bounds[space], task.node),
                    samples: task.samples,
                    node: task.node,
                    out: Shared::of(&mut addend),
                };
                recorded.op.param_gradient(env, &other, scratch);
                // SAFETY: blocks of parameter gradients are disjoint.
                add_assign(unsafe { task.out.get_mut(block.clone()) }, &addend[block.clone()]);
            }
        }
        scratch.addend = addend;
    }

    /// Bounds of the held shards in the rows of every space.
    fn plan_bounds(&mut self, held: &HeldShards) {
        let ws = &mut *self.ws;
        let spaces = ws.spaces.all();
        if ws.bounds.len() < spaces.len() {
            ws.bounds.resize_with(spaces.len(), Vec::new);
        }
        for (bounds, space) in ws.bounds.iter_mut().zip(spaces) {
            bounds.clear();
            bounds.extend(held.bounds.iter().map(|&sample| space.at(sample)));
        }
    }

    /// Cuts the parameters of live operations into tasks, in the order of the backward pass.
    fn plan_tasks(&mut self, held: &HeldShards) {
        let ws = &mut *self.ws;
        ws.tasks.clear();
        ws.used.fill(false);
        ws.shared_params.clear();
        ws.shared_params.resize(self.params.len(), false);
        for (op, recorded) in ws.ops.iter().enumerate().rev().filter(|(_, r)| r.live) {
            let space = ws.slots[recorded.op.output().0].space;
            let rows = ws.spaces.get(space).at(self.rows.count);
            for (which, id) in recorded.op.params().into_iter().enumerate() {
                let Some(id) = id else { continue };
                if std::mem::replace(&mut ws.used[id.0], true) {
                    ws.shared_params[id.0] = true;
                    continue;
                }
                let shape = &self.params.param(id).shape;
                let step = recorded.op.block_rows(which, shape, rows).max(1);
                for node in 0..held.nodes.len() {
                    let blocks = (0..shape[0]).step_by(step);
                    ws.tasks.extend(blocks.map(|from| TaskSpec {
                        op,
                        which,
                        from,
                        to: (from + step).min(shape[0]),
                        node,
                    }));
                }
            }
        }
    }

    /// The squared norm of each sample's gradient over all parameters, after [`Tape::forward_backward`].
    /// `out` has one number per sample. `Value` error where an operation couples samples: then no gradient is
    /// one sample's.
    pub fn sample_grad_squares(&mut self, pool: &Pool, out: &mut [f64]) -> Result<()> {
        if out.len() != self.rows.count {
            return Err(Error::shape(
                "sample gradients",
                format!("{} numbers", self.rows.count),
                out.len().to_string(),
            ));
        }
        if let Some(recorded) = self.ws.ops.iter().find(|r| r.op.couples()) {
            let got = recorded.op.describe(self.params);
            return Err(Error::value("sample gradients", "operations that do not couple samples", got));
        }
        let ws = &mut *self.ws;
        ws.used.fill(false);
        ws.shared_params.clear();
        ws.shared_params.resize(self.params.len(), false);
        for recorded in ws.ops.iter().filter(|r| r.live) {
            for id in recorded.op.params().into_iter().flatten() {
                if std::mem::replace(&mut ws.used[id.0], true) {
                    ws.shared_params[id.0] = true;
                }
            }
        }
        let (env, ws, out) = (self.env(), &*self.ws, Shared::of(out));
        pool.parallel_for(self.rows.count, 1, |worker, samples| {
            let mut scratch = lock(&ws.scratch[worker]);
            for sample in samples {
                let mut sum = 0.0;
                for (at, recorded) in ws.ops.iter().enumerate().filter(|(_, r)| r.live) {
                    for (which, id) in recorded.op.params().into_iter().enumerate() {
                        let Some(id) = id else { continue };
                        if !ws.shared_params[id.0] {
                            sum += recorded
                                .op
                                .sample_squares(&env, which, sample)
                                .unwrap_or_else(|| self.materialized(&env, id.0, sample, &mut scratch));
                        } else if ws.ops[..at].iter().all(|r| !r.live || uses(&r.op, id.0).next().is_none()) {
                            sum += self.materialized(&env, id.0, sample, &mut scratch);
                        }
                    }
                }
                // SAFETY: this task owns the sample.
                let own = unsafe { out.get_mut(sample..sample + 1) };
                own[0] = sum;
            }
        });
        Ok(())
    }

    /// The squared norm of one sample's gradient of one parameter, formed in scratch.
    fn materialized(&self, env: &Env<'_>, param: usize, sample: usize, scratch: &mut Scratch) -> f64 {
        let entry = self.params.param(crate::params::ParamId(param));
        let mut sum = std::mem::take(&mut scratch.addend);
        let mut part = std::mem::take(&mut scratch.sample);
        sum.clear();
        sum.resize(entry.range.len(), 0.0);
        part.resize(entry.range.len(), 0.0);
        for recorded in self.ws.ops.iter().rev().filter(|r| r.live) {
            let space = &env.spaces[env.slots[recorded.op.output().0].space.0];
            let bounds = [space.at(sample), space.at(sample + 1)];
            for which in uses(&recorded.op, param) {
                let task = ParamTask {
                    which,
                    block: 0..entry.shape[0],
                    rows: space.at(self.rows.count),
                    bounds: &bounds,
                    samples: &[sample, sample + 1],
                    node: Node { first: 0, end: 1 },
                    out: Shared::of(&mut part),
                };
                recorded.op.param_gradient(env, &task, scratch);
                add_assign(&mut sum, &part);
            }
        }
        let norm = squares(&sum);
        (scratch.addend, scratch.sample) = (sum, part);
        norm
    }

    /// Multiplies every value's gradient of each sample by the sample's factor, so that
    /// [`Tape::param_gradients`] gives the sum of the samples' gradients so scaled (clipped, say).
    pub fn scale_sample_grads(&mut self, pool: &Pool, factors: &[f32]) {
        assert_eq!(factors.len(), self.rows.count, "invariant: one factor per sample");
        let env = self.env();
        pool.parallel_for(self.rows.count, 8, |_, samples| {
            for slot in env.slots.iter().filter(|s| !s.grad.is_empty()) {
                for sample in samples.clone() {
                    let rows = env.spaces[slot.space.0].range(&(sample..sample + 1));
                    // SAFETY: this task owns the sample.
                    let grad = unsafe { slot.grad.get_mut(rows.start * slot.columns..rows.end * slot.columns) };
                    grad.iter_mut().for_each(|g| *g *= factors[sample]);
                }
            }
        });
    }
}

/// Takes what lies from `at` on from each.
fn split_off<'o>(outs: &mut [&'o mut [f32]], at: usize) -> Vec<&'o mut [f32]> {
    let cut = |out: &mut &'o mut [f32]| {
        let (before, part) = std::mem::take(out).split_at_mut(at);
        *out = before;
        part
    };
    outs.iter_mut().map(cut).collect()
}

/// Which of an operation's parameters are this one.
fn uses(op: &Op, param: usize) -> impl Iterator<Item = usize> + use<> {
    op.params().into_iter().enumerate().filter(move |(_, id)| id.is_some_and(|id| id.0 == param)).map(|(w, _)| w)
}
