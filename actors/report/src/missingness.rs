//! Where values are missing: a band for each column, from the first row to the last, and its share.

use crate::escape::cut;
use crate::number::percent;
use crate::page::Table;
use crate::svg::{Anchor, Drawing, TOP};

const BAND: f64 = 18.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 64.0;
const MOST: usize = 80;

/// One column: which share of all its values is missing, and of those in each of several equal runs of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Missingness {
    pub title: String,
    pub columns: Vec<(String, f64, Vec<f64>)>,
}

impl Missingness {
    pub fn new(title: impl Into<String>, columns: Vec<(String, f64, Vec<f64>)>) -> Self {
        Self { title: title.into(), columns }
    }

    pub(crate) fn draw(&self, whole: f64) -> Drawing {
        let shown = &self.columns[..self.columns.len().min(MOST)];
        let height = TOP + BAND * shown.len() as f64 + 22.0;
        let mut drawing = Drawing::new(&self.title, whole, height);
        for (index, (name, share, runs)) in shown.iter().enumerate() {
            let y = TOP + BAND * index as f64;
            drawing.text(LEFT - 8.0, y + 13.0, Anchor::End, "", &cut(name, 28));
            drawing.rect(LEFT, y + 2.0, whole - LEFT - RIGHT, BAND - 4.0, "back", "");
            let width = (whole - LEFT - RIGHT) / runs.len().max(1) as f64;
            for (run, missing) in runs.iter().enumerate().filter(|(_, missing)| **missing > 0.0) {
                // A single missing value among thousands must be seen.
                let shade = 0.3 + 0.7 * missing.clamp(0.0, 1.0);
                let x = LEFT + width * run as f64;
                let tip = format!("{name}: {} missing in run {} of {}", percent(*missing), run + 1, runs.len());
                drawing.cell(x, y + 2.0, width, BAND - 4.0, "s1", shade, &tip);
            }
            drawing.text(whole - RIGHT + 8.0, y + 13.0, Anchor::Start, "soft", &percent(*share));
        }
        let y = height - 6.0;
        drawing.text(LEFT, y, Anchor::Start, "soft", "first row");
        drawing.text(whole - RIGHT, y, Anchor::End, "soft", "last row");
        drawing
    }

    pub(crate) fn table(&self) -> Table {
        let rows = self.columns.iter().map(|(name, share, _)| vec![name.clone(), percent(*share)]).collect();
        Table::new(["Column", "Missing"], rows).numbers([1])
    }
}
