//! The model `ad_score`: a headline, an image and a table's columns, each with its encoder, fused, then a
//! head. Any branch may be absent, not all.

use super::config::{MlpConfig, check_size};
use super::declare::{Declare, Dense};
use super::inputs::Feed;
use super::mlp::Mlp;
use super::table::{Table, TableConfig};
use super::text_encoder::{TextEncoder, TextEncoderConfig};
use super::visual_encoder::{VisualEncoder, VisualEncoderConfig};
use crate::error::{Error, Result};
use crate::ops::{Activation, Var};
use crate::tape::{InputGrad, Tape};

/// The layer that joins the branches.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FusionConfig {
    pub hidden_dim: usize,
}

impl Default for FusionConfig {
    fn default() -> Self {
        FusionConfig { hidden_dim: 256 }
    }
}

/// The layers after the fusion.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeadConfig {
    pub hidden_layers: Vec<usize>,
    pub dropout: f32,
}

impl Default for HeadConfig {
    fn default() -> Self {
        HeadConfig { hidden_layers: vec![256, 128], dropout: 0.0 }
    }
}

/// Sizes and settings.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdScoreConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_encoder: Option<TextEncoderConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub visual_encoder: Option<VisualEncoderConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<TableConfig>,
    pub fusion: FusionConfig,
    pub head: HeadConfig,
    pub output_dim: usize,
    /// `sigmoid` where the target lies between 0 and 1.
    pub output_activation: Activation,
}

impl Default for AdScoreConfig {
    fn default() -> Self {
        AdScoreConfig {
            text_encoder: None,
            visual_encoder: None,
            table: None,
            fusion: FusionConfig::default(),
            head: HeadConfig::default(),
            output_dim: 1,
            output_activation: Activation::Identity,
        }
    }
}

impl AdScoreConfig {
    /// Refuses sizes of zero or beyond reason, rates out of range and a model without branches.
    pub fn validate(&self) -> Result<()> {
        self.text_encoder.as_ref().map_or(Ok(()), TextEncoderConfig::validate)?;
        self.visual_encoder.as_ref().map_or(Ok(()), VisualEncoderConfig::validate)?;
        self.table.as_ref().map_or(Ok(()), TableConfig::validate)?;
        check_size("ad_score", "fusion.hidden_dim", self.fusion.hidden_dim)?;
        if self.branches() == 0 {
            return Err(Error::value("ad_score", "text_encoder, visual_encoder or table", "none of them"));
        }
        self.head().validate()
    }

    /// Numbers that the branches give.
    fn branches(&self) -> usize {
        self.text_encoder.as_ref().map_or(0, TextEncoderConfig::output_dim)
            + self.visual_encoder.as_ref().map_or(0, VisualEncoderConfig::output_dim)
            + self.table.as_ref().map_or(0, TableConfig::output_dim)
    }

    fn head(&self) -> MlpConfig {
        MlpConfig {
            input_dim: self.fusion.hidden_dim,
            hidden_layers: self.head.hidden_layers.clone(),
            dropout: self.head.dropout,
            output_dim: self.output_dim,
            ..MlpConfig::default()
        }
    }
}

/// Parameters of the model.
#[derive(Clone, Debug)]
pub(crate) struct AdScore {
    text: Option<TextEncoder>,
    visual: Option<VisualEncoder>,
    table: Option<Table>,
    fusion: Dense,
    head: Mlp,
    output_activation: Activation,
}

impl AdScore {
    /// Declares the parameters in canonical order: `text.`, `visual.`, `table.`, `fusion.`, `head.`.
    pub(crate) fn declare(config: &AdScoreConfig, declare: &mut Declare) -> Result<AdScore> {
        let text = config.text_encoder.as_ref().map(|c| TextEncoder::declare(c, "text.", declare)).transpose()?;
        let visual =
            config.visual_encoder.as_ref().map(|c| VisualEncoder::declare(c, "visual.", declare)).transpose()?;
        let table = config.table.as_ref().map(|c| Table::declare(c, "table.", declare)).transpose()?;
        let fusion = declare.dense("fusion", config.branches(), config.fusion.hidden_dim)?;
        let head = Mlp::declare(&config.head(), "head.", declare)?;
        Ok(AdScore { text, visual, table, fusion, head, output_activation: config.output_activation })
    }

    /// [samples, output_dim].
    pub(crate) fn forward<'a>(&self, tape: &mut Tape<'a>, feed: &Feed<'a>, grad: InputGrad) -> Result<Var> {
        let branches = [
            self.text.as_ref().map(|text| text.forward(tape, feed)).transpose()?,
            self.visual.as_ref().map(|visual| visual.forward(tape, feed, grad)).transpose()?,
            self.table.as_ref().map(|table| table.forward(tape, feed, grad)).transpose()?,
        ];
        let mut parts = [Var(0); 3];
        let mut count = 0;
        for branch in branches.into_iter().flatten() {
            parts[count] = branch;
            count += 1;
        }
        let x = tape.concat(&parts[..count])?;
        let x = tape.linear(x, self.fusion.weight, Some(self.fusion.bias), Activation::Relu)?;
        let y = self.head.forward(tape, x)?;
        super::model::activated(tape, y, self.output_activation)
    }
}
