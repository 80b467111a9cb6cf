//! The report as a page: verdict, violations, findings, missing values, distributions, correlations.

use report::{Bars, Chart, HeatMap, Histogram, Missingness, Page, Range, Section, Table, number, percent};

use super::outcome::Report;
use super::profile::{Finding, Profile, Type};
use super::schema::Severity;

/// Most pictures of distributions, and columns of the other pictures.
const MAX_PICTURES: usize = 60;
const MAX_CORRELATED: usize = 20;
const RUNS: usize = 120;
const BINS: usize = 30;
const TOP: usize = 12;
/// Findings of a kind that have a line each; of more, as many are named in one.
const MAX_ALIKE: usize = 5;

/// The page.
pub fn page(report: &Report, profile: &Profile) -> Page {
    let files: Vec<&str> = report.files.iter().map(|file| file.path.as_str()).collect();
    let title = match &report.data_schema {
        Some(schema) => format!("Validation against {}", schema.name),
        None => "Profile".to_owned(),
    };
    let lead =
        format!("{} rows, {} columns, of {}", number(report.rows as f64), report.columns.len(), files.join(", "));
    let mut page = Page::new(title).lead(lead).section(summary(report));
    if !report.schema_violations.is_empty() {
        page = page.section(violations(report));
    }
    page = page.section(findings(report)).section(missing(report, profile)).section(columns(report));
    let pictures = distributions(report, profile);
    if !pictures.is_empty() {
        page = page.section(Section::new("Distributions").charts(pictures));
    }
    if let Some(map) = correlations(profile) {
        page = page.section(Section::new("Correlations").text("Pearson's correlation of numeric columns.").chart(map));
    }
    page
}

fn summary(report: &Report) -> Section {
    let mut section = Section::new("Summary");
    section = match (&report.data_schema, report.passed) {
        (None, true) => section.text("No schema was given: this is what the files hold."),
        (Some(_), true) => section.good("No rule of severity fail is broken."),
        (_, false) => section.bad(format!("{} violations of severity fail.", report.count(Severity::Fail))),
    };
    if report.quarantined_rows > 0 {
        section = section.warning(format!("{} rows are left out and kept beside.", report.quarantined_rows));
    }
    let told = report.count(Severity::Warn);
    if told > 0 {
        section = section.warning(format!("{told} violations of severity warn."));
    }
    let file = |file: &super::outcome::FileRead| {
        vec![
            file.path.clone(),
            number(file.rows as f64),
            number(file.size_bytes as f64),
            file.blake3[..file.blake3.len().min(16)].to_owned(),
        ]
    };
    let rows = report.files.iter().map(file).collect();
    section.table(Table::new(["File", "Rows", "Bytes", "BLAKE3"], rows).numbers([1, 2]))
}

fn violations(report: &Report) -> Section {
    let bars = report.schema_violations.iter().map(|found| (found.rule.clone(), found.count as f64)).collect();
    let mut section = Section::new("Violations").chart(Bars::new("Violations of each rule", bars));
    let rows = report.schema_violations.iter().map(|found| {
        vec![
            found.rule.clone(),
            found.r#type.as_str().to_owned(),
            found.severity.as_str().to_owned(),
            found.expected.clone(),
            number(found.count as f64),
        ]
    });
    section =
        section.table(Table::new(["Rule", "Type", "Severity", "Expected", "Violations"], rows.collect()).numbers([4]));
    for found in &report.schema_violations {
        let rows = found.examples.iter().map(|example| vec![example.place(), example.value.clone()]).collect();
        let summary = format!("{}: the first {} of {}", found.rule, found.examples.len(), found.count);
        section = section.details(summary, Table::new(["Where", "Found"], rows));
    }
    if !report.not_checked.is_empty() {
        section = section.text("Rules that could not be checked:").list(report.not_checked.clone());
    }
    section
}

fn findings(report: &Report) -> Section {
    let section = Section::new("Findings");
    if report.findings.is_empty() {
        return section.good("Nothing is remarkable.");
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (at, finding) in report.findings.iter().enumerate() {
        let alike: Vec<&Finding> = report.findings.iter().filter(|other| other.kind == finding.kind).collect();
        if alike.len() <= MAX_ALIKE {
            rows.push(finding_row(report, finding));
        } else if report.findings[..at].iter().all(|before| before.kind != finding.kind) {
            rows.push(together(alike));
        }
    }
    section
        .text("What a reader of these files should know, found without being told what they should hold.")
        .table(Table::new(["Finding", "Columns", "What", "Examples"], rows))
}

fn finding_row(report: &Report, finding: &Finding) -> Vec<String> {
    // Of a single file its name says nothing.
    let file = match report.files.as_slice() {
        [file] => format!("{} ", file.path),
        _ => String::new(),
    };
    let short = |example: &String| example.strip_prefix(&file).unwrap_or(example).to_owned();
    let examples: Vec<String> = finding.examples.iter().map(short).collect();
    vec![finding.kind.replace('_', " "), finding.columns.join(", "), finding.message.clone(), examples.join("\n")]
}

/// One line for what is found of many columns, with the columns that it is most true of.
fn together(mut alike: Vec<&Finding>) -> Vec<String> {
    let columns: Vec<String> = alike.iter().flat_map(|finding| finding.columns.clone()).collect();
    let what = format!("{} findings, each of its own columns; beside are those with the most", alike.len());
    alike.sort_by_key(|finding| std::cmp::Reverse(finding.count));
    let example = |finding: &&Finding| format!("{}: {}", finding.columns.join(", "), finding.message);
    let examples: Vec<String> = alike.iter().take(MAX_ALIKE).map(example).collect();
    vec![alike[0].kind.replace('_', " "), columns.join(", "), what, examples.join("\n")]
}

fn missing(report: &Report, profile: &Profile) -> Section {
    let with = |(index, column): (usize, &super::outcome::ColumnShown)| {
        (column.missing > 0)
            .then(|| (column.name.clone(), column.missing_share, profile.sample.missing_by_run(index, RUNS)))
    };
    let mut bands: Vec<_> = report.columns.iter().enumerate().filter_map(with).collect();
    bands.sort_by(|a, b| b.1.total_cmp(&a.1));
    let section = Section::new("Missing values");
    if bands.is_empty() {
        let coded = report.findings.iter().any(|finding| finding.kind == "sentinel_value");
        if coded {
            return section.text("No value is missing, but the findings name values that may mean so.");
        }
        return section.good("No value is missing.");
    }
    section.chart(Missingness::new("Missing values of each column, along the rows", bands))
}

fn columns(report: &Report) -> Section {
    let optional = |value: Option<f64>| value.map_or_else(String::new, number);
    let rows = report.columns.iter().map(|column| {
        vec![
            column.name.clone(),
            column.r#type.to_owned(),
            percent(column.missing_share),
            format!("{}{}", number(column.distinct as f64), if column.distinct_is_exact { "" } else { "+" }),
            optional(column.mean),
            optional(column.std),
            optional(column.min),
            optional(column.quantiles.map(|quantiles| quantiles[2])),
            optional(column.max),
        ]
    });
    let head = ["Column", "Type", "Missing", "Different", "Mean", "Std", "Min", "Median", "Max"];
    Section::new("Columns").table(Table::new(head, rows.collect()).numbers(2..9))
}

fn distributions(report: &Report, profile: &Profile) -> Vec<Chart> {
    let mut charts: Vec<Chart> = Vec::new();
    for (index, column) in profile.columns.iter().enumerate() {
        if charts.len() >= MAX_PICTURES {
            break;
        }
        let shown = &report.columns[index];
        match column.r#type() {
            Type::Integer | Type::Number if column.values.len() > 12 || column.more_values => {
                charts.push(Histogram::of(&column.name, &profile.sample.sorted(index), BINS).into());
            }
            Type::Empty | Type::Date => {}
            _ if !shown.top.is_empty() && column.values.len() <= 200 => {
                let bars = shown.top.iter().take(TOP).map(|(text, count)| (text.clone(), *count as f64)).collect();
                charts.push(Bars::new(&column.name, bars).into());
            }
            _ => {}
        }
    }
    charts
}

fn correlations(profile: &Profile) -> Option<HeatMap> {
    let varies = |index: &usize| profile.columns[*index].is_numeric() && profile.columns[*index].std() > 0.0;
    let chosen: Vec<usize> = (0..profile.columns.len()).filter(varies).take(MAX_CORRELATED).collect();
    if chosen.len() < 2 {
        return None;
    }
    let names: Vec<String> = chosen.iter().map(|&index| profile.columns[index].name.clone()).collect();
    let row = |&a: &usize| chosen.iter().map(|&b| profile.sample.correlation(a, b).unwrap_or(f64::NAN)).collect();
    let values = chosen.iter().map(row).collect();
    Some(HeatMap::new("Correlations", names.clone(), names, values, Range::Signed))
}
