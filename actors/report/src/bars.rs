//! Bars from left to right, one for each name.

use crate::axis::Axis;
use crate::escape::cut;
use crate::number::number;
use crate::page::Table;
use crate::svg::{Anchor, Drawing, TOP};

/// Most bars that are drawn; the table below has all of them.
const MOST: usize = 40;
const BAR: f64 = 20.0;
/// Share of the width in which names stand, and pixels of a character of them.
const NAMES: f64 = 0.29;
const CHARACTER: f64 = 6.3;
const RIGHT: f64 = 70.0;

/// Values by name, in the given order.
#[derive(Debug, Clone, PartialEq)]
pub struct Bars {
    pub title: String,
    pub bars: Vec<(String, f64)>,
}

impl Bars {
    pub fn new(title: impl Into<String>, bars: Vec<(String, f64)>) -> Self {
        Self { title: title.into(), bars }
    }

    pub(crate) fn draw(&self, whole: f64) -> Drawing {
        let left = whole * NAMES;
        let shown = &self.bars[..self.bars.len().min(MOST)];
        let height = TOP + BAR * shown.len() as f64 + if shown.len() < self.bars.len() { 22.0 } else { 6.0 };
        let mut drawing = Drawing::new(&self.title, whole, height);
        let finite = || shown.iter().map(|(_, value)| *value).filter(|value| value.is_finite());
        let (low, high) = (finite().fold(0.0, f64::min), finite().fold(0.0, f64::max));
        let axis = Axis::tight(low, if high > low { high } else { low + 1.0 }, left, whole - RIGHT, 4);
        for (index, (name, value)) in shown.iter().enumerate() {
            let y = TOP + BAR * index as f64;
            let value = if value.is_finite() { *value } else { 0.0 };
            let (from, to) = (axis.at(0.0).min(axis.at(value)), axis.at(0.0).max(axis.at(value)));
            drawing.text(left - 8.0, y + 14.0, Anchor::End, "", &cut(name, (left / CHARACTER) as usize));
            let tip = format!("{name}: {}", number(value));
            drawing.rect(from, y + 3.0, (to - from).max(if value == 0.0 { 0.0 } else { 1.0 }), BAR - 6.0, "s0", &tip);
            drawing.text(to + 6.0, y + 14.0, Anchor::Start, "soft", &number(value));
        }
        drawing.rule(axis.at(0.0), TOP, axis.at(0.0), TOP + BAR * shown.len() as f64, "base");
        if shown.len() < self.bars.len() {
            let more = format!("and {} more, in the table below", self.bars.len() - shown.len());
            drawing.text(left - 8.0, height - 6.0, Anchor::End, "soft", &more);
        }
        drawing
    }

    pub(crate) fn table(&self) -> Table {
        let rows = self.bars.iter().map(|(name, value)| vec![name.clone(), number(*value)]).collect();
        Table::new(["Name", "Value"], rows).numbers([1])
    }
}
