//! An axis: round ticks over a range of values, and where a value lies in pixels.

use crate::number::number;

/// From values to pixels, with ticks at round numbers (1, 2 or 5 times a power of ten).
#[derive(Debug, Clone)]
pub(crate) struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    pub ticks: Vec<f64>,
}

impl Axis {
    /// Values `low..=high` on pixels `from..=to`, about `count` ticks. What is not finite or not a range becomes one.
    pub fn new(low: f64, high: f64, from: f64, to: f64, count: usize) -> Self {
        let (low, high) = range(low, high);
        let step = round_step((high - low) / count.max(1) as f64);
        let (first, last) = ((low / step).floor(), (high / step).ceil());
        let ticks = (0..=(last - first) as usize).map(|index| (first + index as f64) * step).collect();
        Self { low: first * step, high: last * step, from, to, ticks }
    }

    /// The axis ends where the values end, and not at a tick.
    pub fn tight(low: f64, high: f64, from: f64, to: f64, count: usize) -> Self {
        let (low, high) = range(low, high);
        let mut axis = Self::new(low, high, from, to, count);
        // A tick at the end may be off by a rounding.
        let slack = (high - low) * 1e-9;
        axis.ticks.retain(|tick| (low - slack..=high + slack).contains(tick));
        Self { low, high, ..axis }
    }

    pub fn at(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    pub fn label(tick: f64) -> String {
        // 0.30000000000000004 is 0.3 for a reader.
        number((tick * 1e12).round() / 1e12)
    }
}

fn range(low: f64, high: f64) -> (f64, f64) {
    let (low, high) = (if low.is_finite() { low } else { 0.0 }, if high.is_finite() { high } else { 1.0 });
    // Beyond that the width itself would be infinite.
    let (low, high) = (low.max(-1e300), high.min(1e300));
    if high - low > low.abs().max(high.abs()) * 1e-12 {
        return (low, high);
    }
    let half = (low.abs() * 0.05).max(0.5);
    (low - half, low + half)
}

fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = step / power;
    let round = [1.0, 2.0, 5.0].into_iter().find(|round| factor <= *round).unwrap_or(10.0);
    round * power
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ticks_are_round() {
        let axis = Axis::new(0.0, 97.0, 0.0, 100.0, 5);
        assert_eq!(axis.ticks, [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(axis.at(50.0), 50.0);
        let axis = Axis::tight(0.3, 0.7, 10.0, 20.0, 4);
        assert_eq!(
            axis.ticks.iter().map(|&tick| Axis::label(tick)).collect::<Vec<_>>(),
            ["0.3", "0.4", "0.5", "0.6", "0.7"]
        );
    }

    proptest! {
        #[test]
        fn every_range_has_an_axis(low in any::<f64>(), high in any::<f64>(), count in 0usize..20) {
            let axis = Axis::new(low, high, 0.0, 100.0, count);
            prop_assert!((1..200).contains(&axis.ticks.len()), "{:?}", axis);
            prop_assert!(axis.ticks.iter().all(|tick| tick.is_finite()));
        }
    }
}
