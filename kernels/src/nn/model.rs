//! A model: configuration, parameters and forward pass.

use super::ad_score::AdScore;
use super::classifier::Classifier;
use super::config::ModelConfig;
use super::declare::Declare;
use super::init::{Init, Role};
use super::inputs::{Feed, Inputs};
use super::lstm::LstmSequence;
use super::mlp::Mlp;
use crate::buffer::Shared;
use crate::error::{Error, Result};
use crate::ops::{Activation, Var};
use crate::params::{Param, ParamId, ParamStore};
use crate::pool::Pool;
use crate::tape::{InputGrad, Mode, Rows, Source, Tape, Workspace};
use std::sync::{Mutex, PoisonError};

#[derive(Clone, Debug)]
enum Network {
    Mlp(Mlp),
    Classifier(Box<Classifier>),
    LstmSequence(LstmSequence),
    AdScore(Box<AdScore>),
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
    declare: Declare,
}

impl Declared {
    pub(crate) fn new(config: &ModelConfig) -> Result<Declared> {
        config.validate()?;
        let mut declare = Declare::default();
        let network = match config {
            ModelConfig::Mlp(c) => Network::Mlp(Mlp::declare(c, "", &mut declare)?),
            ModelConfig::Tabular(c) => Network::Classifier(Box::new(Classifier::tabular(c, &mut declare)?)),
            ModelConfig::TransformerClassifier(c) => Network::Classifier(Box::new(Classifier::text(c, &mut declare)?)),
            ModelConfig::ImageClassifier(c) => Network::Classifier(Box::new(Classifier::image(c, &mut declare)?)),
            ModelConfig::LstmSequence(c) => Network::LstmSequence(LstmSequence::declare(c, &mut declare)?),
            ModelConfig::AdScore(c) => Network::AdScore(Box::new(AdScore::declare(c, &mut declare)?)),
        };
        Ok(Declared { config: config.clone(), network, declare })
    }

    /// Numbers that the parameters hold.
    pub(crate) fn count(&self) -> usize {
        self.declare.builder.count()
    }

    /// The model with all parameters zero, and their roles.
    pub(crate) fn build(self) -> Result<(Model, Vec<Role>)> {
        let Declare { builder, roles, .. } = self.declare;
        Ok((Model { config: self.config, network: self.network, params: builder.build()? }, roles))
    }
}

/// Rows of plain features that a prediction takes at a time.
const PLAIN_ROWS: usize = 512;
/// Rows with items of their own (tokens, pixels): their values stay in the cache.
const ITEM_ROWS: usize = 8;
/// Sequences, which go step by step together.
const STEP_ROWS: usize = 48;
/// So many times as many rows on a device, all of which a tape over a batch for training would fit as well.
const DEVICE_BLOCKS: usize = 32;

/// An activation on outputs, where there is one.
pub(super) fn activated(tape: &mut Tape<'_>, y: Var, act: Activation) -> Result<Var> {
    if act == Activation::Identity { Ok(y) } else { tape.activation(y, act) }
}

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

    /// Flat features per row; of sequences per step.
    pub fn input_dim(&self) -> usize {
        match &self.config {
            ModelConfig::Mlp(c) => c.input_dim,
            ModelConfig::Tabular(c) => c.table.input_dim,
            ModelConfig::AdScore(c) => c.table.as_ref().map_or(0, |table| table.input_dim),
            ModelConfig::LstmSequence(c) => c.input_dim,
            ModelConfig::TransformerClassifier(_) | ModelConfig::ImageClassifier(_) => 0,
        }
    }

    /// Outputs per row.
    pub fn output_dim(&self) -> usize {
        match &self.config {
            ModelConfig::Mlp(c) => c.output_dim,
            ModelConfig::Tabular(c) => c.output_dim,
            ModelConfig::TransformerClassifier(c) => c.output_dim,
            ModelConfig::ImageClassifier(c) => c.output_dim,
            ModelConfig::LstmSequence(c) => c.output_dim,
            ModelConfig::AdScore(c) => c.output_dim,
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

    /// Records the forward pass of the feed's rows; `grad` says whether the gradients with respect to what the model
    /// reads are wanted ([`Model::input_gradients`] is the whole way).
    pub fn forward<'a>(&self, tape: &mut Tape<'a>, feed: &Feed<'a>, grad: InputGrad) -> Result<Var> {
        match &self.network {
            Network::Mlp(mlp) => {
                let columns = self.input_dim();
                let x = tape.input(feed.features(columns)?, columns, grad)?;
                tape.reads(Source::Features, x, 1.0, grad);
                mlp.forward(tape, x)
            }
            Network::Classifier(model) => model.forward(tape, feed, grad),
            Network::LstmSequence(model) => model.forward(tape, feed, grad),
            Network::AdScore(model) => model.forward(tape, feed, grad),
        }
    }

    /// Raw outputs [rows, output_dim] for features [rows, input_dim]; dropout off. A row's output does not
    /// depend on the rows beside it.
    pub fn predict(&self, features: &[f32], rows: usize, pool: &Pool) -> Result<Vec<f32>> {
        self.predict_with(features, rows, pool, &mut Workspace::default())
    }

    /// The same with storage that calls reuse.
    pub fn predict_with(&self, features: &[f32], rows: usize, pool: &Pool, ws: &mut Workspace) -> Result<Vec<f32>> {
        self.predict_feed(&Feed::new(rows, features, &Inputs::default()), pool, ws)
    }

    /// The same for whatever inputs the model has.
    pub fn predict_feed(&self, feed: &Feed<'_>, pool: &Pool, ws: &mut Workspace) -> Result<Vec<f32>> {
        let mut outputs = Vec::new();
        self.predict_into(feed, pool, ws, &mut outputs)?;
        Ok(outputs)
    }

    /// The same into a vector whose memory calls reuse: in a steady state none is asked for.
    pub fn predict_into(&self, feed: &Feed<'_>, pool: &Pool, ws: &mut Workspace, outputs: &mut Vec<f32>) -> Result<()> {
        let width = self.output_dim();
        self.in_blocks(feed, width, pool, ws, outputs, |tape, feed| self.forward(tape, feed, InputGrad::Skip))
    }

    /// What the text encoder of a `transformer_classifier` gives for each row, [rows, its output_dim]: sentence
    /// embeddings.
    pub fn embed_text(&self, feed: &Feed<'_>, pool: &Pool, ws: &mut Workspace) -> Result<Vec<f32>> {
        let (Network::Classifier(model), ModelConfig::TransformerClassifier(config)) = (&self.network, &self.config)
        else {
            return Err(Error::value("text embeddings", "a transformer_classifier", "a model of another type"));
        };
        let width = config.text_encoder.output_dim();
        let mut outputs = Vec::new();
        self.in_blocks(feed, width, pool, ws, &mut outputs, |tape, feed| model.embed(tape, feed, InputGrad::Skip))?;
        Ok(outputs)
    }

    /// Runs small tapes over blocks of rows, each on one thread, so that a block's values stay in the cache and
    /// memory does not grow with the rows.
    fn in_blocks(
        &self,
        feed: &Feed<'_>,
        width: usize,
        pool: &Pool,
        ws: &mut Workspace,
        outputs: &mut Vec<f32>,
        graph: impl for<'t> Fn(&mut Tape<'t>, &Feed<'t>) -> Result<Var> + Sync,
    ) -> Result<()> {
        let rows = feed.rows();
        let most = match self.network {
            Network::Mlp(_) => PLAIN_ROWS,
            Network::LstmSequence(_) => STEP_ROWS,
            Network::Classifier(_) | Network::AdScore(_) => ITEM_ROWS,
        };
        let block = rows.div_ceil(pool.threads()).clamp(1, most);
        outputs.clear();
        outputs.resize(rows * width, 0.0);
        if ws.machine().is_some() {
            return self.on_device(feed, width, DEVICE_BLOCKS * most, pool, ws, outputs, graph);
        }
        let out = Shared::of(outputs);
        let (children, failed) = (ws.children(pool.threads()), Mutex::new(None));
        let run = |worker: usize, range: std::ops::Range<usize>| -> Result<()> {
            let mut ws = children[worker].lock().unwrap_or_else(PoisonError::into_inner);
            let rows =
                Rows { count: range.len(), sample_ids: &[], mode: Mode::Evaluate, randomness: Default::default() };
            let part = feed.part(range.clone());
            let mut tape = Tape::new(&mut ws, &self.params, rows)?;
            let y = graph(&mut tape, &part)?;
            tape.forward(pool, y)?;
            // SAFETY: blocks are disjoint.
            unsafe { out.get_mut(range.start * width..range.end * width) }.copy_from_slice(tape.value(y));
            Ok(())
        };
        if rows == 0 {
            // A feed that does not fit is refused all the same.
            run(0, 0..0)?;
        }
        pool.parallel_for(rows, block, |worker, range| {
            if let Err(error) = run(worker, range) {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The same on the workspace's device, a block of rows after the other: each is a tape over all of the device.
    fn on_device(
        &self,
        feed: &Feed<'_>,
        width: usize,
        block: usize,
        pool: &Pool,
        ws: &mut Workspace,
        outputs: &mut [f32],
        graph: impl for<'t> Fn(&mut Tape<'t>, &Feed<'t>) -> Result<Var> + Sync,
    ) -> Result<()> {
        let rows = feed.rows();
        // A feed that does not fit is refused even where it has no rows.
        for from in (0..rows.max(1)).step_by(block) {
            let range = from..(from + block).min(rows);
            let (part, randomness) = (feed.part(range.clone()), Default::default());
            let of = Rows { count: range.len(), sample_ids: &[], mode: Mode::Evaluate, randomness };
            let mut tape = Tape::new(ws, &self.params, of)?;
            let y = graph(&mut tape, &part)?;
            tape.forward(pool, y)?;
            outputs[range.start * width..range.end * width].copy_from_slice(tape.value(y));
        }
        Ok(())
    }
}
