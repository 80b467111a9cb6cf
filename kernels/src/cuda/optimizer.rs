//! Launches of optimizer steps and of the gradients' norm; the kernels are in `optimizer.cu`, what they are given in
//! `optim/device.rs`.

use super::launch::Launch;
use crate::error::Result;

const OP: &str = "optimizer";
const THREADS: u32 = 256;
/// Most chunks of a norm: their sums are added one after the other.
const MOST_CHUNKS: u64 = 1_024;
/// Shortest chunk, in elements.
const SHORTEST: u64 = 4_096;

/// `adam`, `sgd` and `lamb`: for so many blocks of parameters.
///
/// # Errors
/// None for sizes that fit a device's memory.
pub fn blocks(count: usize) -> Result<Option<Launch>> {
    Launch::new(OP, [count as u64, 1, 1], [THREADS, 1, 1], 0)
}

/// `lamb_moments`, with room for two sums a thread.
///
/// # Errors
/// As [`blocks`].
pub fn blocks_squares(count: usize) -> Result<Option<Launch>> {
    Launch::new(OP, [count as u64, 1, 1], [THREADS, 1, 1], THREADS * 16)
}

/// Elements of a chunk of `squares`, and how many chunks there are: `partial` needs a double each.
pub fn chunks(count: u64) -> (u64, u32) {
    let of_chunk = count.div_ceil(MOST_CHUNKS).max(SHORTEST);
    (of_chunk, count.div_ceil(of_chunk) as u32)
}

/// `squares`.
///
/// # Errors
/// As [`blocks`].
pub fn squares(count: u64) -> Result<Option<Launch>> {
    Launch::new(OP, [u64::from(chunks(count).1), 1, 1], [THREADS, 1, 1], THREADS * 8)
}

/// `squares_sum`.
///
/// # Errors
/// As [`blocks`].
pub fn squares_sum() -> Result<Option<Launch>> {
    one_thread()
}

/// `absorb_rows`.
///
/// # Errors
/// As [`blocks`].
pub fn one_thread() -> Result<Option<Launch>> {
    Launch::new(OP, [1, 1, 1], [1, 1, 1], 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_fit_devices_at_any_size() {
        assert_eq!((blocks(0), squares(0)), (Ok(None), Ok(None)));
        for count in [1, 4_096, 4_097, 1 << 33, u64::MAX / 2] {
            let (of_chunk, chunks) = chunks(count);
            assert!(u128::from(of_chunk) * u128::from(chunks) >= u128::from(count) && chunks <= 1_024, "{count}");
            assert!(squares(count).expect("fits").is_some());
        }
        assert!(squares_sum().expect("fits").is_some());
        for count in [1, 1 << 24] {
            assert!(blocks(count).expect("fits").is_some() && blocks_squares(count).expect("fits").is_some());
        }
    }
}
