//! The multi-layer perceptron over the tape.

use super::config::{MlpConfig, Norm};
use super::init::Role;
use crate::error::Result;
use crate::ops::{Activation, Var};
use crate::params::{Decay, Layout, ParamBuilder, ParamId};
use crate::tape::Tape;

#[derive(Clone, Debug)]
struct Layer {
    weight: ParamId,
    bias: ParamId,
    norm: Option<(ParamId, ParamId)>,
}

/// Parameter ids per layer, the last one the output's.
#[derive(Clone, Debug)]
pub(crate) struct Mlp {
    layers: Vec<Layer>,
    activation: Activation,
    dropout: f32,
}

impl Mlp {
    /// Declares the parameters in canonical order: per layer `layers.N.weight`, `.bias`, and for a norm
    /// `.norm.weight`, `.norm.bias`.
    pub(crate) fn declare(config: &MlpConfig, params: &mut ParamBuilder, roles: &mut Vec<Role>) -> Result<Mlp> {
        let mut layers = Vec::with_capacity(config.hidden_layers.len() + 1);
        let mut fan_in = config.input_dim;
        let widths = config.hidden_layers.iter().copied().chain([config.output_dim]);
        for (n, width) in widths.enumerate() {
            let weight = params.add(format!("layers.{n}.weight"), &[width, fan_in], Decay::Decayed, Layout::Product)?;
            let bias = params.add(format!("layers.{n}.bias"), &[width], Decay::Exempt, Layout::Plain)?;
            roles.extend([Role::Weight { fan_in, fan_out: width }, Role::Bias { fan_in }]);
            let norm = if config.norm == Norm::LayerNorm && n < config.hidden_layers.len() {
                let gain = params.add(format!("layers.{n}.norm.weight"), &[width], Decay::Exempt, Layout::Plain)?;
                let shift = params.add(format!("layers.{n}.norm.bias"), &[width], Decay::Exempt, Layout::Plain)?;
                roles.extend([Role::Gain, Role::Shift]);
                Some((gain, shift))
            } else {
                None
            };
            layers.push(Layer { weight, bias, norm });
            fan_in = width;
        }
        Ok(Mlp { layers, activation: config.activation, dropout: config.dropout })
    }

    /// [rows, input_dim] to [rows, output_dim].
    pub(crate) fn forward(&self, tape: &mut Tape<'_>, x: Var) -> Result<Var> {
        let (last, hidden) = self.layers.split_last().expect("invariant: an output layer exists");
        let mut at = x;
        for (n, layer) in hidden.iter().enumerate() {
            at = match layer.norm {
                None => tape.linear(at, layer.weight, Some(layer.bias), self.activation)?,
                Some((gain, shift)) => {
                    let z = tape.linear(at, layer.weight, Some(layer.bias), Activation::Identity)?;
                    let z = tape.layer_norm(z, gain, shift)?;
                    tape.activation(z, self.activation)?
                }
            };
            at = tape.dropout(at, self.dropout, n as u32)?;
        }
        tape.linear(at, last.weight, Some(last.bias), Activation::Identity)
    }
}
