//! The multi-layer perceptron over the tape: a model of its own, and the head of others.

use super::config::{MlpConfig, Norm};
use super::declare::{self, Declare, Dense};
use crate::error::Result;
use crate::ops::{Activation, Var};
use crate::tape::Tape;

#[derive(Clone, Debug)]
struct Layer {
    dense: Dense,
    norm: Option<declare::Norm>,
    /// Of its dropout.
    lane: u32,
}

/// Parameters per layer, the last one the output's.
#[derive(Clone, Debug)]
pub(crate) struct Mlp {
    layers: Vec<Layer>,
    activation: Activation,
    dropout: f32,
}

impl Mlp {
    /// Declares the parameters in canonical order: per layer `{prefix}layers.N.weight`, `.bias`, and for a norm
    /// `.norm.weight`, `.norm.bias`.
    pub(crate) fn declare(config: &MlpConfig, prefix: &str, declare: &mut Declare) -> Result<Mlp> {
        let mut layers = Vec::with_capacity(config.hidden_layers.len() + 1);
        let mut fan_in = config.input_dim;
        let widths = config.hidden_layers.iter().copied().chain([config.output_dim]);
        for (n, width) in widths.enumerate() {
            let dense = declare.dense(&format!("{prefix}layers.{n}"), fan_in, width)?;
            let norm = if config.norm == Norm::LayerNorm && n < config.hidden_layers.len() {
                Some(declare.norm(&format!("{prefix}layers.{n}.norm"), width)?)
            } else {
                None
            };
            layers.push(Layer { dense, norm, lane: declare.lane() });
            fan_in = width;
        }
        Ok(Mlp { layers, activation: config.activation, dropout: config.dropout })
    }

    /// [rows, input_dim] to [rows, output_dim].
    pub(crate) fn forward(&self, tape: &mut Tape<'_>, x: Var) -> Result<Var> {
        let (last, hidden) = self.layers.split_last().expect("invariant: an output layer exists");
        let mut at = x;
        for Layer { dense, norm, lane } in hidden {
            at = match norm {
                None => tape.linear(at, dense.weight, Some(dense.bias), self.activation)?,
                Some(norm) => {
                    let z = tape.linear(at, dense.weight, Some(dense.bias), Activation::Identity)?;
                    let z = tape.layer_norm(z, norm.gain, norm.bias)?;
                    tape.activation(z, self.activation)?
                }
            };
            at = tape.dropout(at, self.dropout, *lane)?;
        }
        tape.linear(at, last.dense.weight, Some(last.dense.bias), Activation::Identity)
    }
}
