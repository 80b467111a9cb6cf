//! Scratch blocks for values that wait for their sibling, kept from round to round.

use std::ops::Range;

/// A block of numbers and how many frames to be sent still read it.
#[derive(Debug, Default)]
struct Block {
    values: Vec<f32>,
    readers: usize,
    /// The peer that it came from, until it has been added to something.
    from: Option<usize>,
}

/// The scratch memory of a group. It keeps the largest size it ever had.
#[derive(Debug, Default)]
pub struct Arena {
    blocks: Vec<Block>,
    free: Vec<usize>,
    /// Blocks per peer that wait for a sibling.
    waiting: Vec<usize>,
}

impl Arena {
    /// Forgets what an aborted round left behind.
    pub(super) fn reset(&mut self, world: usize) {
        self.free.clear();
        self.free.extend(0..self.blocks.len());
        self.waiting.clear();
        self.waiting.resize(world, 0);
    }

    /// A block of `len` numbers, contents unspecified.
    pub(super) fn take(&mut self, len: usize, from: Option<usize>) -> usize {
        let id = self.free.pop().unwrap_or_else(|| {
            self.blocks.push(Block::default());
            self.blocks.len() - 1
        });
        let block = &mut self.blocks[id];
        block.values.resize(len, 0.0);
        (block.readers, block.from) = (0, from);
        if let Some(peer) = from {
            self.waiting[peer] += 1;
        }
        id
    }

    pub(super) fn waiting(&self, peer: usize) -> usize {
        self.waiting[peer]
    }

    #[cfg(test)]
    pub(super) fn blocks(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn values(&self, id: usize) -> &[f32] {
        &self.blocks[id].values
    }

    pub(super) fn values_mut(&mut self, id: usize) -> &mut [f32] {
        &mut self.blocks[id].values
    }

    /// Adds block `addend` to block `sum`, which is an intermediate sum from now on, and frees `addend`.
    pub(super) fn join(&mut self, sum: usize, addend: usize) {
        self.settle(sum);
        let [s, a] = self.blocks.get_disjoint_mut([sum, addend]).expect("invariant: two blocks");
        crate::cpu::reduce::add_assign(&mut s.values, &a.values);
        self.free(addend);
    }

    /// Lends the block to `readers` frames; the last of them frees it.
    pub(super) fn lend(&mut self, id: usize, readers: usize) {
        self.settle(id);
        self.blocks[id].readers = readers;
    }

    pub(super) fn returned(&mut self, id: usize) {
        self.blocks[id].readers -= 1;
        if self.blocks[id].readers == 0 {
            self.free(id);
        }
    }

    pub(super) fn free(&mut self, id: usize) {
        self.settle(id);
        self.free.push(id);
    }

    /// The block no longer waits for a sibling.
    fn settle(&mut self, id: usize) {
        if let Some(peer) = self.blocks[id].from.take() {
            self.waiting[peer] -= 1;
        }
    }
}

/// The bytes of numbers, as they stand in memory: little-endian on every processor that is supported.
pub(super) fn bytes_of(values: &[f32]) -> &[u8] {
    // SAFETY: f32 has no padding, and any alignment is one of bytes.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The same, to be written.
pub(super) fn bytes_of_mut(values: &mut [f32]) -> &mut [u8] {
    // SAFETY: as above, and every pattern of bits is an f32.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// A range of bytes as one of numbers.
pub(super) fn numbers(bytes: &Range<usize>) -> Range<usize> {
    bytes.start / 4..bytes.end / 4
}

#[cfg(not(target_endian = "little"))]
compile_error!("numbers travel as little-endian bytes of memory");
