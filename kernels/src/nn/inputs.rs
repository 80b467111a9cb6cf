//! What models read beside plain features: token ids, images, categories, sequences of steps. All are
//! packed, a row of the batch after the other.

use crate::error::{Error, Result};
use crate::ops::image::{Grid, Pixels};
use crate::tensor::{Dtype, Elements, Tensor};
use crate::text::Packed;
use std::ops::Range;

/// The inputs of a batch beside its features; empty where the model has no branch for them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs {
    /// Token ids per row.
    pub tokens: Option<Packed>,
    /// One image per row.
    pub images: Option<Images>,
    /// [rows, columns of categories], row-major: indices below each column's number of categories.
    pub categories: Vec<u32>,
    /// Steps per row.
    pub steps: Option<Steps>,
}

/// Images of one size, [rows, channels, height, width].
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub pixels: PixelValues,
}

/// Pixels of images.
#[derive(Clone, Debug, PartialEq)]
pub enum PixelValues {
    /// 0 to 255; models see v / 127.5 - 1.
    Bytes(Vec<u8>),
    /// As they are.
    Floats(Vec<f32>),
}

impl Images {
    /// Images of a tensor [rows, channels, height, width]: bytes stay bytes, f32, bf16 and f16 are numbers as they are.
    /// `Dtype` error for other element types, `Shape` error for other axes.
    pub fn from_tensor(tensor: &Tensor) -> Result<Images> {
        let [_, channels, height, width] = *tensor.shape().sizes() else {
            let got = format!("{:?}", tensor.shape());
            return Err(Error::shape("images", "[rows, channels, height, width]", got));
        };
        let pixels = match (tensor.elements(), tensor.dtype()) {
            (Elements::U8(bytes), _) => PixelValues::Bytes(bytes.clone()),
            (_, Dtype::F32 | Dtype::Bf16 | Dtype::F16) => PixelValues::Floats(tensor.to_f32()),
            (_, other) => {
                return Err(Error::Dtype { op: "images", expected: "u8, f32, bf16 or f16", got: other.name().into() });
            }
        };
        Ok(Images { channels, height, width, pixels })
    }
}

/// Sequences of different lengths: the steps of row r are `offsets[r]..offsets[r + 1]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Steps {
    /// [steps, columns], row-major.
    pub values: Vec<f32>,
    /// One more than rows.
    pub offsets: Vec<u32>,
}

/// Rows of a batch as a model reads them.
#[derive(Clone, Debug)]
pub struct Feed<'a> {
    features: &'a [f32],
    inputs: &'a Inputs,
    /// Rows of the whole batch.
    total: usize,
    rows: Range<usize>,
}

impl<'a> Feed<'a> {
    /// A whole batch: `features` [rows, any number of columns].
    pub fn new(rows: usize, features: &'a [f32], inputs: &'a Inputs) -> Feed<'a> {
        Feed { features, inputs, total: rows, rows: 0..rows }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Some of the rows.
    pub fn part(&self, rows: Range<usize>) -> Feed<'a> {
        Feed { rows: self.rows.start + rows.start..self.rows.start + rows.end, ..self.clone() }
    }

    fn cut<T>(&self, what: &'static str, values: &'a [T], columns: usize) -> Result<&'a [T]> {
        if self.total.checked_mul(columns) != Some(values.len()) {
            let expected = format!("{} rows of {columns} {what}", self.total);
            return Err(Error::shape("input", expected, format!("{} values", values.len())));
        }
        Ok(&values[self.rows.start * columns..self.rows.end * columns])
    }

    /// Features, [rows, columns].
    pub fn features(&self, columns: usize) -> Result<&'a [f32]> {
        self.cut("features", self.features, columns)
    }

    /// Categories, [rows, columns].
    pub fn categories(&self, columns: usize) -> Result<&'a [u32]> {
        self.cut("categories", &self.inputs.categories, columns)
    }

    /// The offsets of the rows, and the range of items that they span.
    fn spans(&self, what: &'static str, offsets: &'a [u32], items: usize) -> Result<(&'a [u32], Range<usize>)> {
        let ascending = offsets.windows(2).all(|w| w[0] <= w[1]);
        if offsets.len() != self.total + 1 || !ascending || offsets[self.total] as usize > items {
            let expected = format!("{} ascending offsets of {what} within {items} items", self.total + 1);
            return Err(Error::shape("input", expected, format!("{} offsets", offsets.len())));
        }
        let own = &offsets[self.rows.start..=self.rows.end];
        Ok((own, own[0] as usize..own[own.len() - 1] as usize))
    }

    /// Token ids and their offsets.
    pub fn tokens(&self) -> Result<(&'a [u32], &'a [u32])> {
        let Some(tokens) = &self.inputs.tokens else { return Err(Error::shape("input", "token ids", "none")) };
        let (offsets, span) = self.spans("tokens", &tokens.offsets, tokens.ids.len())?;
        Ok((&tokens.ids[span], offsets))
    }

    /// Steps of `columns` and their offsets.
    pub fn steps(&self, columns: usize) -> Result<(&'a [f32], &'a [u32])> {
        let Some(steps) = &self.inputs.steps else { return Err(Error::shape("input", "sequences", "none")) };
        let (offsets, span) = self.spans("steps", &steps.offsets, steps.values.len() / columns.max(1))?;
        Ok((&steps.values[span.start * columns..span.end * columns], offsets))
    }

    /// Pixels of images of this size.
    pub fn pixels(&self, grid: Grid) -> Result<Pixels<'a>> {
        let Some(images) = &self.inputs.images else { return Err(Error::shape("input", "images", "none")) };
        let Grid { height, width, channels } = grid;
        if (images.channels, images.height, images.width) != (channels, height, width) {
            let got = format!("{} x {} x {}", images.channels, images.height, images.width);
            return Err(Error::shape("input", format!("images of {channels} x {height} x {width}"), got));
        }
        let columns = channels * height * width;
        Ok(match &images.pixels {
            PixelValues::Bytes(bytes) => Pixels::Bytes(self.cut("pixels", bytes, columns)?),
            PixelValues::Floats(floats) => Pixels::Floats(self.cut("pixels", floats, columns)?),
        })
    }
}
