//! A matrix of numbers as shades.

use crate::escape::cut;
use crate::number::number;
use crate::page::Table;
use crate::svg::{Anchor, Drawing, TOP};

const LEFT: f64 = 170.0;
/// Cells with room for their number.
const WRITTEN: f64 = 38.0;
const MOST: usize = 60;

/// What a full shade stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Range {
    /// From 0 (no shade) to this.
    UpTo(f64),
    /// From -1 to 1; negative numbers have another colour.
    Signed,
}

/// `values[row][column]`; NaN is left blank.
#[derive(Debug, Clone, PartialEq)]
pub struct HeatMap {
    pub title: String,
    pub rows: Vec<String>,
    pub columns: Vec<String>,
    pub values: Vec<Vec<f64>>,
    pub range: Range,
}

impl HeatMap {
    pub fn new(
        title: impl Into<String>,
        rows: Vec<String>,
        columns: Vec<String>,
        values: Vec<Vec<f64>>,
        range: Range,
    ) -> Self {
        Self { title: title.into(), rows, columns, values, range }
    }

    pub(crate) fn draw(&self, whole: f64) -> Drawing {
        let (rows, columns) = (self.rows.len().min(MOST), self.columns.len().min(MOST));
        let width = ((whole - LEFT - 10.0) / columns.max(1) as f64).min(60.0);
        let height = width.clamp(18.0, 30.0);
        let longest = self.columns[..columns].iter().map(|name| name.chars().count().min(24)).max().unwrap_or(0);
        let names = 14.0 + 7.0 * longest as f64;
        let mut drawing = Drawing::new(&self.title, whole, TOP + height * rows as f64 + names);
        for (row, name) in self.rows[..rows].iter().enumerate() {
            let y = TOP + height * row as f64;
            drawing.text(LEFT - 8.0, y + height / 2.0 + 4.0, Anchor::End, "", &cut(name, 24));
            for (column, other) in self.columns[..columns].iter().enumerate() {
                let value = self.values.get(row).and_then(|row| row.get(column)).copied().unwrap_or(f64::NAN);
                let x = LEFT + width * column as f64;
                if !value.is_finite() {
                    continue;
                }
                let (class, share) = match self.range {
                    Range::UpTo(most) => ("s0", if most > 0.0 { value / most } else { 0.0 }),
                    Range::Signed => (if value < 0.0 { "low" } else { "s0" }, value.abs()),
                };
                // Lighter than full, so that the number on it can be read.
                let shade = share.clamp(0.0, 1.0) * 0.6;
                let tip = format!("{name}, {other}: {}", number(value));
                drawing.cell(x + 0.5, y + 0.5, width - 1.0, height - 1.0, class, shade, &tip);
                if width >= WRITTEN {
                    let text = number((value * 100.0).round() / 100.0);
                    drawing.text(x + width / 2.0, y + height / 2.0 + 4.0, Anchor::Middle, "", &text);
                }
            }
        }
        for (column, name) in self.columns[..columns].iter().enumerate() {
            let (x, y) = (LEFT + width * (column as f64 + 0.5) + 4.0, TOP + height * rows as f64 + 8.0);
            drawing.upright(x, y, "soft", &cut(name, 24));
        }
        drawing
    }

    pub(crate) fn table(&self) -> Table {
        let columns = std::iter::once(String::new()).chain(self.columns.iter().cloned());
        let rows = self.rows.iter().zip(&self.values).map(|(name, values)| {
            std::iter::once(name.clone()).chain(values.iter().map(|value| number(*value))).collect()
        });
        let numbers: Vec<usize> = (1..=self.columns.len()).collect();
        Table::new(columns, rows.collect()).numbers(numbers)
    }
}
