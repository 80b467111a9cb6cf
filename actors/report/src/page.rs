//! A page of sections: texts, figures, tables, pictures. Everything is in the one file.

use std::fmt::Write;

use crate::Chart;
use crate::escape::escape;
use crate::png::base64;
use crate::style;
use crate::svg::{NARROW, WIDE};

/// Rows of a chart's own table that a page shows; a longer one is cut, and says so.
const MOST_ROWS: usize = 400;

/// Cells as texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Columns that stand to the right.
    numbers: Vec<usize>,
    caption: String,
}

impl Table {
    pub fn new(columns: impl IntoIterator<Item = impl Into<String>>, rows: Vec<Vec<String>>) -> Self {
        Self { columns: columns.into_iter().map(Into::into).collect(), rows, ..Self::default() }
    }

    /// These columns hold numbers.
    pub fn numbers(mut self, columns: impl IntoIterator<Item = usize>) -> Self {
        self.numbers = columns.into_iter().collect();
        self
    }

    pub fn caption(mut self, caption: impl Into<String>) -> Self {
        self.caption = caption.into();
        self
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn html(&self, out: &mut String, most: usize) {
        let class = |column: usize| if self.numbers.contains(&column) { " class=\"n\"" } else { "" };
        out.push_str("<div class=\"wide\" tabindex=\"0\"><table>");
        if !self.caption.is_empty() {
            let _ = write!(out, "<caption>{}</caption>", escape(&self.caption));
        }
        out.push_str("<thead><tr>");
        for (column, name) in self.columns.iter().enumerate() {
            let _ = write!(out, "<th scope=\"col\"{}>{}</th>", class(column), escape(name));
        }
        out.push_str("</tr></thead><tbody>");
        for row in self.rows.iter().take(most) {
            out.push_str("<tr>");
            for (column, cell) in row.iter().enumerate() {
                let _ = write!(out, "<td{}>{}</td>", class(column), escape(cell));
            }
            out.push_str("</tr>");
        }
        out.push_str("</tbody></table></div>");
        if self.rows.len() > most {
            let _ = write!(out, "<p class=\"lead\">and {} more rows</p>", self.rows.len() - most);
        }
    }
}

/// How a line of the page is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tone {
    Plain,
    Good,
    Warn,
    Bad,
}

#[derive(Debug, Clone)]
enum Part {
    Text(Tone, String),
    List(Vec<String>),
    Table(Table),
    Chart(Box<Chart>),
    Charts(Vec<Chart>),
    Images(Vec<Image>),
    Details { summary: String, table: Table },
}

/// A PNG file (see [`crate::png::encode`]), what it shows, and names of its columns where it has some of equal width.
#[derive(Debug, Clone)]
pub struct Image {
    title: String,
    text: String,
    columns: Vec<String>,
    png: Vec<u8>,
}

impl Image {
    pub fn new(title: impl Into<String>, text: impl Into<String>, png: Vec<u8>) -> Self {
        Self { title: title.into(), text: text.into(), columns: Vec::new(), png }
    }

    pub fn columns(mut self, columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.columns = columns.into_iter().map(Into::into).collect();
        self
    }

    fn html(&self, out: &mut String) {
        let (title, text, data) = (escape(&self.title), escape(&self.text), base64(&self.png));
        let _ = write!(out, "<figure><figcaption><b>{title}</b> {text}</figcaption><div class=\"sheet\">");
        if !self.columns.is_empty() {
            out.push_str("<div class=\"heads\">");
            for column in &self.columns {
                let _ = write!(out, "<span>{}</span>", escape(column));
            }
            out.push_str("</div>");
        }
        let _ = write!(out, "<img alt=\"{title}: {text}\" src=\"data:image/png;base64,{data}\"></div></figure>");
    }
}

/// A heading and what stands below it.
#[derive(Debug, Clone)]
pub struct Section {
    heading: String,
    parts: Vec<Part>,
}

impl Section {
    pub fn new(heading: impl Into<String>) -> Self {
        Self { heading: heading.into(), parts: Vec::new() }
    }

    fn part(mut self, part: Part) -> Self {
        self.parts.push(part);
        self
    }

    /// A paragraph.
    pub fn text(self, text: impl Into<String>) -> Self {
        self.part(Part::Text(Tone::Plain, text.into()))
    }

    /// A paragraph that says that something is as it should be.
    pub fn good(self, text: impl Into<String>) -> Self {
        self.part(Part::Text(Tone::Good, text.into()))
    }

    /// A paragraph to look at.
    pub fn warning(self, text: impl Into<String>) -> Self {
        self.part(Part::Text(Tone::Warn, text.into()))
    }

    /// A paragraph that says what is wrong.
    pub fn bad(self, text: impl Into<String>) -> Self {
        self.part(Part::Text(Tone::Bad, text.into()))
    }

    pub fn list(self, items: Vec<String>) -> Self {
        self.part(Part::List(items))
    }

    pub fn table(self, table: Table) -> Self {
        self.part(Part::Table(table))
    }

    /// A table that is shown when it is asked for.
    pub fn details(self, summary: impl Into<String>, table: Table) -> Self {
        self.part(Part::Details { summary: summary.into(), table })
    }

    /// A picture, with its figures as a table below.
    pub fn chart(self, chart: impl Into<Chart>) -> Self {
        self.part(Part::Chart(Box::new(chart.into())))
    }

    /// Small pictures beside each other.
    pub fn charts(self, charts: Vec<Chart>) -> Self {
        self.part(Part::Charts(charts))
    }

    /// Images beside each other.
    pub fn images(self, images: Vec<Image>) -> Self {
        self.part(Part::Images(images))
    }
}

/// The whole page.
#[derive(Debug, Clone)]
pub struct Page {
    title: String,
    lead: String,
    sections: Vec<Section>,
}

impl Page {
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), lead: String::new(), sections: Vec::new() }
    }

    /// A sentence below the title.
    pub fn lead(mut self, lead: impl Into<String>) -> Self {
        self.lead = lead.into();
        self
    }

    pub fn section(mut self, section: Section) -> Self {
        self.sections.push(section);
        self
    }

    /// The file.
    pub fn html(&self) -> String {
        let title = escape(&self.title);
        let mut out = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\
             <title>{title}</title><style>{}{}</style></head>\n<body><main><h1>{title}</h1>",
            style::CHART,
            style::PAGE
        );
        if !self.lead.is_empty() {
            let _ = write!(out, "<p class=\"lead\">{}</p>", escape(&self.lead));
        }
        if self.sections.len() > 3 {
            out.push_str("<nav aria-label=\"Sections\"><ul>");
            for (index, section) in self.sections.iter().enumerate() {
                let _ = write!(out, "<li><a href=\"#s{index}\">{}</a></li>", escape(&section.heading));
            }
            out.push_str("</ul></nav>");
        }
        for (index, section) in self.sections.iter().enumerate() {
            let _ = write!(
                out,
                "\n<section aria-labelledby=\"s{index}\"><h2 id=\"s{index}\">{}</h2>",
                escape(&section.heading)
            );
            for part in &section.parts {
                write_part(&mut out, part);
            }
            out.push_str("</section>");
        }
        out.push_str("</main></body></html>\n");
        out
    }
}

fn write_part(out: &mut String, part: &Part) {
    match part {
        Part::Text(tone, text) => {
            let (open, close) = match tone {
                Tone::Plain => ("<p>", "</p>"),
                Tone::Good => ("<p class=\"badge good\">", "</p>"),
                Tone::Warn => ("<p class=\"badge warn\">", "</p>"),
                Tone::Bad => ("<p class=\"badge bad\">", "</p>"),
            };
            let _ = write!(out, "{open}{}{close}", escape(text));
        }
        Part::List(items) => {
            out.push_str("<ul>");
            for item in items {
                let _ = write!(out, "<li>{}</li>", escape(item));
            }
            out.push_str("</ul>");
        }
        Part::Table(table) => table.html(out, usize::MAX),
        Part::Details { summary, table } => {
            let _ = write!(out, "<details><summary>{}</summary>", escape(summary));
            table.html(out, MOST_ROWS);
            out.push_str("</details>");
        }
        Part::Chart(chart) => write_chart(out, chart, WIDE),
        Part::Charts(charts) => {
            out.push_str("<div class=\"charts\">");
            for chart in charts {
                write_chart(out, chart, NARROW);
            }
            out.push_str("</div>");
        }
        Part::Images(images) => {
            out.push_str("<div class=\"charts\">");
            for image in images {
                image.html(out);
            }
            out.push_str("</div>");
        }
    }
}

fn write_chart(out: &mut String, chart: &Chart, width: f64) {
    let _ = write!(out, "<figure>{}<details><summary>Figures</summary>", chart.inline_svg(width));
    chart.table().html(out, MOST_ROWS);
    out.push_str("</details></figure>");
}
