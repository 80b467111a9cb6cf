//! A transformer encoder over packed tokens (Vaswani et al. 2017; Devlin et al. 2019): a branch of other
//! models, and with a head the `transformer_classifier`. Names are those that pretrained weights are imported
//! by ([`crate::weights::pretrained`]).

use super::config::check_size;
use super::declare::{Declare, Dense, Norm};
use super::init::Role;
use super::inputs::Feed;
use crate::error::{Error, Result};
use crate::ops::{Activation, Pooling, Var};
use crate::params::ParamId;
use crate::tape::{InputGrad, Source, Tape};
use crate::weights::pretrained::{Family, PretrainedConfig};

/// Where the norms of a layer are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlace {
    /// After each residual sum, as in BERT.
    #[default]
    Post,
    /// Before attention and feed-forward, and once at the end (Xiong et al. 2020).
    Pre,
}

/// Sizes and settings of an encoder.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextEncoderConfig {
    /// Token ids are below this.
    pub vocab_size: usize,
    /// The longest row in tokens.
    pub max_length: usize,
    pub hidden_size: usize,
    #[serde(alias = "num_layers")]
    pub layers: usize,
    #[serde(alias = "num_heads")]
    pub heads: usize,
    /// Width of the feed-forward part.
    pub intermediate_size: usize,
    /// Of the feed-forward part.
    pub activation: Activation,
    /// After embeddings (where these have a norm), attention and both products of the feed-forward part, and
    /// of attention's probabilities.
    pub dropout: f32,
    pub norm: NormPlace,
    pub layer_norm_epsilon: f32,
    /// A norm and dropout after the embeddings, as in BERT.
    pub embedding_norm: bool,
    /// Token types; 0 has none. All tokens are of type 0.
    pub type_vocab_size: usize,
    pub pooling: Pooling,
    /// A square layer with this activation after pooling: tanh is BERT's pooler, relu `DistilBERT`'s.
    pub pooler: Option<Activation>,
    /// Width of the result; a projection where it is not `hidden_size`. None is `hidden_size`.
    pub output_dim: Option<usize>,
}

impl Default for TextEncoderConfig {
    fn default() -> Self {
        TextEncoderConfig {
            vocab_size: 30_000,
            max_length: 32,
            hidden_size: 128,
            layers: 2,
            heads: 4,
            intermediate_size: 512,
            activation: Activation::Relu,
            dropout: 0.1,
            norm: NormPlace::Post,
            layer_norm_epsilon: 1e-5,
            embedding_norm: false,
            type_vocab_size: 0,
            pooling: Pooling::Mean,
            pooler: None,
            output_dim: None,
        }
    }
}

impl TextEncoderConfig {
    /// The sizes of a pretrained encoder, pooled over the class token as its family does.
    pub fn from_pretrained(config: &PretrainedConfig) -> TextEncoderConfig {
        let pooler = match config.family {
            Family::Bert => Activation::Tanh,
            Family::DistilBert => Activation::Relu,
        };
        TextEncoderConfig {
            vocab_size: config.vocab_size,
            max_length: config.max_positions,
            hidden_size: config.hidden_size,
            layers: config.layers,
            heads: config.heads,
            intermediate_size: config.intermediate_size,
            activation: config.activation,
            dropout: config.dropout as f32,
            norm: NormPlace::Post,
            layer_norm_epsilon: config.layer_norm_epsilon as f32,
            embedding_norm: true,
            type_vocab_size: config.type_vocab_size,
            pooling: Pooling::Cls,
            pooler: Some(pooler),
            output_dim: None,
        }
    }

    /// Width of the result.
    pub fn output_dim(&self) -> usize {
        self.output_dim.unwrap_or(self.hidden_size)
    }

    /// Refuses sizes of zero or beyond reason and rates out of range.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("max_length", self.max_length),
            ("hidden_size", self.hidden_size),
            ("heads", self.heads),
            ("intermediate_size", self.intermediate_size),
            ("output_dim", self.output_dim()),
        ];
        sizes.into_iter().try_for_each(|(key, size)| check_size("text_encoder", key, size))?;
        if self.layers > 1 << 10 {
            return Err(Error::value("text_encoder", "at most 1024 layers", self.layers));
        }
        if !self.hidden_size.is_multiple_of(self.heads) {
            let expected = format!("a hidden_size that {} heads divide", self.heads);
            return Err(Error::value("text_encoder", expected, self.hidden_size));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::value("text_encoder", "dropout in [0, 1)", self.dropout));
        }
        if !(self.layer_norm_epsilon.is_finite() && self.layer_norm_epsilon >= 0.0) {
            return Err(Error::value(
                "text_encoder",
                "a finite layer_norm_epsilon of at least 0",
                self.layer_norm_epsilon,
            ));
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
struct Layer {
    qkv: Dense,
    output: Dense,
    attention_norm: Norm,
    up: Dense,
    down: Dense,
    feed_forward_norm: Norm,
    /// Of the dropouts of probabilities, attention, feed-forward's middle and end.
    lanes: [u32; 4],
}

/// Parameters of an encoder.
#[derive(Clone, Debug)]
pub(crate) struct TextEncoder {
    config: TextEncoderConfig,
    token: ParamId,
    position: ParamId,
    kind: Option<ParamId>,
    embedding_norm: Option<(Norm, u32)>,
    layers: Vec<Layer>,
    final_norm: Option<Norm>,
    pooler: Option<Dense>,
    projection: Option<Dense>,
}

impl TextEncoder {
    /// Declares the parameters below `prefix` in canonical order.
    pub(crate) fn declare(config: &TextEncoderConfig, prefix: &str, declare: &mut Declare) -> Result<TextEncoder> {
        let width = config.hidden_size;
        let token = format!("{prefix}embeddings.token.weight");
        let token = declare.add(token, &[config.vocab_size, width], Role::Tokens)?;
        let position = format!("{prefix}embeddings.position.weight");
        let position = declare.add(position, &[config.max_length, width], Role::Tokens)?;
        let kind = match config.type_vocab_size {
            0 => None,
            types => Some(declare.add(format!("{prefix}embeddings.type.weight"), &[types, width], Role::Tokens)?),
        };
        let embedding_norm = match config.embedding_norm {
            true => Some((declare.norm(&format!("{prefix}embeddings.norm"), width)?, declare.lane())),
            false => None,
        };
        let mut layers = Vec::with_capacity(config.layers);
        for n in 0..config.layers {
            let at = |part: &str| format!("{prefix}layers.{n}.{part}");
            layers.push(Layer {
                qkv: declare.dense(&at("attention.qkv"), width, 3 * width)?,
                output: declare.dense(&at("attention.output"), width, width)?,
                attention_norm: declare.norm(&at("attention.norm"), width)?,
                up: declare.dense(&at("feed_forward.up"), width, config.intermediate_size)?,
                down: declare.dense(&at("feed_forward.down"), config.intermediate_size, width)?,
                feed_forward_norm: declare.norm(&at("feed_forward.norm"), width)?,
                lanes: [declare.lane(), declare.lane(), declare.lane(), declare.lane()],
            });
        }
        let final_norm = match config.norm {
            NormPlace::Post => None,
            NormPlace::Pre => Some(declare.norm(&format!("{prefix}norm"), width)?),
        };
        let pooler = config.pooler.map(|_| declare.dense(&format!("{prefix}pooler"), width, width)).transpose()?;
        let projection = match config.output_dim() {
            same if same == width => None,
            other => Some(declare.dense(&format!("{prefix}projection"), width, other)?),
        };
        let config = config.clone();
        Ok(TextEncoder { config, token, position, kind, embedding_norm, layers, final_norm, pooler, projection })
    }

    fn norm(&self, tape: &mut Tape<'_>, x: Var, residual: Option<Var>, norm: Norm) -> Result<Var> {
        tape.layer_norm_of_sum(x, residual, norm.gain, norm.bias, self.config.layer_norm_epsilon)
    }

    fn attend(&self, tape: &mut Tape<'_>, x: Var, layer: &Layer) -> Result<Var> {
        let qkv = tape.linear(x, layer.qkv.weight, Some(layer.qkv.bias), Activation::Identity)?;
        let a = tape.attention(qkv, self.config.heads, self.config.dropout, layer.lanes[0])?;
        let a = tape.linear(a, layer.output.weight, Some(layer.output.bias), Activation::Identity)?;
        tape.dropout(a, self.config.dropout, layer.lanes[1])
    }

    fn feed_forward(&self, tape: &mut Tape<'_>, x: Var, layer: &Layer) -> Result<Var> {
        let f = tape.linear(x, layer.up.weight, Some(layer.up.bias), self.config.activation)?;
        let f = tape.dropout(f, self.config.dropout, layer.lanes[2])?;
        let f = tape.linear(f, layer.down.weight, Some(layer.down.bias), Activation::Identity)?;
        tape.dropout(f, self.config.dropout, layer.lanes[3])
    }

    /// The last layer's states of every token, [tokens, hidden_size].
    pub(crate) fn states<'a>(&self, tape: &mut Tape<'a>, feed: &Feed<'a>) -> Result<Var> {
        let (ids, offsets) = feed.tokens()?;
        let space = tape.ragged(offsets)?;
        let ids = tape.ids(space, ids, 1)?;
        let mut x = tape.embedding_sum(ids, self.token, Some(self.position), self.kind)?;
        tape.reads(Source::Tokens, x, 1.0, InputGrad::Skip);
        if let Some((norm, lane)) = self.embedding_norm {
            x = self.norm(tape, x, None, norm)?;
            x = tape.dropout(x, self.config.dropout, lane)?;
        }
        for layer in &self.layers {
            match self.config.norm {
                NormPlace::Post => {
                    let a = self.attend(tape, x, layer)?;
                    x = self.norm(tape, a, Some(x), layer.attention_norm)?;
                    let f = self.feed_forward(tape, x, layer)?;
                    x = self.norm(tape, f, Some(x), layer.feed_forward_norm)?;
                }
                NormPlace::Pre => {
                    let normed = self.norm(tape, x, None, layer.attention_norm)?;
                    let a = self.attend(tape, normed, layer)?;
                    x = tape.add(a, x)?;
                    let normed = self.norm(tape, x, None, layer.feed_forward_norm)?;
                    let f = self.feed_forward(tape, normed, layer)?;
                    x = tape.add(f, x)?;
                }
            }
        }
        match self.final_norm {
            Some(norm) => self.norm(tape, x, None, norm),
            None => Ok(x),
        }
    }

    /// One row per sample, [samples, output_dim].
    pub(crate) fn forward<'a>(&self, tape: &mut Tape<'a>, feed: &Feed<'a>) -> Result<Var> {
        let states = self.states(tape, feed)?;
        let mut x = tape.pool(states, self.config.pooling)?;
        if let (Some(pooler), Some(activation)) = (self.pooler, self.config.pooler) {
            x = tape.linear(x, pooler.weight, Some(pooler.bias), activation)?;
        }
        match self.projection {
            Some(dense) => tape.linear(x, dense.weight, Some(dense.bias), Activation::Identity),
            None => Ok(x),
        }
    }
}
