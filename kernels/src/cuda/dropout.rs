//! What dropout's kernel is given; it is in `dropout.cu`.

/// Words below this are dropped, and what the others are scaled by: `below` and `scale` of the kernel.
pub fn threshold(rate: f32) -> (u32, f32) {
    ((f64::from(rate) * 2f64.powi(32)) as u32, 1.0 / (1.0 - rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_share_of_all_words() {
        assert_eq!(threshold(0.5), (1 << 31, 2.0));
        assert_eq!(threshold(0.0), (0, 1.0));
    }
}
