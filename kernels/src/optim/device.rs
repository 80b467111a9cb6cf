//! The optimizer's step on a device: weights, moments and averages stay there from step to step, and come to the host when
//! somebody asks for them.
//!
//! The kernels compute what the CPU computes, expression by expression; from the same gradient both come to the same
//! weights. The gradient's norm is summed in another order.

use super::optimizer::{Optimizer, Rule, trust_ratios};
use crate::cuda::machine::{Memory, bytes_of, bytes_of_mut};
use crate::cuda::{Argument, ELEMENTWISE, Kernel, Launch, Machine, OPTIMIZER, Source, optimizer as launches};
use crate::dtype::Precision;
use crate::error::{Error, Result};
use crate::params::{ParamStore, statistics};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const OP: &str = "optimizer";
const THREADS: u32 = 256;
/// Numbers of a setting's rule, as the kernels count them.
const RULE: usize = 9;

/// Where the newest state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Newest {
    Host,
    Both,
    Device,
    /// A step failed half way.
    Nowhere,
}

/// A training's state on a device.
pub(crate) struct DeviceStep {
    machine: Arc<dyn Machine>,
    newest: Newest,
    /// The weights that products use.
    values: Memory,
    /// The weights that steps are taken from, where those are rounded.
    master: Memory,
    first: Memory,
    second: Memory,
    averages: Memory,
    /// What is accumulated for the next step, and a sum that comes to it.
    gradient: Memory,
    coming: Memory,
    blocks: Memory,
    rules: Memory,
    trust: Memory,
    squares: Memory,
    sum: Memory,
    overflow: Memory,
    allocations: u64,
}

/// How a step treats its gradient.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Treatment {
    /// Each element is multiplied by this,
    pub factor: f64,
    /// and then bounded in magnitude by this.
    pub max_value: Option<f64>,
}

impl DeviceStep {
    pub fn new(machine: Arc<dyn Machine>) -> DeviceStep {
        let one = || Memory::new(&machine);
        DeviceStep {
            newest: Newest::Host,
            values: one(),
            master: one(),
            first: one(),
            second: one(),
            averages: one(),
            gradient: one(),
            coming: one(),
            blocks: one(),
            rules: one(),
            trust: one(),
            squares: one(),
            sum: one(),
            overflow: one(),
            allocations: 0,
            machine,
        }
    }

    /// Memory asked for so far, by number of times.
    pub fn allocations(&self) -> u64 {
        self.allocations
    }

    /// The host's state is another than the one here.
    pub fn forget(&mut self) {
        self.newest = Newest::Host;
    }

    /// Where the weights are that products use, sent if the host has newer ones.
    pub fn send(&mut self, optimizer: &Optimizer, params: &ParamStore) -> Result<u64> {
        if self.newest == Newest::Nowhere {
            let what = "an optimizer's step failed half way, and with it the training's state is lost".into();
            return Err(Error::Device { device: self.machine.describe(), op: OP.into(), what });
        }
        if self.newest == Newest::Host {
            let (first, second) = optimizer.moments();
            for (memory, values) in [
                (&mut self.values, params.flat()),
                (&mut self.master, optimizer.master()),
                (&mut self.first, first),
                (&mut self.second, second),
                (&mut self.averages, optimizer.averages()),
            ] {
                if !values.is_empty() {
                    self.allocations += u64::from(memory.set(bytes_of(values))?);
                }
            }
            let blocks: Vec<u64> = optimizer.blocks.iter().flat_map(block_words).collect();
            self.allocations += u64::from(self.blocks.set(bytes_of(&blocks))?);
            self.newest = Newest::Both;
        }
        Ok(self.values.address())
    }

    /// Brings the state to the host, if it is newer here; whether it was.
    pub fn fetch(&mut self, optimizer: &mut Optimizer, params: &mut ParamStore) -> Result<bool> {
        if self.newest != Newest::Device {
            return Ok(false);
        }
        let mut values = vec![0.0f32; params.flat_len()];
        self.machine.download(self.values.address(), bytes_of_mut(&mut values))?;
        for (memory, run) in [
            (&self.master, &mut optimizer.master),
            (&self.first, &mut optimizer.first),
            (&self.second, &mut optimizer.second),
            (&self.averages, &mut optimizer.averages),
        ] {
            if !run.is_empty() {
                self.machine.download(memory.address(), bytes_of_mut(&mut run[..]))?;
            }
        }
        params.set_exact(&values);
        optimizer.stale = false;
        self.newest = Newest::Both;
        Ok(true)
    }

    /// Takes a sum that is on the device for the next step; what was accumulated goes to its place if it is the first.
    pub fn take(&mut self, sum: &mut Memory, count: usize, first: bool) -> Result<()> {
        if first {
            std::mem::swap(&mut self.gradient, sum);
            return Ok(());
        }
        self.add(sum.address(), count)
    }

    /// The same of a sum on the host.
    pub fn take_host(&mut self, sum: &[f32], first: bool) -> Result<()> {
        let to = if first { &mut self.gradient } else { &mut self.coming };
        self.allocations += u64::from(to.set(bytes_of(sum))?);
        if first { Ok(()) } else { self.add(self.coming.address(), sum.len()) }
    }

    fn add(&mut self, sum: u64, count: usize) -> Result<()> {
        let (count, to) = (count as u64, self.gradient.address());
        let numbers = [Argument::Word64(count), Argument::Float(1.0), Argument::Word(1)];
        let arguments = [[Argument::Address(sum), Argument::Address(to)].as_slice(), &numbers].concat();
        self.start(ELEMENTWISE, "scale", Launch::over(OP, count, THREADS), &arguments)
    }

    /// What is accumulated.
    pub fn gradient(&self, to: &mut [f32]) -> Result<()> {
        self.machine.download(self.gradient.address(), bytes_of_mut(to))
    }

    /// L2 norm of what is accumulated, with its gaps, which are 0.
    pub fn norm(&mut self, count: usize) -> Result<f64> {
        let count = count as u64;
        if count == 0 {
            return Ok(0.0);
        }
        let (of_chunk, chunks) = launches::chunks(count);
        self.allocations += u64::from(self.squares.renew(chunks as usize * 8)?);
        self.allocations += u64::from(self.sum.renew(8)?);
        let (squares, sum) = (Argument::Address(self.squares.address()), Argument::Address(self.sum.address()));
        let gradient = Argument::Address(self.gradient.address());
        let arguments = [gradient, squares, Argument::Word64(count), Argument::Word64(of_chunk)];
        self.start(OPTIMIZER, "squares", launches::squares(count), &arguments)?;
        self.start(OPTIMIZER, "squares_sum", launches::squares_sum(), &[squares, sum, Argument::Word(chunks)])?;
        let mut bits = [0u64];
        self.machine.download(self.sum.address(), bytes_of_mut(&mut bits))?;
        Ok(f64::from_bits(bits[0]).sqrt())
    }

    /// As `ParamStore::absorb_statistics`; the host's state is then older.
    pub fn absorb(&mut self, optimizer: &mut Optimizer, params: &mut ParamStore, momentum: f32) -> Result<()> {
        let at = |memory: &Memory, element: usize| match memory.address() {
            0 => Argument::Address(0),
            address => Argument::Address(address + element as u64 * 4),
        };
        self.begin(optimizer, params);
        for (averages, rows) in statistics(params.entries()) {
            for range in averages.iter().map(|param| param.range.clone()) {
                let (start, count) = (range.start, range.len() as u64);
                let places = [&self.values, &self.master, &self.gradient].map(|memory| at(memory, start));
                let rest = [at(&self.gradient, rows), Argument::Word64(count), Argument::Float(momentum)];
                let arguments = [places.as_slice(), &rest].concat();
                self.start(OPTIMIZER, "absorb", Launch::over(OP, count, THREADS), &arguments)?;
            }
            let arguments = [&self.values, &self.master, &self.gradient].map(|memory| at(memory, rows));
            self.start(OPTIMIZER, "absorb_rows", launches::one_thread(), &arguments)?;
        }
        self.newest = Newest::Device;
        Ok(())
    }

    /// As `Trainer::round_gradient`: whether it overflowed.
    pub fn round(&mut self, count: usize, precision: Precision, factor: f32, unscale: f32) -> Result<bool> {
        self.allocations += u64::from(self.overflow.set(&[0; 4])?);
        let arguments = [
            Argument::Address(self.gradient.address()),
            Argument::Word64(count as u64),
            Argument::Float(factor),
            Argument::Float(unscale),
            precision_word(precision),
            Argument::Address(self.overflow.address()),
        ];
        self.start(OPTIMIZER, "round_gradient", Launch::over(OP, count as u64, THREADS), &arguments)?;
        let mut overflow = [0u32];
        self.machine.download(self.overflow.address(), bytes_of_mut(&mut overflow))?;
        Ok(overflow[0] != 0)
    }

    /// One step at `learning_rate` with what is accumulated. Waits for nothing but LAMB's norms.
    pub fn step(
        &mut self,
        optimizer: &mut Optimizer,
        params: &mut ParamStore,
        treatment: Treatment,
        learning_rate: f64,
    ) -> Result<()> {
        optimizer.set_rules(optimizer.steps + 1, learning_rate);
        let rules: Vec<f32> = optimizer.rules.iter().flat_map(rule_numbers).collect();
        self.allocations += u64::from(self.rules.set(bytes_of(&rules))?);
        let (launch, lamb) = (launches::blocks(optimizer.blocks.len()), optimizer.is_lamb());
        let of = |memory: &Memory| Argument::Address(memory.address());
        let scale = [
            Argument::Float(treatment.factor as f32),
            Argument::Float(treatment.max_value.map_or(f32::INFINITY, |bound| bound as f32)),
        ];
        let after = [Argument::Float(optimizer.fresh_share(optimizer.steps + 1)), precision_word(optimizer.precision)];
        let [weights, values] = match self.master.address() {
            0 => [of(&self.values), Argument::Address(0)],
            _ => [of(&self.master), of(&self.values)],
        };
        let (blocks, rules, gradient) = (of(&self.blocks), of(&self.rules), of(&self.gradient));
        let (first, second, averages) = (of(&self.first), of(&self.second), of(&self.averages));
        let begin = [blocks, rules, gradient, weights, first];
        if lamb {
            self.begin(optimizer, params);
            self.allocations += u64::from(self.squares.renew(optimizer.blocks.len() * 16)?);
            let arguments = [begin.as_slice(), &[second, of(&self.squares)], &scale].concat();
            self.start(OPTIMIZER, "lamb_moments", launches::blocks_squares(optimizer.blocks.len()), &arguments)?;
            self.trust(optimizer)?;
            let arguments =
                [&[blocks, rules, of(&self.trust), weights, first, second, values, averages][..], &after].concat();
            self.start(OPTIMIZER, "lamb", launch, &arguments)?;
        } else if self.second.address() == 0 {
            let arguments = [begin.as_slice(), &[values, averages], &scale, &after].concat();
            self.start(OPTIMIZER, "sgd", launch, &arguments)?;
            self.begin(optimizer, params);
        } else {
            let arguments = [begin.as_slice(), &[second, values, averages], &scale, &after].concat();
            self.start(OPTIMIZER, "adam", launch, &arguments)?;
            self.begin(optimizer, params);
        }
        optimizer.steps += 1;
        self.newest = Newest::Device;
        Ok(())
    }

    /// From here on the host's state is older, and if what follows fails nobody has it.
    fn begin(&mut self, optimizer: &mut Optimizer, params: &mut ParamStore) {
        params.set_elsewhere();
        optimizer.stale = true;
        self.newest = Newest::Nowhere;
    }

    /// LAMB's trust ratios, by parameter.
    fn trust(&mut self, optimizer: &mut Optimizer) -> Result<()> {
        let mut sums = vec![[0.0f64; 2]; optimizer.blocks.len()];
        self.machine.download(self.squares.address(), bytes_of_mut(&mut sums))?;
        for (slots, sums) in optimizer.squares.iter().zip(&sums) {
            slots.iter().zip(sums).for_each(|(slot, sum)| slot.store(sum.to_bits(), Ordering::Relaxed));
        }
        trust_ratios(&optimizer.blocks, &optimizer.settings, &optimizer.squares, &mut optimizer.trust);
        self.allocations += u64::from(self.trust.set(bytes_of(&optimizer.trust))?);
        Ok(())
    }

    fn start(
        &self,
        source: Source,
        name: &'static str,
        launch: Result<Option<Launch>>,
        arguments: &[Argument],
    ) -> Result<()> {
        launch?.map_or(Ok(()), |launch| self.machine.start(OP, Kernel { source, name }, launch, arguments))
    }
}

fn precision_word(precision: Precision) -> Argument {
    Argument::Word(match precision {
        Precision::F32 => 0,
        Precision::Bf16 => 1,
        Precision::F16 => 2,
    })
}

/// `Block` of `optimizer.cu`.
fn block_words(block: &super::optimizer::Block) -> [u64; 3] {
    let pair = |low: usize, high: usize| low as u64 | (high as u64) << 32;
    let range = &block.range;
    [range.start as u64, pair(range.len(), block.setting), pair(block.param, usize::from(block.statistic))]
}

/// A rule as the kernels of its optimizer read it.
fn rule_numbers(rule: &Rule) -> [f32; RULE] {
    match rule {
        Rule::Adam(s) => {
            [s.rate, s.inverse_correction, s.beta1, s.beta2, s.fresh1, s.fresh2, s.epsilon, s.shrink, s.l2]
        }
        Rule::Sgd(s) => [s.rate, s.momentum, s.nesterov, s.l2, 0.0, 0.0, 0.0, 0.0, 0.0],
        Rule::Lamb { step: s, rate } => {
            [*rate, s.first_correction, s.inverse_correction, s.beta1, s.beta2, s.fresh1, s.fresh2, s.epsilon, s.decay]
        }
    }
}
