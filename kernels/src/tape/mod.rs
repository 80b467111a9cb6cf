//! The tape: operations are recorded, then run. Recording checks shapes and reserves storage; running
//! takes a block of samples through all operations and back while it is in the cache, many blocks at the
//! same time. A second region computes the gradients of the parameters, block by block of the parameter,
//! over all rows in the order of the shard tree.
//!
//! # Values
//! A value is [rows, columns]. Its rows are those of a row space ([`Space`]): samples, or the items of
//! samples (tokens, time steps, pixels). A task owns a range of samples, hence a range of rows of every
//! value. What an operation computes for a sample depends on that sample and the parameters only.
//!
//! # Segments
//! An operation that couples samples (batch norm: statistics per logical shard) ends a segment: all
//! samples reach it, its statistics are taken, then the next segment runs. A tape without one is a single
//! segment, forward and backward in one region.
//!
//! # Storage
//! The n-th value of a tape takes the buffer that the n-th value of the tape before had, which grows to
//! the largest size it ever needed: steps over batches of varying size soon allocate nothing.
//!
//! # Parts
//! This file records; `run` is the regions, `parameters` the parameters' gradients (and those of single
//! samples), `culprit` the search for a value that is not finite.

mod culprit;
mod device;
mod freight;
mod parameters;
mod run;
mod space;

use crate::buffer::{AlignedBuf, Shared};
use crate::cpu::gemm::Scratch as CpuScratch;
use crate::error::{Error, Result};
use crate::ops::{GradStore, MAX_PARAMS, Op, Randomness, Raw, RawId, Slot, Var};
use crate::params::ParamStore;
use crate::tensor::Shape;
use std::sync::{Mutex, PoisonError};

pub use device::DeviceBucket;
pub(crate) use device::{DeviceEnv, DeviceTask, Scratch};
pub(crate) use freight::Layout;
pub use parameters::HeldShards;
use parameters::TaskSpec;
pub use space::Space;
pub(crate) use space::{Items, Spaces};

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Gradients, dropout, batch statistics.
    Train,
    /// Values only.
    Evaluate,
    /// Gradients of the model as it answers: no dropout, running statistics (attributions, adversarial
    /// examples).
    Explain,
}

/// Whether the gradient with respect to an input is wanted (adversarial examples, attributions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputGrad {
    Skip,
    Wanted,
}

/// What a model reads that it has a gradient with respect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Features,
    Steps,
    Pixels,
    Tokens,
}

/// The value that a source became, and what the source was multiplied by on the way.
#[derive(Clone, Copy, Debug)]
struct Read {
    var: Var,
    factor: f32,
}

/// The samples that a tape works on.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Number of samples.
    pub count: usize,
    /// One id per sample, for dropout; may be empty in evaluation.
    pub sample_ids: &'a [u64],
    pub mode: Mode,
    pub randomness: Randomness,
}

/// Inputs that a tape may have beside plain features.
const MAX_RAW: usize = 16;

#[derive(Debug)]
struct Value {
    /// [rows, columns]
    shape: Shape,
    data: AlignedBuf,
    grad: AlignedBuf,
    /// Whether `grad` is part of this tape.
    has_grad: bool,
    needs_grad: bool,
    is_input: bool,
    space: Space,
}

impl Value {
    /// Takes another shape, contents unspecified; returns whether memory had to be asked for.
    fn renew(&mut self, shape: Shape) -> Result<bool> {
        self.shape = shape;
        self.data.renew(shape.elements())
    }
}

#[derive(Clone, Copy, Debug)]
struct Recorded {
    op: Op,
    stores: [GradStore; 2],
    /// Whether a gradient reaches its output.
    live: bool,
}

/// Storage that steps reuse.
#[derive(Default)]
pub struct Workspace {
    values: Vec<Value>,
    /// How many of `values` this tape has.
    live: usize,
    allocations: u64,
    ops: Vec<Recorded>,
    spaces: Spaces,
    slots: Vec<Slot>,
    scratch: Vec<Mutex<CpuScratch>>,
    tasks: Vec<TaskSpec>,
    used: Vec<bool>,
    /// Parameters that several operations use.
    shared_params: Vec<bool>,
    /// The gradients of the held nodes while they are written.
    views: Vec<Shared<f32>>,
    /// Bounds of the held shards in each space.
    bounds: Vec<Vec<usize>>,
    /// Bounds of the logical shards in samples, for operations that couple samples.
    shards: Vec<usize>,
    /// Loss and weight of each sample.
    row_sums: Vec<[f64; 2]>,
    /// For predictions that run as many small tapes: one workspace per thread.
    children: Vec<Mutex<Workspace>>,
    /// What tapes run on in place of the CPU.
    device: Option<Box<device::OnDevice>>,
}

impl Workspace {
    /// How many buffers were ever allocated: constant while steps of one size repeat.
    pub fn allocations(&self) -> u64 {
        self.allocations + self.device.as_ref().map_or(0, |device| device.allocations())
    }

    /// One workspace for each of `threads` threads.
    pub(crate) fn children(&mut self, threads: usize) -> &[Mutex<Workspace>] {
        if self.children.len() < threads {
            self.children.resize_with(threads, Mutex::default);
        }
        &self.children
    }

    fn values(&self) -> &[Value] {
        &self.values[..self.live]
    }
}

/// One step's recording; see the module.
pub struct Tape<'a> {
    ws: &'a mut Workspace,
    params: &'a ParamStore,
    rows: Rows<'a>,
    raws: [Raw<'a>; MAX_RAW],
    raw_count: usize,
    /// By [`Source`].
    reads: [Option<Read>; 4],
}

impl<'a> Tape<'a> {
    /// An empty tape; what the workspace held before is released.
    pub fn new(ws: &'a mut Workspace, params: &'a ParamStore, rows: Rows<'a>) -> Result<Tape<'a>> {
        if rows.sample_ids.len() != rows.count && !(rows.sample_ids.is_empty() && rows.mode == Mode::Evaluate) {
            return Err(Error::shape("tape", format!("{} sample ids", rows.count), rows.sample_ids.len().to_string()));
        }
        ws.live = 0;
        ws.ops.clear();
        ws.slots.clear();
        ws.tasks.clear();
        ws.spaces.reset();
        ws.shards.clear();
        ws.shards.extend([0, rows.count]);
        ws.used.clear();
        ws.used.resize(params.len(), false);
        ws.device.iter_mut().for_each(|device| device.forget_ahead());
        Ok(Tape { ws, params, rows, raws: [Raw::Ids(&[]); MAX_RAW], raw_count: 0, reads: [None; 4] })
    }

    pub(crate) fn params(&self) -> &'a ParamStore {
        self.params
    }

    pub(crate) fn samples(&self) -> usize {
        self.rows.count
    }

    pub(crate) fn is_training(&self) -> bool {
        self.rows.mode == Mode::Train
    }

    pub(crate) fn wants_gradients(&self) -> bool {
        self.rows.mode != Mode::Evaluate
    }

    /// How messages call a sample.
    pub(crate) fn name_sample(&self, sample: usize) -> String {
        match self.rows.sample_ids.get(sample) {
            Some(id) => format!("sample {id}"),
            None => format!("row {sample}"),
        }
    }

    /// Columns of a value.
    pub fn columns(&self, var: Var) -> usize {
        self.ws.values()[var.0].shape.columns()
    }

    /// The row space of a value.
    pub fn space(&self, var: Var) -> Space {
        self.ws.values()[var.0].space
    }

    /// The space of a fixed number of rows per sample.
    pub fn items(&mut self, per_sample: usize) -> Space {
        self.ws.spaces.fixed(per_sample)
    }

    /// The space of rows `offsets[i] .. offsets[i + 1]` per sample i; offsets begin anywhere.
    pub fn ragged(&mut self, offsets: &[u32]) -> Result<Space> {
        self.ws.spaces.ragged(offsets, self.rows.count)
    }

    pub(crate) fn rows_of(&self, space: Space) -> &Items {
        self.ws.spaces.get(space)
    }

    /// Bounds of the logical shards among the samples, for operations that couple samples: first sample of
    /// each and the end of the last. Without this the samples are one shard.
    pub fn set_shards(&mut self, bounds: &[usize]) {
        self.ws.shards.clear();
        self.ws.shards.extend_from_slice(bounds);
    }

    /// A value of `columns` per row of a space, contents unspecified.
    pub(crate) fn fresh_in(&mut self, space: Space, columns: usize) -> Result<Var> {
        let rows = self.ws.spaces.get(space).at(self.rows.count);
        let (shape, ws) = (Shape::new(&[rows, columns])?, &mut *self.ws);
        if ws.live == ws.values.len() {
            ws.values.push(Value {
                shape,
                data: AlignedBuf::zeroed(0)?,
                grad: AlignedBuf::zeroed(0)?,
                has_grad: false,
                needs_grad: false,
                is_input: false,
                space,
            });
        }
        let value = &mut ws.values[ws.live];
        if ws.device.is_some() {
            // Only inputs are on the host as well.
            value.shape = shape;
            value.data.renew(0)?;
        } else {
            ws.allocations += u64::from(value.renew(shape)?);
        }
        (value.has_grad, value.needs_grad, value.is_input, value.space) = (false, false, false, space);
        ws.live += 1;
        Ok(Var(ws.live - 1))
    }

    /// Storage of `columns` numbers per logical shard, which no task owns by samples.
    pub(crate) fn fresh_per_shard(&mut self, columns: usize) -> Result<Var> {
        let var = self.fresh_in(Space::SAMPLES, 0)?;
        let (shape, ws) = (Shape::new(&[self.ws.shards.len() - 1, columns])?, &mut *self.ws);
        if ws.device.is_some() {
            ws.values[var.0].shape = shape;
        } else {
            ws.allocations += u64::from(ws.values[var.0].renew(shape)?);
        }
        Ok(var)
    }

    /// A value with as many rows as another.
    pub(crate) fn fresh_like(&mut self, other: Var, columns: usize) -> Result<Var> {
        self.fresh_in(self.space(other), columns)
    }

    /// An input, [samples, columns] row-major; copied.
    pub fn input(&mut self, values: &[f32], columns: usize, grad: InputGrad) -> Result<Var> {
        self.input_in(Space::SAMPLES, values, columns, grad)
    }

    /// An input, [rows of the space, columns] row-major; copied.
    pub fn input_in(&mut self, space: Space, values: &[f32], columns: usize, grad: InputGrad) -> Result<Var> {
        let rows = self.ws.spaces.get(space).at(self.rows.count);
        if rows.checked_mul(columns) != Some(values.len()) {
            let expected = format!("{rows} rows of {columns} values");
            return Err(Error::shape("input", expected, format!("{} values", values.len())));
        }
        let var = self.fresh_in(space, columns)?;
        let value = &mut self.ws.values[var.0];
        if value.data.len() != values.len() {
            value.data.renew(values.len())?;
        }
        value.data.copy_from_slice(values);
        (value.is_input, value.needs_grad) = (true, grad == InputGrad::Wanted);
        Ok(var)
    }

    /// Holds an input that operations read as it is: ids, pixels.
    pub(crate) fn hold(&mut self, raw: Raw<'a>) -> Result<RawId> {
        if self.raw_count == MAX_RAW {
            return Err(Error::value("tape", format!("at most {MAX_RAW} inputs of ids and pixels"), MAX_RAW + 1));
        }
        self.raws[self.raw_count] = raw;
        self.raw_count += 1;
        Ok(RawId(self.raw_count - 1))
    }

    pub(crate) fn record(&mut self, op: Op) -> Result<()> {
        let has_params = op.params().iter().any(Option::is_some);
        let inherited = op.inputs().into_iter().flatten().any(|v| self.ws.values[v.0].needs_grad);
        let gradients = self.wants_gradients() && (has_params || inherited);
        // A value that several operations write in parts needs a gradient as soon as one of them does.
        self.ws.values[op.output().0].needs_grad |= gradients;
        self.ws.ops.push(Recorded { op, stores: [GradStore::Skip; 2], live: false });
        Ok(())
    }

    /// Notes that `var` is `factor` times what the model read (and something that does not depend on it); where its
    /// gradient is wanted nothing before it has to need one.
    pub(crate) fn reads(&mut self, source: Source, var: Var, factor: f32, grad: InputGrad) {
        self.reads[source as usize] = Some(Read { var, factor });
        self.ws.values[var.0].needs_grad |= grad == InputGrad::Wanted && self.wants_gradients();
    }

    /// After a backward run: the gradient with respect to the value that a source became, [rows, columns], its
    /// columns, and what to multiply it by.
    pub(crate) fn read_grad(&self, source: Source) -> Option<(&[f32], usize, f32)> {
        let Read { var, factor } = self.reads[source as usize]?;
        Some((self.grad(var)?, self.columns(var), factor))
    }

    /// Marks a value as one that no gradient passes.
    pub(crate) fn cut(&mut self, var: Var) {
        self.ws.values[var.0].needs_grad = false;
    }

    /// Values after a run, [rows, columns].
    pub fn value(&self, var: Var) -> &[f32] {
        &self.ws.values()[var.0].data
    }

    /// The gradient of an input after a backward run, if it was wanted.
    pub fn grad(&self, var: Var) -> Option<&[f32]> {
        let value = &self.ws.values()[var.0];
        value.has_grad.then_some(&*value.grad)
    }

    /// The gradient of the first input whose gradient was wanted: a model's plain features or steps.
    pub fn first_input_grad(&self) -> Option<&[f32]> {
        let value = self.ws.values().iter().find(|v| v.is_input && v.has_grad)?;
        Some(&value.grad)
    }
}

/// Scratch is never left half-written in a way that matters, so poison carries no meaning.
fn lock<T>(scratch: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    scratch.lock().unwrap_or_else(PoisonError::into_inner)
}

const _: () = assert!(MAX_PARAMS <= 8, "a task names one of a few parameters");
