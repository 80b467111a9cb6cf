//! The rows of the parts in the order of their sample ids, so that the order in the files plays no part; and their
//! features as numbers.

use kernels::linear::{HashedWords, Sparse};
use messages::feed::Split;
use messages::plan::{ColumnType, DataPlan};

use super::Inputs;
use super::report::{PartCounts, SampleId};
use crate::check::names::Use;
use crate::fit::mean_and_std;
use crate::load::{MISSING_KEY, Values};
use crate::split::ranks;

/// Columns of hashed words, for each column of texts.
const HASHED: u32 = 1 << 18;
/// Standardized numbers beside words are cut at this.
const CLIP: f64 = 5.0;

/// Rows by part, in the order of their sample ids.
pub struct Rows<'a> {
    ids: &'a [u64],
    by_part: [Vec<u32>; 3],
    part_of: Vec<Split>,
}

impl<'a> Rows<'a> {
    pub fn new(inputs: &Inputs<'a>) -> Self {
        let mut part_of = vec![Split::Train; inputs.loaded.rows];
        let by_part = Split::ALL.map(|split| {
            let mut rows = inputs.parts.rows(split).to_vec();
            rows.sort_unstable_by_key(|&row| (inputs.ids[row as usize], row));
            for &row in &rows {
                part_of[row as usize] = split;
            }
            rows
        });
        Self { ids: inputs.ids, by_part, part_of }
    }

    pub fn of(&self, split: Split) -> &[u32] {
        &self.by_part[Split::ALL.iter().position(|part| *part == split).unwrap_or(0)]
    }

    pub fn train(&self) -> &[u32] {
        &self.by_part[0]
    }

    /// Rows of all parts: train, val, test.
    pub fn all(&self) -> Vec<u32> {
        self.by_part.concat()
    }

    pub fn id(&self, row: u32) -> SampleId {
        SampleId(self.ids[row as usize])
    }

    pub fn part(&self, row: u32) -> Split {
        self.part_of[row as usize]
    }

    pub fn counts(&self) -> PartCounts {
        let [train, val, test] = [0, 1, 2].map(|part| self.by_part[part].len() as u64);
        PartCounts { train, val, test }
    }
}

/// A feature column that is no image.
pub fn features<'a>(inputs: &Inputs<'a>) -> Vec<(&'a Use, &'a Values)> {
    let uses = inputs.loaded.layout.uses.iter().zip(&inputs.loaded.columns);
    uses.filter(|(usage, values)| {
        usage.is_feature() && **values != Values::Empty && !is_image(inputs.data, &usage.name)
    })
    .collect()
}

pub fn is_image(data: &DataPlan, name: &str) -> bool {
    data.columns.get(name).is_some_and(|column| column.r#type == ColumnType::Image)
}

/// Median of numbers that are there; none without any.
pub fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.retain(|number| !number.is_nan());
    numbers.sort_unstable_by(f64::total_cmp);
    quantile(&numbers, 0.5)
}

/// A quantile of rising numbers, interpolated linearly.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let at = share * sorted.len().checked_sub(1)? as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(low + (high - low) * at.fract())
}

/// Numbers for a forest that predicts: numbers with NaN for missing, categories by the rank of their text. Texts are
/// left out.
pub fn for_trees(inputs: &Inputs<'_>) -> Vec<Vec<f64>> {
    let columns = features(inputs).into_iter().filter_map(|(_, values)| match values {
        Values::Number(numbers) => Some(numbers.clone()),
        Values::Category { keys, .. } => {
            let rank_of = ranks(values);
            let rank = |(key, rank): (&u32, u32)| if *key == MISSING_KEY { f64::NAN } else { f64::from(rank) };
            Some(keys.iter().zip(rank_of).map(rank).collect())
        }
        _ => None,
    });
    columns.collect()
}

/// Numbers for an isolation forest: missing ones are the median of train, categories how often they stand in train,
/// texts their length in characters.
pub fn for_isolation(inputs: &Inputs<'_>, rows: &Rows<'_>) -> Vec<Vec<f64>> {
    let columns = features(inputs).into_iter().filter_map(|(_, values)| match values {
        Values::Number(numbers) => {
            let known = median(rows.train().iter().map(|&row| numbers[row as usize]).collect()).unwrap_or(0.0);
            Some(numbers.iter().map(|number| if number.is_nan() { known } else { *number }).collect())
        }
        Values::Category { keys, texts } => {
            // Missing counts as a category of its own, behind the others.
            let place = |key: u32| if key == MISSING_KEY { texts.len() } else { key as usize };
            let mut counts = vec![0_u32; texts.len() + 1];
            rows.train().iter().for_each(|&row| counts[place(keys[row as usize])] += 1);
            Some(keys.iter().map(|&key| f64::from(counts[place(key)])).collect())
        }
        Values::Text(texts) => Some((0..texts.len()).map(|row| texts.get(row).chars().count() as f64).collect()),
        Values::Id(_) | Values::Empty => None,
    });
    columns.collect()
}

/// Whether a feature is a text.
pub fn has_text(inputs: &Inputs<'_>) -> bool {
    features(inputs).iter().any(|(_, values)| matches!(values, Values::Text(_)))
}

/// All features for a linear model: hashed words of texts, standardized numbers with an indicator of missing ones, and
/// a column for each category of train.
pub fn for_words(inputs: &Inputs<'_>, rows: &Rows<'_>) -> Sparse {
    let mut width = 0;
    let encoders: Vec<(usize, Words<'_>)> = features(inputs)
        .into_iter()
        .filter_map(|(_, values)| {
            let encoder = Words::fit(values, rows.train())?;
            let first = width;
            width += encoder.width();
            Some((first, encoder))
        })
        .collect();
    let mut table = Sparse::new(width);
    for row in 0..inputs.loaded.rows {
        let cells = encoders.iter().flat_map(|(first, encoder)| {
            encoder.encode(row).into_iter().map(move |(column, value)| (*first as u32 + column, value))
        });
        table.push(cells.collect::<Vec<_>>());
    }
    table
}

/// One column as part of a sparse row.
enum Words<'a> {
    Text {
        texts: &'a crate::load::Texts,
        words: HashedWords,
    },
    Number {
        numbers: &'a [f64],
        mean: f64,
        std: f64,
    },
    /// The column of each key; none for one that train does not have.
    Category {
        keys: &'a [u32],
        columns: Vec<Option<u32>>,
        width: usize,
    },
}

impl<'a> Words<'a> {
    fn fit(values: &'a Values, train: &[u32]) -> Option<Self> {
        match values {
            Values::Text(texts) => {
                let words = HashedWords::fit(train.iter().map(|&row| texts.get(row as usize)), HASHED);
                Some(Self::Text { texts, words })
            }
            Values::Number(numbers) => {
                let present: Vec<f64> =
                    train.iter().map(|&row| numbers[row as usize]).filter(|number| !number.is_nan()).collect();
                let (mean, std) = mean_and_std(&present);
                Some(Self::Number { numbers, mean, std })
            }
            Values::Category { keys, texts } => {
                let mut columns = vec![None; texts.len()];
                let mut width = 0;
                for &row in train {
                    let key = keys[row as usize];
                    if key != MISSING_KEY && columns[key as usize].is_none() {
                        columns[key as usize] = Some(width);
                        width += 1;
                    }
                }
                Some(Self::Category { keys, columns, width: width as usize })
            }
            Values::Id(_) | Values::Empty => None,
        }
    }

    fn width(&self) -> usize {
        match self {
            Self::Text { .. } => HASHED as usize,
            Self::Number { .. } => 2,
            Self::Category { width, .. } => *width,
        }
    }

    fn encode(&self, row: usize) -> Vec<(u32, f32)> {
        match self {
            Self::Text { texts, words } => words.encode(texts.get(row)),
            Self::Number { numbers, .. } if numbers[row].is_nan() => vec![(1, 1.0)],
            Self::Number { std, .. } if *std == 0.0 => Vec::new(),
            Self::Number { numbers, mean, std } => {
                vec![(0, ((numbers[row] - mean) / std).clamp(-CLIP, CLIP) as f32)]
            }
            Self::Category { keys, columns, .. } => {
                let column = columns.get(keys[row] as usize).copied().flatten();
                column.map(|column| (column, 1.0)).into_iter().collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_interpolated() {
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.25), Some(1.75));
        assert_eq!(quantile(&[5.0], 0.9), Some(5.0));
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(median(vec![3.0, f64::NAN, 1.0]), Some(2.0));
    }
}
