//! What runs kernels: a GPU, or in the tests a CPU that plays one. Everything is done in the order in which it is asked for.

use super::compile::Source;
use super::launch::Launch;
use super::work::Work;
use crate::error::{Error, Result};
use std::fmt;
use std::sync::Arc;

/// A kernel: its file and its name there.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    pub source: Source,
    pub name: &'static str,
}

/// Files are told apart by their names: their texts are long.
impl PartialEq for Kernel {
    fn eq(&self, other: &Kernel) -> bool {
        self.name == other.name && self.source.file == other.source.file
    }
}

/// What a kernel is given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// Memory of the machine; 0 where a kernel may be given none.
    Address(u64),
    Word(u32),
    Word64(u64),
    Float(f32),
    /// `Windows` of `windows.cuh`.
    Words([u32; 9]),
}

impl Argument {
    /// Its bytes, as a device reads them, in 16-byte-aligned storage.
    pub fn write(self, to: &mut [u64; 5]) {
        match self {
            Argument::Address(value) | Argument::Word64(value) => to[0] = value,
            Argument::Word(value) => to[0] = u64::from(value),
            Argument::Float(value) => to[0] = u64::from(value.to_bits()),
            Argument::Words(words) => {
                for (to, two) in to.iter_mut().zip(words.chunks(2)) {
                    *to = u64::from(two[0]) | u64::from(*two.get(1).unwrap_or(&0)) << 32;
                }
            }
        }
    }
}

/// Memory and kernels of one device. A machine is shared by what one process does on it.
pub trait Machine: Send + Sync + fmt::Debug {
    /// For people, such as `cuda:0 (NVIDIA H200)`.
    fn describe(&self) -> String;

    /// New memory, contents unspecified; never 0.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    fn allocate(&self, bytes: usize) -> Result<u64>;

    /// Takes memory back, after what was asked for before.
    fn release(&self, address: u64);

    /// Copies to the machine; `from` is free again at the return.
    ///
    /// # Errors
    /// [`Error::Device`], also of what was asked for before; so of all that follow.
    fn upload(&self, from: &[u8], to: u64) -> Result<()>;

    /// Copies from the machine, after all that was asked for before.
    ///
    /// # Errors
    /// As [`Machine::upload`].
    fn download(&self, from: u64, to: &mut [u8]) -> Result<()>;

    /// Zeros.
    ///
    /// # Errors
    /// As [`Machine::upload`].
    fn clear(&self, at: u64, bytes: usize) -> Result<()>;

    /// Starts a kernel. `op`: for messages.
    ///
    /// # Errors
    /// As [`Machine::upload`]; [`Error::Compile`] where its source does not compile.
    fn start(&self, op: &'static str, kernel: Kernel, launch: Launch, arguments: &[Argument]) -> Result<()>;

    /// Does what was collected, in order. A machine may keep it whole, for when the same work comes again.
    ///
    /// # Errors
    /// As [`Machine::start`].
    fn run(&self, work: &Work) -> Result<()> {
        work.run_on(self)
    }

    /// Copies to the machine, each part to its place behind `to`, beside what it was asked for before and without waiting
    /// for that: `to` is memory that only [`Machine::take_aside`] reads. The parts are free again at the return.
    ///
    /// # Errors
    /// As [`Machine::upload`].
    fn upload_aside(&self, parts: &[(usize, &[u8])], to: u64) -> Result<()> {
        parts.iter().try_for_each(|(at, part)| self.upload(part, to + *at as u64))
    }

    /// Copies within the machine what the last [`Machine::upload_aside`] has brought, when it is there and after all that
    /// was asked for before.
    ///
    /// # Errors
    /// As [`Machine::upload`].
    fn take_aside(&self, from: u64, to: u64, bytes: usize) -> Result<()>;
}

/// Memory of a machine that grows to the largest size it ever needed.
#[derive(Debug)]
pub struct Memory {
    machine: Arc<dyn Machine>,
    address: u64,
    capacity: usize,
}

impl Memory {
    /// None yet.
    pub fn new(machine: &Arc<dyn Machine>) -> Memory {
        Memory { machine: machine.clone(), address: 0, capacity: 0 }
    }

    /// Makes it at least so large, contents unspecified; returns whether memory had to be asked for. Never of no size, so
    /// that an address of 0 means none.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn renew(&mut self, bytes: usize) -> Result<bool> {
        if self.address != 0 && bytes <= self.capacity {
            return Ok(false);
        }
        self.free();
        // A little more, so that sizes that creep up do not ask each time.
        let step = (bytes / 8 + 1).checked_next_power_of_two().unwrap_or(1).max(512);
        let capacity = bytes.max(1).checked_next_multiple_of(step).unwrap_or(bytes);
        self.address = self.machine.allocate(capacity)?;
        self.capacity = capacity;
        Ok(true)
    }

    /// Where it is; 0 before the first [`Memory::renew`].
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Bytes that it has.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes it as large as these values and copies them.
    ///
    /// # Errors
    /// Those of [`Memory::renew`] and [`Machine::upload`].
    pub fn set(&mut self, values: &[u8]) -> Result<bool> {
        let asked = self.renew(values.len())?;
        if !values.is_empty() {
            self.machine.upload(values, self.address)?;
        }
        Ok(asked)
    }

    fn free(&mut self) {
        if self.address != 0 {
            self.machine.release(self.address);
            (self.address, self.capacity) = (0, 0);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.free();
    }
}

/// The bytes of plain numbers.
pub(crate) fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: plain numbers have no padding, and any byte may be read.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The same, to be written.
pub(crate) fn bytes_of_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as above, and any bytes are numbers of these types.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// Types whose bytes are all there is to them.
pub(crate) trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for u32 {}
impl Plain for u64 {}
impl Plain for [u64; 4] {}
impl Plain for f32 {}
impl Plain for [f64; 2] {}

/// A size as kernels count it.
///
/// # Errors
/// [`Error::Value`] from 2^32 on.
pub(crate) fn word(op: &'static str, size: usize) -> Result<u32> {
    u32::try_from(size).map_err(|_| Error::value(op, "a size below 2^32 on a device", size))
}
