//! Declares a model's parameters with their roles, and hands out the lanes of its dropouts.

use super::init::Role;
use crate::error::Result;
use crate::params::{Decay, Layout, ParamBuilder, ParamId};

/// Parameters so far.
#[derive(Default)]
pub(crate) struct Declare {
    pub builder: ParamBuilder,
    pub roles: Vec<Role>,
    lanes: u32,
}

/// The weight and bias of a product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dense {
    pub weight: ParamId,
    pub bias: ParamId,
}

/// The gain and bias of a norm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    pub gain: ParamId,
    pub bias: ParamId,
}

impl Declare {
    /// One parameter.
    pub(crate) fn add(&mut self, name: String, shape: &[usize], role: Role) -> Result<ParamId> {
        let (decay, layout) = match role {
            Role::Weight { .. } => (Decay::Decayed, Layout::Product),
            Role::Table | Role::Tokens => (Decay::Decayed, Layout::Plain),
            Role::Bias { .. } | Role::Gain | Role::Shift => (Decay::Exempt, Layout::Plain),
        };
        self.roles.push(role);
        self.builder.add(name, shape, decay, layout)
    }

    /// A running statistic: begins at 1 (`Role::Gain`) or 0 (`Role::Shift`) and is not trained.
    pub(crate) fn statistic(&mut self, name: String, len: usize, role: Role) -> Result<ParamId> {
        self.roles.push(role);
        self.builder.add(name, &[len], Decay::Exempt, Layout::Statistic)
    }

    /// `{name}.weight` [out, in] and `{name}.bias` [out].
    pub(crate) fn dense(&mut self, name: &str, fan_in: usize, fan_out: usize) -> Result<Dense> {
        let weight = self.add(format!("{name}.weight"), &[fan_out, fan_in], Role::Weight { fan_in, fan_out })?;
        Ok(Dense { weight, bias: self.add(format!("{name}.bias"), &[fan_out], Role::Bias { fan_in })? })
    }

    /// `{name}.weight` [out, kernel, kernel, in] and `{name}.bias` [out].
    pub(crate) fn conv(&mut self, name: &str, channels: usize, outputs: usize, kernel: usize) -> Result<Dense> {
        let (fan_in, fan_out) = (channels * kernel * kernel, outputs * kernel * kernel);
        let shape = [outputs, kernel, kernel, channels];
        let weight = self.add(format!("{name}.weight"), &shape, Role::Weight { fan_in, fan_out })?;
        Ok(Dense { weight, bias: self.add(format!("{name}.bias"), &[outputs], Role::Bias { fan_in })? })
    }

    /// `{name}.weight` and `{name}.bias`, [columns] each.
    pub(crate) fn norm(&mut self, name: &str, columns: usize) -> Result<Norm> {
        let gain = self.add(format!("{name}.weight"), &[columns], Role::Gain)?;
        Ok(Norm { gain, bias: self.add(format!("{name}.bias"), &[columns], Role::Shift)? })
    }

    /// A lane that no other dropout of the model has.
    pub(crate) fn lane(&mut self) -> u32 {
        self.lanes += 1;
        self.lanes - 1
    }
}
