//! Launches of dropout; the kernels are in `dropout.cu`.

use super::compile::Source;
use super::launch::Launch;
use crate::error::Result;

/// The kernels.
pub const SOURCE: Source = super::source!("dropout.cu");

/// `dropout_forward` and `dropout_backward`: four elements of a row a thread, which are one block of random words.
///
/// # Errors
/// None for sizes that fit a device's memory.
pub fn rows(rows: u64, columns: u32) -> Result<Option<Launch>> {
    Launch::over("dropout", rows.saturating_mul(u64::from(columns.div_ceil(4))), 256)
}

/// Words below this are dropped, and what the others are scaled by: `below` and `scale` of the kernels.
pub fn threshold(rate: f32) -> (u32, f32) {
    ((f64::from(rate) * 2f64.powi(32)) as u32, 1.0 / (1.0 - rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_fit_devices_at_any_size() {
        assert_eq!(rows(0, 7), Ok(None));
        assert_eq!(rows(7, 0), Ok(None));
        assert_eq!(rows(1, 1).expect("fits").expect("some").grid, [1, 1, 1]);
        assert!(rows(1 << 40, u32::MAX).expect("fits").is_some());
        assert_eq!(threshold(0.5), (1 << 31, 2.0));
        assert_eq!(threshold(0.0), (0, 1.0));
    }
}
