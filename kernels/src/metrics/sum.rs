//! Sums whose error does not grow with the number of samples.

/// The sum in the given order with a running compensation (Neumaier 1974): as good as exact for
/// the lengths of an evaluation, and the same bits for the same order.
pub(super) fn sum(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut total = 0.0_f64;
    let mut lost = 0.0_f64;
    for value in values {
        let next = total + value;
        lost += if total.abs() >= value.abs() { (total - next) + value } else { (value - next) + total };
        total = next;
    }
    // An overflow leaves an infinite total; the compensation is then meaningless.
    if total.is_finite() { total + lost } else { total }
}

/// The mean of a slice; NaN if it is empty.
pub(super) fn mean(values: &[f64]) -> f64 {
    sum(values.iter().copied()) / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_terms_survive_large_ones() {
        assert_eq!(sum([1e100, 1.0, -1e100]), 1.0);
        assert_eq!(sum(std::iter::repeat_n(0.1, 1_000_000)), 100_000.0);
        assert_eq!(sum([f64::MAX, f64::MAX]), f64::INFINITY);
        assert_eq!(sum([]), 0.0);
    }

    #[test]
    fn mean_of_nothing_is_nan() {
        assert!(mean(&[]).is_nan());
        assert_eq!(mean(&[1.0, 2.0]), 1.5);
    }
}
