//! A model: configuration, parameters and forward pass.

use super::config::ModelConfig;
use super::init::{Init, Role};
use super::mlp::Mlp;
use crate::error::{Error, Result};
use crate::ops::Var;
use crate::params::{Param, ParamBuilder, ParamId, ParamStore};
use crate::pool::Pool;
use crate::tape::{InputGrad, Mode, Rows, Tape, Workspace};

#[derive(Clone, Debug)]
enum Network {
    Mlp(Mlp),
}

/// A model that can be trained and asked.
#[derive(Clone, Debug)]
pub struct Model {
    config: ModelConfig,
    network: Network,
    params: ParamStore,
}

/// A model's parameters declared but not yet given memory: lets a loader compare sizes first.
pub(crate) struct Declared {
    config: ModelConfig,
    network: Network,
    builder: ParamBuilder,
    roles: Vec<Role>,
}

impl Declared {
    pub(crate) fn new(config: &ModelConfig) -> Result<Declared> {
        config.validate()?;
        let (mut builder, mut roles) = (ParamBuilder::default(), Vec::new());
        let network = match config {
            ModelConfig::Mlp(mlp) => Network::Mlp(Mlp::declare(mlp, &mut builder, &mut roles)?),
        };
        Ok(Declared { config: config.clone(), network, builder, roles })
    }

    /// Numbers that the parameters hold.
    pub(crate) fn count(&self) -> usize {
        self.builder.count()
    }

    /// The model with all parameters zero, and their roles.
    pub(crate) fn build(self) -> Result<(Model, Vec<Role>)> {
        Ok((Model { config: self.config, network: self.network, params: self.builder.build()? }, self.roles))
    }
}

/// Rows that a prediction holds in memory at a time.
const PREDICT_ROWS: usize = 4096;

impl Model {
    /// A fresh model: the same bits for the same configuration, initializer and seed.
    pub fn new(config: &ModelConfig, init: &Init, seed: u64) -> Result<Model> {
        init.validate()?;
        let (mut model, roles) = Declared::new(config)?.build()?;
        let mut values = Vec::new();
        for (lane, role) in roles.into_iter().enumerate() {
            let id = ParamId(lane);
            values.resize(model.params.values(id).len(), 0.0);
            init.fill(role, seed, lane as u32, &mut values);
            model.params.set(id, &values)?;
        }
        Ok(model)
    }

    /// What it was built from.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Features per row.
    pub fn input_dim(&self) -> usize {
        match &self.config {
            ModelConfig::Mlp(mlp) => mlp.input_dim,
        }
    }

    /// Outputs per row.
    pub fn output_dim(&self) -> usize {
        match &self.config {
            ModelConfig::Mlp(mlp) => mlp.output_dim,
        }
    }

    /// Number of trained numbers.
    pub fn parameter_count(&self) -> usize {
        self.params.count()
    }

    /// Parameters in canonical order.
    pub fn params(&self) -> &ParamStore {
        &self.params
    }

    /// Replaces every parameter by what `values` gives for it (weights of another source, an average).
    /// `Shape` error, and the model unchanged, where a count differs.
    pub fn set_parameters(&mut self, values: impl Fn(&Param) -> Vec<f32>) -> Result<()> {
        let fresh: Vec<Vec<f32>> = self.params.iter().map(|(param, _)| values(param)).collect();
        if let Some((id, (param, old))) =
            self.params.iter().enumerate().find(|(id, (_, old))| fresh[*id].len() != old.len())
        {
            return Err(Error::shape(
                "set parameters",
                format!("{} values for {}", old.len(), param.name),
                fresh[id].len().to_string(),
            ));
        }
        fresh.iter().enumerate().try_for_each(|(id, values)| self.params.set(ParamId(id), values))
    }

    pub(crate) fn params_mut(&mut self) -> &mut ParamStore {
        &mut self.params
    }

    /// Records the forward pass.
    pub fn forward(&self, tape: &mut Tape<'_>, x: Var) -> Result<Var> {
        match &self.network {
            Network::Mlp(mlp) => mlp.forward(tape, x),
        }
    }

    /// Raw outputs [rows, output_dim] for features [rows, input_dim]; dropout off. A row's output does not
    /// depend on the rows beside it.
    pub fn predict(&self, features: &[f32], rows: usize, pool: &Pool) -> Result<Vec<f32>> {
        self.predict_with(features, rows, pool, &mut Workspace::default())
    }

    /// The same with storage that calls reuse.
    pub fn predict_with(&self, features: &[f32], rows: usize, pool: &Pool, ws: &mut Workspace) -> Result<Vec<f32>> {
        let columns = self.input_dim();
        if rows.checked_mul(columns) != Some(features.len()) {
            let expected = format!("{rows} rows of {columns} features");
            return Err(Error::shape("predict", expected, format!("{} values", features.len())));
        }
        let mut outputs = Vec::with_capacity(rows * self.output_dim());
        for block in features.chunks(PREDICT_ROWS * columns) {
            let count = block.len() / columns;
            let rows = Rows { count, sample_ids: &[], mode: Mode::Evaluate, randomness: Default::default() };
            let mut tape = Tape::new(ws, &self.params, rows)?;
            let x = tape.input(block, columns, InputGrad::Skip)?;
            let y = self.forward(&mut tape, x)?;
            tape.forward(pool);
            outputs.extend_from_slice(tape.value(y));
        }
        Ok(outputs)
    }
}
