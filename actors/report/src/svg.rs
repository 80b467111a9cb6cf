//! A drawing: shapes by coordinates, with classes in place of colours so that a page can be light or dark.

use std::fmt::Write;

use crate::escape::{cut, escape};

/// Pixels from left to right, of a chart that stands alone, and of one beside another: drawn smaller, not shrunk, so
/// that both are read alike.
pub(crate) const WIDE: f64 = 720.0;
pub(crate) const NARROW: f64 = 456.0;
/// Above the plot, where the title stands.
pub(crate) const TOP: f64 = 34.0;

/// Where a text stands to its point.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

pub(crate) struct Drawing {
    body: String,
    title: String,
    width: f64,
    height: f64,
}

impl Drawing {
    /// With the title at the top left.
    pub fn new(title: &str, width: f64, height: f64) -> Self {
        let mut this = Self { body: String::new(), title: title.to_owned(), width, height };
        this.text(0.0, 17.0, Anchor::Start, "title", &cut(title, (width / 8.0) as usize));
        this
    }

    /// `tip` is shown by the browser beside the pointer; empty: none.
    pub fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, class: &str, tip: &str) {
        let (x, y, width, height) = (Px(x), Px(y), Px(width.max(0.0)), Px(height.max(0.0)));
        let _ = write!(self.body, r#"<rect x="{x}" y="{y}" width="{width}" height="{height}" class="{class}""#);
        self.close("rect", tip);
    }

    /// The same, with this much of its colour.
    pub fn cell(&mut self, x: f64, y: f64, width: f64, height: f64, class: &str, opacity: f64, tip: &str) {
        let (x, y, width, height, opacity) = (Px(x), Px(y), Px(width), Px(height), Px(opacity));
        let _ = write!(
            self.body,
            r#"<rect x="{x}" y="{y}" width="{width}" height="{height}" class="{class}" fill-opacity="{opacity}""#
        );
        self.close("rect", tip);
    }

    pub fn rule(&mut self, x1: f64, y1: f64, x2: f64, y2: f64, class: &str) {
        let (x1, y1, x2, y2) = (Px(x1), Px(y1), Px(x2), Px(y2));
        let _ = write!(self.body, r#"<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="{class}"/>"#);
    }

    pub fn path(&mut self, points: &[(f64, f64)], class: &str, tip: &str) {
        let mut d = String::new();
        for (index, (x, y)) in points.iter().enumerate() {
            let _ = write!(d, "{}{} {}", if index == 0 { "M" } else { "L" }, Px(*x), Px(*y));
        }
        let _ = write!(self.body, r#"<path d="{d}" class="{class}""#);
        self.close("path", tip);
    }

    pub fn dot(&mut self, x: f64, y: f64, class: &str, tip: &str) {
        let _ = write!(self.body, r#"<circle cx="{}" cy="{}" r="2.5" class="{class}""#, Px(x), Px(y));
        self.close("circle", tip);
    }

    pub fn text(&mut self, x: f64, y: f64, anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let (x, y) = (Px(x), Px(y));
        let _ = write!(
            self.body,
            r#"<text x="{x}" y="{y}" text-anchor="{anchor}" class="{class}">{}</text>"#,
            escape(text)
        );
    }

    /// A text turned by a quarter to the left, that ends at the point.
    pub fn upright(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let (x, y) = (Px(x), Px(y));
        let _ = write!(
            self.body,
            r#"<text transform="translate({x} {y}) rotate(-90)" text-anchor="end" class="{class}">{}</text>"#,
            escape(text)
        );
    }

    fn close(&mut self, element: &str, tip: &str) {
        if tip.is_empty() {
            self.body.push_str("/>");
        } else {
            let _ = write!(self.body, "><title>{}</title></{element}>", escape(tip));
        }
    }

    pub fn finish(self, style: Option<&str>) -> String {
        let style = style.map(|style| format!("<style>{style}</style>")).unwrap_or_default();
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" class="chart" role="img" aria-label="{}">{style}{}</svg>"#,
            Px(self.width),
            Px(self.height),
            escape(&self.title),
            self.body
        )
    }
}

/// A coordinate with two digits at most; what is not finite lies at 0.
struct Px(f64);

impl std::fmt::Display for Px {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = if self.0.is_finite() { (self.0 * 100.0).round() / 100.0 } else { 0.0 };
        // -0 is written as 0.
        write!(f, "{}", value + 0.0)
    }
}
