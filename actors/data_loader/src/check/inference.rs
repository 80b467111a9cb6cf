//! What type each column was given and why: for people who wonder, and for whoever declares types.

use frame::manifest::Inference;

use super::names::{Need, Use};
use super::scan::{ColumnScan, Kind};
use super::shown;

/// Most counter-examples of a column.
const MOST_EXAMPLES: usize = 3;

/// The report on one column.
pub fn report(usage: &Use, scan: &ColumnScan, kind: Kind, has_dates: bool, rows: usize, files: &[&str]) -> Inference {
    let there = rows as u64 - scan.missing.count.min(rows as u64);
    let declared = !usage.why.is_empty();
    let mut counter_examples: Vec<String> = Vec::new();
    let reason = match (kind, usage.need) {
        _ if declared => usage.why.to_owned(),
        (Kind::Category, _) if has_dates => {
            format!("all of its {there} values are dates in ISO 8601, which are categories unless they are declared")
        }
        (Kind::Category, Need::Infer) => {
            counter_examples.extend(scan.first_number.iter().map(|text| format!("{} is a number", shown(text))));
            let others = scan.texts.first.iter().take(MOST_EXAMPLES);
            counter_examples.extend(
                others.map(|(file, at, text)| format!("{} in {} {at} is no number", shown(text), files[*file])),
            );
            match scan.numbers {
                0 => format!("none of its {there} values is a number"),
                numbers => format!("{} of its {there} values are no numbers, {numbers} are", scan.texts.count),
            }
        }
        (Kind::Number, _) => format!("all of its {there} values are numbers"),
        (Kind::Time, _) => format!("all of its {there} values are dates or times"),
        (Kind::Empty, _) => "it has no value".into(),
        (Kind::Category | Kind::Id | Kind::Text | Kind::Picture, _) => "what it is used for makes it so".into(),
    };
    let r#type = match kind {
        Kind::Number => "number",
        Kind::Category => "category",
        Kind::Id => "id",
        Kind::Text => "text",
        Kind::Time => "datetime",
        Kind::Picture => "image",
        Kind::Empty => "empty",
    };
    Inference {
        column: usage.name.clone(),
        r#type: r#type.into(),
        declared,
        reason,
        missing: scan.missing.count,
        counter_examples,
    }
}
