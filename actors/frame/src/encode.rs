//! Raw rows to what a model reads, by the preprocessing that a manifest carries. The only place where this
//! happens: feed, evaluator and predictor all call it.

use std::collections::HashMap;

use arrow_array::{Array, ArrayRef, FixedSizeBinaryArray, Float64Array, RecordBatch, StringArray};
use kernels::nn::{Images, Inputs, PixelValues, Steps};
use kernels::text::{Packed, Tokenizer};

use crate::clean::clean;
use crate::derive::{self, Step};
use crate::encoded::Encoded;
use crate::error::Error;
use crate::hash::bucket;
use crate::manifest::{Encoding, Feature, FittedScale, FittedTransform, Manifest, TargetMeans, out_of_fold};
use crate::table::{self, Texts};

/// The fitted preprocessing of one dataset version, ready to apply.
#[derive(Debug)]
pub struct Encoder {
    derived: Vec<Step>,
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
    /// The feature of each category; that of missing and of unseen ones.
    Value {
        values: HashMap<String, f32>,
        missing: f32,
        unseen: f32,
    },
    Hashing(u32),
    /// For each output: mean of each category, of missing and of unseen ones, and its scaling.
    Target {
        places: HashMap<String, usize>,
        outputs: Vec<TargetMeans>,
        clip: f64,
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
                let (impute, missing_indicator, scale, clip) = (*impute, *missing_indicator, scale.clone(), *clip);
                Self::Number { impute, missing_indicator, scale, clip }
            }
            Encoding::Ordinal { categories, scale, clip } => {
                let scaled = |place: f64| scale.apply(place, *clip) as f32;
                let values = categories.iter().enumerate().map(|(place, text)| (text.clone(), scaled(place as f64)));
                Self::Value { values: values.collect(), missing: scaled(-1.0), unseen: scaled(-1.0) }
            }
            Encoding::Frequency { categories, shares, scale, clip } => {
                same_length(categories, shares)?;
                let scaled = |share: f64| scale.apply(share, *clip) as f32;
                let values = categories.iter().zip(shares).map(|(text, share)| (text.clone(), scaled(*share)));
                Self::Value { values: values.collect(), missing: scaled(0.0), unseen: scaled(0.0) }
            }
            Encoding::Hashing { buckets } => Self::Hashing(*buckets),
            Encoding::Target { categories, outputs, clip } => {
                outputs.iter().try_for_each(|output| same_length(categories, &output.means))?;
                let places = categories.iter().enumerate().map(|(place, text)| (text.clone(), place)).collect();
                Self::Target { places, outputs: outputs.clone(), clip: *clip }
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

fn same_length(categories: &[String], values: &[f64]) -> Result<(), Error> {
    if categories.len() == values.len() {
        return Ok(());
    }
    Err(Error::malformed(format!("{} values for {} categories", values.len(), categories.len())))
}

impl Encoder {
    /// `malformed` where the manifest holds a tokenizer that is none.
    pub fn new(manifest: &Manifest) -> Result<Self, Error> {
        let encoder = Self::of(&manifest.features, manifest.target.transform, manifest.sequence.is_some())?;
        Ok(encoder.deriving(&manifest.derived))
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
        Ok(Self { derived: Vec::new(), columns, transform, width, sequence })
    }

    /// The same, for rows whose derived columns are still to be made.
    pub fn deriving(self, derived: &[Step]) -> Self {
        Self { derived: derived.to_vec(), ..self }
    }

    /// Features of a row, or of a step.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The column of words, where there is one.
    pub fn text_column(&self) -> Option<&str> {
        self.text().map(|(column, _)| column)
    }

    fn text(&self) -> Option<(&str, &Tokenizer)> {
        self.columns.iter().find_map(|column| match &column.apply {
            Apply::Text(tokenizer) => Some((column.name.as_str(), &**tokenizer)),
            _ => None,
        })
    }

    /// Appends the ids of one text of the column of words, cleaned as that column is.
    pub fn encode_text(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), Error> {
        let (column, tokenizer) = self.text().ok_or_else(|| Error::layout("rows without a column of words"))?;
        let cleaning = self.derived.iter().find_map(|step| match step {
            Step::CleanText { column: cleaned, clean } if cleaned == column => Some(clean),
            _ => None,
        });
        let failed = |e: kernels::Error| Error::layout(format!("column {column:?}: {e}"));
        match cleaning {
            Some(how) => tokenizer.encode(&clean(text, how), ids),
            None => tokenizer.encode(text, ids),
        }
        .map_err(failed)
    }

    /// Encodes rows of a table. Columns are found by name; columns that the manifest does not use are
    /// ignored, and rows to predict may lack ids (then 0, 1, …, or one sequence), target and weight.
    pub fn encode(&self, batch: &RecordBatch) -> Result<Encoded, Error> {
        let rows = batch.num_rows();
        let mut features = vec![0f32; rows * self.width];
        let mut inputs = Inputs::default();
        let indices = self.columns.iter().filter(|column| matches!(column.apply, Apply::Index(_))).count();
        inputs.categories = vec![0; rows * indices];
        let derived = derive::run(&self.derived, batch)?;
        let mut index = 0;
        for column in &self.columns {
            let array = derived
                .get(&column.name)
                .or_else(|| batch.column_by_name(&column.name))
                .ok_or_else(|| Error::layout(format!("no column {:?}", column.name)))?;
            match &column.apply {
                Apply::Number { .. } => self.encode_number(column, array, &mut features)?,
                Apply::OneHot { .. } | Apply::Value { .. } | Apply::Hashing(_) => {
                    self.encode_category(column, array, &mut features)?;
                }
                Apply::Target { .. } => self.encode_target(column, batch, array, &mut features)?,
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
                    let pixels = pixels(column, channels * height * width, array)?;
                    let pixels = normalized(&self.derived, &column.name, (*channels, height * width), pixels)?;
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

    fn encode_category(&self, column: &ColumnEncoder, array: &ArrayRef, features: &mut [f32]) -> Result<(), Error> {
        let mut out = features.chunks_exact_mut(self.width);
        let mut set = |found: Option<(usize, f32)>| {
            if let (Some(row), Some((offset, value))) = (out.next(), found) {
                row[column.first + offset] = value;
            }
        };
        match &column.apply {
            Apply::OneHot { offsets, other } => {
                let find = |text: &str| offsets.get(text).copied().or(*other).map(|offset| (offset, 1.0));
                each_text(column, array, find, set)
            }
            Apply::Value { values, missing, unseen } => {
                let find = |text: &str| Some(values.get(text).copied().unwrap_or(*unseen));
                each_text(column, array, find, |value| set(Some((0, value.unwrap_or(*missing)))))
            }
            Apply::Hashing(buckets) => each_text(column, array, |text| Some(bucket(text, *buckets)), set),
            _ => Ok(()),
        }
    }

    /// Rows of train bring their own means; all others get those of their category.
    fn encode_target(
        &self,
        column: &ColumnEncoder,
        batch: &RecordBatch,
        array: &ArrayRef,
        features: &mut [f32],
    ) -> Result<(), Error> {
        let Apply::Target { places, outputs, clip } = &column.apply else { return Ok(()) };
        for (index, output) in outputs.iter().enumerate() {
            let at = column.first + index;
            let mut out = features.chunks_exact_mut(self.width);
            let mut set = |mean: f64| {
                if let Some(row) = out.next() {
                    row[at] = output.scale.apply(mean, *clip) as f32;
                }
            };
            let own = batch.column_by_name(&out_of_fold(&column.name, index));
            if let Some(own) = own.and_then(|own| own.as_any().downcast_ref::<Float64Array>()) {
                own.iter().for_each(|mean| set(mean.unwrap_or(output.prior)));
            } else {
                let find = |text: &str| Some(places.get(text).map_or(output.prior, |place| output.means[*place]));
                each_text(column, array, find, |mean| set(mean.unwrap_or(output.missing)))?;
            }
        }
        Ok(())
    }

    fn encode_number(&self, column: &ColumnEncoder, array: &ArrayRef, features: &mut [f32]) -> Result<(), Error> {
        let Apply::Number { impute, missing_indicator, scale, clip } = &column.apply else { return Ok(()) };
        let (missing_indicator, clip) = (*missing_indicator, *clip);
        let numbers = array.as_any().downcast_ref::<Float64Array>().ok_or_else(|| {
            Error::layout(format!("column {:?} is {}, expected Float64", column.name, array.data_type()))
        })?;
        let imputed = scale.apply(*impute, clip) as f32;
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

/// Bytes as they are, or normalized by a step for this column.
fn normalized(
    steps: &[Step],
    column: &str,
    (channels, plane): (usize, usize),
    bytes: Vec<u8>,
) -> Result<PixelValues, Error> {
    let found = steps.iter().find_map(|step| match step {
        Step::NormalizeImage { column: own, mean, std } if own == column => Some((mean, std)),
        _ => None,
    });
    let Some((mean, std)) = found else { return Ok(PixelValues::Bytes(bytes)) };
    if mean.len() != channels || std.len() != channels || channels == 0 {
        return Err(Error::malformed(format!(
            "column {column:?}: normalized by {} channels of {channels}",
            mean.len()
        )));
    }
    // One value for each byte of each channel.
    let table = |channel: usize| {
        (0..256).map(move |byte| {
            if std[channel] > 0.0 { ((f64::from(byte) / 255.0 - mean[channel]) / std[channel]) as f32 } else { 0.0 }
        })
    };
    let tables: Vec<f32> = (0..channels).flat_map(table).collect();
    let value = |(at, byte): (usize, &u8)| tables[at / plane.max(1) % channels * 256 + usize::from(*byte)];
    Ok(PixelValues::Floats(bytes.iter().enumerate().map(value).collect()))
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
