//! An encoder with a head: `transformer_classifier` over text, `image_classifier` over images, `tabular` over a
//! table's columns.

use super::config::{MlpConfig, check_size};
use super::declare::Declare;
use super::inputs::Feed;
use super::mlp::Mlp;
use super::table::{Table, TableConfig};
use super::text_encoder::{TextEncoder, TextEncoderConfig};
use super::visual_encoder::{VisualEncoder, VisualEncoderConfig};
use crate::error::{Error, Result};
use crate::ops::Var;
use crate::tape::{InputGrad, Tape};

macro_rules! head_config {
    ($(#[$meta:meta])* $name:ident, $field:ident: $encoder:ty) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            pub $field: $encoder,
            /// Widths of the head's hidden layers.
            pub hidden_layers: Vec<usize>,
            /// Before the head and after each of its hidden layers.
            pub dropout: f32,
            /// Outputs per row: raw values or logits.
            #[serde(alias = "num_classes")]
            pub output_dim: usize,
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $field: Default::default(), hidden_layers: Vec::new(), dropout: 0.0, output_dim: 1 }
            }
        }

        impl $name {
            /// Refuses sizes of zero or beyond reason and rates out of range.
            pub fn validate(&self) -> Result<()> {
                self.$field.validate()?;
                check_size("head", "output_dim", self.output_dim)?;
                if !(0.0..1.0).contains(&self.dropout) {
                    return Err(Error::value("head", "dropout in [0, 1)", self.dropout));
                }
                self.head().validate()
            }

            fn head(&self) -> MlpConfig {
                MlpConfig {
                    input_dim: self.$field.output_dim(),
                    hidden_layers: self.hidden_layers.clone(),
                    dropout: self.dropout,
                    output_dim: self.output_dim,
                    ..MlpConfig::default()
                }
            }
        }
    };
}
head_config!(
    /// A text encoder and a head.
    TransformerClassifierConfig, text_encoder: TextEncoderConfig
);
head_config!(
    /// A convolutional encoder and a head.
    ImageClassifierConfig, visual_encoder: VisualEncoderConfig
);
head_config!(
    /// Numeric columns and categories with embeddings, and a head.
    TabularConfig, table: TableConfig
);

#[derive(Clone, Debug)]
enum Encoder {
    Text(TextEncoder),
    Visual(VisualEncoder),
    Table(Table),
}

/// Parameters of an encoder with a head.
#[derive(Clone, Debug)]
pub(crate) struct Classifier {
    encoder: Encoder,
    dropout: f32,
    lane: u32,
    head: Mlp,
}

impl Classifier {
    /// `text.`, then `head.`.
    pub(crate) fn text(config: &TransformerClassifierConfig, declare: &mut Declare) -> Result<Classifier> {
        let encoder = Encoder::Text(TextEncoder::declare(&config.text_encoder, "text.", declare)?);
        Classifier::with(encoder, &config.head(), declare)
    }

    /// `visual.`, then `head.`.
    pub(crate) fn image(config: &ImageClassifierConfig, declare: &mut Declare) -> Result<Classifier> {
        let encoder = Encoder::Visual(VisualEncoder::declare(&config.visual_encoder, "visual.", declare)?);
        Classifier::with(encoder, &config.head(), declare)
    }

    /// `table.`, then `head.`.
    pub(crate) fn tabular(config: &TabularConfig, declare: &mut Declare) -> Result<Classifier> {
        let encoder = Encoder::Table(Table::declare(&config.table, "table.", declare)?);
        Classifier::with(encoder, &config.head(), declare)
    }

    fn with(encoder: Encoder, head: &MlpConfig, declare: &mut Declare) -> Result<Classifier> {
        let lane = declare.lane();
        Ok(Classifier { encoder, dropout: head.dropout, lane, head: Mlp::declare(head, "head.", declare)? })
    }

    /// What the encoder gives, [samples, its output_dim].
    pub(crate) fn embed<'a>(&self, tape: &mut Tape<'a>, feed: &Feed<'a>, grad: InputGrad) -> Result<Var> {
        match &self.encoder {
            Encoder::Text(encoder) => encoder.forward(tape, feed),
            Encoder::Visual(encoder) => encoder.forward(tape, feed, grad),
            Encoder::Table(table) => table.forward(tape, feed, grad),
        }
    }

    /// [samples, output_dim].
    pub(crate) fn forward<'a>(&self, tape: &mut Tape<'a>, feed: &Feed<'a>, grad: InputGrad) -> Result<Var> {
        let x = self.embed(tape, feed, grad)?;
        let x = tape.dropout(x, self.dropout, self.lane)?;
        self.head.forward(tape, x)
    }
}
