//! Raw rows to what a model reads, by the preprocessing that a manifest carries. The only place where this
//! happens: feed, evaluator and predictor all call it.

use std::collections::HashMap;

use arrow_array::{Array, ArrayRef, FixedSizeBinaryArray, Float64Array, RecordBatch, StringArray};
use kernels::nn::{Images, Inputs, PixelValues, Steps};
use kernels::text::{Packed, Tokenizer};

use crate::encoded::Encoded;
use crate::error::Error;
use crate::manifest::{Encoding, Feature, FittedScale, FittedTransform, Manifest};
use crate::table::{self, Texts};

/// The fitted preprocessing of one dataset version, ready to apply.
#[derive(Debug)]
pub struct Encoder {
    columns: Vec<ColumnEncoder>,
    transform: FittedTransform,
    width: usize,
    /// Whether several rows make one sample.
    sequence: bool,
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
    /// Index of each category.
    Index(HashMap<String, u32>),
    Text(Box<Tokenizer>),
    Image {
        channels: usize,
        height: usize,
        width: usize,
    },
}

impl Apply {
    fn new(encoding: &Encoding) -> Result<Self, Error> {
        Ok(match encoding {
            Encoding::Number { impute, missing_indicator, scale, clip } => {
                Self::Number { impute: *impute, missing_indicator: *missing_indicator, scale: *scale, clip: *clip }
            }
            Encoding::OneHot { categories, other } => Self::OneHot {
                offsets: categories.iter().enumerate().map(|(i, text)| (text.clone(), i)).collect(),
                other: other.then_some(categories.len()),
            },
            Encoding::Index { categories } => Self::Index((1..).zip(categories).map(|(i, t)| (t.clone(), i)).collect()),
            Encoding::Text { tokenizer, max_length, vocab_size } => {
                let tokenizer = Tokenizer::from_text(tokenizer).map_err(|e| Error::malformed(e.to_string()))?;
                let said = (*max_length as usize, *vocab_size as usize);
                if (tokenizer.max_length(), tokenizer.size()) != said {
                    return Err(Error::malformed(format!(
                        "tokenizer of {} ids and rows of {}, expected {} and {}",
                        tokenizer.size(),
                        tokenizer.max_length(),
                        said.1,
                        said.0
                    )));
                }
                Self::Text(Box::new(tokenizer))
            }
            Encoding::Image { channels, height, width } => {
                Self::Image { channels: *channels as usize, height: *height as usize, width: *width as usize }
            }
        })
    }
}

impl Encoder {
    /// `malformed` where the manifest holds a tokenizer that is none.
    pub fn new(manifest: &Manifest) -> Result<Self, Error> {
        Self::of(&manifest.features, manifest.target.transform, manifest.sequence.is_some())
    }

    /// From the parts of a manifest that a model file keeps.
    pub fn of(features: &[Feature], transform: FittedTransform, sequence: bool) -> Result<Self, Error> {
        let columns = features
            .iter()
            .map(|feature| {
                let apply = Apply::new(&feature.encoding)?;
                Ok(ColumnEncoder { name: feature.column.clone(), first: feature.first, apply })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let width = features.iter().map(|feature| feature.encoding.width()).sum();
        Ok(Self { columns, transform, width, sequence })
    }

    /// Features of a row, or of a step.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The column of words and its tokenizer, where there is one.
    pub fn text(&self) -> Option<(&str, &Tokenizer)> {
        self.columns.iter().find_map(|column| match &column.apply {
            Apply::Text(tokenizer) => Some((column.name.as_str(), &**tokenizer)),
            _ => None,
        })
    }

    /// Encodes rows of a table. Columns are found by name; columns that the manifest does not use are
    /// ignored, and rows to predict may lack ids (then 0, 1, …, or one sequence), target and weight.
    pub fn encode(&self, batch: &RecordBatch) -> Result<Encoded, Error> {
        let rows = batch.num_rows();
        let mut features = vec![0f32; rows * self.width];
        let mut inputs = Inputs::default();
        let indices = self.columns.iter().filter(|column| matches!(column.apply, Apply::Index(_))).count();
        inputs.categories = vec![0; rows * indices];
        let mut index = 0;
        for column in &self.columns {
            let array = batch
                .column_by_name(&column.name)
                .ok_or_else(|| Error::layout(format!("no column {:?}", column.name)))?;
            match &column.apply {
                Apply::Number { .. } => self.encode_number(column, array, &mut features)?,
                Apply::OneHot { offsets, other } => {
                    let find = |text: &str| offsets.get(text).copied().or(*other);
                    let mut out = features.chunks_exact_mut(self.width);
                    each_text(column, array, find, |offset| {
                        if let (Some(row), Some(offset)) = (out.next(), offset) {
                            row[column.first + offset] = 1.0;
                        }
                    })?;
                }
                Apply::Index(places) => {
                    let mut out = inputs.categories.chunks_exact_mut(indices);
                    each_text(
                        column,
                        array,
                        |text| places.get(text).copied(),
                        |place| {
                            if let Some(row) = out.next() {
                                row[index] = place.unwrap_or(0);
                            }
                        },
                    )?;
                    index += 1;
                }
                Apply::Text(tokenizer) => inputs.tokens = Some(tokens(column, tokenizer, array)?),
                Apply::Image { channels, height, width } => {
                    let pixels = PixelValues::Bytes(pixels(column, channels * height * width, array)?);
                    inputs.images = Some(Images { channels: *channels, height: *height, width: *width, pixels });
                }
            }
        }
        let encoded = Encoded {
            rows,
            width: self.width,
            features,
            inputs,
            targets: self.targets(batch),
            sample_ids: self.sample_ids(batch),
            weights: table::floats(batch, table::WEIGHT).map(<[f32]>::to_vec),
        };
        if self.sequence { sequences(encoded) } else { Ok(encoded) }
    }

    /// Targets of the samples in the target column's own unit; empty where the rows have none.
    pub fn own_targets(&self, batch: &RecordBatch) -> Vec<f32> {
        let targets = table::floats(batch, table::TARGET).unwrap_or_default();
        if !self.sequence || targets.is_empty() {
            return targets.to_vec();
        }
        last_steps(&self.sample_ids(batch)).into_iter().map(|row| targets[row as usize]).collect()
    }

    fn targets(&self, batch: &RecordBatch) -> Vec<f32> {
        let targets = table::floats(batch, table::TARGET).unwrap_or_default();
        match self.transform {
            FittedTransform::None => targets.to_vec(),
            transform => targets.iter().map(|&y| transform.apply(f64::from(y)) as f32).collect(),
        }
    }

    fn sample_ids(&self, batch: &RecordBatch) -> Vec<u64> {
        match table::sample_ids(batch) {
            Some(ids) => ids.to_vec(),
            None if self.sequence => vec![0; batch.num_rows()],
            None => (0..batch.num_rows() as u64).collect(),
        }
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
}

/// Steps to samples: rows that follow each other with the same id are one. Target and weight are the last step's.
fn sequences(steps: Encoded) -> Result<Encoded, Error> {
    let ids = &steps.sample_ids;
    if u32::try_from(ids.len()).is_err() {
        return Err(Error::layout(format!("{} steps, expected fewer than 2^32", ids.len())));
    }
    let last = last_steps(ids);
    let mut offsets = vec![0];
    offsets.extend(last.iter().map(|row| row + 1));
    let pick = |values: &[f32]| last.iter().map(|&row| values[row as usize]).collect::<Vec<f32>>();
    Ok(Encoded {
        rows: last.len(),
        width: steps.width,
        inputs: Inputs { steps: Some(Steps { values: steps.features, offsets }), ..Inputs::default() },
        features: Vec::new(),
        targets: if steps.targets.is_empty() { Vec::new() } else { pick(&steps.targets) },
        sample_ids: last.iter().map(|&row| ids[row as usize]).collect(),
        weights: steps.weights.as_deref().map(pick),
    })
}

/// The last row of each run of equal ids.
fn last_steps(ids: &[u64]) -> Vec<u32> {
    let ends = |row: &u32| ids.get(*row as usize + 1).is_none_or(|next| *next != ids[*row as usize]);
    (0..ids.len() as u32).filter(ends).collect()
}

/// What `find` says of each row's text, in order; none for a missing one.
fn each_text<T: Copy>(
    column: &ColumnEncoder,
    array: &ArrayRef,
    find: impl Fn(&str) -> Option<T>,
    mut take: impl FnMut(Option<T>),
) -> Result<(), Error> {
    let texts = table::texts(array)
        .ok_or_else(|| Error::layout(format!("column {:?} is {}, expected texts", column.name, array.data_type())))?;
    match texts {
        Texts::Dictionary(keys, values) => {
            let by_key: Vec<Option<T>> =
                (0..values.len()).map(|key| if values.is_null(key) { None } else { find(values.value(key)) }).collect();
            (0..keys.len()).for_each(|row| take(keys.key(row).and_then(|key| by_key[key])));
        }
        Texts::Plain(values) => values.iter().for_each(|text| take(text.and_then(&find))),
    }
    Ok(())
}

fn tokens(column: &ColumnEncoder, tokenizer: &Tokenizer, array: &ArrayRef) -> Result<Packed, Error> {
    let texts = array
        .as_any()
        .downcast_ref::<StringArray>()
        .ok_or_else(|| Error::layout(format!("column {:?} is {}, expected Utf8", column.name, array.data_type())))?;
    let failed = |e: kernels::Error| Error::layout(format!("column {:?}: {e}", column.name));
    tokenizer.pack(texts.iter().map(Option::unwrap_or_default)).map_err(failed)
}

fn pixels(column: &ColumnEncoder, size: usize, array: &ArrayRef) -> Result<Vec<u8>, Error> {
    let images = array.as_any().downcast_ref::<FixedSizeBinaryArray>();
    let images = images.filter(|images| usize::try_from(images.value_length()) == Ok(size)).ok_or_else(|| {
        Error::layout(format!("column {:?} is {}, expected {size} bytes a row", column.name, array.data_type()))
    })?;
    let mut out = vec![0; images.len() * size];
    for (row, out) in out.chunks_exact_mut(size.max(1)).enumerate().filter(|(row, _)| images.is_valid(*row)) {
        out.copy_from_slice(images.value(row));
    }
    Ok(out)
}
