//! Numeric columns and categories: each category's embedding beside the numbers, then hidden layers. A branch
//! of other models, and with an output layer the model `tabular`.

use super::config::check_size;
use super::declare::{Declare, Dense};
use super::init::Role;
use super::inputs::Feed;
use crate::error::{Error, Result};
use crate::ops::{Activation, Var};
use crate::params::ParamId;
use crate::tape::{InputGrad, Source, Space, Tape};

/// Sizes and settings.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TableConfig {
    /// Numeric columns.
    pub input_dim: usize,
    /// Categories of each column of categories.
    pub categories: Vec<usize>,
    /// Width of each category's embedding; none is half the categories rounded up, at most 50.
    pub embedding_dim: Option<usize>,
    pub hidden_layers: Vec<usize>,
    pub activation: Activation,
    /// After each hidden layer.
    pub dropout: f32,
}

impl Default for TableConfig {
    fn default() -> Self {
        TableConfig {
            input_dim: 0,
            categories: Vec::new(),
            embedding_dim: None,
            hidden_layers: vec![64, 64],
            activation: Activation::Relu,
            dropout: 0.0,
        }
    }
}

impl TableConfig {
    fn embedding_dim(&self, categories: usize) -> usize {
        self.embedding_dim.unwrap_or(categories.div_ceil(2).min(50))
    }

    fn inputs(&self) -> usize {
        self.input_dim + self.categories.iter().map(|&n| self.embedding_dim(n)).sum::<usize>()
    }

    /// Width of the result.
    pub fn output_dim(&self) -> usize {
        self.hidden_layers.last().copied().unwrap_or_else(|| self.inputs())
    }

    /// Refuses sizes of zero or beyond reason and rates out of range.
    pub fn validate(&self) -> Result<()> {
        let sizes =
            self.categories.iter().map(|&n| ("categories", n)).chain(self.embedding_dim.map(|n| ("embedding_dim", n)));
        let hidden = self.hidden_layers.iter().map(|&n| ("hidden_layers", n));
        sizes.chain(hidden).try_for_each(|(key, size)| check_size("table", key, size))?;
        if self.input_dim + self.categories.len() == 0 || self.input_dim > 1 << 24 {
            return Err(Error::value("table", "input_dim or categories", self.input_dim));
        }
        if self.categories.len() > 1 << 12 || self.hidden_layers.len() > 1 << 10 {
            return Err(Error::value("table", "at most 4096 categories and 1024 hidden_layers", self.categories.len()));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::value("table", "dropout in [0, 1)", self.dropout));
        }
        Ok(())
    }
}

/// Parameters of a table's encoder.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    config: TableConfig,
    tables: Vec<ParamId>,
    layers: Vec<(Dense, u32)>,
}

impl Table {
    /// Declares the parameters below `prefix` in canonical order.
    pub(crate) fn declare(config: &TableConfig, prefix: &str, declare: &mut Declare) -> Result<Table> {
        let mut tables = Vec::with_capacity(config.categories.len());
        for (n, &categories) in config.categories.iter().enumerate() {
            let shape = [categories, config.embedding_dim(categories)];
            tables.push(declare.add(format!("{prefix}categories.{n}.weight"), &shape, Role::Table)?);
        }
        let (mut layers, mut width) = (Vec::with_capacity(config.hidden_layers.len()), config.inputs());
        for (n, &hidden) in config.hidden_layers.iter().enumerate() {
            layers.push((declare.dense(&format!("{prefix}layers.{n}"), width, hidden)?, declare.lane()));
            width = hidden;
        }
        Ok(Table { config: config.clone(), tables, layers })
    }

    /// [samples, output_dim].
    pub(crate) fn forward<'a>(&self, tape: &mut Tape<'a>, feed: &Feed<'a>, grad: InputGrad) -> Result<Var> {
        let config = &self.config;
        let mut x = tape.side_by_side(Space::SAMPLES, config.inputs())?;
        let mut at = 0;
        if config.input_dim > 0 {
            let numbers = tape.input(feed.features(config.input_dim)?, config.input_dim, grad)?;
            tape.reads(Source::Features, numbers, 1.0, grad);
            at = tape.put(numbers, x, at)?;
        }
        if !self.tables.is_empty() {
            let ids = feed.categories(self.tables.len())?;
            let ids = tape.ids(Space::SAMPLES, ids, self.tables.len())?;
            for (column, &table) in self.tables.iter().enumerate() {
                let embedded = tape.embedding(ids, column, table)?;
                at = tape.put(embedded, x, at)?;
            }
        }
        for (dense, lane) in &self.layers {
            x = tape.linear(x, dense.weight, Some(dense.bias), config.activation)?;
            x = tape.dropout(x, config.dropout, *lane)?;
        }
        Ok(x)
    }
}
