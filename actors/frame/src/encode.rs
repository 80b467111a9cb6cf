//! Raw rows to features and targets, by the preprocessing that a manifest carries. The only place where this
//! happens: feed, evaluator and predictor all call it.

use std::collections::HashMap;

use arrow_array::{Array, ArrayRef, Float64Array, RecordBatch};

use crate::error::Error;
use crate::manifest::{Encoding, FittedScale, FittedTransform, Manifest};
use crate::table::{self, Texts};

/// Encoded rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Encoded {
    pub rows: usize,
    /// Features of a row.
    pub width: usize,
    /// `[rows, width]`, row by row.
    pub features: Vec<f32>,
    /// What the model learns: classes as their index, regression targets transformed. Empty where the rows have none.
    pub targets: Vec<f32>,
    pub sample_ids: Vec<u64>,
    pub weights: Option<Vec<f32>>,
}

impl Encoded {
    /// The rows of these indices, in this order.
    pub fn select(&self, rows: &[u32]) -> Self {
        let mut features = Vec::with_capacity(rows.len() * self.width);
        for &row in rows {
            let first = row as usize * self.width;
            features.extend_from_slice(&self.features[first..first + self.width]);
        }
        let pick = |values: &[f32]| rows.iter().map(|&row| values[row as usize]).collect();
        Self {
            rows: rows.len(),
            width: self.width,
            features,
            targets: if self.targets.is_empty() { Vec::new() } else { pick(&self.targets) },
            sample_ids: rows.iter().map(|&row| self.sample_ids[row as usize]).collect(),
            weights: self.weights.as_deref().map(pick),
        }
    }

    /// Appends rows of the same width.
    pub fn append(&mut self, mut other: Self) -> Result<(), Error> {
        if self.rows == 0 {
            *self = other;
            return Ok(());
        }
        if self.width != other.width || self.weights.is_some() != other.weights.is_some() {
            return Err(Error::layout(format!("rows of {} features after rows of {}", other.width, self.width)));
        }
        self.rows += other.rows;
        self.features.append(&mut other.features);
        self.targets.append(&mut other.targets);
        self.sample_ids.append(&mut other.sample_ids);
        if let (Some(ours), Some(theirs)) = (&mut self.weights, &mut other.weights) {
            ours.append(theirs);
        }
        Ok(())
    }

    /// Bytes that it holds in memory.
    pub fn size_bytes(&self) -> usize {
        let weights = self.weights.as_ref().map_or(0, Vec::len);
        4 * (self.features.len() + self.targets.len() + weights) + 8 * self.sample_ids.len()
    }
}

/// The fitted preprocessing of one dataset version, ready to apply.
#[derive(Debug)]
pub struct Encoder {
    columns: Vec<ColumnEncoder>,
    transform: FittedTransform,
    width: usize,
}

#[derive(Debug)]
struct ColumnEncoder {
    name: String,
    first: usize,
    apply: Apply,
}

#[derive(Debug)]
enum Apply {
    Number {
        impute: f64,
        missing_indicator: bool,
        scale: FittedScale,
        clip: f64,
    },
    /// Offset of each category's feature; that of all others, if there is one.
    OneHot {
        offsets: HashMap<String, usize>,
        other: Option<usize>,
    },
}

impl Encoder {
    pub fn new(manifest: &Manifest) -> Self {
        let columns = manifest
            .features
            .iter()
            .map(|feature| ColumnEncoder {
                name: feature.column.clone(),
                first: feature.first,
                apply: match &feature.encoding {
                    Encoding::Number { impute, missing_indicator, scale, clip } => Apply::Number {
                        impute: *impute,
                        missing_indicator: *missing_indicator,
                        scale: *scale,
                        clip: *clip,
                    },
                    Encoding::OneHot { categories, other } => Apply::OneHot {
                        offsets: categories.iter().enumerate().map(|(i, text)| (text.clone(), i)).collect(),
                        other: other.then_some(categories.len()),
                    },
                },
            })
            .collect();
        Self { columns, transform: manifest.target.transform, width: manifest.width() }
    }

    /// Features of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Encodes rows of a table. Columns are found by name; columns that the manifest does not use are
    /// ignored, and rows to predict may lack ids (then 0, 1, …), target and weight.
    pub fn encode(&self, batch: &RecordBatch) -> Result<Encoded, Error> {
        let rows = batch.num_rows();
        let mut features = vec![0f32; rows * self.width];
        for column in self.columns.iter().filter(|_| self.width > 0) {
            let array = batch
                .column_by_name(&column.name)
                .ok_or_else(|| Error::layout(format!("no column {:?}", column.name)))?;
            match &column.apply {
                Apply::Number { .. } => self.encode_number(column, array, &mut features)?,
                Apply::OneHot { offsets, other } => {
                    self.encode_category(column, offsets, *other, array, &mut features)?;
                }
            }
        }
        let targets = table::floats(batch, table::TARGET).unwrap_or_default();
        Ok(Encoded {
            rows,
            width: self.width,
            features,
            targets: match self.transform {
                FittedTransform::None => targets.to_vec(),
                transform => targets.iter().map(|&y| transform.apply(f64::from(y)) as f32).collect(),
            },
            sample_ids: table::sample_ids(batch).map_or_else(|| (0..rows as u64).collect(), <[u64]>::to_vec),
            weights: table::floats(batch, table::WEIGHT).map(<[f32]>::to_vec),
        })
    }

    fn encode_number(&self, column: &ColumnEncoder, array: &ArrayRef, features: &mut [f32]) -> Result<(), Error> {
        let Apply::Number { impute, missing_indicator, scale, clip } = column.apply else { return Ok(()) };
        let numbers = array.as_any().downcast_ref::<Float64Array>().ok_or_else(|| {
            Error::layout(format!("column {:?} is {}, expected Float64", column.name, array.data_type()))
        })?;
        let imputed = scale.apply(impute, clip) as f32;
        for (row, out) in features.chunks_exact_mut(self.width).enumerate() {
            if numbers.is_null(row) {
                out[column.first] = imputed;
                if missing_indicator {
                    out[column.first + 1] = 1.0;
                }
            } else {
                out[column.first] = scale.apply(numbers.value(row), clip) as f32;
            }
        }
        Ok(())
    }

    fn encode_category(
        &self,
        column: &ColumnEncoder,
        offsets: &HashMap<String, usize>,
        other: Option<usize>,
        array: &ArrayRef,
        features: &mut [f32],
    ) -> Result<(), Error> {
        let texts = table::texts(array).ok_or_else(|| {
            Error::layout(format!("column {:?} is {}, expected texts", column.name, array.data_type()))
        })?;
        let find = |text: &str| offsets.get(text).copied().or(other);
        match texts {
            Texts::Dictionary(keys, values) => {
                let by_key: Vec<Option<usize>> = (0..values.len())
                    .map(|key| if values.is_null(key) { None } else { find(values.value(key)) })
                    .collect();
                for (row, out) in features.chunks_exact_mut(self.width).enumerate() {
                    let offset = keys.key(row).and_then(|key| by_key[key]);
                    if let Some(offset) = offset {
                        out[column.first + offset] = 1.0;
                    }
                }
            }
            Texts::Plain(values) => {
                for (row, out) in features.chunks_exact_mut(self.width).enumerate() {
                    if !values.is_null(row)
                        && let Some(offset) = find(values.value(row))
                    {
                        out[column.first + offset] = 1.0;
                    }
                }
            }
        }
        Ok(())
    }
}
