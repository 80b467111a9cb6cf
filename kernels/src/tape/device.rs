//! A tape on a device: the same operations in the same order, each over all samples at once. Values, gradients and
//! parameters live there; inputs go up before a run, losses and parameters' gradients come down after it.
//!
//! What an operation computes for a sample depends on that sample only, and parameters' gradients are sums by logical
//! shard in the order of the tree, as on the CPU: a device's bits do not depend on the number of ranks either. They are not
//! the CPU's bits, as sums of columns and products have another order.

use super::freight::Layout;
use super::{Items, Tape, Workspace};
use crate::cuda::machine::{Memory, bytes_of, bytes_of_mut, word};
use crate::cuda::{Argument, ELEMENTWISE, Kernel, Launch, Machine, SHARDS, Source, Work};
use crate::dtype::Precision;
use crate::error::{Error, Result};
use crate::ops::loss::Loss;
use crate::ops::{Randomness, Raw, RawId, Var};
use crate::params::{ParamId, ParamStore};
use crate::shard::Node;
use crate::tape::HeldShards;
use std::ops::Range;
use std::sync::Arc;

/// Storage on a device that steps reuse.
#[derive(Debug)]
pub(super) struct OnDevice {
    machine: Arc<dyn Machine>,
    /// What products round their factors to.
    precision: Precision,
    /// The loss is multiplied by this on the way back, and parameters' gradients are divided by it at the end.
    loss_scale: f32,
    /// Data and gradient of each value.
    values: Vec<[Memory; 2]>,
    weights: Memory,
    /// Which state of which parameters `weights` holds.
    version: Option<u64>,
    /// Parameters that somebody else keeps on the machine: their state and where they are.
    lent: Option<(u64, u64)>,
    /// What has gone up for this run, and where in it things are.
    freight: Memory,
    layout: Layout,
    /// The same of this tape, which has been brought beside the device: where, and how it lies there.
    ahead: Option<(u64, Layout)>,
    numbers: Memory,
    sums: Memory,
    gradients: Vec<Memory>,
    scratch: [Memory; SCRATCHES],
    /// What is to be done and was not begun.
    work: Work,
    allocations: u64,
}

/// What differs from step to step, as kernels read it: what addresses random numbers, then the loss scale and its inverse.
type Numbers = [u64; 4];

/// Where in [`Numbers`] the two are, in bytes.
const LOSS_SCALE: u64 = 24;
const LOSS_UNSCALE: u64 = 28;

/// Kinds of scratch, of which an operation may use each at the same time.
const SCRATCHES: usize = 2;

/// What an operation uses scratch for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scratch {
    /// Sums of shards that the tree has yet to join.
    Partial,
    First,
}

/// Where one value is.
#[derive(Clone, Copy, Debug)]
struct Slot {
    data: u64,
    grad: u64,
    columns: usize,
    space: usize,
    rows: usize,
}

/// What operations see while the tape runs on a device.
pub(crate) struct DeviceEnv<'a> {
    device: &'a mut OnDevice,
    slots: Vec<Slot>,
    spaces: &'a [Items],
    pub params: &'a ParamStore,
    raws: &'a [Raw<'a>],
    pub samples: usize,
    pub shards: usize,
}

/// A range of every held node's gradient that a device computes, in the order in which it was asked to.
pub struct DeviceBucket<'b> {
    /// Counted from the end of the gradient.
    pub number: usize,
    pub range: Range<usize>,
    /// Where each held node's gradient begins, from left to right; the range is of this.
    pub nodes: &'b [u64],
    machine: &'b dyn Machine,
}

impl<'b> DeviceBucket<'b> {
    /// A range of gradients that begin at these addresses of a machine.
    pub fn new(number: usize, range: Range<usize>, nodes: &'b [u64], machine: &'b dyn Machine) -> DeviceBucket<'b> {
        DeviceBucket { number, range, nodes, machine }
    }

    /// Copies a node's part to the host.
    pub(super) fn fetch(&self, node: usize, to: &mut [f32]) -> Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        self.machine.download(self.nodes[node] + self.range.start as u64 * 4, bytes_of_mut(to))
    }
}

/// One parameter's gradient to compute, for one node.
pub(crate) struct DeviceTask {
    /// The operation's number on the tape.
    op: usize,
    /// Which of [`crate::ops::Op::params`].
    pub which: usize,
    /// First and last shard of the node, among the held ones.
    pub node: Node,
    out: u64,
    /// Another operation has written it.
    pub add: bool,
}

impl OnDevice {
    fn new(machine: Arc<dyn Machine>) -> OnDevice {
        let one = || Memory::new(&machine);
        OnDevice {
            precision: Precision::F32,
            loss_scale: 1.0,
            values: Vec::new(),
            weights: one(),
            version: None,
            lent: None,
            freight: one(),
            layout: Layout::default(),
            ahead: None,
            numbers: one(),
            sums: one(),
            gradients: Vec::new(),
            scratch: std::array::from_fn(|_| one()),
            work: Work::default(),
            allocations: 0,
            machine,
        }
    }

    pub(super) fn allocations(&self) -> u64 {
        self.allocations
    }

    fn grow(machine: &Arc<dyn Machine>, list: &mut Vec<Memory>, count: usize) {
        while list.len() < count {
            list.push(Memory::new(machine));
        }
    }

    /// What lies beside the device is of another tape.
    pub(super) fn forget_ahead(&mut self) {
        self.ahead = None;
    }

    /// Begins what was collected.
    fn begin(&mut self) -> Result<()> {
        if self.work.is_empty() {
            return Ok(());
        }
        let outcome = self.machine.run(&self.work);
        self.work.reset();
        outcome
    }

    /// Where a part of the freight is.
    fn at(&self, place: usize) -> u64 {
        self.freight.address() + place as u64
    }
}

impl Workspace {
    /// A workspace whose tapes run on this machine.
    pub fn on(machine: Arc<dyn Machine>) -> Workspace {
        Workspace { device: Some(Box::new(OnDevice::new(machine))), ..Workspace::default() }
    }

    /// From now on products on a device round their factors to `precision`; `loss_scale` keeps small gradients from rounding
    /// to nothing there.
    pub fn round_on_device(&mut self, precision: Precision, loss_scale: f32) {
        if let Some(device) = &mut self.device {
            (device.precision, device.loss_scale) = (precision, loss_scale);
        }
    }

    /// Parameters of this version are at an address of the machine, where somebody else keeps them.
    pub(crate) fn lend(&mut self, version: u64, address: u64) {
        if let Some(device) = &mut self.device {
            device.lent = Some((version, address));
        }
    }

    /// The gradient of the first held node, after [`Tape::param_gradients_stay`].
    pub(crate) fn first_gradient(&mut self) -> Option<&mut Memory> {
        self.device.as_mut()?.gradients.first_mut()
    }

    /// What its tapes run on; none: the CPU.
    pub fn machine(&self) -> Option<&Arc<dyn Machine>> {
        self.device.as_ref().map(|device| &device.machine)
    }
}

impl Tape<'_> {
    pub(crate) fn is_on_device(&self) -> bool {
        self.ws.device.is_some()
    }

    fn env_on<'e>(&'e self, device: &'e mut OnDevice) -> Result<DeviceEnv<'e>> {
        let ws = &*self.ws;
        let mut slots = Vec::with_capacity(ws.live);
        let mut held = device.freight.capacity();
        while device.values.len() < ws.live {
            device.values.push([Memory::new(&device.machine), Memory::new(&device.machine)]);
        }
        let held_by = |memories: [&Memory; 2]| memories.iter().map(|memory| memory.capacity()).sum::<usize>();
        for (at, value) in ws.values().iter().enumerate() {
            let (bytes, input) = (value.shape.elements() * 4, device.layout.inputs.get(at).copied().flatten());
            let [data, grad] = &mut device.values[at];
            if input.is_none() {
                device.allocations += u64::from(data.renew(bytes).map_err(|error| self.explain(error, held))?);
            }
            if value.has_grad {
                device.allocations += u64::from(grad.renew(bytes).map_err(|error| self.explain(error, held))?);
            }
            held += held_by([data, grad]);
            let [data, grad] = [data.address(), grad.address()];
            slots.push(Slot {
                data: input.map_or(data, |place| device.at(place)),
                grad: if value.has_grad { grad } else { 0 },
                columns: value.shape.columns(),
                space: value.space.0,
                rows: value.shape.rows(),
            });
        }
        Ok(DeviceEnv {
            device,
            slots,
            spaces: ws.spaces.all(),
            params: self.params,
            raws: &self.raws[..self.raw_count],
            samples: self.rows.count,
            shards: ws.shards.len() - 1,
        })
    }

    /// What all values of this tape need, where memory for one of them could not be had, and how many samples would fit.
    fn explain(&self, error: Error, held: usize) -> Error {
        let Error::DeviceMemory { device, needed, had, .. } = error else { return error };
        let sides = |value: &super::Value| value.shape.elements() * 4 * (1 + usize::from(value.has_grad));
        let all: usize = self.ws.values().iter().map(sides).sum();
        let (needed, had) = (all.max(needed), held + had);
        let fit = (self.rows.count as u128 * had as u128 / needed.max(1) as u128) as usize;
        Error::DeviceMemory { device, needed, had, rows: Some([self.rows.count, fit.min(self.rows.count)]) }
    }

    /// The freight, unless it lies beside already, what differs from step to step and, where they have changed, parameters.
    fn send(&self, device: &mut OnDevice, loss: Option<&Loss<'_>>) -> Result<()> {
        let machine = device.machine.clone();
        let values = device.values.iter().flatten().map(Memory::capacity).sum::<usize>();
        let held = device.freight.capacity() + values;
        if let Some((from, layout)) = device.ahead.take() {
            device.layout = layout;
            let bytes = device.layout.bytes;
            device.allocations += u64::from(device.freight.renew(bytes).map_err(|error| self.explain(error, held))?);
            machine.take_aside(from, device.freight.address(), bytes)?;
        } else {
            let freight = self.freight(loss)?;
            let renewed = device.freight.renew(freight.layout.bytes).map_err(|error| self.explain(error, held))?;
            device.allocations += u64::from(renewed);
            for (at, part) in freight.parts() {
                machine.upload(part, device.at(at))?;
            }
            device.layout = freight.layout;
        }
        device.allocations += u64::from(device.numbers.renew(size_of::<Numbers>())?);
        if loss.is_some() || self.is_training() {
            let Randomness { seed, epoch, step } = self.rows.randomness;
            let scale = device.loss_scale;
            let unscale = (1.0 / f64::from(scale)) as f32;
            let scales = u64::from(scale.to_bits()) | u64::from(unscale.to_bits()) << 32;
            let numbers: Numbers = [seed, epoch, u64::from(step), scales];
            machine.upload(bytes_of(&[numbers]), device.numbers.address())?;
        }
        let version = self.params.version();
        if device.lent.is_none_or(|(lent, _)| lent != version) && device.version != Some(version) {
            device.version = None;
            device.weights.set(bytes_of(self.params.flat()))?;
            device.version = Some(version);
        }
        Ok(())
    }

    /// The freight of this tape lies at an address of the machine, where [`Machine::upload_aside`] has brought it.
    pub(crate) fn lies_ahead(&mut self, address: u64, layout: Layout) {
        if let Some(device) = &mut self.ws.device {
            device.ahead = Some((address, layout));
        }
    }

    /// Brings a value and, where it has one, its gradient to the host after a run on a device: for [`Tape::value`] and
    /// [`Tape::grad`]. On the CPU they are there, and so are inputs.
    pub fn fetch(&mut self, var: Var) -> Result<()> {
        let Some(device) = &mut self.ws.device else { return Ok(()) };
        device.begin()?;
        let ([data, grad], value) = (&device.values[var.0], &mut self.ws.values[var.0]);
        let count = value.shape.elements();
        if !value.is_input {
            value.data.renew(count)?;
        }
        value.grad.renew(if value.has_grad { count } else { 0 })?;
        let sides = [(data, &mut value.data), (grad, &mut value.grad)];
        for (from, to) in sides.into_iter().skip(usize::from(value.is_input)) {
            if !to.is_empty() {
                device.machine.download(from.address(), bytes_of_mut(to))?;
            }
        }
        Ok(())
    }

    /// As [`Tape::forward`], with the outputs of `output` on the host after it.
    pub(super) fn forward_on_device(&mut self, output: Var) -> Result<()> {
        self.run_on_device(None, |env, ws| ws.ops.iter().try_for_each(|recorded| recorded.op.forward_on(env)))?;
        self.fetch(output)
    }

    /// Calls `act`, which collects work, after all that operations read has gone up.
    fn run_on_device(
        &mut self,
        loss: Option<&Loss<'_>>,
        act: impl FnOnce(&mut DeviceEnv<'_>, &Workspace) -> Result<()>,
    ) -> Result<()> {
        let mut device = self.ws.device.take().expect("invariant: a workspace on a device");
        // What a run left that failed half way.
        device.work.reset();
        let outcome = self.send(&mut device, loss).and_then(|()| act(&mut self.env_on(&mut device)?, self.ws));
        self.ws.device = Some(device);
        outcome
    }

    /// As [`Tape::forward_backward`], the plan made: collects what is to be done. [`Tape::losses_from_device`] is next, at
    /// once or after the parameters' gradients.
    pub(super) fn forward_backward_on_device(&mut self, output: Var, loss: &Loss<'_>) -> Result<()> {
        self.run_on_device(Some(loss), |env, ws| {
            ws.ops.iter().try_for_each(|recorded| recorded.op.forward_on(env))?;
            env.loss(output, loss)?;
            if env.device.loss_scale != 1.0 {
                let Argument::Address(grad) = env.grad(output) else { unreachable!("invariant: an address") };
                env.rescale(grad, env.count(output), LOSS_SCALE)?;
            }
            let back = ws.ops.iter().rev().filter(|recorded| recorded.live);
            back.into_iter().try_for_each(|recorded| recorded.op.backward_on(env, recorded.stores))
        })
    }

    /// Begins what was collected.
    pub(crate) fn begin_on_device(&mut self) -> Result<()> {
        self.ws.device.as_mut().map_or(Ok(()), |device| device.begin())
    }

    /// Waits for the losses of a run on a device, for [`Tape::loss_sum`]. On the CPU they are there.
    pub(crate) fn losses_from_device(&mut self) -> Result<()> {
        let Some(device) = &mut self.ws.device else { return Ok(()) };
        device.begin()?;
        let sums = &mut self.ws.row_sums;
        sums.resize(self.rows.count, [0.0; 2]);
        if sums.is_empty() { Ok(()) } else { device.machine.download(device.sums.address(), bytes_of_mut(sums)) }
    }

    /// As [`Tape::param_gradients`], and the gradients stay on the device.
    pub(crate) fn param_gradients_stay(&mut self, held: &HeldShards) -> Result<()> {
        let cuts = [0, self.params.flat_len()];
        self.param_gradients_on_device(held, &cuts, |_| Ok(()))
    }

    /// As [`Tape::param_gradients_in_buckets`]; the gradients stay on the device, and each bucket is handed to `done` as
    /// soon as the device was asked for it.
    pub(crate) fn param_gradients_on_device<E: From<Error>>(
        &mut self,
        held: &HeldShards,
        cuts: &[usize],
        mut done: impl FnMut(&DeviceBucket<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut device = self.ws.device.take().expect("invariant: a workspace on a device");
        let outcome = self.gradients_on(&mut device, held, cuts, &mut done);
        self.ws.device = Some(device);
        outcome
    }

    fn gradients_on<E: From<Error>>(
        &self,
        device: &mut OnDevice,
        held: &HeldShards,
        cuts: &[usize],
        done: &mut impl FnMut(&DeviceBucket<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        assert_eq!(held.bounds, self.ws.shards, "invariant: the held shards are those of the tape");
        let flat = self.params.flat_len();
        let machine = device.machine.clone();
        OnDevice::grow(&machine, &mut device.gradients, held.nodes.len());
        for gradient in &mut device.gradients[..held.nodes.len()] {
            device.allocations += u64::from(gradient.renew(flat * 4)?);
            // Gaps between parameters, what no operation uses, and rows of tables that no item names.
            device.work.clear("gradient", gradient.address(), flat * 4);
        }
        let outs: Vec<u64> = device.gradients[..held.nodes.len()].iter().map(Memory::address).collect();
        let mut env = self.env_on(device)?;
        for (number, bucket) in cuts.windows(2).rev().enumerate() {
            self.bucket_on(&mut env, held, bucket[0]..bucket[1], &outs)?;
            self.unscale_on(&mut env, bucket[0]..bucket[1], &outs)?;
            env.device.begin()?;
            done(&DeviceBucket::new(number, bucket[0]..bucket[1], &outs, &*machine))?;
        }
        Ok(())
    }

    /// Divides the gradients of the parameters that begin in this range by the loss scale; statistics of norms are no
    /// gradients.
    fn unscale_on(&self, env: &mut DeviceEnv<'_>, range: Range<usize>, outs: &[u64]) -> Result<()> {
        if env.device.loss_scale == 1.0 {
            return Ok(());
        }
        let mut runs: Vec<Range<usize>> = Vec::new();
        for param in self.params.entries().iter().filter(|param| range.contains(&param.range.start)) {
            match runs.last_mut() {
                _ if param.is_statistic() => runs.push(param.range.end..param.range.end),
                // What lies between two parameters is zero.
                Some(run) => run.end = param.range.end,
                None => runs.push(param.range.clone()),
            }
        }
        for run in runs.into_iter().filter(|run| !run.is_empty()) {
            for out in outs {
                env.rescale(out + run.start as u64 * 4, run.len() as u64, LOSS_UNSCALE)?;
            }
        }
        Ok(())
    }

    /// The gradients of the parameters that begin in this range.
    fn bucket_on(&self, env: &mut DeviceEnv<'_>, held: &HeldShards, range: Range<usize>, outs: &[u64]) -> Result<()> {
        let mut written = vec![false; self.params.len()];
        for (op, recorded) in self.ws.ops.iter().enumerate().rev().filter(|(_, recorded)| recorded.live) {
            for (which, id) in recorded.op.params().into_iter().enumerate() {
                let Some(id) = id.filter(|&id| range.contains(&self.params.param(id).range.start)) else { continue };
                let add = std::mem::replace(&mut written[id.0], true);
                for (node, out) in held.nodes.iter().zip(outs) {
                    let node = Node { first: node.first - held.first, end: node.end - held.first };
                    let out = out + self.params.param(id).range.start as u64 * 4;
                    recorded.op.param_gradient_on(env, &DeviceTask { op, which, node, out, add })?;
                }
            }
        }
        Ok(())
    }
}

impl DeviceEnv<'_> {
    /// Has a kernel started; nothing where there is nothing to do.
    pub fn start(
        &mut self,
        op: &'static str,
        source: Source,
        name: &'static str,
        launch: Result<Option<Launch>>,
        arguments: &[Argument],
    ) -> Result<()> {
        if let Some(launch) = launch? {
            self.device.work.start(op, Kernel { source, name }, launch, arguments);
        }
        Ok(())
    }

    /// What products round their factors to.
    pub fn precision(&self) -> Precision {
        self.device.precision
    }

    pub fn data(&self, var: Var) -> Argument {
        Argument::Address(self.slots[var.0].data)
    }

    /// None: 0.
    pub fn data_or_none(&self, var: Option<Var>) -> Argument {
        Argument::Address(var.map_or(0, |var| self.slots[var.0].data))
    }

    pub fn grad(&self, var: Var) -> Argument {
        Argument::Address(self.slots[var.0].grad)
    }

    pub fn rows(&self, var: Var) -> usize {
        self.slots[var.0].rows
    }

    pub fn columns(&self, var: Var) -> usize {
        self.slots[var.0].columns
    }

    /// Numbers of a value.
    pub fn count(&self, var: Var) -> u64 {
        (self.rows(var) * self.columns(var)) as u64
    }

    pub fn param(&self, id: ParamId) -> Argument {
        let lent = self.device.lent.filter(|(version, _)| *version == self.params.version());
        let weights = lent.map_or_else(|| self.device.weights.address(), |(_, address)| address);
        Argument::Address(weights + self.params.param(id).range.start as u64 * 4)
    }

    pub fn param_or_none(&self, id: Option<ParamId>) -> Argument {
        id.map_or(Argument::Address(0), |id| self.param(id))
    }

    pub fn raw(&self, raw: RawId) -> Argument {
        Argument::Address(self.device.at(self.device.layout.raws[raw.0]))
    }

    /// The same on the host.
    pub fn host_raw(&self, raw: RawId) -> &Raw<'_> {
        &self.raws[raw.0]
    }

    pub fn items(&self, var: Var) -> &Items {
        &self.spaces[self.slots[var.0].space]
    }

    /// First row of each sample of a value.
    pub fn offsets(&self, var: Var) -> Argument {
        Argument::Address(self.device.at(self.device.layout.offsets[self.slots[var.0].space]))
    }

    /// Most rows of a sample.
    pub fn longest(&self, var: Var) -> usize {
        let items = self.items(var);
        (0..self.samples).map(|sample| items.at(sample + 1) - items.at(sample)).max().unwrap_or(0)
    }

    /// First row of each shard of a value.
    pub fn bounds(&self, var: Var) -> Argument {
        Argument::Address(self.device.at(self.device.layout.bounds[self.slots[var.0].space]))
    }

    /// The same of a node's shards.
    pub fn bounds_of(&self, var: Var, task: &DeviceTask) -> Argument {
        let bounds = self.device.layout.bounds[self.slots[var.0].space];
        Argument::Address(self.device.at(bounds) + task.node.first as u64 * 8)
    }

    pub fn sample_ids(&self) -> Argument {
        Argument::Address(self.device.at(self.device.layout.sample_ids))
    }

    /// What addresses the random numbers of this step: seed, epoch, step.
    pub fn random(&self) -> Argument {
        Argument::Address(self.device.numbers.address())
    }

    /// Rows, starts and runs of `Sorted` in `ops/embedding.rs`.
    pub fn sorted(&self, task: &DeviceTask) -> [Argument; 3] {
        let own = self.device.layout.sorted.iter().find(|(op, which, _)| (*op, *which) == (task.op, task.which));
        let (_, _, places) = own.expect("invariant: a table that learns");
        places.map(|place| Argument::Address(self.device.at(place)))
    }

    /// Multiplies numbers by one that differs from step to step.
    fn rescale(&mut self, at: u64, count: u64, factor: u64) -> Result<()> {
        const OP: &str = "loss scale";
        let factor = Argument::Address(self.device.numbers.address() + factor);
        let arguments = [Argument::Address(at), Argument::Word64(count), factor];
        self.start(OP, ELEMENTWISE, "rescale", Launch::over(OP, count, 256), &arguments)
    }

    /// Memory of at least so many bytes, until the same kind is asked for again.
    pub fn scratch(&mut self, which: Scratch, bytes: usize) -> Result<u64> {
        if self.device.scratch[which as usize].capacity() < bytes {
            // What uses the memory that it has comes before it is given back.
            self.device.begin()?;
        }
        let memory = &mut self.device.scratch[which as usize];
        self.device.allocations += u64::from(memory.renew(bytes)?);
        Ok(memory.address())
    }

    /// out (+)= factor x, element by element.
    pub fn hand_on(
        &mut self,
        op: &'static str,
        x: Argument,
        out: Argument,
        count: u64,
        factor: f32,
        add: bool,
    ) -> Result<()> {
        let arguments = [x, out, Argument::Word64(count), Argument::Float(factor), Argument::Word(u32::from(add))];
        self.start(op, ELEMENTWISE, "scale", Launch::over(op, count, 256), &arguments)
    }

    /// Where the shards' sums of `len` numbers of a parameter go, one after the other; [`DeviceEnv::join`] is next.
    pub fn partial(&mut self, task: &DeviceTask, len: usize) -> Result<Argument> {
        if task.node.span() == 1 && !task.add {
            return Ok(Argument::Address(task.out));
        }
        Ok(Argument::Address(self.scratch(Scratch::Partial, task.node.span() * len * 4)?))
    }

    /// The gradient from the shards' sums.
    pub fn join(&mut self, op: &'static str, task: &DeviceTask, partial: Argument, len: usize) -> Result<()> {
        if partial == Argument::Address(task.out) {
            return Ok(());
        }
        let arguments = [
            partial,
            Argument::Address(task.out),
            Argument::Word64(len as u64),
            Argument::Word(task.node.span() as u32),
            Argument::Word(u32::from(task.add)),
        ];
        self.start(op, SHARDS, "join_shards", Launch::over(op, len as u64, 256), &arguments)
    }

    /// The gradient of a bias: sums of the columns of a gradient.
    pub fn column_sums(&mut self, op: &'static str, var: Var, task: &DeviceTask) -> Result<()> {
        let columns = self.columns(var);
        let partial = self.partial(task, columns)?;
        let launch = Launch::down_columns(op, columns as u64, task.node.span() as u64, 4);
        let arguments = [self.grad(var), self.bounds_of(var, task), partial, Argument::Word(word(op, columns)?)];
        self.start(op, SHARDS, "column_sums", launch, &arguments)?;
        self.join(op, task, partial, columns)
    }

    /// Where a task's gradient goes.
    pub fn out(&self, task: &DeviceTask) -> Argument {
        Argument::Address(task.out)
    }

    /// Losses and weights of all rows, and the gradient of the output.
    fn loss(&mut self, output: Var, loss: &Loss<'_>) -> Result<()> {
        let device = &mut *self.device;
        device.allocations += u64::from(device.sums.renew(self.samples * 16)?);
        let at = |place: Option<usize>| Argument::Address(place.map_or(0, |place| device.at(place)));
        let (layout, sums) = (&device.layout, Argument::Address(device.sums.address()));
        let targets = at(Some(layout.targets));
        let (weights, classes) = (at(layout.row_weights), at(layout.class_weights));
        loss.config.start_on(self, output, &crate::ops::loss::OnDevice { targets, weights, classes, sums })
    }
}
