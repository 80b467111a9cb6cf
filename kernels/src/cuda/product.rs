//! Launches of the products; the kernels are in `product.cu` and `conv.cu`, their tiles in `product.cuh` and, for factors of
//! two bytes, in `tensor.cuh`.

use super::launch::Launch;
use crate::dtype::Precision;
use crate::error::Result;

/// Threads of every product.
const THREADS: u32 = 256;
/// Results from this many elements on are cut into large tiles: there are then enough of them for a large device. An
/// element's bits do not depend on it.
const LARGE: u64 = 128 * 128 * 128;

/// Rows and columns of a tile, and its shared memory: `Tile` of `product.cuh` and `TensorTile` of `tensor.cuh`.
struct Tile {
    side: u64,
    shared: u32,
    /// With factors of two bytes.
    of_halves: u32,
}

const SMALL_TILE: Tile = Tile { side: 64, shared: 2 * 16 * 2 * (64 + 4) * 4, of_halves: 2 * 2 * 64 * 20 * 4 };
const LARGE_TILE: Tile = Tile { side: 128, shared: 2 * 8 * 2 * (128 + 4) * 4, of_halves: 2 * 2 * 128 * 20 * 4 };

/// One product's kernels: with factors of f32, bf16 and f16.
pub type Names = [&'static str; 3];

/// The kernel that rounds factors to this precision.
pub fn kernel(names: Names, precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => names[0],
        Precision::Bf16 => names[1],
        Precision::F16 => names[2],
    }
}

/// Whether a result is worth the kernel whose name ends in `_large`.
pub fn is_large(rows: u64, columns: u64) -> bool {
    rows >= LARGE_TILE.side && columns >= LARGE_TILE.side && rows.saturating_mul(columns) >= LARGE
}

/// A product with a result of so many rows and columns and factors of this precision, `batch` times: along y and z.
///
/// # Errors
/// [`crate::Error::Value`] where there are more tiles than a device starts.
pub fn tiles(precision: Precision, large: bool, rows: u64, columns: u64, batch: [u64; 2]) -> Result<Option<Launch>> {
    let tile = if large { LARGE_TILE } else { SMALL_TILE };
    let count = rows.div_ceil(tile.side).saturating_mul(columns.div_ceil(tile.side));
    let shared = if precision == Precision::F32 { tile.shared } else { tile.of_halves };
    Launch::new("product", [count, batch[0], batch[1]], [THREADS, 1, 1], shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_fit_devices_at_any_size() {
        for (rows, columns) in [(1, 1), (65, 64), (1 << 24, 512), (1 << 32, 64), (1 << 20, 1 << 14)] {
            for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
                let launch = tiles(precision, is_large(rows, columns), rows, columns, [8, 1]).expect("fits");
                let launch = launch.expect("something to do");
                assert!(launch.grid[1] == 8 && launch.shared <= 48 << 10);
            }
        }
        assert_eq!(tiles(Precision::F32, false, 0, 5, [1, 1]), Ok(None));
        assert!(tiles(Precision::F32, false, 1 << 40, 1 << 20, [1, 1]).is_err());
        assert!(!is_large(64, 1 << 30) && !is_large(127, 1 << 20) && is_large(1 << 14, 128));
    }
}
