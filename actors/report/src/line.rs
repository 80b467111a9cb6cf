//! Values over time, steps or thresholds, as lines.

use crate::axis::Axis;
use crate::escape::cut;
use crate::number::number;
use crate::page::Table;
use crate::svg::{Anchor, Drawing, TOP};

const HEIGHT: f64 = 280.0;
const LEFT: f64 = 66.0;
const BOTTOM: f64 = 46.0;
const COLORS: usize = 6;
/// With fewer points than this each is marked.
const MARKED: usize = 40;

/// A line; a point that is not finite interrupts it.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// Lines over one axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub title: String,
    pub x: String,
    pub y: String,
    pub series: Vec<Series>,
}

impl Line {
    pub fn new(title: impl Into<String>, x: impl Into<String>, y: impl Into<String>, series: Vec<Series>) -> Self {
        Self { title: title.into(), x: x.into(), y: y.into(), series }
    }

    pub(crate) fn draw(&self, whole: f64) -> Drawing {
        let legend = if self.series.len() > 1 { 20.0 } else { 0.0 };
        let mut drawing = Drawing::new(&self.title, whole, HEIGHT + legend);
        let points = || self.series.iter().flat_map(|series| &series.points).filter(|point| finite(point));
        let low_high = |of: fn(&(f64, f64)) -> f64| {
            (points().map(of).fold(f64::INFINITY, f64::min), points().map(of).fold(f64::NEG_INFINITY, f64::max))
        };
        let ((x_low, x_high), (y_low, y_high)) = (low_high(|point| point.0), low_high(|point| point.1));
        let x = Axis::tight(x_low, x_high, LEFT, whole - 18.0, (whole / 90.0) as usize);
        let y = Axis::new(y_low, y_high, HEIGHT + legend - BOTTOM, TOP + legend, 5);
        for &tick in &y.ticks {
            drawing.rule(LEFT, y.at(tick), whole - 18.0, y.at(tick), "grid");
            drawing.text(LEFT - 8.0, y.at(tick) + 4.0, Anchor::End, "soft", &Axis::label(tick));
        }
        for &tick in &x.ticks {
            drawing.text(x.at(tick), HEIGHT + legend - 26.0, Anchor::Middle, "soft", &Axis::label(tick));
        }
        drawing.text((LEFT + whole - 18.0) / 2.0, HEIGHT + legend - 6.0, Anchor::Middle, "soft", &self.x);
        drawing.text(whole - 18.0, 17.0, Anchor::End, "soft", &self.y);
        let mut legend_x = LEFT;
        for (index, series) in self.series.iter().enumerate() {
            let color = index % COLORS;
            if legend > 0.0 && legend_x < whole - 60.0 {
                let name = cut(&series.name, 24);
                drawing.rect(legend_x, TOP - 6.0, 10.0, 10.0, &format!("s{color}"), "");
                drawing.text(legend_x + 15.0, TOP + 3.0, Anchor::Start, "", &name);
                legend_x += 32.0 + 7.0 * name.chars().count() as f64;
            }
            for part in series.points.split(|point| !finite(point)).filter(|part| !part.is_empty()) {
                let placed: Vec<_> = part.iter().map(|point| (x.at(point.0), y.at(point.1))).collect();
                drawing.path(&placed, &format!("l{color}"), &series.name);
                if series.points.len() < MARKED || part.len() == 1 {
                    for (point, (px, py)) in part.iter().zip(&placed) {
                        let tip = format!("{}: {} at {}", series.name, number(point.1), number(point.0));
                        drawing.dot(*px, *py, &format!("s{color}"), &tip);
                    }
                }
            }
        }
        drawing
    }

    pub(crate) fn table(&self) -> Table {
        let rows = self.series.iter().flat_map(|series| {
            series.points.iter().map(|point| vec![series.name.clone(), number(point.0), number(point.1)])
        });
        Table::new([self.y.as_str(), self.x.as_str(), "Value"], rows.collect()).numbers([1, 2])
    }
}

fn finite(point: &(f64, f64)) -> bool {
    point.0.is_finite() && point.1.is_finite()
}
