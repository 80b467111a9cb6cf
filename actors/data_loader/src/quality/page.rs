//! The report on quality as a page for people: what was found in figures, the worst cases by sample id.

use ::report::{Bars, Page, Section, Table, number, percent};

use super::report::{DuplicateGroup, LabelDistribution, PartCounts, Report, SampleId};

/// Most rows of a table; the JSON report has more.
const ROWS: usize = 50;

/// The page.
pub fn page(report: &Report, dataset: &str) -> Page {
    let rows = &report.rows;
    let lead = format!("{dataset}: {} rows of train, {} of val, {} of test.", rows.train, rows.val, rows.test);
    let mut page = Page::new("Quality of the data").lead(lead).section(summary(report));
    if let Some(labels) = &report.label_distribution {
        page = page.section(distribution(labels));
    }
    for section in [mislabels(report), leakage(report), duplicates(report), outliers(report), anomalies(report)] {
        page = page.section(section);
    }
    page
}

fn summary(report: &Report) -> Section {
    let totals = &report.totals;
    let mut section = Section::new("Summary");
    if totals.leaked_rows + totals.near_leaks > 0 {
        let (rows, pairs) = (totals.leaked_rows, totals.near_leaks);
        section = section.bad(format!(
            "{rows} rows of val and test repeat rows of an earlier part, {pairs} pairs of similar texts stand in two parts."
        ));
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
        ("values that are outliers", totals.detected_outliers),
        ("rows that are anomalies", totals.anomalies),
        ("labels that may be wrong", totals.potential_mislabels),
        ("targets that stand out", totals.suspicious_targets),
        ("labels corrected", totals.corrections_applied),
        ("rows that repeat another one", totals.exact_duplicates),
        ("groups of equal rows with different targets", totals.conflicts),
        ("pairs of similar texts", totals.near_duplicates),
    ];
    let rows = rows.map(|(what, count)| vec![what.to_owned(), count.to_string()]).to_vec();
    section.table(Table::new(["Found", "Count"], rows).numbers([1]))
}

fn distribution(labels: &LabelDistribution) -> Section {
    let rows = labels.classes.iter().take(ROWS).map(|class| {
        let counts = &class.rows;
        let threshold = class.threshold.map_or_else(|| "none".to_owned(), number);
        let counted = [counts.train, counts.val, counts.test, class.estimated].map(|count| count.to_string());
        [vec![class.label.clone()], counted.to_vec(), vec![threshold]].concat()
    });
    let columns = ["Label", "Train", "Val", "Test", "Estimated in train", "Threshold"];
    let bars = labels.classes.iter().take(ROWS).map(|class| (class.label.clone(), class.rows.train as f64));
    Section::new("Labels")
        .text(format!("An estimated {} of the labels of train are wrong.", percent(labels.noise)))
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
                text(label.sample_id),
                label.part.as_str().to_owned(),
                label.original_label.clone(),
                label.suggested_label.clone(),
                number(label.confidence),
                number(label.own_probability),
                yes(label.is_anomaly.unwrap_or(false)),
            ]
        });
        let columns = ["Sample", "Part", "Label", "Suggested", "Confidence", "Own probability", "Anomaly"];
        section =
            section.table(Table::new(columns, rows.collect()).numbers([4, 5]).caption("The most suspicious first"));
    }
    if !report.suspicious_targets.is_empty() {
        let rows = report.suspicious_targets.iter().take(ROWS).map(|target| {
            vec![
                text(target.sample_id),
                target.part.as_str().to_owned(),
                number(target.value),
                number(target.predicted),
                number(target.robust_z),
            ]
        });
        let columns = ["Sample", "Part", "Target", "Predicted", "Robust z"];
        section = section.table(Table::new(columns, rows.collect()).numbers(2..5).caption("The farthest first"));
    }
    section
}

fn leakage(report: &Report) -> Section {
    let section = Section::new("Columns alone");
    if report.single_column_scores.is_empty() {
        return section.text("No column was judged.");
    }
    let bars = report.single_column_scores.iter().take(ROWS).map(|score| (score.column.clone(), score.value));
    let limit = report.single_column_scores.first().map_or(0.0, |score| score.limit);
    section
        .text(format!("How well each column alone predicts the target; above {} it is a suspect.", number(limit)))
        .chart(Bars::new("Score of each column", bars.collect()))
}

fn duplicates(report: &Report) -> Section {
    let found = &report.duplicates;
    let mut section = Section::new("Rows that stand several times");
    if found.exact.is_empty() && found.near.is_empty() {
        return section.text("None was found.");
    }
    if !found.exact.is_empty() {
        let row = |group: &DuplicateGroup| {
            let ids: Vec<String> = group.sample_ids.iter().take(5).map(|id| text(*id)).collect();
            let more = if group.rows.all() > ids.len() as u64 { ", …" } else { "" };
            vec![format!("{}{more}", ids.join(", ")), parts(&group.rows), yes(group.leak), yes(group.conflict)]
        };
        let rows = found.exact.iter().take(ROWS).map(row).collect();
        section = section.table(Table::new(["Samples", "Rows", "Across parts", "Different targets"], rows));
    }
    if !found.near.is_empty() {
        let rows = found.near.iter().take(ROWS).map(|pair| {
            let [a, b] = pair.sample_ids.map(text);
            let places = format!("{} and {}", pair.parts[0].as_str(), pair.parts[1].as_str());
            vec![pair.column.clone(), a, b, places, number(pair.similarity), yes(pair.conflict)]
        });
        let columns = ["Column", "Sample", "Sample", "Parts", "Similarity", "Different targets"];
        section = section.text(found.near_method.clone()).table(Table::new(columns, rows.collect()).numbers([4]));
    }
    section
}

fn outliers(report: &Report) -> Section {
    let section = Section::new("Outliers");
    if report.detected_outliers.is_empty() {
        return section.text("None was found.");
    }
    let rows = report.detected_outliers.iter().take(ROWS).map(|column| {
        let method = format!("{:?}", column.method);
        let farthest = column.values.first().copied().unwrap_or(f64::NAN);
        let bounds = format!("{} to {}", number(column.lower), number(column.upper));
        vec![column.column.clone(), method, bounds, parts(&column.found), number(farthest)]
    });
    section.table(Table::new(["Column", "Method", "Usual", "Outside", "Farthest"], rows.collect()).numbers([4]))
}

fn anomalies(report: &Report) -> Section {
    let section = Section::new("Anomalies");
    let Some(anomalies) = report.anomalies.as_ref().filter(|anomalies| !anomalies.listed.is_empty()) else {
        return section.text("None was found.");
    };
    let rows = anomalies
        .listed
        .iter()
        .take(ROWS)
        .map(|anomaly| vec![text(anomaly.sample_id), anomaly.part.as_str().to_owned(), number(anomaly.score)]);
    section
        .text(format!("Scores above {} are anomalies: {}.", number(anomalies.offset), parts(&anomalies.found)))
        .table(Table::new(["Sample", "Part", "Score"], rows.collect()).numbers([2]))
}

fn text(id: SampleId) -> String {
    id.0.to_string()
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

fn parts(counts: &PartCounts) -> String {
    format!("{} train, {} val, {} test", counts.train, counts.val, counts.test)
}
