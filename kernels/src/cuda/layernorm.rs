//! Launches of layer normalization; the kernels are in `layernorm.cu`.

use super::compile::Source;
use super::launch::{Launch, MANY_BLOCKS, MOST_BLOCKS, MOST_THREADS, WARP};
use crate::error::Result;

/// The kernels.
pub const SOURCE: Source = super::source!("layernorm.cu");

const OP: &str = "layer_norm";
/// Rows that one partial sum of the parameters' gradients takes in.
const ROWS_OF_CHUNK: u64 = 512;
/// Rows that a block of that sum takes at a time.
const ROWS_AT_A_TIME: u32 = 8;

/// `layer_norm_forward` and `layer_norm_backward`: a row a block.
///
/// # Errors
/// None for sizes that fit a device's memory.
pub fn rows(rows: u64, columns: u32) -> Result<Option<Launch>> {
    // As many threads as there are columns, in whole warps; how many decides the order of a row's sum.
    let threads = columns.clamp(1, MOST_THREADS).next_multiple_of(WARP);
    Launch::new(OP, [rows.min(MANY_BLOCKS), 1, 1], [threads, 1, 1], threads / WARP * 4)
}

/// Rows of a chunk in `layer_norm_parameters`, and how many chunks there are. `partial` needs
/// `2 * chunks * columns` floats.
pub fn chunks(rows: u64) -> (u32, u32) {
    // More rows a chunk where there would be too many chunks.
    let of_chunk = ROWS_OF_CHUNK.max(rows.div_ceil(u64::from(MOST_BLOCKS[1])));
    (of_chunk as u32, rows.div_ceil(of_chunk) as u32)
}

/// `layer_norm_parameters`.
///
/// # Errors
/// As [`rows`].
pub fn parameters(rows: u64, columns: u32) -> Result<Option<Launch>> {
    let grid = [u64::from(columns.div_ceil(WARP)), u64::from(chunks(rows).1), 1];
    Launch::new(OP, grid, [WARP, ROWS_AT_A_TIME, 1], WARP * ROWS_AT_A_TIME * 8)
}

/// `layer_norm_parameters_sum`: a column a thread.
///
/// # Errors
/// As [`rows`].
pub fn parameters_sum(columns: u32) -> Result<Option<Launch>> {
    let threads = 256;
    Launch::new(OP, [u64::from(columns.div_ceil(threads)), 1, 1], [threads, 1, 1], 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_fit_devices_at_any_size() {
        for (of_rows, columns) in [(1, 1), (3, 33), (1 << 20, 768), (1 << 34, 8), (1 << 40, 1), (5, 1 << 20)] {
            for launch in [rows(of_rows, columns), parameters(of_rows, columns), parameters_sum(columns)] {
                launch.unwrap_or_else(|e| panic!("{of_rows} x {columns}: {e}")).expect("something to do");
            }
            let (of_chunk, chunks) = chunks(of_rows);
            assert!(u64::from(of_chunk) * u64::from(chunks) >= of_rows, "{of_rows} rows");
        }
        assert_eq!(rows(0, 5), Ok(None));
        assert_eq!(parameters(0, 5), Ok(None));
    }
}
