//! The first pass over the files: counts what each column holds and decides its type, or says what is wrong
//! with it, by file and line.

use super::datetime::DateCounts;
use super::names::{Need, Use};
use super::{At, MAX_SHOWN, Violation, Violations, shown};

/// What is kept of an example.
const EXAMPLE_CHARS: usize = 300;

/// The type that a column has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Number,
    Category,
    Id,
    Text,
    /// A date or time; its values are numbers, of seconds since the epoch.
    Time,
    /// Pictures, whose values are their numbers.
    Picture,
    /// No value at all.
    Empty,
}

/// Values of one sort: how many, and the first ones.
#[derive(Debug, Default)]
pub struct Examples {
    pub count: u64,
    /// Index of the file, place, text.
    pub first: Vec<(usize, At, String)>,
}

impl Examples {
    pub fn add(&mut self, file: usize, at: impl FnOnce() -> At, text: &str) {
        self.count += 1;
        if self.first.len() < MAX_SHOWN {
            let cut = text.char_indices().nth(EXAMPLE_CHARS).map_or(text.len(), |(i, _)| i);
            self.first.push((file, at(), text[..cut].to_owned()));
        }
    }
}

/// What one column holds, over all files.
#[derive(Debug, Default)]
pub struct ColumnScan {
    pub missing: Examples,
    pub numbers: u64,
    /// Moments of typed files.
    pub times: u64,
    pub unusable: Examples,
    /// Texts where numbers or dates would be; where texts belong, only counted.
    pub texts: Examples,
    /// The first number, where an inferred column has texts too.
    pub first_number: Option<String>,
    pub dates: DateCounts,
    /// (numbers, texts) of each file.
    by_file: Vec<(u64, u64)>,
}

impl ColumnScan {
    /// Counts what stands in a file, between two calls.
    pub fn begin(&mut self, file: usize) -> (u64, u64) {
        self.by_file.resize(file + 1, (0, 0));
        (self.numbers, self.texts.count)
    }

    pub fn end(&mut self, file: usize, before: (u64, u64)) {
        self.by_file[file].0 += self.numbers - before.0;
        self.by_file[file].1 += self.texts.count - before.1;
    }

    /// The column's type. What is wrong with its values goes to the violations.
    /// `has_dates` where nobody declared its texts, and all are dates.
    pub fn decide(
        &self,
        usage: &Use,
        has_dates: bool,
        files: &[&str],
        violations: &mut Violations,
        warnings: &mut Vec<String>,
    ) -> Kind {
        self.check_missing(usage, files, violations);
        let kind = match usage.need {
            Need::Category => Kind::Category,
            Need::Id => Kind::Id,
            Need::Text => Kind::Text,
            Need::Number => Kind::Number,
            Need::Time => Kind::Time,
            Need::Picture(_) => Kind::Picture,
            Need::Infer if self.times > 0 && self.texts.count + self.numbers == 0 => Kind::Time,
            Need::Infer if self.texts.count > 0 => Kind::Category,
            Need::Infer if self.numbers + self.unusable.count + self.times == 0 => Kind::Empty,
            Need::Infer => Kind::Number,
        };
        if kind == Kind::Number {
            self.check_numbers(usage, files, violations);
        }
        if kind == Kind::Time {
            self.check_times(usage, files, violations);
            warnings.extend(self.dates.remarks(&usage.name, files));
        }
        if let Need::Picture(_) = usage.need {
            self.check_pictures(usage, files, violations);
        }
        if has_dates && usage.is_feature() {
            warnings.push(format!(
                "column {:?} holds dates and is read as categories, each date one: declare data.columns.{}.type: datetime, or exclude it",
                usage.name, usage.name
            ));
        }
        if usage.need == Need::Infer && kind == Kind::Category {
            self.check_inferred_category(usage, files, violations, warnings);
        }
        if kind == Kind::Empty && usage.is_feature() {
            warnings.push(format!("column {:?} has no value in any row and is left out", usage.name));
        }
        kind
    }

    fn check_missing(&self, usage: &Use, files: &[&str], violations: &mut Violations) {
        let (Some(reason), Some((file, at, text))) = (usage.required, self.missing.first.first()) else { return };
        let what = if text.trim().is_empty() { String::new() } else { format!(" ({})", shown(text.trim())) };
        let message = match self.missing.count {
            1 => format!("a value is missing{what}, expected none missing: {reason}"),
            count => format!("{count} values are missing, the first one here{what}, expected none missing: {reason}"),
        };
        let hint = if reason == "impute is refuse" {
            "set data.preprocessing.impute to mean, median or zero, or exclude the column"
        } else {
            "remove these rows or fill the values in"
        };
        violations.add(Violation::new(message).file(files[*file]).at(*at).column(&usage.name).hint(hint));
    }

    fn check_numbers(&self, usage: &Use, files: &[&str], violations: &mut Violations) {
        let why = if usage.why.is_empty() { String::new() } else { format!(": {}", usage.why) };
        for (file, at, text) in &self.texts.first {
            let mut violation = Violation::new(format!("{} is not a number, expected a number{why}", shown(text)));
            if text.contains(',') && text.replace(',', ".").trim().parse::<f64>().is_ok() {
                violation = violation.hint("is the decimal separator a comma? Set data.csv.decimal: \",\"");
            }
            violations.add(violation.file(files[*file]).at(*at).column(&usage.name));
        }
        for (file, at, text) in &self.unusable.first {
            let digits = text.bytes().any(|b| b.is_ascii_digit());
            let message = if digits {
                format!("{} is beyond the range of a 32-bit float, expected at most 3.4e38", shown(text))
            } else {
                format!("{} is not finite, expected a finite number", shown(text))
            };
            let mut violation = Violation::new(message).file(files[*file]).at(*at).column(&usage.name);
            if !digits {
                violation =
                    violation.hint(format!("if {} means a missing value, add it to data.csv.null_values", shown(text)));
            }
            violations.add(violation);
        }
        let kept = self.texts.first.len() + self.unusable.first.len();
        violations.count_more(self.texts.count + self.unusable.count - kept as u64);
    }

    fn check_times(&self, usage: &Use, files: &[&str], violations: &mut Violations) {
        let expected = usage.dates.expected();
        for (file, at, text) in &self.texts.first {
            let mut violation = Violation::new(format!("{} is no date, expected {expected}", shown(text)));
            if !usage.dates.has_format() {
                violation = violation.hint(format!("say how they stand in data.columns.{}.date_format", usage.name));
            }
            violations.add(violation.file(files[*file]).at(*at).column(&usage.name));
        }
        violations.count_more(self.texts.count - self.texts.first.len() as u64);
        if let Some((with, without)) = self.dates.mixed()
            && !usage.dates.has_zone()
        {
            let message = format!(
                "{} names no time zone, but {} in {} {} does",
                shown(&without.2),
                shown(&with.2),
                files[with.0],
                with.1
            );
            let hint = format!("say where those without one are in data.columns.{}.time_zone", usage.name);
            let violation = Violation::new(message).file(files[without.0]).at(without.1).column(&usage.name);
            violations.add(violation.hint(hint));
        }
    }

    fn check_pictures(&self, usage: &Use, files: &[&str], violations: &mut Violations) {
        for (file, at, problem) in &self.texts.first {
            violations.add(Violation::new(problem.clone()).file(files[*file]).at(*at).column(&usage.name));
        }
        violations.count_more(self.texts.count - self.texts.first.len() as u64);
    }

    /// Numbers in one file and texts in another are a mistake; a few texts among numbers may be one.
    fn check_inferred_category(
        &self,
        usage: &Use,
        files: &[&str],
        violations: &mut Violations,
        warnings: &mut Vec<String>,
    ) {
        let only_numbers = self.by_file.iter().position(|&(numbers, texts)| numbers > 0 && texts == 0);
        let only_texts = self.by_file.iter().position(|&(numbers, texts)| numbers == 0 && texts > 0);
        if let (Some(numbers), Some(texts)) = (only_numbers, only_texts) {
            let message = format!("holds texts here, but numbers in {}", files[numbers]);
            let hint = format!("declare data.columns.{}.type", usage.name);
            violations.add(Violation::new(message).file(files[texts]).column(&usage.name).hint(hint));
        } else if self.numbers > self.texts.count
            && let Some((file, at, text)) = self.texts.first.first()
        {
            warnings.push(format!(
                "column {:?} is read as categories: {} of its values are numbers, but {} are not, the first {} in {} {at}; \
                 if they mean missing, add them to data.csv.null_values, or declare the type",
                usage.name,
                self.numbers,
                self.texts.count,
                shown(text),
                files[*file]
            ));
        }
    }
}
