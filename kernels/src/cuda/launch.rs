//! How many blocks and threads a kernel is started with: arithmetic, the same for all devices, so that no bit of a result
//! depends on which one it is.

use crate::error::{Error, Result};

/// Most blocks along x, and along y and z.
pub const MOST_BLOCKS: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];
/// Most threads of a block.
pub const MOST_THREADS: u32 = 1_024;
/// Shared memory that a block has on every device without asking for more, in bytes.
pub const SHARED_BYTES: u32 = 48 << 10;
/// Blocks that are enough for the largest device to hide what it waits for; more work is done in turns.
pub const MANY_BLOCKS: u64 = 1 << 16;

/// Lanes of a warp.
pub const WARP: u32 = 32;

/// The size of one start of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared: u32,
}

impl Launch {
    /// None where there is nothing to do: a grid of no blocks is an error on a device.
    ///
    /// # Errors
    /// [`Error::Value`] where no device can start it.
    pub fn new(op: &'static str, grid: [u64; 3], block: [u32; 3], shared: u32) -> Result<Option<Launch>> {
        let threads = block.iter().map(|&n| u64::from(n)).product::<u64>();
        if threads == 0 || threads > u64::from(MOST_THREADS) {
            return Err(Error::value(op, format!("1 to {MOST_THREADS} threads a block"), threads));
        }
        if shared > SHARED_BYTES {
            return Err(Error::value(op, format!("at most {SHARED_BYTES} bytes of shared memory a block"), shared));
        }
        if grid.contains(&0) {
            return Ok(None);
        }
        if let Some((blocks, most)) = grid.iter().zip(MOST_BLOCKS).find(|&(&blocks, most)| blocks > u64::from(most)) {
            return Err(Error::value(op, format!("at most {most} blocks"), blocks));
        }
        Ok(Some(Launch { grid: grid.map(|blocks| blocks as u32), block, shared }))
    }

    /// Threads that take elements in turns: a block of `threads` for each `threads` elements, up to many.
    ///
    /// # Errors
    /// Those of [`Launch::new`].
    pub fn over(op: &'static str, elements: u64, threads: u32) -> Result<Option<Launch>> {
        Launch::new(op, [elements.div_ceil(u64::from(threads.max(1))).min(MANY_BLOCKS), 1, 1], [threads, 1, 1], 0)
    }

    /// Rows that take turns, a warp each.
    ///
    /// # Errors
    /// Those of [`Launch::new`].
    pub fn over_rows(op: &'static str, rows: u64) -> Result<Option<Launch>> {
        const THREADS: u32 = 256;
        Launch::new(op, [rows.div_ceil(u64::from(THREADS / WARP)).min(MANY_BLOCKS), 1, 1], [THREADS, 1, 1], 0)
    }

    /// Samples that take turns along y, each with at most so many elements.
    ///
    /// # Errors
    /// Those of [`Launch::new`].
    pub fn over_samples(op: &'static str, samples: u64, elements: u64) -> Result<Option<Launch>> {
        const THREADS: u32 = 256;
        let across = elements.div_ceil(u64::from(THREADS)).min(MANY_BLOCKS);
        Launch::new(op, [across, samples.min(u64::from(MOST_BLOCKS[1])), 1], [THREADS, 1, 1], 0)
    }

    /// Sums down the columns of each of some runs of rows: 32 columns by 8 rows at a time, with `bytes` of shared memory a
    /// thread.
    ///
    /// # Errors
    /// Those of [`Launch::new`].
    pub fn down_columns(op: &'static str, columns: u64, runs: u64, bytes: u32) -> Result<Option<Launch>> {
        const ROWS: u32 = 8;
        Launch::new(op, [columns.div_ceil(u64::from(WARP)), runs, 1], [WARP, ROWS, 1], WARP * ROWS * bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_what_devices_take() {
        assert_eq!(Launch::over("t", 0, 256), Ok(None));
        let of = |elements| Launch::over("t", elements, 256).expect("fits").expect("some").grid[0];
        assert_eq!((of(1), of(256), of(257)), (1, 1, 2));
        // Beyond what 32 bits count.
        assert_eq!((of(1 << 33), of(u64::MAX)), (1 << 16, 1 << 16));
        assert!(Launch::new("t", [1 << 31, 1, 1], [1, 1, 1], 0).is_err());
        assert!(Launch::new("t", [(1 << 31) - 1, 65_535, 1], [1, 1, 1], 0).is_ok());
        assert!(Launch::new("t", [1, 65_536, 1], [1, 1, 1], 0).is_err());
        assert!(Launch::new("t", [1, 1, 1], [32, 33, 1], 0).is_err() && Launch::over("t", 1, 0).is_err());
        assert!(Launch::new("t", [1, 1, 1], [32, 1, 1], SHARED_BYTES + 1).is_err());
    }
}
