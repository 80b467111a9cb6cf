//! The model `lstm_sequence`: layers of LSTM over sequences of steps, pooled, then a head.

use super::config::{MlpConfig, check_size};
use super::declare::Declare;
use super::init::Role;
use super::inputs::Feed;
use super::mlp::Mlp;
use crate::error::{Error, Result};
use crate::ops::lstm::{Direction, LstmParams};
use crate::ops::{Activation, Pooling, Var};
use crate::tape::{InputGrad, Source, Tape};

/// Sizes and settings.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LstmSequenceConfig {
    /// Columns of a step.
    pub input_dim: usize,
    pub hidden_size: usize,
    pub num_layers: usize,
    /// Whether each layer also reads backwards; the states lie side by side.
    pub bidirectional: bool,
    /// Between layers.
    pub dropout: f32,
    /// `last` is the state after the last step read, of each direction.
    pub pooling: Pooling,
    /// Widths of the head's hidden layers.
    pub hidden_layers: Vec<usize>,
    pub output_dim: usize,
    pub output_activation: Activation,
}

impl Default for LstmSequenceConfig {
    fn default() -> Self {
        LstmSequenceConfig {
            input_dim: 1,
            hidden_size: 128,
            num_layers: 2,
            bidirectional: false,
            dropout: 0.0,
            pooling: Pooling::Last,
            hidden_layers: Vec::new(),
            output_dim: 1,
            output_activation: Activation::Identity,
        }
    }
}

impl LstmSequenceConfig {
    /// Refuses sizes of zero or beyond reason and rates out of range.
    pub fn validate(&self) -> Result<()> {
        let sizes = [("input_dim", self.input_dim), ("hidden_size", self.hidden_size), ("output_dim", self.output_dim)];
        let hidden = self.hidden_layers.iter().map(|&n| ("hidden_layers", n));
        sizes.into_iter().chain(hidden).try_for_each(|(key, size)| check_size("lstm_sequence", key, size))?;
        if !(1..=256).contains(&self.num_layers) || self.hidden_layers.len() > 1 << 10 {
            return Err(Error::value("lstm_sequence", "num_layers in 1..=256", self.num_layers));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::value("lstm_sequence", "dropout in [0, 1)", self.dropout));
        }
        Ok(())
    }
}

/// Parameters of the model.
#[derive(Clone, Debug)]
pub(crate) struct LstmSequence {
    config: LstmSequenceConfig,
    /// Per layer one or two directions, and the lane of the dropout before it.
    layers: Vec<(Vec<(Direction, LstmParams)>, u32)>,
    head: Mlp,
}

impl LstmSequence {
    /// Declares the parameters in canonical order: `lstm.weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`,
    /// `bias_hh_l0` and with `_reverse` behind them as PyTorch calls them, then `head.layers.N`.
    pub(crate) fn declare(config: &LstmSequenceConfig, declare: &mut Declare) -> Result<LstmSequence> {
        let hidden = config.hidden_size;
        let directions: &[Direction] =
            if config.bidirectional { &[Direction::Forward, Direction::Backward] } else { &[Direction::Forward] };
        let (mut layers, mut width) = (Vec::with_capacity(config.num_layers), config.input_dim);
        // PyTorch draws all of an LSTM's parameters within 1 / sqrt(hidden).
        let (role, bias) = (|fan_out| Role::Weight { fan_in: hidden, fan_out }, Role::Bias { fan_in: hidden });
        for n in 0..config.num_layers {
            let mut layer = Vec::with_capacity(directions.len());
            for &direction in directions {
                let end = if direction == Direction::Backward { "_reverse" } else { "" };
                let name = |part: &str| format!("lstm.{part}_l{n}{end}");
                let params = LstmParams {
                    input_weight: declare.add(name("weight_ih"), &[4 * hidden, width], role(4 * hidden))?,
                    hidden_weight: declare.add(name("weight_hh"), &[4 * hidden, hidden], role(4 * hidden))?,
                    input_bias: Some(declare.add(name("bias_ih"), &[4 * hidden], bias)?),
                    hidden_bias: Some(declare.add(name("bias_hh"), &[4 * hidden], bias)?),
                };
                layer.push((direction, params));
            }
            layers.push((layer, declare.lane()));
            width = hidden * directions.len();
        }
        let head = MlpConfig {
            input_dim: width,
            hidden_layers: config.hidden_layers.clone(),
            output_dim: config.output_dim,
            ..MlpConfig::default()
        };
        let head = Mlp::declare(&head, "head.", declare)?;
        Ok(LstmSequence { config: config.clone(), layers, head })
    }

    /// [samples, output_dim].
    pub(crate) fn forward<'a>(&self, tape: &mut Tape<'a>, feed: &Feed<'a>, grad: InputGrad) -> Result<Var> {
        let config = &self.config;
        let (values, offsets) = feed.steps(config.input_dim)?;
        let space = tape.ragged(offsets)?;
        let mut x = tape.input_in(space, values, config.input_dim, grad)?;
        tape.reads(Source::Steps, x, 1.0, grad);
        let mut states = [x; 2];
        for (n, (layer, lane)) in self.layers.iter().enumerate() {
            if n > 0 {
                x = tape.dropout(x, config.dropout, *lane)?;
            }
            for (state, (direction, params)) in states.iter_mut().zip(layer) {
                *state = tape.lstm(x, *params, *direction)?;
            }
            x = tape.concat(&states[..layer.len()])?;
        }
        let pooled = if config.bidirectional && config.pooling == Pooling::Last {
            // Read backwards, the last step is the first item.
            let ends = [tape.pool(states[0], Pooling::Last)?, tape.pool(states[1], Pooling::Cls)?];
            tape.concat(&ends)?
        } else {
            tape.pool(x, config.pooling)?
        };
        let y = self.head.forward(tape, pooled)?;
        super::model::activated(tape, y, config.output_activation)
    }
}
