//! Encoded rows: what a model reads, with targets, ids and weights. Rows are picked, joined and measured here.

use kernels::nn::{Images, Inputs, PixelValues, Steps};
use kernels::text::Packed;

use crate::error::Error;

/// Encoded rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Encoded {
    /// Samples.
    pub rows: usize,
    /// Features of a row; of a sequence: of a step.
    pub width: usize,
    /// `[rows, width]`, row by row; empty where rows are sequences.
    pub features: Vec<f32>,
    /// Tokens, images (as bytes), category indices, sequences.
    pub inputs: Inputs,
    /// What the model learns: classes as their index, regression targets transformed. Empty where the rows have none.
    pub targets: Vec<f32>,
    pub sample_ids: Vec<u64>,
    pub weights: Option<Vec<f32>>,
}

impl Encoded {
    /// Category indices of a row.
    pub fn category_columns(&self) -> usize {
        self.inputs.categories.len().checked_div(self.rows).unwrap_or(0)
    }

    /// Features of a row that lie in `features`.
    fn flat_width(&self) -> usize {
        if self.inputs.steps.is_some() { 0 } else { self.width }
    }

    /// The rows of these indices, in this order.
    pub fn select(&self, rows: &[u32]) -> Self {
        let pick = |values: &[f32]| rows.iter().map(|&row| values[row as usize]).collect();
        let inputs = Inputs {
            tokens: self.inputs.tokens.as_ref().map(|tokens| {
                let (ids, offsets) = ragged(&tokens.ids, &tokens.offsets, 1, rows);
                Packed { ids, offsets }
            }),
            images: self.inputs.images.as_ref().map(|images| Images {
                pixels: match &images.pixels {
                    PixelValues::Bytes(bytes) => PixelValues::Bytes(blocks(bytes, pixels_of(images), rows)),
                    PixelValues::Floats(floats) => PixelValues::Floats(blocks(floats, pixels_of(images), rows)),
                },
                ..*images
            }),
            categories: blocks(&self.inputs.categories, self.category_columns(), rows),
            steps: self.inputs.steps.as_ref().map(|steps| {
                let (values, offsets) = ragged(&steps.values, &steps.offsets, self.width, rows);
                Steps { values, offsets }
            }),
        };
        Self {
            rows: rows.len(),
            width: self.width,
            features: blocks(&self.features, self.flat_width(), rows),
            inputs,
            targets: if self.targets.is_empty() { Vec::new() } else { pick(&self.targets) },
            sample_ids: rows.iter().map(|&row| self.sample_ids[row as usize]).collect(),
            weights: self.weights.as_deref().map(pick),
        }
    }

    /// Appends rows of the same layout.
    pub fn append(&mut self, mut other: Self) -> Result<(), Error> {
        if self.rows == 0 {
            *self = other;
            return Ok(());
        }
        if other.rows == 0 {
            return Ok(());
        }
        if self.width != other.width || self.weights.is_some() != other.weights.is_some() {
            return Err(Error::layout(format!("rows of {} features after rows of {}", other.width, self.width)));
        }
        if self.category_columns() != other.category_columns() {
            return Err(Error::layout("rows with other categories than the rows before"));
        }
        self.rows += other.rows;
        self.features.append(&mut other.features);
        self.targets.append(&mut other.targets);
        self.sample_ids.append(&mut other.sample_ids);
        if let (Some(ours), Some(theirs)) = (&mut self.weights, &mut other.weights) {
            ours.append(theirs);
        }
        append_inputs(&mut self.inputs, other.inputs)
    }

    /// Bytes that it holds in memory.
    pub fn size_bytes(&self) -> usize {
        let weights = self.weights.as_ref().map_or(0, Vec::len);
        let Inputs { tokens, images, categories, steps } = &self.inputs;
        let tokens = tokens.as_ref().map_or(0, |tokens| tokens.ids.len() + tokens.offsets.len());
        let steps = steps.as_ref().map_or(0, |steps| steps.values.len() + steps.offsets.len());
        let pixels = images.as_ref().map_or(0, |images| match &images.pixels {
            PixelValues::Bytes(bytes) => bytes.len(),
            PixelValues::Floats(floats) => 4 * floats.len(),
        });
        let words = self.features.len() + self.targets.len() + weights + tokens + steps + categories.len();
        4 * words + 8 * self.sample_ids.len() + pixels
    }
}

/// Pixels of one image.
pub(crate) fn pixels_of(images: &Images) -> usize {
    images.channels * images.height * images.width
}

/// The blocks of `size` values of these rows.
fn blocks<T: Copy>(values: &[T], size: usize, rows: &[u32]) -> Vec<T> {
    let mut out = Vec::with_capacity(rows.len() * size);
    for &row in rows {
        out.extend_from_slice(&values[row as usize * size..(row as usize + 1) * size]);
    }
    out
}

/// The items of these rows, each of `size` values, and their offsets.
fn ragged<T: Copy>(values: &[T], offsets: &[u32], size: usize, rows: &[u32]) -> (Vec<T>, Vec<u32>) {
    let (mut out, mut ends) = (Vec::new(), Vec::with_capacity(rows.len() + 1));
    ends.push(0);
    let mut items = 0;
    for &row in rows {
        let (first, last) = (offsets[row as usize], offsets[row as usize + 1]);
        out.extend_from_slice(&values[first as usize * size..last as usize * size]);
        items += last - first;
        ends.push(items);
    }
    (out, ends)
}

fn append_inputs(ours: &mut Inputs, mut theirs: Inputs) -> Result<(), Error> {
    let differs = || Error::layout("rows with other inputs than the rows before");
    match (&mut ours.tokens, theirs.tokens) {
        (Some(ours), Some(theirs)) => {
            ours.ids.extend(theirs.ids);
            follow(&mut ours.offsets, &theirs.offsets)?;
        }
        (None, None) => {}
        _ => return Err(differs()),
    }
    match (&mut ours.steps, theirs.steps) {
        (Some(ours), Some(theirs)) => {
            ours.values.extend(theirs.values);
            follow(&mut ours.offsets, &theirs.offsets)?;
        }
        (None, None) => {}
        _ => return Err(differs()),
    }
    match (&mut ours.images, theirs.images) {
        (Some(ours), Some(theirs))
            if (ours.channels, ours.height, ours.width) == (theirs.channels, theirs.height, theirs.width) =>
        {
            match (&mut ours.pixels, theirs.pixels) {
                (PixelValues::Bytes(ours), PixelValues::Bytes(mut theirs)) => ours.append(&mut theirs),
                (PixelValues::Floats(ours), PixelValues::Floats(mut theirs)) => ours.append(&mut theirs),
                _ => return Err(differs()),
            }
        }
        (None, None) => {}
        _ => return Err(differs()),
    }
    ours.categories.append(&mut theirs.categories);
    Ok(())
}

/// Offsets that go on where the ones before end.
fn follow(offsets: &mut Vec<u32>, more: &[u32]) -> Result<(), Error> {
    let end = offsets.last().copied().unwrap_or(0);
    for &offset in more.iter().skip(1) {
        let offset = end.checked_add(offset).ok_or_else(|| Error::layout("more than 2^32 tokens or steps"))?;
        offsets.push(offset);
    }
    Ok(())
}
