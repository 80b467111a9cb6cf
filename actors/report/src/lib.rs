//! Pictures and pages: charts as SVG, images as PNG, and a page of HTML that carries everything in itself, without
//! scripts and without a request to anywhere, for light and dark screens, readable by a screen reader.
//!
//! A chart is a value ([`Bars`], [`Histogram`], [`Line`], [`HeatMap`], [`Missingness`]) that becomes a [`Chart`];
//! [`Chart::svg`] is a file of its own, [`Section::chart`] puts it into a [`Page`] with its figures as a table below.
//! Every text that comes from data is escaped here, where it is written, and nowhere else. Equal input gives equal
//! bytes.
//!
//! ```
//! use within_report::{Bars, Page, Section};
//!
//! let bars = Bars::new("Rows of each platform", vec![("facebook".into(), 3.0), ("<google>".into(), 5.0)]);
//! let section = Section::new("Platforms").text("Two of them.").chart(bars);
//! let html = Page::new("A report").section(section).html();
//! assert!(html.contains("&lt;google&gt;") && !html.contains("<google>"));
//! ```

mod axis;
mod bars;
mod escape;
mod heat_map;
mod histogram;
mod line;
mod missingness;
mod number;
mod page;
pub mod png;
mod style;
mod svg;

pub use bars::Bars;
pub use escape::escape;
pub use heat_map::{HeatMap, Range};
pub use histogram::Histogram;
pub use line::{Line, Series};
pub use missingness::Missingness;
pub use number::{number, percent};
pub use page::{Image, Page, Section, Table};

/// A picture with its title.
#[derive(Debug, Clone, PartialEq)]
pub enum Chart {
    Bars(Bars),
    Histogram(Histogram),
    Line(Line),
    HeatMap(HeatMap),
    Missingness(Missingness),
}

impl Chart {
    /// A file of SVG, with its own style.
    pub fn svg(&self) -> String {
        self.drawing(svg::WIDE).finish(Some(style::CHART))
    }

    /// The same within a page, which has the style already.
    fn inline_svg(&self, width: f64) -> String {
        self.drawing(width).finish(None)
    }

    fn drawing(&self, width: f64) -> svg::Drawing {
        match self {
            Self::Bars(chart) => chart.draw(width),
            Self::Histogram(chart) => chart.draw(width),
            Self::Line(chart) => chart.draw(width),
            Self::HeatMap(chart) => chart.draw(width),
            Self::Missingness(chart) => chart.draw(width),
        }
    }

    pub fn title(&self) -> &str {
        match self {
            Self::Bars(chart) => &chart.title,
            Self::Histogram(chart) => &chart.title,
            Self::Line(chart) => &chart.title,
            Self::HeatMap(chart) => &chart.title,
            Self::Missingness(chart) => &chart.title,
        }
    }

    /// What the picture shows, in figures.
    pub fn table(&self) -> Table {
        match self {
            Self::Bars(chart) => chart.table(),
            Self::Histogram(chart) => chart.table(),
            Self::Line(chart) => chart.table(),
            Self::HeatMap(chart) => chart.table(),
            Self::Missingness(chart) => chart.table(),
        }
    }
}

macro_rules! into_chart {
    ($($name:ident),+) => {
        $(impl From<$name> for Chart {
            fn from(chart: $name) -> Self {
                Self::$name(chart)
            }
        })+
    };
}

into_chart!(Bars, Histogram, Line, HeatMap, Missingness);
