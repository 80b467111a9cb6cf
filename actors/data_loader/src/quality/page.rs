//! The report on quality as a page for people: what was found in figures, the worst cases by sample id.

use ::report::{Bars, Page, Section, Table, number, percent};
use messages::plan::{OutlierMethod, QualityCheck};

use super::report::{DuplicateGroup, LabelDistribution, LeakageMeasure, PartCounts, Report, SampleId};

/// Rows of a table that are shown at once.
const FIRST: usize = 10;
/// Most rows of a table; the JSON report has more.
const ROWS: usize = 50;

/// Writes a section.
type Write = fn(&Report) -> Section;

/// The page.
pub fn page(report: &Report, dataset: &str) -> Page {
    let rows = &report.rows;
    let name = if dataset.is_empty() { String::new() } else { format!("{dataset}: ") };
    let [train, val, test] = [rows.train, rows.val, rows.test].map(|rows| number(rows as f64));
    let lead = format!("{name}{train} rows of train, {val} of val, {test} of test.");
    let mut page = Page::new("Quality of the data").lead(lead).section(summary(report));
    if let Some(labels) = &report.label_distribution {
        page = page.section(distribution(labels));
    }
    // What was not looked for is not said to be absent.
    let sections: [(QualityCheck, Write); 6] = [
        (QualityCheck::Mislabels, mislabels),
        (QualityCheck::Mislabels, corrections),
        (QualityCheck::Leakage, leakage),
        (QualityCheck::Duplicates, duplicates),
        (QualityCheck::Outliers, outliers),
        (QualityCheck::Anomalies, anomalies),
    ];
    for (_, section) in sections.iter().filter(|(check, _)| report.settings.checks.contains(check)) {
        page = page.section(section(report));
    }
    page
}

fn summary(report: &Report) -> Section {
    let totals = &report.totals;
    let mut section = Section::new("Summary");
    if totals.leaked_rows > 0 {
        let rows = number(totals.leaked_rows as f64);
        section = section.bad(format!("{rows} rows of val and test repeat the features of a row of an earlier part."));
    }
    if totals.near_leaks > 0 {
        let pairs = number(totals.near_leaks as f64);
        section = section.bad(format!("{pairs} pairs of similar texts stand in two parts."));
    }
    if totals.leakage_suspects > 0 {
        let names: Vec<&str> = report.leakage_suspects.iter().map(|suspect| suspect.column.as_str()).collect();
        section = section.bad(format!("Columns that may give the target away: {}.", names.join(", ")));
    }
    for missing in &report.not_run {
        let check = format!("{:?}", missing.check).to_lowercase();
        section = section.warning(format!("{check} could not be examined: {}.", missing.reason));
    }
    let rows = [
        (QualityCheck::Outliers, "values that are outliers", totals.detected_outliers),
        (QualityCheck::Anomalies, "rows that are anomalies", totals.anomalies),
        (QualityCheck::Mislabels, "labels that may be wrong", totals.potential_mislabels),
        (QualityCheck::Mislabels, "targets that stand out", totals.suspicious_targets),
        (QualityCheck::Mislabels, "labels corrected", totals.corrections_applied),
        (QualityCheck::Duplicates, "rows that repeat another one", totals.exact_duplicates),
        (QualityCheck::Duplicates, "groups of equal rows with different targets", totals.conflicts),
        (QualityCheck::Duplicates, "pairs of similar texts", totals.near_duplicates),
    ];
    let rows = rows.into_iter().filter(|(check, ..)| report.settings.checks.contains(check));
    let rows = rows.map(|(_, what, count)| vec![what.to_owned(), number(count as f64)]).collect();
    section.table(Table::new(["Found", "Count"], rows).numbers([1]))
}

fn distribution(labels: &LabelDistribution) -> Section {
    let rows = labels.classes.iter().take(ROWS).map(|class| {
        let counts = &class.rows;
        let threshold = class.threshold.map_or_else(|| "none".to_owned(), probability);
        let counted = [counts.train, counts.val, counts.test, class.estimated].map(|count| number(count as f64));
        [vec![class.label.clone()], counted.to_vec(), vec![threshold]].concat()
    });
    let columns = ["Label", "Train", "Val", "Test", "Estimated in train", "Its own rows get"];
    let bars = labels.classes.iter().take(ROWS).map(|class| (class.label.clone(), class.rows.train as f64));
    Section::new("Labels")
        .text(format!(
            "An estimated {} of the labels of train are wrong, by models that did not see them. Where classes overlap, some \
             hard rows are among these.",
            percent(labels.noise)
        ))
        .chart(Bars::new("Rows of train by label", bars.collect()))
        .table(Table::new(columns, rows.collect()).numbers(1..6))
}

fn mislabels(report: &Report) -> Section {
    let mut section = Section::new("Labels that may be wrong");
    if report.potential_mislabels.is_empty() && report.suspicious_targets.is_empty() {
        return section.text("None was found.");
    }
    if !report.potential_mislabels.is_empty() {
        let rows = report.potential_mislabels.iter().take(ROWS).map(|label| {
            vec![
                text_of(label.sample_id),
                label.part.as_str().to_owned(),
                label.original_label.clone(),
                label.suggested_label.clone(),
                probability(label.confidence),
                probability(label.own_probability),
                yes(label.is_anomaly.unwrap_or(false)),
            ]
        });
        let columns = ["Sample", "Part", "Label", "Suggested", "Confidence", "Own probability", "Anomaly"];
        section = long(section, rows.collect(), |rows| {
            Table::new(columns, rows).numbers([4, 5]).caption("The most suspicious first")
        });
    }
    if !report.suspicious_targets.is_empty() {
        let rows = report.suspicious_targets.iter().take(ROWS).map(|target| {
            vec![
                text_of(target.sample_id),
                target.part.as_str().to_owned(),
                number(target.value),
                number(target.predicted),
                number(target.robust_z),
            ]
        });
        let columns = ["Sample", "Part", "Target", "Predicted", "Robust z"];
        section =
            long(section, rows.collect(), |rows| Table::new(columns, rows).numbers(2..5).caption("The farthest first"));
    }
    section
}

fn corrections(report: &Report) -> Section {
    let section = Section::new("Corrected labels");
    if report.corrections_applied.is_empty() {
        let asked = if report.settings.correct { "No label was sure enough." } else { "None: it was not asked for." };
        return section.text(asked);
    }
    let text = format!(
        "{} labels were changed, where another one is right with a probability above {}.",
        number(report.totals.corrections_applied as f64),
        number(report.settings.confidence_threshold)
    );
    let rows = report.corrections_applied.iter().take(ROWS).map(|label| {
        vec![
            text_of(label.sample_id),
            label.part.as_str().to_owned(),
            label.original_value.clone(),
            label.corrected_value.clone(),
            probability(label.confidence),
        ]
    });
    let columns = ["Sample", "Part", "Was", "Is now", "Probability"];
    long(section.text(text), rows.collect(), |rows| Table::new(columns, rows).numbers([4]))
}

fn leakage(report: &Report) -> Section {
    let suspects = report.leakage_suspects.iter().map(|suspect| format!("{} {}.", suspect.column, suspect.reason()));
    let section = suspects.fold(Section::new("Columns alone"), Section::bad);
    if report.single_column_scores.is_empty() {
        return section.text("No column was judged.");
    }
    let bars = report.single_column_scores.iter().take(ROWS).map(|score| (score.column.clone(), score.value));
    let limit = report.single_column_scores.first().map_or(0.0, |score| score.limit);
    let is_r2 = report.single_column_scores.first().is_some_and(|score| score.measure == LeakageMeasure::R2);
    let (measure, chance) = if is_r2 { ("R2", "0") } else { ("AUC", "0.5") };
    section
        .text(format!(
            "How well each column alone predicts the target: an {measure} of {chance} is chance, 1 is perfect, above {} a \
             column is a suspect.",
            number(limit)
        ))
        .chart(Bars::new(format!("{measure} of each column alone"), bars.collect()))
}

fn duplicates(report: &Report) -> Section {
    let found = &report.duplicates;
    let mut section = Section::new("Rows that stand several times");
    if found.exact.is_empty() && found.near.is_empty() {
        return section.text("None was found.");
    }
    if !found.exact.is_empty() {
        let row = |group: &DuplicateGroup| {
            let ids: Vec<String> = group.sample_ids.iter().take(5).map(|id| text_of(*id)).collect();
            let more = if group.rows.all() > ids.len() as u64 { ", …" } else { "" };
            vec![format!("{}{more}", ids.join(", ")), parts(&group.rows), yes(group.leak), yes(group.conflict)]
        };
        let rows = found.exact.iter().take(ROWS).map(row).collect();
        let columns = ["Samples", "Rows", "Across parts", "Different targets"];
        section = long(section, rows, |rows| Table::new(columns, rows));
    }
    if !found.near.is_empty() {
        let rows = found.near.iter().take(ROWS).map(|pair| {
            let [a, b] = pair.sample_ids.map(text_of);
            let places = format!("{} and {}", pair.parts[0].as_str(), pair.parts[1].as_str());
            vec![pair.column.clone(), a, b, places, number(pair.similarity), yes(pair.conflict)]
        });
        let columns = ["Column", "Sample", "Sample", "Parts", "Similarity", "Different targets"];
        section = long(section.text(found.near_method.clone()), rows.collect(), |rows| {
            Table::new(columns, rows).numbers([4])
        });
    }
    section
}

fn outliers(report: &Report) -> Section {
    let section = Section::new("Outliers");
    if report.detected_outliers.is_empty() {
        return section.text("None was found.");
    }
    let rows = report.detected_outliers.iter().take(ROWS).map(|column| {
        let method = match column.method {
            OutlierMethod::ZScore => "z-score",
            OutlierMethod::Iqr => "interquartile range",
        };
        let farthest = column.values.first().copied().unwrap_or(f64::NAN);
        let bounds = format!("{} to {}", number(column.lower), number(column.upper));
        vec![column.column.clone(), method.to_owned(), bounds, parts(&column.found), number(farthest)]
    });
    section.table(Table::new(["Column", "Method", "Usual", "Outside", "Farthest"], rows.collect()).numbers([4]))
}

fn anomalies(report: &Report) -> Section {
    let section = Section::new("Anomalies");
    let Some(anomalies) = report.anomalies.as_ref().filter(|anomalies| !anomalies.listed.is_empty()) else {
        return section.text("None was found.");
    };
    let rows =
        anomalies.listed.iter().take(ROWS).map(|anomaly| {
            vec![text_of(anomaly.sample_id), anomaly.part.as_str().to_owned(), probability(anomaly.score)]
        });
    let section = section.text(format!(
        "Scores above {} are anomalies: {}.",
        probability(anomalies.offset),
        parts(&anomalies.found)
    ));
    long(section, rows.collect(), |rows| Table::new(["Sample", "Part", "Score"], rows).numbers([2]))
}

fn text_of(id: SampleId) -> String {
    id.0.to_string()
}

/// The first rows, and the others where they are asked for.
fn long(section: Section, mut rows: Vec<Vec<String>>, table: impl Fn(Vec<Vec<String>>) -> Table) -> Section {
    let rest = rows.split_off(rows.len().min(FIRST));
    let section = section.table(table(rows));
    if rest.is_empty() {
        return section;
    }
    let summary = format!("and {} more", rest.len());
    section.details(summary, table(rest).caption(""))
}

/// With as many digits in every row.
fn probability(share: f64) -> String {
    format!("{share:.4}")
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

fn parts(counts: &PartCounts) -> String {
    let [train, val, test] = [counts.train, counts.val, counts.test].map(|rows| number(rows as f64));
    format!("{train} train, {val} val, {test} test")
}
