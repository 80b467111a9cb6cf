//! The tape: operations are recorded, then run. Recording checks shapes and reserves storage; running
//! takes a block of rows through all operations and back while it is in the cache, many blocks at the
//! same time. A second region computes the gradients of the parameters, block by block of the parameter,
//! over all rows in the order of the shard tree.
//!
//! An operation that couples rows (batch norm) will end such a segment; none does yet.

use crate::buffer::{AlignedBuf, Arena, Shared};
use crate::cpu::gemm::Scratch;
use crate::error::{Error, MAX_NAMED_SAMPLES, Result};
use crate::ops::loss::{Loss, LossSum};
use crate::ops::{Env, GradStore, Op, ParamTask, Randomness, Slot, Var};
use crate::params::ParamStore;
use crate::pool::Pool;
use crate::shard::Node;
use crate::tensor::{Shape, Tensor};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Whether gradients are wanted and dropout drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Train,
    Evaluate,
}

/// Whether the gradient with respect to an input is wanted (adversarial examples, attributions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputGrad {
    Skip,
    Wanted,
}

/// The rows that a tape works on.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Number of rows.
    pub count: usize,
    /// One id per row, for dropout; may be empty in evaluation.
    pub sample_ids: &'a [u64],
    pub mode: Mode,
    pub randomness: Randomness,
}

#[derive(Debug)]
struct Value {
    tensor: Tensor,
    grad: Option<AlignedBuf>,
    needs_grad: bool,
}

#[derive(Clone, Copy, Debug)]
struct Recorded {
    op: Op,
    stores: [GradStore; 2],
    /// Whether a gradient reaches its output.
    live: bool,
}

/// A block of a parameter's gradient to compute, for one node.
#[derive(Clone, Copy, Debug)]
struct TaskSpec {
    op: usize,
    which: usize,
    from: usize,
    to: usize,
    node: usize,
}

/// Storage that steps reuse.
#[derive(Default)]
pub struct Workspace {
    arena: Arena,
    values: Vec<Value>,
    ops: Vec<Recorded>,
    slots: Vec<Slot>,
    scratch: Vec<Mutex<Scratch>>,
    tasks: Vec<TaskSpec>,
    used: Vec<bool>,
    /// The gradients of the held nodes while they are written.
    views: Vec<Shared<f32>>,
    /// Loss and weight of each row.
    row_sums: Vec<[f64; 2]>,
}

impl Workspace {
    /// How many buffers were ever allocated: constant while steps of one size repeat.
    pub fn allocations(&self) -> u64 {
        self.arena.allocations()
    }

    fn reset(&mut self) {
        for value in self.values.drain(..) {
            self.arena.give(value.tensor.into_buffer());
            if let Some(grad) = value.grad {
                self.arena.give(grad);
            }
        }
        self.ops.clear();
        self.slots.clear();
        self.tasks.clear();
    }
}

/// The shards of a batch that this process holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldShards {
    /// The whole nodes that make up the held shards.
    pub nodes: Vec<Node>,
    /// First row of each held shard and the end of the last, relative to the first held row.
    pub bounds: Vec<usize>,
    /// First held shard.
    pub first: usize,
}

impl HeldShards {
    fn bounds_of(&self, node: Node) -> &[usize] {
        &self.bounds[node.first - self.first..=node.end - self.first]
    }
}

/// One step's recording; see the module.
pub struct Tape<'a> {
    ws: &'a mut Workspace,
    params: &'a ParamStore,
    rows: Rows<'a>,
}

impl<'a> Tape<'a> {
    /// An empty tape; what the workspace held before is released.
    pub fn new(ws: &'a mut Workspace, params: &'a ParamStore, rows: Rows<'a>) -> Result<Tape<'a>> {
        if rows.sample_ids.len() != rows.count && !(rows.sample_ids.is_empty() && rows.mode == Mode::Evaluate) {
            return Err(Error::shape("tape", format!("{} sample ids", rows.count), rows.sample_ids.len().to_string()));
        }
        ws.reset();
        ws.used.clear();
        ws.used.resize(params.len(), false);
        Ok(Tape { ws, params, rows })
    }

    pub(crate) fn params(&self) -> &'a ParamStore {
        self.params
    }

    pub(crate) fn is_training(&self) -> bool {
        self.rows.mode == Mode::Train
    }

    pub(crate) fn wants_gradients(&self) -> bool {
        self.is_training()
    }

    pub(crate) fn columns(&self, var: Var) -> usize {
        self.ws.values[var.0].tensor.shape().columns()
    }

    /// A value of `columns` per row, contents unspecified.
    pub(crate) fn fresh(&mut self, columns: usize) -> Result<Var> {
        let tensor = Tensor::from_arena(Shape::new(&[self.rows.count, columns])?, &mut self.ws.arena)?;
        self.ws.values.push(Value { tensor, grad: None, needs_grad: false });
        Ok(Var(self.ws.values.len() - 1))
    }

    /// An input, [rows, columns] row-major; copied.
    pub fn input(&mut self, values: &[f32], columns: usize, grad: InputGrad) -> Result<Var> {
        if self.rows.count.checked_mul(columns) != Some(values.len()) {
            let expected = format!("{} rows of {columns} values", self.rows.count);
            return Err(Error::shape("input", expected, format!("{} values", values.len())));
        }
        let var = self.fresh(columns)?;
        let value = &mut self.ws.values[var.0];
        value.tensor.values_mut().copy_from_slice(values);
        value.needs_grad = grad == InputGrad::Wanted;
        Ok(var)
    }

    pub(crate) fn record(&mut self, op: Op) -> Result<()> {
        for id in op.params().into_iter().flatten() {
            if std::mem::replace(&mut self.ws.used[id.0], true) {
                return Err(Error::value("tape", "each parameter used by one operation", &self.params.param(id).name));
            }
        }
        let has_params = op.params().iter().any(Option::is_some);
        let inherited = op.inputs().into_iter().flatten().any(|v| self.ws.values[v.0].needs_grad);
        self.ws.values[op.output().0].needs_grad = self.is_training() && (has_params || inherited);
        self.ws.ops.push(Recorded { op, stores: [GradStore::Skip; 2], live: false });
        Ok(())
    }

    /// Values after a run, [rows, columns].
    pub fn value(&self, var: Var) -> &[f32] {
        self.ws.values[var.0].tensor.values()
    }

    /// The gradient of an input after a backward run, if it was wanted.
    pub fn grad(&self, var: Var) -> Option<&[f32]> {
        self.ws.values[var.0].grad.as_deref()
    }

    /// Reserves gradients from `output` backwards and decides who writes and who adds.
    fn plan_backward(&mut self, output: Var) -> Result<()> {
        let (count, Workspace { arena, values, ops, .. }) = (self.rows.count, &mut *self.ws);
        let mut reserve = |value: &mut Value| -> Result<GradStore> {
            if value.grad.is_some() {
                return Ok(GradStore::Add);
            }
            value.grad = Some(arena.take(count * value.tensor.shape().columns())?);
            Ok(GradStore::Set)
        };
        reserve(&mut values[output.0])?;
        for recorded in ops.iter_mut().rev() {
            recorded.live = values[recorded.op.output().0].grad.is_some();
            for (store, input) in recorded.stores.iter_mut().zip(recorded.op.inputs()) {
                *store = match input {
                    Some(var) if recorded.live && values[var.0].needs_grad => reserve(&mut values[var.0])?,
                    _ => GradStore::Skip,
                };
            }
        }
        Ok(())
    }

    /// Views of every value for the threads; scratch for each.
    fn prepare(&mut self, pool: &Pool) {
        let ws = &mut *self.ws;
        ws.slots.clear();
        for value in &mut ws.values {
            let columns = value.tensor.shape().columns();
            let grad = value.grad.as_mut().map_or(Shared::EMPTY, AlignedBuf::shared);
            ws.slots.push(Slot { data: value.tensor.buffer_mut().shared(), grad, columns });
        }
        if ws.scratch.len() < pool.threads() {
            ws.scratch.resize_with(pool.threads(), Mutex::default);
        }
    }

    fn env(&self) -> Env<'_> {
        Env {
            slots: &self.ws.slots,
            params: self.params,
            sample_ids: self.rows.sample_ids,
            randomness: self.rows.randomness,
        }
    }

    /// Runs forward only.
    pub fn forward(&mut self, pool: &Pool) {
        self.prepare(pool);
        let (env, ws) = (self.env(), &*self.ws);
        pool.parallel_for(self.rows.count, self.row_grain(&env, pool.threads(), 1), |worker, rows| {
            let mut scratch = lock(&ws.scratch[worker]);
            ws.ops.iter().for_each(|r| r.op.forward(&env, rows.clone(), &mut scratch));
        });
    }

    /// Runs forward to `output`, the loss, and backward to every value; gradients are of the *sum* over
    /// rows. The parameters' gradients are a second call.
    pub fn forward_backward(&mut self, pool: &Pool, output: Var, loss: &Loss<'_>) -> Result<()> {
        loss.check(self.rows.count, self.columns(output), self.rows.sample_ids)?;
        self.plan_backward(output)?;
        self.ws.row_sums.resize(self.rows.count, [0.0; 2]);
        self.prepare(pool);
        let sums = Shared::of(&mut self.ws.row_sums);
        let (env, ws) = (self.env(), &*self.ws);
        let slot = env.slots[output.0];
        pool.parallel_for(self.rows.count, self.row_grain(&env, pool.threads(), 2), |worker, rows| {
            let mut scratch = lock(&ws.scratch[worker]);
            ws.ops.iter().for_each(|r| r.op.forward(&env, rows.clone(), &mut scratch));
            let span = rows.start * slot.columns..rows.end * slot.columns;
            // SAFETY: this task owns these rows.
            let (outputs, grad, sums) =
                unsafe { (slot.data.get(span.clone()), slot.grad.get_mut(span), sums.get_mut(rows.clone())) };
            loss.rows(rows.clone(), slot.columns, outputs, grad, sums);
            ws.ops
                .iter()
                .rev()
                .filter(|r| r.live)
                .for_each(|r| r.op.backward(&env, rows.clone(), r.stores, &mut scratch));
        });
        Ok(())
    }

    /// The loss of the rows from `range` after [`Tape::forward_backward`], summed in row order.
    pub fn loss_sum(&self, range: Range<usize>) -> LossSum {
        let rows = range.len();
        let [sum, weight] =
            self.ws.row_sums[range].iter().fold([0.0; 2], |[s, w], [loss, weight]| [s + loss, w + weight]);
        LossSum { sum, weight, rows }
    }

    /// Rows per task: enough work to be worth handing out, few enough to stay in the second-level cache,
    /// a multiple of the tallest tile. Changes no bits.
    fn row_grain(&self, env: &Env<'_>, threads: usize, passes: usize) -> usize {
        const TALL: usize = 12;
        const WORTH: usize = 1 << 19;
        let cost = passes * self.ws.ops.iter().map(|r| r.op.cost(env)).sum::<usize>() + 1;
        if cost.saturating_mul(self.rows.count) < 2 * WORTH || threads == 1 {
            return (4 * WORTH / cost).clamp(TALL, 8 * TALL).next_multiple_of(TALL);
        }
        let fair = self.rows.count.div_ceil(2 * threads);
        (4 * WORTH / cost).min(fair).clamp(TALL, 8 * TALL).next_multiple_of(TALL)
    }

    /// The parameters' gradients after [`Tape::forward_backward`]: for each held node its sum over shards,
    /// in the layout of the parameter store.
    pub fn param_gradients(&mut self, pool: &Pool, held: &HeldShards, outs: &mut [AlignedBuf]) {
        assert_eq!(held.nodes.len(), outs.len(), "invariant: one gradient per node");
        self.plan_tasks(held, outs);
        self.ws.views.clear();
        self.ws.views.extend(outs.iter_mut().map(AlignedBuf::shared));
        let (env, ws) = (self.env(), &*self.ws);
        pool.parallel_for(ws.tasks.len(), 1, |worker, tasks| {
            let mut scratch = lock(&ws.scratch[worker]);
            for spec in &ws.tasks[tasks] {
                let op = &ws.ops[spec.op].op;
                let id = op.params()[spec.which].expect("invariant: planned for a parameter");
                let node = held.nodes[spec.node];
                let out = ws.views[spec.node].part(self.params.param(id).range.clone());
                let block = spec.from..spec.to;
                let task = ParamTask {
                    which: spec.which,
                    block,
                    rows: self.rows.count,
                    bounds: held.bounds_of(node),
                    node,
                    out,
                };
                op.param_gradient(&env, &task, &mut scratch);
            }
        });
    }

    /// Cuts the parameters of live operations into tasks; zeroes the gradient of every other parameter.
    fn plan_tasks(&mut self, held: &HeldShards, outs: &mut [AlignedBuf]) {
        /// Multiply-adds of a task that is worth handing out.
        const WORTH: usize = 1 << 20;
        let ws = &mut *self.ws;
        ws.tasks.clear();
        ws.used.fill(false);
        for (op, recorded) in ws.ops.iter().enumerate().rev().filter(|(_, r)| r.live) {
            for (which, id) in recorded.op.params().into_iter().enumerate() {
                let Some(id) = id else { continue };
                ws.used[id.0] = true;
                let shape = &self.params.param(id).shape;
                let row_cost = shape.get(1).map_or(1, |&n| n * self.rows.count) + 1;
                let step = match shape.len() {
                    2 => (WORTH / row_cost).clamp(1, 1 << 20).next_multiple_of(12),
                    _ => shape[0].max(1),
                };
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
        for (id, (param, _)) in self.params.iter().enumerate() {
            if !ws.used[id] {
                outs.iter_mut().for_each(|out| out[param.range.clone()].fill(0.0));
            }
        }
    }

    /// Runs forward and backward once more, one operation after the other, and names the first whose
    /// result is not finite, with the samples concerned.
    pub(crate) fn find_not_finite(&mut self, output: Var, loss: &Loss<'_>) -> Option<(String, Vec<u64>)> {
        let pool = Pool::new(1);
        self.ws.row_sums.resize(self.rows.count, [0.0; 2]);
        self.prepare(&pool);
        let (env, ws) = (self.env(), &*self.ws);
        let all = 0..self.rows.count;
        let mut scratch = lock(&ws.scratch[0]);
        let bad = |values: Shared<f32>, columns: usize| {
            // SAFETY: nothing else runs.
            let values = unsafe { values.get(0..all.len() * columns) };
            let rows = (0..all.len()).filter(|r| !values[r * columns..(r + 1) * columns].iter().all(|v| v.is_finite()));
            let ids: Vec<u64> = rows.take(MAX_NAMED_SAMPLES).map(|r| self.rows.sample_ids[r]).collect();
            (!ids.is_empty()).then_some(ids)
        };
        let computed = |var: usize| ws.ops.iter().any(|r| r.op.output().0 == var);
        if let Some(ids) = ws.slots.first().filter(|_| !computed(0)).and_then(|s| bad(s.data, s.columns)) {
            return Some(("input".into(), ids));
        }
        for recorded in &ws.ops {
            recorded.op.forward(&env, all.clone(), &mut scratch);
            let slot = ws.slots[recorded.op.output().0];
            if let Some(ids) = bad(slot.data, slot.columns) {
                return Some((recorded.op.describe(self.params), ids));
            }
        }
        let slot = ws.slots[output.0];
        let mut sums = vec![[0.0; 2]; all.len()];
        let span = 0..all.len() * slot.columns;
        // SAFETY: nothing else runs.
        let (outputs, grad) = unsafe { (slot.data.get(span.clone()), slot.grad.get_mut(span)) };
        loss.rows(all.clone(), slot.columns, outputs, grad, &mut sums);
        let rows = (0..all.len()).filter(|&r| !sums[r][0].is_finite());
        let ids: Vec<u64> = rows.take(MAX_NAMED_SAMPLES).map(|r| self.rows.sample_ids[r]).collect();
        if !ids.is_empty() {
            return Some((format!("loss {}", loss.config.name()), ids));
        }
        for recorded in ws.ops.iter().rev().filter(|r| r.live) {
            recorded.op.backward(&env, all.clone(), recorded.stores, &mut scratch);
            for (var, _) in
                recorded.op.inputs().into_iter().flatten().zip(recorded.stores).filter(|(_, s)| *s != GradStore::Skip)
            {
                let slot = ws.slots[var.0];
                if let Some(ids) = bad(slot.grad, slot.columns) {
                    return Some((format!("backward of {}", recorded.op.describe(self.params)), ids));
                }
            }
        }
        None
    }
}

/// Scratch is never left half-written in a way that matters, so poison carries no meaning.
fn lock(scratch: &Mutex<Scratch>) -> std::sync::MutexGuard<'_, Scratch> {
    scratch.lock().unwrap_or_else(PoisonError::into_inner)
}
