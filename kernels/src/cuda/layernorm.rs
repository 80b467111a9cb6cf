//! Launches of layer normalization; the kernels are in `layernorm.cu`.

use super::launch::{Launch, MANY_BLOCKS, MOST_THREADS, WARP};
use crate::error::Result;

/// `layer_norm_forward` and `layer_norm_backward`: a row a block.
///
/// # Errors
/// None for sizes that fit a device's memory.
pub fn rows(rows: u64, columns: u32) -> Result<Option<Launch>> {
    // As many threads as there are columns, in whole warps; how many decides the order of a row's sum.
    let threads = columns.clamp(1, MOST_THREADS).next_multiple_of(WARP);
    Launch::new("layer_norm", [rows.min(MANY_BLOCKS), 1, 1], [threads, 1, 1], threads / WARP * 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_fit_devices_at_any_size() {
        for (of_rows, columns) in [(1, 1), (3, 33), (1 << 20, 768), (1 << 34, 8), (1 << 40, 1), (5, 1 << 20)] {
            rows(of_rows, columns).expect("fits").expect("something to do");
        }
        assert_eq!(rows(0, 5), Ok(None));
    }
}
