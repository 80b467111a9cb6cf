//! From the text of a schema file to a [`DataSchema`], or all mistakes at once.

use std::collections::BTreeMap;

use regex::RegexBuilder;

use super::agreement::{Level, Measure};
use super::date;
use super::expression::{Expression, Type};
use super::json::{Node, Value, parse};
use super::schema::{Bounds, Broken, Check, DataSchema, Kind, Mistake, Rule, Severity};
use crate::check::shown;
use crate::nearest::did_you_mean;

/// Most rules of a schema.
const MAX_RULES: usize = 10_000;
/// Largest compiled pattern, in bytes.
const MAX_PATTERN_BYTES: usize = 1 << 20;
const KEYS: [&str; 18] = [
    "$schema",
    "name",
    "version",
    "description",
    "severity",
    "severities",
    "null_values",
    "required_columns",
    "allow_extra_columns",
    "column_types",
    "not_null",
    "value_ranges",
    "patterns",
    "unique",
    "expressions",
    "null_share",
    "row_count",
    "freshness",
];
const AGREEMENT: &str = "agreement";

/// Reads a schema.
pub fn read(text: &str) -> Result<DataSchema, Vec<Mistake>> {
    let root = parse(text).map_err(|mistake| vec![mistake])?;
    let mut reader =
        Reader { mistakes: Vec::new(), severity: Severity::Fail, severities: BTreeMap::new(), rules: Vec::new() };
    let known: Vec<&str> = KEYS.iter().copied().chain([AGREEMENT]).collect();
    let members = reader.members(&root, "", &known);
    let get = |name: &str| members.iter().find(|(key, _)| *key == name).map(|(_, node)| *node);
    let text_of =
        |reader: &mut Reader, name: &str| get(name).and_then(|node| reader.text(node, name)).unwrap_or_default();
    let (name, description) = (text_of(&mut reader, "name"), text_of(&mut reader, "description"));
    let version = match get("version").map(|node| &node.value) {
        Some(Value::Number(number)) => number.to_string(),
        Some(_) => text_of(&mut reader, "version"),
        None => String::new(),
    };
    if let Some(node) = get("severity") {
        reader.severity = reader.severity_of(node, "severity").unwrap_or(Severity::Fail);
    }
    if let Some(node) = get("severities") {
        reader.severities(node);
    }
    let null_values = get("null_values").map(|node| reader.texts(node, "null_values")).unwrap_or_default();
    let types = get("column_types").map(|node| reader.types(node)).unwrap_or_default();
    for (name, node) in &members {
        match *name {
            "required_columns" => reader.required(node),
            "not_null" => reader.not_null(node),
            "value_ranges" => reader.ranges(node, &types),
            "patterns" => reader.patterns(node),
            "unique" => reader.unique(node),
            "expressions" => reader.expressions(node, &types),
            "null_share" => reader.null_shares(node),
            "row_count" => reader.row_count(node),
            "freshness" => reader.freshness(node, &types),
            AGREEMENT => reader.agreement(node),
            _ => {}
        }
    }
    let mut schema = DataSchema {
        name: if name.is_empty() { "unnamed".to_owned() } else { name },
        version,
        description,
        blake3: blake3::hash(text.as_bytes()).to_hex().to_string(),
        null_values,
        types,
        rules: reader.rules,
    };
    if let Some(node) = get("allow_extra_columns") {
        match node.value {
            Value::Bool(true) => {}
            Value::Bool(false) => {
                let known = schema.columns().into_iter().map(str::to_owned).collect();
                let severity = reader.severities.get(&Broken::UnexpectedColumn).copied().unwrap_or(reader.severity);
                let check = Check::NoOtherColumns { known };
                let expected = "no column that the schema does not name".to_owned();
                schema.rules.push(Rule { name: "allow_extra_columns".into(), expected, check, severity });
            }
            _ => reader.mistakes.push(wrong(node, "allow_extra_columns", "true or false")),
        }
    }
    if schema.rules.len() > MAX_RULES {
        let message = format!("{} rules, expected at most {MAX_RULES}", schema.rules.len());
        reader.mistakes.push(Mistake { line: 1, key: String::new(), message });
    }
    if reader.mistakes.is_empty() { Ok(schema) } else { Err(reader.mistakes) }
}

struct Reader {
    mistakes: Vec<Mistake>,
    severity: Severity,
    severities: BTreeMap<Broken, Severity>,
    rules: Vec<Rule>,
}

fn wrong(node: &Node, key: &str, expected: &str) -> Mistake {
    Mistake { line: node.line, key: key.to_owned(), message: format!("expected {expected}, found {}", node.describe()) }
}

impl Reader {
    fn mistake(&mut self, node: &Node, key: &str, message: impl Into<String>) {
        self.mistakes.push(Mistake { line: node.line, key: key.to_owned(), message: message.into() });
    }

    fn refuse<T>(&mut self, node: &Node, key: &str, expected: &str) -> Option<T> {
        self.mistakes.push(wrong(node, key, expected));
        None
    }

    /// The members of an object with these keys; other ones are mistakes.
    fn members<'n>(&mut self, node: &'n Node, path: &str, known: &[&str]) -> Vec<(&'n str, &'n Node)> {
        let Value::Map(members) = &node.value else {
            self.mistakes.push(wrong(node, path, "an object"));
            return Vec::new();
        };
        let mut found = Vec::new();
        for (name, inner) in members {
            if known.contains(&name.as_str()) {
                found.push((name.as_str(), inner));
                continue;
            }
            let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let nearest = did_you_mean(name, known.iter().copied());
            let message = format!("unknown key: expected one of {}{nearest}", known.join(", "));
            self.mistake(inner, &key, message);
        }
        found
    }

    /// The members of an object whose keys are names of columns.
    fn by_column<'n>(&mut self, node: &'n Node, path: &str) -> Vec<(&'n str, &'n Node)> {
        let Value::Map(members) = &node.value else {
            self.mistakes.push(wrong(node, path, "an object with a key for each column"));
            return Vec::new();
        };
        members.iter().map(|(name, inner)| (name.as_str(), inner)).collect()
    }

    fn text(&mut self, node: &Node, key: &str) -> Option<String> {
        match &node.value {
            Value::Text(text) => Some(text.clone()),
            _ => self.refuse(node, key, "a text"),
        }
    }

    fn number(&mut self, node: &Node, key: &str) -> Option<f64> {
        match node.value {
            Value::Number(number) => Some(number),
            _ => self.refuse(node, key, "a number"),
        }
    }

    fn texts(&mut self, node: &Node, key: &str) -> Vec<String> {
        match &node.value {
            Value::List(items) => items.iter().filter_map(|item| self.text(item, key)).collect(),
            _ => self.refuse(node, key, "a list of texts").unwrap_or_default(),
        }
    }

    /// One of a set of names.
    fn choice<T: Copy>(&mut self, node: &Node, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let expected = format!("one of {}", names.join(", "));
        let Value::Text(text) = &node.value else { return self.refuse(node, key, &expected) };
        let found = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        if found.is_none() {
            let nearest = did_you_mean(text, names);
            self.mistake(node, key, format!("expected {expected}, found {}{nearest}", shown(text)));
        }
        found.map(|(_, value)| *value)
    }

    fn severity_of(&mut self, node: &Node, key: &str) -> Option<Severity> {
        self.choice(node, key, &Severity::ALL)
    }

    fn severities(&mut self, node: &Node) {
        for (name, inner) in self.by_column(node, "severities") {
            let key = format!("severities.{name}");
            let Some((_, broken)) = Broken::ALL.into_iter().find(|(known, _)| *known == name) else {
                let names = Broken::ALL.map(|(known, _)| known);
                let message = format!("expected one of {}{}", names.join(", "), did_you_mean(name, names));
                self.mistake(inner, &key, message);
                continue;
            };
            if let Some(severity) = self.severity_of(inner, &key) {
                self.whole_data(inner, &key, broken, severity);
                self.severities.insert(broken, severity);
            }
        }
    }

    /// What no row is to blame for cannot be left out with one.
    fn whole_data(&mut self, node: &Node, key: &str, broken: Broken, severity: Severity) {
        if severity == Severity::Quarantine && !broken.is_of_a_row() {
            let message =
                format!("expected fail or warn: {} is no row's fault, so none can be left out", broken.as_str());
            self.mistake(node, key, message);
        }
    }

    /// Adds a rule; `node` may say its severity.
    fn add(&mut self, node: &Node, key: &str, name: String, expected: String, check: Check) {
        let broken = check.broken();
        let severity = if let Some(inner) = node.member("severity") {
            let key = format!("{key}.severity");
            let severity = self.severity_of(inner, &key).unwrap_or(self.severity);
            self.whole_data(inner, &key, broken, severity);
            severity
        } else {
            let by_default = broken.is_of_a_row() || self.severity == Severity::Warn;
            let usual = if by_default { self.severity } else { Severity::Fail };
            self.severities.get(&broken).copied().unwrap_or(usual)
        };
        let name = match node.member("name") {
            Some(inner) => self.text(inner, &format!("{key}.name")).unwrap_or(name),
            None => name,
        };
        self.rules.push(Rule { name, expected, check, severity });
    }

    fn types(&mut self, node: &Node) -> BTreeMap<String, Kind> {
        let mut types = BTreeMap::new();
        for (column, inner) in self.by_column(node, "column_types") {
            let key = format!("column_types.{column}");
            let kind = match &inner.value {
                Value::Map(_) => {
                    self.members(inner, &key, &["type", "severity"]);
                    match inner.member("type") {
                        Some(named) => self.choice(named, &key, &Kind::ALL),
                        None => self.refuse(inner, &key, "a type"),
                    }
                }
                _ => self.choice(inner, &key, &Kind::ALL),
            };
            let Some(kind) = kind else { continue };
            types.insert(column.to_owned(), kind);
            let check = Check::Type { column: column.to_owned(), kind };
            self.add(inner, &key, format!("{column} is {}", kind.as_str()), kind.expected().to_owned(), check);
        }
        types
    }

    fn required(&mut self, node: &Node) {
        for column in self.texts(node, "required_columns") {
            let expected = "this column".to_owned();
            self.add(node, "required_columns", format!("{column} is there"), expected, Check::Required { column });
        }
    }

    fn not_null(&mut self, node: &Node) {
        for column in self.texts(node, "not_null") {
            let (name, expected) = (format!("{column} is not missing"), "a value in each row".to_owned());
            self.add(node, "not_null", name, expected, Check::NotNull { column });
        }
    }

    fn ranges(&mut self, node: &Node, types: &BTreeMap<String, Kind>) {
        for (column, inner) in self.by_column(node, "value_ranges") {
            let key = format!("value_ranges.{column}");
            let known = ["min", "max", "exclusive_min", "exclusive_max", "allowed", "severity"];
            let members = self.members(inner, &key, &known);
            let mut bounds = Bounds { min: f64::NEG_INFINITY, max: f64::INFINITY, min_open: false, max_open: false };
            let mut written = Vec::new();
            for (name, value) in &members {
                let sign = match *name {
                    "min" => ">=",
                    "max" => "<=",
                    "exclusive_min" => ">",
                    "exclusive_max" => "<",
                    _ => continue,
                };
                let place = format!("{key}.{name}");
                let Some(bound) = self.bound(value, &place, types.get(column).copied()) else { continue };
                if sign.starts_with('>') {
                    (bounds.min, bounds.min_open) = (bound, sign == ">");
                } else {
                    (bounds.max, bounds.max_open) = (bound, sign == "<");
                }
                let text = if let Value::Text(text) = &value.value { text.clone() } else { bound.to_string() };
                written.push(format!("{sign} {text}"));
            }
            if !written.is_empty() {
                if bounds.min > bounds.max {
                    self.mistake(inner, &key, "the least value is above the greatest");
                }
                let expected = written.join(" and ");
                let check = Check::Range { column: column.to_owned(), bounds };
                self.add(inner, &key, format!("{column} {expected}"), expected, check);
            }
            if let Some(allowed) = inner.member("allowed") {
                self.allowed(inner, allowed, column, &format!("{key}.allowed"));
            } else if written.is_empty() && members.iter().all(|(name, _)| *name == "severity") {
                self.mistake(inner, &key, "expected at least one of min, max, exclusive_min, exclusive_max, allowed");
            }
        }
    }

    fn bound(&mut self, node: &Node, key: &str, kind: Option<Kind>) -> Option<f64> {
        match (kind, &node.value) {
            (Some(Kind::Date), Value::Text(text)) => {
                let moment = date::parse(text);
                if moment.is_none() {
                    self.mistakes.push(wrong(node, key, "a date such as \"2021-01-25\""));
                }
                moment.map(|moment| moment.ms as f64)
            }
            (Some(Kind::Date), _) => self.refuse(node, key, "a date such as \"2021-01-25\""),
            (Some(Kind::Text | Kind::Bool), _) => {
                self.refuse(node, key, "no bound: the column is declared to hold no numbers or dates")
            }
            _ => self.number(node, key),
        }
    }

    fn allowed(&mut self, rule: &Node, node: &Node, column: &str, key: &str) {
        let Value::List(items) = &node.value else {
            self.mistakes.push(wrong(node, key, "a list of values"));
            return;
        };
        let numbers: Vec<f64> =
            items.iter().filter_map(|item| if let Value::Number(n) = item.value { Some(n) } else { None }).collect();
        let column = column.to_owned();
        let (check, texts): (Check, Vec<String>) = if !numbers.is_empty() && numbers.len() == items.len() {
            let texts = numbers.iter().map(ToString::to_string).collect();
            (Check::AllowedNumbers { column: column.clone(), allowed: numbers }, texts)
        } else {
            let allowed = self.texts(node, key);
            (Check::AllowedTexts { column: column.clone(), allowed: allowed.clone() }, allowed)
        };
        if texts.is_empty() {
            self.mistake(node, key, "expected at least one value");
        }
        let some = texts.iter().take(8).map(|text| shown(text)).collect::<Vec<_>>().join(", ");
        let expected = format!("one of {some}{}", if texts.len() > 8 { ", …" } else { "" });
        self.add(rule, key, format!("{column} is allowed"), expected, check);
    }

    fn patterns(&mut self, node: &Node) {
        for (column, inner) in self.by_column(node, "patterns") {
            let key = format!("patterns.{column}");
            let written = if matches!(inner.value, Value::Map(_)) {
                self.members(inner, &key, &["regex", "severity"]);
                inner.member("regex").unwrap_or(inner)
            } else {
                inner
            };
            let Some(pattern) = self.text(written, &key) else { continue };
            match RegexBuilder::new(&pattern).size_limit(MAX_PATTERN_BYTES).build() {
                Ok(regex) => {
                    let (name, expected) = (format!("{column} matches"), format!("a text that matches {pattern}"));
                    self.add(inner, &key, name, expected, Check::Pattern { column: column.to_owned(), regex });
                }
                Err(error) => self.mistake(written, &key, format!("not a pattern: {error}")),
            }
        }
    }

    fn unique(&mut self, node: &Node) {
        let Value::List(items) = &node.value else {
            self.mistakes.push(wrong(node, "unique", "a list of columns, or of lists of columns"));
            return;
        };
        for item in items {
            let columns = match &item.value {
                Value::Text(column) => vec![column.clone()],
                Value::List(_) => self.texts(item, "unique"),
                _ => {
                    self.members(item, "unique", &["columns", "severity"]);
                    item.member("columns").map(|inner| self.texts(inner, "unique.columns")).unwrap_or_default()
                }
            };
            if columns.is_empty() {
                self.mistake(item, "unique", "expected at least one column");
                continue;
            }
            let key = columns.join(" + ");
            let expected = "a value of its own in each row".to_owned();
            self.add(item, "unique", format!("{key} is unique"), expected, Check::Unique { columns });
        }
    }

    fn expressions(&mut self, node: &Node, types: &BTreeMap<String, Kind>) {
        let Value::List(items) = &node.value else {
            self.mistakes.push(wrong(node, "expressions", "a list of conditions"));
            return;
        };
        let types: BTreeMap<String, Type> =
            types.iter().map(|(name, kind)| (name.clone(), kind.value_type())).collect();
        for (index, item) in items.iter().enumerate() {
            let key = format!("expressions[{index}]");
            let written = if matches!(item.value, Value::Map(_)) {
                self.members(item, &key, &["expression", "name", "severity"]);
                item.member("expression").unwrap_or(item)
            } else {
                item
            };
            let Some(text) = self.text(written, &key) else { continue };
            match Expression::parse(&text, &types) {
                Ok(expression) => self.add(item, &key, text.clone(), text, Check::Condition { expression }),
                Err(wrong) => self.mistake(written, &key, wrong.shown(&text)),
            }
        }
    }

    fn null_shares(&mut self, node: &Node) {
        for (column, inner) in self.by_column(node, "null_share") {
            let key = format!("null_share.{column}");
            let written = if matches!(inner.value, Value::Map(_)) {
                self.members(inner, &key, &["max", "severity"]);
                inner.member("max").unwrap_or(inner)
            } else {
                inner
            };
            match written.value {
                Value::Number(max) if (0.0..=1.0).contains(&max) => {
                    let expected = format!("at most {} missing", report::percent(max));
                    let check = Check::NullShare { column: column.to_owned(), max };
                    self.add(inner, &key, format!("{column}: {expected}"), expected, check);
                }
                _ => self.mistakes.push(wrong(written, &key, "a share from 0 to 1")),
            }
        }
    }

    fn row_count(&mut self, node: &Node) {
        let members = self.members(node, "row_count", &["min", "max", "severity"]);
        let (mut min, mut max) = (0, u64::MAX);
        let mut written = Vec::new();
        for (name, value) in members.into_iter().filter(|(name, _)| *name != "severity") {
            let key = format!("row_count.{name}");
            match self.number(value, &key) {
                Some(number) if number.fract() == 0.0 && (0.0..1e15).contains(&number) => {
                    *(if name == "min" { &mut min } else { &mut max }) = number as u64;
                    written.push(format!("at {} {number} rows", if name == "min" { "least" } else { "most" }));
                }
                Some(_) => self.mistakes.push(wrong(value, &key, "a whole number from 0")),
                None => {}
            }
        }
        if written.is_empty() || min > max {
            self.mistake(node, "row_count", "expected min, max or both, min not above max");
            return;
        }
        let expected = written.join(" and ");
        self.add(node, "row_count", expected.clone(), expected, Check::RowCount { min, max });
    }

    fn freshness(&mut self, node: &Node, types: &BTreeMap<String, Kind>) {
        self.members(node, "freshness", &["column", "max_age_days", "as_of", "severity"]);
        let column = node.member("column").and_then(|inner| self.text(inner, "freshness.column"));
        let age = node.member("max_age_days").and_then(|inner| self.number(inner, "freshness.max_age_days"));
        let as_of = match node.member("as_of") {
            Some(inner) => self.bound(inner, "freshness.as_of", Some(Kind::Date)),
            None => None,
        };
        let (Some(column), Some(days)) = (column, age.filter(|days| *days >= 0.0)) else {
            self.mistake(node, "freshness", "expected column and max_age_days, which is 0 or more");
            return;
        };
        if types.get(&column) != Some(&Kind::Date) {
            self.mistake(node, "freshness.column", format!("{column:?} is not declared date in column_types"));
            return;
        }
        let expected = format!("a newest date at most {days} days old");
        let check = Check::Freshness { column: column.clone(), max_age_ms: days * date::DAY_MS as f64, as_of };
        self.add(node, "freshness", format!("{column} is fresh"), expected, check);
    }

    fn agreement(&mut self, node: &Node) {
        let known = ["item", "rater", "rating", "measure", "level", "min", "severity"];
        self.members(node, AGREEMENT, &known);
        let mut text = |name: &str| match node.member(name) {
            Some(inner) => self.text(inner, &format!("agreement.{name}")),
            None => self.refuse(node, &format!("agreement.{name}"), "the name of a column"),
        };
        let (Some(item), Some(rater), Some(rating)) = (text("item"), text("rater"), text("rating")) else { return };
        let measure = match node.member("measure") {
            Some(inner) => self.choice(inner, "agreement.measure", &Measure::ALL),
            None => Some(Measure::KrippendorffAlpha),
        };
        let level = match node.member("level") {
            Some(inner) => self.choice(inner, "agreement.level", &Level::ALL),
            None => Some(Level::Nominal),
        };
        let min = node.member("min").and_then(|inner| self.number(inner, "agreement.min"));
        let (Some(measure), Some(level), Some(min)) = (measure, level, min) else {
            if node.member("min").is_none() {
                self.mistake(node, "agreement.min", "missing: the least agreement, such as 0.667");
            }
            return;
        };
        if measure == Measure::FleissKappa && level != Level::Nominal {
            self.mistake(node, "agreement.level", "fleiss_kappa is nominal: use krippendorff_alpha for other levels");
            return;
        }
        let expected = format!("{} of at least {min}", measure.as_str());
        let check = Check::Agreement { item, rater, rating: rating.clone(), measure, level, min };
        self.add(node, AGREEMENT, format!("raters agree on {rating}"), expected, check);
    }
}
