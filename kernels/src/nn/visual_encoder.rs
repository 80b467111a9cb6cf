//! A small convolutional encoder: convolutions, each with an activation (and a norm where asked for), then
//! the mean or the largest over all pixels.

use super::config::check_size;
use super::declare::{Declare, Dense};
use super::init::Role;
use super::inputs::Feed;
use crate::error::{Error, Result};
use crate::ops::batchnorm::BatchNormParams;
use crate::ops::conv::Stride;
use crate::ops::image::{Grid, Pixels};
use crate::ops::{Activation, Pooling, Var};
use crate::params::ROWS_SEEN;
use crate::tape::{InputGrad, Source, Tape};

/// Normalization between a convolution and its activation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageNorm {
    #[default]
    None,
    BatchNorm,
}

/// Sizes and settings of an encoder.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VisualEncoderConfig {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    /// Channels of each convolution.
    pub filters: Vec<usize>,
    /// Rows and columns of each window.
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
    pub activation: Activation,
    pub norm: ImageNorm,
    /// Over all pixels at the end: mean or max.
    pub pooling: Pooling,
    /// Width of the result; a projection where it is not the last of `filters`. None is that.
    pub output_dim: Option<usize>,
}

impl Default for VisualEncoderConfig {
    fn default() -> Self {
        VisualEncoderConfig {
            channels: 3,
            height: 32,
            width: 32,
            filters: vec![32, 64, 128],
            kernel: 3,
            stride: 2,
            padding: 1,
            activation: Activation::Relu,
            norm: ImageNorm::None,
            pooling: Pooling::Mean,
            output_dim: None,
        }
    }
}

impl VisualEncoderConfig {
    /// Width of the result.
    pub fn output_dim(&self) -> usize {
        self.output_dim.or(self.filters.last().copied()).unwrap_or(self.channels)
    }

    /// Refuses sizes of zero or beyond reason.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("channels", self.channels),
            ("height", self.height),
            ("width", self.width),
            ("kernel", self.kernel),
            ("stride", self.stride),
            ("output_dim", self.output_dim()),
        ];
        let filters = self.filters.iter().map(|&n| ("filters", n));
        sizes.into_iter().chain(filters).try_for_each(|(key, size)| check_size("visual_encoder", key, size))?;
        if self.filters.len() > 256 || self.kernel > 256 || self.padding > 256 || self.channels > 1 << 12 {
            let expected = "at most 256 filters, kernel and padding of at most 256, 4096 channels";
            return Err(Error::value("visual_encoder", expected, format!("{self:?}")));
        }
        if self.height > 1 << 14 || self.width > 1 << 14 {
            return Err(Error::value("visual_encoder", "height and width up to 16384", format!("{self:?}")));
        }
        Ok(())
    }

    fn grid(&self) -> Grid {
        Grid { height: self.height, width: self.width, channels: self.channels }
    }
}

/// Parameters of an encoder.
#[derive(Clone, Debug)]
pub(crate) struct VisualEncoder {
    config: VisualEncoderConfig,
    layers: Vec<(Dense, Option<BatchNormParams>)>,
    projection: Option<Dense>,
}

impl VisualEncoder {
    /// Declares the parameters below `prefix` in canonical order.
    pub(crate) fn declare(config: &VisualEncoderConfig, prefix: &str, declare: &mut Declare) -> Result<VisualEncoder> {
        let (mut layers, mut channels) = (Vec::with_capacity(config.filters.len()), config.channels);
        for (n, &filters) in config.filters.iter().enumerate() {
            let conv = declare.conv(&format!("{prefix}layers.{n}"), channels, filters, config.kernel)?;
            let norm = match config.norm {
                ImageNorm::None => None,
                ImageNorm::BatchNorm => {
                    let name = |part: &str| format!("{prefix}layers.{n}.norm.{part}");
                    let trained = declare.norm(&format!("{prefix}layers.{n}.norm"), filters)?;
                    Some(BatchNormParams {
                        gain: trained.gain,
                        bias: trained.bias,
                        mean: declare.statistic(name("running_mean"), filters, Role::Shift)?,
                        variance: declare.statistic(name("running_variance"), filters, Role::Gain)?,
                        rows: declare.statistic(name(ROWS_SEEN), 1, Role::Shift)?,
                    })
                }
            };
            layers.push((conv, norm));
            channels = filters;
        }
        let projection = match config.output_dim() {
            same if same == channels => None,
            other => Some(declare.dense(&format!("{prefix}projection"), channels, other)?),
        };
        Ok(VisualEncoder { config: config.clone(), layers, projection })
    }

    /// One row per sample, [samples, output_dim].
    pub(crate) fn forward<'a>(&self, tape: &mut Tape<'a>, feed: &Feed<'a>, grad: InputGrad) -> Result<Var> {
        let mut grid = self.config.grid();
        let pixels = feed.pixels(grid)?;
        let (factor, shift) = if matches!(pixels, Pixels::Bytes(_)) { (1.0 / 127.5, -1.0) } else { (1.0, 0.0) };
        let mut x = tape.image(pixels, grid, factor, shift)?;
        tape.reads(Source::Pixels, x, factor, grad);
        let stride = Stride { stride: self.config.stride, padding: self.config.padding, groups: 1 };
        for (conv, norm) in &self.layers {
            let act = if norm.is_some() { Activation::Identity } else { self.config.activation };
            (x, grid) = tape.conv2d(x, grid, conv.weight, Some(conv.bias), stride, act)?;
            if let Some(norm) = norm {
                x = tape.batch_norm(x, *norm)?;
                x = tape.activation(x, self.config.activation)?;
            }
        }
        let x = tape.pool(x, self.config.pooling)?;
        match self.projection {
            Some(dense) => tape.linear(x, dense.weight, Some(dense.bias), Activation::Identity),
            None => Ok(x),
        }
    }
}
