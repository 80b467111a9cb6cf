//! Synthetic rows of rare classes: SMOTE (Chawla, Bowyer, Hall, Kegelmeyer, JAIR 2002), with the paper's SMOTE-NC for
//! categories. A new row lies between a row of the training part and one of its nearest neighbors of the same
//! class. Made after everything was fitted, so that no fitted value knows of them.

use messages::WireError;
use messages::error::Code;
use messages::plan::{AugmentationPlan, SmotePlan};

use super::gathered::SyntheticRow;
use super::lane::{Draws, Lane};
use crate::check::names::Use;
use crate::check::target::TargetValues;
use crate::load::{Loaded, Values};

/// Most rows of a class that neighbors are looked for among.
const MAX_CLASS_ROWS: usize = 50_000;

/// What was made up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Made {
    pub records: Vec<SyntheticRow>,
    /// The row that each is made of.
    pub bases: Vec<u32>,
    /// Rows of each class.
    pub class_counts: Vec<u64>,
}

/// A row to be made: two rows, and the part of the way from the first to the second.
struct Planned {
    class: u32,
    base: u32,
    neighbor: u32,
    /// Neighbors of the base, for what has no middle.
    around: Vec<u32>,
    share: f64,
}

/// Appends synthetic rows to what was loaded and to the rows of train. `whole` names columns that have no middle:
/// numbers of images.
pub fn extend(
    plan: &AugmentationPlan,
    whole: &[&str],
    loaded: &mut Loaded,
    target: &mut TargetValues,
    weights: Option<&mut Vec<f32>>,
    train: &mut Vec<u32>,
) -> Result<Option<Made>, WireError> {
    let Some(ratio) = plan.smote.ratio else { return Ok(None) };
    let mut of_class: Vec<Vec<u32>> = vec![Vec::new(); target.classes.len()];
    for &row in train.iter() {
        of_class[target.values[row as usize] as usize].push(row);
    }
    let largest = of_class.iter().map(Vec::len).max().unwrap_or(0);
    let space = Space::of(loaded, train, whole);
    let mut planned = Vec::new();
    for (class, rows) in of_class.iter().enumerate() {
        let missing = ((ratio * largest as f64) as usize).saturating_sub(rows.len());
        if missing == 0 {
            continue;
        }
        let name = &target.classes[class];
        if rows.len() < 2 {
            let message = format!(
                "data.augmentation.smote: class {name:?} has {} row in train, and SMOTE needs two of a class",
                rows.len()
            );
            return Err(WireError::new(Code::DatasetValidationError, message)
                .with_hint("lower data.augmentation.smote.ratio, or leave the class out"));
        }
        if rows.len() > MAX_CLASS_ROWS {
            let message = format!(
                "not yet supported: SMOTE of class {name:?} with {} rows in train, more than {MAX_CLASS_ROWS}",
                rows.len()
            );
            return Err(WireError::new(Code::ConfigError, message));
        }
        plan_class(plan.seed, &plan.smote, &space, class as u32, rows, missing, &mut planned);
    }
    Ok(Some(append(&planned, whole, loaded, target, weights, train)))
}

/// The rows of train as points: numbers in units of their spread, categories beside them.
struct Space {
    /// `[row, column]`; a missing number is at the mean.
    points: Vec<f32>,
    columns: usize,
    keys: Vec<Vec<u32>>,
}

impl Space {
    fn of(loaded: &Loaded, train: &[u32], whole: &[&str]) -> Self {
        let counts = |usage: &Use| usage.is_feature() && !whole.contains(&usage.name.as_str());
        let features = loaded.layout.uses.iter().zip(&loaded.columns).filter(|(usage, _)| counts(usage));
        let (mut numbers, mut keys) = (Vec::new(), Vec::new());
        for (_, values) in features {
            match values {
                Values::Number(values) => numbers.push(values),
                Values::Category { keys: of_column, .. } => keys.push(of_column.clone()),
                _ => {}
            }
        }
        let columns = numbers.len();
        let mut points = vec![0f32; loaded.rows * columns];
        for (column, values) in numbers.into_iter().enumerate() {
            let known = || train.iter().map(|&row| values[row as usize]).filter(|value| !value.is_nan());
            let count = known().count().max(1) as f64;
            let mean = known().sum::<f64>() / count;
            let std = (known().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
            for &row in train {
                let value = values[row as usize];
                if !value.is_nan() && std > 0.0 {
                    points[row as usize * columns + column] = ((value - mean) / std) as f32;
                }
            }
        }
        Self { points, columns, keys }
    }

    /// Squared; a category that differs counts as one spread.
    fn distance(&self, a: u32, b: u32) -> f64 {
        let point = |row: u32| &self.points[row as usize * self.columns..][..self.columns];
        let numbers: f64 = point(a).iter().zip(point(b)).map(|(x, y)| f64::from(x - y).powi(2)).sum();
        let differ = self.keys.iter().filter(|keys| keys[a as usize] != keys[b as usize]).count();
        numbers + differ as f64
    }

    /// The nearest others of these rows, ties by their order.
    fn neighbors(&self, row: u32, rows: &[u32], k: usize) -> Vec<u32> {
        let mut found: Vec<(f64, u32)> =
            rows.iter().filter(|&&other| other != row).map(|&other| (self.distance(row, other), other)).collect();
        let order = |a: &(f64, u32), b: &(f64, u32)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        let k = k.min(found.len());
        if k < found.len() {
            found.select_nth_unstable_by(k, order);
        }
        found.truncate(k);
        found.sort_unstable_by(order);
        found.into_iter().map(|(_, row)| row).collect()
    }
}

/// The rows of a class take turns, in a seeded order.
fn plan_class(
    seed: u64,
    smote: &SmotePlan,
    space: &Space,
    class: u32,
    rows: &[u32],
    missing: usize,
    planned: &mut Vec<Planned>,
) {
    let draws = |sample: u64| Draws { seed, epoch: u64::from(class), sample }.of(Lane::Smote);
    let mut turns: Vec<u32> = rows.to_vec();
    draws(u64::MAX).shuffle(&mut turns);
    turns.truncate(missing);
    let around: Vec<Vec<u32>> =
        turns.iter().map(|&base| space.neighbors(base, rows, smote.k_neighbors as usize)).collect();
    for number in 0..missing {
        let turn = number % turns.len();
        let mut rng = draws(number as u64);
        let neighbor = around[turn][rng.below(around[turn].len() as u32) as usize];
        let share = rng.uniform();
        planned.push(Planned { class, base: turns[turn], neighbor, around: around[turn].clone(), share });
    }
}

fn append(
    planned: &[Planned],
    whole: &[&str],
    loaded: &mut Loaded,
    target: &mut TargetValues,
    weights: Option<&mut Vec<f32>>,
    train: &mut Vec<u32>,
) -> Made {
    let id_of_row = |loaded: &Loaded, row: u32| {
        let ids = loaded.columns.iter().find_map(|values| if let Values::Id(ids) = values { Some(ids) } else { None });
        ids.map_or(u64::from(row), |ids| ids[row as usize])
    };
    let mut made = Made { class_counts: vec![0; target.classes.len()], ..Made::default() };
    let has_ids = loaded.columns.iter().any(|values| matches!(values, Values::Id(_)));
    for (number, row) in planned.iter().enumerate() {
        let (base, neighbor) = (id_of_row(loaded, row.base), id_of_row(loaded, row.neighbor));
        let sample_id = if has_ids { synthetic_id(base, number) } else { loaded.rows as u64 + number as u64 };
        made.records.push(SyntheticRow { sample_id, base, neighbor, share: row.share });
        made.bases.push(row.base);
        made.class_counts[row.class as usize] += 1;
        target.values.push(row.class as f32);
        train.push((loaded.rows + number) as u32);
    }
    for (usage, values) in loaded.layout.uses.iter().zip(&mut loaded.columns) {
        match values {
            Values::Number(numbers) if whole.contains(&usage.name.as_str()) => {
                numbers.extend(planned.iter().map(|row| numbers[row.base as usize]).collect::<Vec<_>>());
            }
            _ => append_column(values, planned, &made.records),
        }
    }
    if let Some(weights) = weights {
        let between = |row: &Planned| {
            let (base, neighbor) = (weights[row.base as usize], weights[row.neighbor as usize]);
            base + row.share as f32 * (neighbor - base)
        };
        let more: Vec<f32> = planned.iter().map(between).collect();
        weights.extend(more);
    }
    loaded.rows += planned.len();
    made
}

/// Numbers lie between the two rows; a category is the most frequent one around; texts are those of the row.
fn append_column(values: &mut Values, planned: &[Planned], records: &[SyntheticRow]) {
    match values {
        Values::Number(numbers) => {
            for row in planned {
                let (base, neighbor) = (numbers[row.base as usize], numbers[row.neighbor as usize]);
                numbers.push(if neighbor.is_nan() { base } else { base + row.share * (neighbor - base) });
            }
        }
        Values::Category { keys, .. } => {
            for row in planned {
                keys.push(most_frequent(keys, row));
            }
        }
        Values::Id(ids) => ids.extend(records.iter().map(|record| record.sample_id)),
        Values::Text(texts) => {
            for row in planned {
                let text = texts.get(row.base as usize).to_owned();
                texts.push(&text);
            }
        }
        Values::Empty => {}
    }
}

/// Ties go to the nearest.
fn most_frequent(keys: &[u32], row: &Planned) -> u32 {
    let of = |row: &u32| keys[*row as usize];
    let count = |key: u32| row.around.iter().filter(|other| of(other) == key).count();
    let mut best = (0, of(&row.base));
    for key in row.around.iter().map(of) {
        if count(key) > best.0 {
            best = (count(key), key);
        }
    }
    best.1
}

/// First 8 bytes, little-endian, of a BLAKE3: no column's value has that id but by chance.
fn synthetic_id(base: u64, number: usize) -> u64 {
    let hash = blake3::hash(format!("within.smote {base} {number}").as_bytes());
    let (first, _) = hash.as_bytes().split_first_chunk::<8>().expect("invariant: a hash has 32 bytes");
    u64::from_le_bytes(*first)
}
