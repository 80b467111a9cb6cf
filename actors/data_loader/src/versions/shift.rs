//! How far the distribution of each column has moved: by bins that are frozen on the first version. Beside the index
//! stands what chance alone gives, without which an index of few rows says nothing.

use std::collections::BTreeMap;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type};
use frame::{Manifest, Table};
use kernels::drift::{bin_counts, ks_statistic, psi, psi_null_quantile, quantile_edges};
use serde::Serialize;

use crate::load::id_of_bytes;

/// Bins of a number.
const BINS: usize = 10;
/// Categories with a bin of their own; the others, and those that are new, share one.
const CATEGORY_BINS: usize = 50;
/// Rows whose values are kept, about; of more rows, those that their ids choose.
const MOST_ROWS: u64 = 500_000;
/// Categories that are listed as new or gone.
const LISTED: usize = 10;

/// One column, or the target.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ColumnShift {
    pub column: String,
    /// `number`, `category`, or `text length`.
    pub kind: &'static str,
    /// Values that were looked at.
    pub count_a: u64,
    pub count_b: u64,
    /// Shares of missing values.
    pub missing_a: f64,
    pub missing_b: f64,
    pub mean_a: Option<f64>,
    pub mean_b: Option<f64>,
    /// Population stability index; none where one side, or the column's variety, is too small to say.
    pub psi: Option<f64>,
    /// What the index stays below in 19 of 20 cases where nothing has moved.
    pub psi_null: Option<f64>,
    /// Kolmogorov-Smirnov statistic, of numbers.
    pub ks: Option<f64>,
    /// The bins, by what they hold, with their shares in both.
    pub bins: Vec<Bin>,
    /// Categories that only b has, and that only a has; at most ten of each.
    pub new: Vec<String>,
    pub gone: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bin {
    pub holds: String,
    pub share_a: f64,
    pub share_b: f64,
}

impl ColumnShift {
    /// Whether the index is above what chance gives.
    pub fn has_moved(&self) -> bool {
        self.psi.zip(self.psi_null).is_some_and(|(psi, null)| psi > null)
    }
}

/// Values of one version.
#[derive(Debug, Default)]
pub struct Sampler {
    columns: BTreeMap<String, Values>,
    target: String,
    classes: Vec<String>,
    rows: u64,
}

#[derive(Debug, Clone)]
enum Values {
    Numbers { kind: &'static str, values: Vec<f64> },
    Categories { counts: BTreeMap<String, u64>, missing: u64 },
    Unseen,
}

/// Values of both.
#[derive(Debug)]
pub struct Shifts {
    pub a: Sampler,
    pub b: Sampler,
}

impl Sampler {
    pub fn new(manifest: &Manifest, columns: &[String], rows: u64) -> Self {
        Self {
            columns: columns.iter().map(|name| (name.clone(), Values::Unseen)).collect(),
            target: manifest.target.column.clone(),
            classes: manifest.target.classes.clone(),
            rows,
        }
    }

    /// Looks at the rows of a shard.
    pub fn observe(&mut self, table: &Table) {
        let rows = self.rows;
        let chosen = |id: u64| rows <= MOST_ROWS || id_of_bytes(&id.to_le_bytes()) % rows < MOST_ROWS;
        let places: Vec<usize> =
            table.sample_ids().iter().enumerate().filter(|(_, id)| chosen(**id)).map(|(row, _)| row).collect();
        for (name, values) in &mut self.columns {
            if let Some(column) = table.batch().column_by_name(name) {
                values.observe(column, &places);
            }
        }
        let target = self.columns.entry(self.target.clone()).or_insert(Values::Unseen);
        for &row in &places {
            let value = table.targets()[row];
            match self.classes.get(value as usize) {
                Some(class) => target.category(Some(class)),
                None => target.number("number", f64::from(value)),
            }
        }
    }
}

impl Values {
    fn number(&mut self, kind: &'static str, value: f64) {
        if matches!(self, Self::Unseen) {
            *self = Self::Numbers { kind, values: Vec::new() };
        }
        if let Self::Numbers { values, .. } = self {
            values.push(value);
        }
    }

    fn category(&mut self, text: Option<&str>) {
        if matches!(self, Self::Unseen) {
            *self = Self::Categories { counts: BTreeMap::new(), missing: 0 };
        }
        if let Self::Categories { counts, missing } = self {
            match text {
                None => *missing += 1,
                Some(text) => match counts.get_mut(text) {
                    Some(count) => *count += 1,
                    None => drop(counts.insert(text.to_owned(), 1)),
                },
            }
        }
    }

    /// Pictures have no distribution that could be compared here.
    fn observe(&mut self, column: &dyn Array, places: &[usize]) {
        if let Some(numbers) = column.as_primitive_opt::<Float64Type>() {
            for &row in places {
                self.number("number", if numbers.is_null(row) { f64::NAN } else { numbers.value(row) });
            }
        } else if let Some(categories) = column.as_dictionary_opt::<Int32Type>()
            && let Some(texts) = categories.values().as_string_opt::<i32>()
        {
            for &row in places {
                let text = (!categories.is_null(row)).then(|| texts.value(categories.keys().value(row) as usize));
                self.category(text);
            }
        } else if let Some(texts) = column.as_string_opt::<i32>() {
            for &row in places {
                let length = if texts.is_null(row) { f64::NAN } else { texts.value(row).chars().count() as f64 };
                self.number("text length", length);
            }
        }
    }
}

impl Shifts {
    /// The columns that both have, those that moved most beyond chance first.
    pub fn of_columns(&self) -> Vec<ColumnShift> {
        let mut shifts: Vec<ColumnShift> = self
            .a
            .columns
            .iter()
            .filter_map(|(name, a)| match (a, self.b.columns.get(name)?) {
                (Values::Numbers { kind, values: a }, Values::Numbers { values: b, .. }) => {
                    Some(numbers(name, kind, a, b))
                }
                (
                    Values::Categories { counts: a, missing: missing_a },
                    Values::Categories { counts: b, missing: missing_b },
                ) => Some(categories(name, (a, *missing_a), (b, *missing_b))),
                _ => None,
            })
            .collect();
        let beyond = |shift: &ColumnShift| shift.psi.zip(shift.psi_null).map_or(0.0, |(psi, null)| psi / null);
        shifts.sort_by(|a, b| beyond(b).total_cmp(&beyond(a)).then_with(|| a.column.cmp(&b.column)));
        shifts
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn bins(holds: Vec<String>, a: &[u64], b: &[u64]) -> Vec<Bin> {
    let (n, m) = (a.iter().sum(), b.iter().sum());
    let counts = holds.into_iter().zip(a.iter().zip(b));
    counts.map(|(holds, (&a, &b))| Bin { holds, share_a: share(a, n), share_b: share(b, m) }).collect()
}

fn numbers(name: &str, kind: &'static str, a: &[f64], b: &[f64]) -> ColumnShift {
    let edges = quantile_edges(a, BINS);
    let (counts_a, counts_b) = (bin_counts(a, &edges), bin_counts(b, &edges));
    let (count_a, count_b): (u64, u64) = (counts_a.iter().sum(), counts_b.iter().sum());
    let mean = |values: &[f64], count: u64| {
        (count > 0).then(|| values.iter().filter(|value| !value.is_nan()).sum::<f64>() / count as f64)
    };
    let holds = (0..counts_a.len()).map(|bin| match (bin.checked_sub(1).map(|i| edges[i]), edges.get(bin)) {
        (None, Some(high)) => format!("up to {high}"),
        (Some(low), Some(high)) => format!("above {low} up to {high}"),
        (Some(low), None) => format!("above {low}"),
        (None, None) => "all".to_owned(),
    });
    ColumnShift {
        column: name.to_owned(),
        kind,
        count_a,
        count_b,
        missing_a: share(a.len() as u64 - count_a, a.len() as u64),
        missing_b: share(b.len() as u64 - count_b, b.len() as u64),
        mean_a: mean(a, count_a),
        mean_b: mean(b, count_b),
        psi: psi(&counts_a, &counts_b),
        psi_null: psi_null_quantile(count_a, count_b, counts_a.len()),
        ks: ks_statistic(a, b),
        bins: bins(holds.collect(), &counts_a, &counts_b),
        new: Vec::new(),
        gone: Vec::new(),
    }
}

fn categories(name: &str, a: (&BTreeMap<String, u64>, u64), b: (&BTreeMap<String, u64>, u64)) -> ColumnShift {
    let ((a, missing_a), (b, missing_b)) = (a, b);
    let (count_a, count_b): (u64, u64) = (a.values().sum(), b.values().sum());
    let mut own: Vec<(&String, u64)> = a.iter().map(|(text, count)| (text, *count)).collect();
    own.sort_by(|x, y| y.1.cmp(&x.1).then_with(|| x.0.cmp(y.0)));
    own.truncate(CATEGORY_BINS);
    let mut counts_a: Vec<u64> = own.iter().map(|(_, count)| *count).collect();
    let mut counts_b: Vec<u64> = own.iter().map(|(text, _)| b.get(*text).copied().unwrap_or(0)).collect();
    let mut holds: Vec<String> = own.iter().map(|(text, _)| (*text).clone()).collect();
    let (rest_a, rest_b) = (count_a - counts_a.iter().sum::<u64>(), count_b - counts_b.iter().sum::<u64>());
    if rest_a + rest_b > 0 {
        counts_a.push(rest_a);
        counts_b.push(rest_b);
        holds.push("all others".into());
    }
    let only = |one: &BTreeMap<String, u64>, other: &BTreeMap<String, u64>| -> Vec<String> {
        one.keys().filter(|text| !other.contains_key(*text)).take(LISTED).cloned().collect()
    };
    ColumnShift {
        column: name.to_owned(),
        kind: "category",
        count_a,
        count_b,
        missing_a: share(missing_a, count_a + missing_a),
        missing_b: share(missing_b, count_b + missing_b),
        mean_a: None,
        mean_b: None,
        psi: psi(&counts_a, &counts_b),
        psi_null: psi_null_quantile(count_a, count_b, counts_a.len()),
        ks: None,
        bins: bins(holds, &counts_a, &counts_b),
        new: only(b, a),
        gone: only(a, b),
    }
}
