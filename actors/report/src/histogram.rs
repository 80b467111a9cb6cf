//! How often values fall into each of several ranges.

use crate::axis::Axis;
use crate::number::number;
use crate::page::Table;
use crate::svg::{Anchor, Drawing, TOP};

const HEIGHT: f64 = 220.0;
const LEFT: f64 = 62.0;
const BOTTOM: f64 = 28.0;

/// `counts[i]` values lie from `edges[i]` to below `edges[i + 1]`; the last range holds its upper edge too.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    pub title: String,
    pub edges: Vec<f64>,
    pub counts: Vec<u64>,
}

impl Histogram {
    /// Ranges of equal width over the finite values.
    pub fn of(title: impl Into<String>, values: &[f64], bins: usize) -> Self {
        let finite = || values.iter().copied().filter(|value| value.is_finite());
        let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
        let title = title.into();
        if low > high {
            return Self { title, edges: vec![0.0, 1.0], counts: vec![0] };
        }
        let bins = if high > low { bins.max(1) } else { 1 };
        // Halves first: the width of the whole range may be beyond the largest number.
        let width = (high / 2.0 - low / 2.0) / bins as f64 * 2.0;
        let mut edges: Vec<f64> = (0..=bins).map(|index| low + width * index as f64).collect();
        if let Some(last) = edges.last_mut() {
            *last = high;
        }
        let mut counts = vec![0; bins];
        for value in finite() {
            // By the edges themselves, so that what the table says is so to the last bit.
            let above = edges[1..bins].partition_point(|edge| *edge <= value);
            counts[above] += 1;
        }
        Self { title, edges, counts }
    }

    pub(crate) fn draw(&self, whole: f64) -> Drawing {
        let mut drawing = Drawing::new(&self.title, whole, HEIGHT);
        let (Some(&low), Some(&high)) = (self.edges.first(), self.edges.last()) else { return drawing };
        let most = self.counts.iter().copied().max().unwrap_or(0).max(1);
        let y = Axis::new(0.0, most as f64, HEIGHT - BOTTOM, TOP, 4);
        let x = Axis::tight(low, high, LEFT, whole - 14.0, (whole / 90.0) as usize);
        for &tick in y.ticks.iter().filter(|tick| tick.fract() == 0.0) {
            drawing.rule(LEFT, y.at(tick), whole - 14.0, y.at(tick), "grid");
            drawing.text(LEFT - 8.0, y.at(tick) + 4.0, Anchor::End, "soft", &number(tick));
        }
        for (pair, &count) in self.edges.windows(2).zip(&self.counts).filter(|(_, count)| **count > 0) {
            let (mut from, mut to) = (x.at(pair[0]), x.at(pair[1]));
            if pair[0] == pair[1] {
                (from, to) = (x.at(pair[0]) - 20.0, x.at(pair[0]) + 20.0);
            }
            // Something of one value among millions must be seen.
            let top = y.at(count as f64).min(y.at(0.0) - 1.0);
            let tip = format!("{} to {}: {}", number(pair[0]), number(pair[1]), number(count as f64));
            drawing.rect(from + 0.5, top, (to - from - 1.0).max(1.0), y.at(0.0) - top, "s0", &tip);
        }
        drawing.rule(LEFT, y.at(0.0), whole - 14.0, y.at(0.0), "base");
        for &tick in &x.ticks {
            drawing.text(x.at(tick), HEIGHT - 9.0, Anchor::Middle, "soft", &Axis::label(tick));
        }
        drawing
    }

    pub(crate) fn table(&self) -> Table {
        let rows = self.edges.windows(2).zip(&self.counts);
        let rows = rows.map(|(pair, count)| vec![number(pair[0]), number(pair[1]), number(*count as f64)]).collect();
        Table::new(["From", "To", "Values"], rows).numbers([0, 1, 2])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_hold_their_values() {
        let histogram = Histogram::of("x", &[0.0, 1.0, 1.5, 2.0, f64::NAN, 4.0], 4);
        assert_eq!((histogram.edges, histogram.counts), (vec![0.0, 1.0, 2.0, 3.0, 4.0], vec![1, 2, 1, 1]));
        assert_eq!(Histogram::of("one", &[7.0, 7.0], 10).counts, [2]);
        assert_eq!(Histogram::of("none", &[], 10).counts, [0]);
    }

    proptest! {
        #[test]
        fn no_value_is_lost(values in prop::collection::vec(any::<f64>(), 0..50), bins in 0usize..30) {
            let histogram = Histogram::of("x", &values, bins);
            let finite = values.iter().filter(|value| value.is_finite()).count() as u64;
            prop_assert_eq!(histogram.counts.iter().sum::<u64>(), finite);
            prop_assert_eq!(histogram.edges.len(), histogram.counts.len() + 1);
        }
    }
}
