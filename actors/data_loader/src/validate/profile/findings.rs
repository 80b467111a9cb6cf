//! What is remarkable about one column.

use std::collections::BTreeMap;

use report::{number, percent};

use super::column::{Column, Counted, Type};
use super::pairs::{Stage, stage};
use super::steps::Sort;
use super::{Finding, Spot};
use crate::check::shown;

/// Texts that people write for "nothing is known".
const SENTINEL_TEXTS: [&str; 17] = [
    "?",
    "-",
    "--",
    ".",
    "unknown",
    "n/a",
    "na",
    "#n/a",
    "none",
    "null",
    "nil",
    "nan",
    "missing",
    "undefined",
    "(not set)",
    "not available",
    "tbd",
];

/// Whether a text is what people write for "nothing is known".
pub fn stands_for_nothing(text: &str) -> bool {
    SENTINEL_TEXTS.contains(&text.trim().to_lowercase().as_str())
}

/// Numbers that programs write for it.
const SENTINEL_NUMBERS: [f64; 14] = [
    -1.0,
    -9.0,
    -99.0,
    -999.0,
    -9999.0,
    -99999.0,
    99.0,
    999.0,
    9999.0,
    99999.0,
    999999.0,
    9999999.0,
    2147483647.0,
    -2147483648.0,
];
/// A column with so many different values at most holds categories.
const FEW: usize = 100;
/// A category with fewer rows is rare.
const RARE_ROWS: u64 = 10;

/// All findings of a column.
pub fn of_column(column: &Column, rows: u64, place: &dyn Fn(&Spot) -> String, found: &mut Vec<Finding>) {
    let mut of = Of { column, rows, place, found };
    of.name();
    of.missing();
    of.sameness();
    of.sentinels();
    of.spelling();
    of.numbers();
    of.order();
    of.time();
}

struct Of<'a> {
    column: &'a Column,
    rows: u64,
    place: &'a dyn Fn(&Spot) -> String,
    found: &'a mut Vec<Finding>,
}

impl Of<'_> {
    fn add(&mut self, kind: &'static str, count: u64, message: String, examples: Vec<String>) {
        let finding = Finding::new(kind, &[&self.column.name], count, message).of(self.rows).examples(examples);
        self.found.push(finding);
    }

    fn first(&self, first: Option<&(Spot, String)>) -> Vec<String> {
        first.into_iter().map(|(spot, text)| format!("{}: {}", (self.place)(spot), shown(text))).collect()
    }

    fn is_categorical(&self) -> bool {
        let different = self.column.values.len();
        !self.column.more_values && different <= FEW && (different as u64) * 4 <= self.column.count().max(4)
    }

    fn name(&mut self) {
        let name = self.column.name.clone();
        if name.trim() != name {
            self.add("blanks_in_name", 1, format!("the name {} has blanks around it", shown(&name)), Vec::new());
        }
        let unnamed = name.is_empty() || name.to_lowercase().starts_with("unnamed");
        if let (Some(offset), true) = (self.column.row_index, self.column.numbers == self.rows && self.rows > 1) {
            let from = -offset;
            let message = format!("counts the rows from {from}: an index that some program wrote, not a feature");
            self.add("row_index", self.rows, message, Vec::new());
        } else if unnamed {
            self.add("unnamed_column", 1, "the column has no name".to_owned(), Vec::new());
        }
    }

    fn missing(&mut self) {
        let missing = self.column.missing.count;
        if missing == 0 {
            return;
        }
        let share = missing as f64 / self.rows as f64;
        let (kind, message) = if missing == self.rows {
            ("empty_column", "no row has a value".to_owned())
        } else if share >= 0.5 {
            ("mostly_missing", format!("{missing} of {} values are missing ({})", self.rows, percent(share)))
        } else {
            ("missing_values", format!("{} missing ({})", are(missing), percent(share)))
        };
        let examples = self.column.missing.first.iter().map(|(spot, _)| (self.place)(spot)).collect();
        self.add(kind, missing, message, examples);
    }

    fn sameness(&mut self) {
        let count = self.column.count();
        if count < 2 {
            return;
        }
        let Some(top) = self.column.values.iter().max_by_key(|value| value.count) else { return };
        let share = top.count as f64 / count as f64;
        if top.count == count {
            self.add("constant", count, format!("every value is {}", shown(&top.text)), Vec::new());
            return;
        } else if share >= 0.99 {
            let message = format!("{} of the values are {}", percent(share), shown(&top.text));
            self.add("near_constant", top.count, message, Vec::new());
        }
        if !self.is_categorical() || self.column.r#type() != Type::Text {
            return;
        }
        let rare: Vec<&Counted> = self.column.values.iter().filter(|value| value.count < RARE_ROWS).collect();
        if !rare.is_empty() && count >= 20 * RARE_ROWS && rare.len() < self.column.values.len() {
            let each = |value: &&Counted| format!("{}: {} rows", shown(&value.text), value.count);
            let examples: Vec<String> = rare.iter().take(5).map(each).collect();
            let stand = if rare.len() == 1 { "value stands" } else { "values stand" };
            let message = format!("{} {stand} in fewer than {RARE_ROWS} rows", rare.len());
            let rows = rare.iter().map(|value| value.count).sum();
            self.add("rare_category", rows, message, examples);
        }
    }

    fn sentinels(&mut self) {
        let known = |value: &&Counted| stands_for_nothing(&value.text);
        let texts: Vec<Counted> = self.column.values.iter().filter(known).cloned().collect();
        for value in texts.iter().filter(|value| value.count < self.column.count()) {
            self.sentinel(&shown(&value.text), value.count, vec![(self.place)(&value.first)]);
        }
        let column = self.column;
        if !column.is_numeric() || column.values.len() < 3 {
            return;
        }
        let outermost = [
            (
                column.greatest,
                column.at_greatest,
                column.greatest[0] - column.greatest[1],
                column.greatest[1] - column.least[0],
            ),
            (column.least, column.at_least, column.least[1] - column.least[0], column.greatest[0] - column.least[1]),
        ];
        for ([value, next], count, gap, range) in outermost {
            let apart = gap >= 0.5 * range.max(1.0) || value < 0.0 && next >= 0.0 && column.integers == column.numbers;
            if SENTINEL_NUMBERS.contains(&value) && apart && count >= 2 {
                let examples = vec![format!("the next value is {}", number(next))];
                self.sentinel(&number(value).replace(',', ""), count, examples);
            }
        }
    }

    fn sentinel(&mut self, value: &str, count: u64, examples: Vec<String>) {
        let share = count as f64 / self.rows.max(1) as f64;
        let message = format!("{value} stands {count} times ({}) and may mean a missing value", percent(share));
        self.add("sentinel_value", count, message, examples);
    }

    fn spelling(&mut self) {
        let column = self.column;
        if column.blanks.count > 0 {
            let have = if column.blanks.count == 1 { "value has" } else { "values have" };
            let message = format!("{} {have} blanks at an end", column.blanks.count);
            self.add("surrounding_blanks", column.blanks.count, message, self.first(column.blanks.first.as_ref()));
        }
        if column.controls.count > 0 {
            let hold = if column.controls.count == 1 { "value holds" } else { "values hold" };
            let message = format!("{} {hold} control characters or marks that turn the text", column.controls.count);
            self.add("control_characters", column.controls.count, message, self.first(column.controls.first.as_ref()));
        }
        if self.is_categorical() && column.dots.count > 0 && column.dots.count * 10 >= column.count() {
            let message = format!("{} labels end with a dot", column.dots.count);
            self.add("trailing_dot", column.dots.count, message, self.first(column.dots.first.as_ref()));
        }
        let numbers = column.numbers;
        if column.texts.count > 0 && numbers > 0 && column.r#type() != Type::Date {
            let (fewer, one, others, first) = if column.texts.count < numbers {
                (column.texts.count, "text", "numbers", &column.texts.first)
            } else {
                (numbers, "number", "texts", &column.first_number)
            };
            if fewer * 4 <= column.count() {
                let plural = if fewer == 1 { "" } else { "s" };
                self.add(
                    "mixed_types",
                    fewer,
                    format!("{fewer} {one}{plural} among {others}"),
                    self.first(first.as_ref()),
                );
            }
        }
        self.variants();
    }

    /// Labels that differ in case, blanks or a last dot only.
    fn variants(&mut self) {
        if !self.is_categorical() || self.column.r#type() != Type::Text {
            return;
        }
        let mut alike: BTreeMap<String, Vec<&Counted>> = BTreeMap::new();
        for value in &self.column.values {
            let plain = value.text.trim().trim_end_matches('.').to_lowercase();
            alike.entry(plain.split_whitespace().collect::<Vec<_>>().join(" ")).or_default().push(value);
        }
        let groups: Vec<Vec<&Counted>> = alike.into_values().filter(|group| group.len() > 1).collect();
        if groups.is_empty() {
            return;
        }
        let each = |group: &Vec<&Counted>| {
            group.iter().map(|value| format!("{} ({})", shown(&value.text), value.count)).collect::<Vec<_>>().join(", ")
        };
        let examples = groups.iter().take(5).map(each).collect();
        let message = format!("{} labels are spelt in several ways: case, blanks or a last dot", groups.len());
        self.add("label_variants", groups.len() as u64, message, examples);
    }

    fn numbers(&mut self) {
        let column = self.column;
        if column.beyond_exact.count > 0 {
            let kind =
                if column.beyond_i64 > 0 { "also beyond 64 bits with a sign" } else { "inexact as 64-bit floats" };
            let message = format!(
                "{} whole numbers are beyond 2^53, {kind}: identifiers, not quantities",
                column.beyond_exact.count
            );
            self.add("beyond_2_53", column.beyond_exact.count, message, self.first(column.beyond_exact.first.as_ref()));
        }
        if !column.is_numeric() {
            return;
        }
        let different = column.values.len() as f64;
        let usual = column.count() as f64 / different.max(1.0);
        let at_top = column.at_greatest;
        if !column.more_values || different > 1000.0 {
            // A value far from the others is a code, as above.
            let close = column.greatest[0] - column.greatest[1] <= 0.1 * (column.greatest[1] - column.least[0]);
            let capped = column.values.len() > 20 && at_top >= 10 && at_top as f64 >= 3.0 * usual && close;
            if capped {
                let message =
                    format!("{at_top} values are the greatest, {}: they may be cut off there", column.greatest[0]);
                let examples = vec![format!("the next value is {}", column.greatest[1])];
                self.add("capped_at_maximum", at_top, message, examples);
            }
        }
        if matches!(stage(&column.name), Some(Stage::Shown | Stage::Clicked))
            && column.zeros > 0
            && column.zeros < self.rows
            && column.greatest[0] > 1.0
        {
            let message = format!("is 0 in {} rows: rates that divide by it are undefined there", column.zeros);
            self.add("zero_denominator", column.zeros, message, Vec::new());
        }
    }

    fn order(&mut self) {
        let column = self.column;
        let different = column.values.len() as u64;
        if column.row_index.is_some() || column.missing.count > 0 || column.more_values || different < 2 {
            return;
        }
        if column.runs == different && different * 5 <= self.rows && column.r#type() != Type::Date {
            let message = format!(
                "rows stand in blocks, one for each of its {different} values: a split by position is a split by it"
            );
            self.add("rows_in_blocks", different, message, Vec::new());
        }
    }

    fn time(&mut self) {
        let column = self.column;
        if column.r#type() != Type::Date {
            return;
        }
        if column.with_offset > 0 && (column.with_offset < column.dates || column.offsets.len() > 1) {
            let offsets: Vec<String> =
                column.offsets.iter().map(|minutes| format!("{:+} h", f64::from(*minutes) / 60.0)).collect();
            let message =
                format!("{} of {} times have an offset ({})", column.with_offset, column.dates, offsets.join(", "));
            self.add("mixed_time_zones", column.with_offset, message, Vec::new());
        }
        let Some(irregular) = column.steps.irregular() else { return };
        let usual = duration(irregular.usual_ms);
        let sorts: [(&'static str, &Sort, String); 4] = [
            ("time_gaps", &irregular.gaps, format!("steps are longer than the usual {usual}")),
            ("time_repeated", &irregular.repeated, "rows repeat the time of the row before".to_owned()),
            (
                "time_goes_back",
                &irregular.back,
                "rows are earlier than the row before: a change of clocks, or another series".to_owned(),
            ),
            ("time_irregular", &irregular.short, format!("steps are shorter than the usual {usual}")),
        ];
        for (kind, sort, what) in sorts {
            if sort.count > 0 {
                let examples = sort.first.iter().map(|(spot, at)| format!("{}: {at}", (self.place)(spot))).collect();
                self.add(kind, sort.count, format!("{} {what}", sort.count), examples);
            }
        }
        if irregular.back.count == 0 && column.steps.rise() {
            let message = "rows stand in the order of time: split by time, not at random".to_owned();
            self.add("rows_in_time_order", self.rows, message, Vec::new());
        }
    }
}

/// `1 value is`, `2 values are`.
fn are(count: u64) -> String {
    if count == 1 { "1 value is".to_owned() } else { format!("{count} values are") }
}

fn duration(ms: i64) -> String {
    for (unit, name) in
        [(604_800_000, "weeks"), (86_400_000, "days"), (3_600_000, "hours"), (60_000, "minutes"), (1000, "seconds")]
    {
        if ms >= unit && ms % unit == 0 {
            let count = ms / unit;
            return if count == 1 { format!("1 {}", name.trim_end_matches('s')) } else { format!("{count} {name}") };
        }
    }
    format!("{ms} ms")
}
