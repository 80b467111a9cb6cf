//! One optimizer step of this rank: its part of each micro-batch, the exchange with the other ranks,
//! and the update. [`Engine::all_reduce`] is the one place where ranks meet.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use frame::Encoded;
use kernels::nn::Model;
use kernels::pool::Pool;
use kernels::shard::{complete, shards_of};
use kernels::train::{Batch, LossSum, Partial, RankBatch, StepOutcome, Targets, Trainer};
use kernels::weights::pretrained::{self, Family};
use messages::WireError;
use messages::error::{Class, Code};
use messages::plan::Task;

use super::mapping::{Recipe, config_error};
use super::source::SourceBatch;

/// Prefix of the text encoder's parameters.
const TEXT_ENCODER: &str = "text.";

/// A rank's model under training.
pub struct Engine {
    trainer: Trainer,
    task: Task,
    rank: usize,
    world_size: usize,
    shards: usize,
}

impl Engine {
    pub fn new(recipe: Recipe, task: Task, rank: u32, world_size: u32, threads: u32) -> Result<Self, WireError> {
        let shards = recipe.train.logical_shards;
        if world_size == 0 || rank >= world_size || world_size as usize > shards {
            let message =
                format!("rank {rank} of {world_size}: expected a world of 1 to {shards} (training.logical_shards)");
            return Err(WireError::new(Code::ConfigError, message));
        }
        let pool = Arc::new(Pool::new(threads.max(1) as usize));
        let mut model = kernels::nn::Model::new(&recipe.model, &recipe.init, recipe.init_seed)
            .map_err(|e| config_error("model", &e))?;
        if let Some((family, weights)) = &recipe.pretrained {
            begin_with(&mut model, *family, weights)?;
        }
        let trainer = Trainer::new(model, recipe.train, pool).map_err(|e| config_error("training", &e))?;
        Ok(Self { trainer, task, rank: rank as usize, world_size: world_size as usize, shards })
    }

    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    pub fn trainer_mut(&mut self) -> &mut Trainer {
        &mut self.trainer
    }

    /// The model that is validated and announced: the average of the weights, where one is kept.
    pub fn announced(&self) -> Cow<'_, Model> {
        match self.trainer.averaged_model() {
            Some(average) => Cow::Owned(average),
            None => Cow::Borrowed(self.trainer.model()),
        }
    }

    /// The batch as `kernels` takes it.
    pub fn batch(&self, rows: Encoded) -> Batch {
        Batch {
            rows: rows.rows,
            features: rows.features,
            inputs: rows.inputs,
            targets: match self.task {
                Task::Regression | Task::BinaryClassification => Targets::Real(rows.targets),
                Task::Multiclass => Targets::Class(rows.targets.iter().map(|&class| class as u32).collect()),
            },
            weights: rows.weights,
            sample_ids: rows.sample_ids,
        }
    }

    /// One optimizer step over the micro-batches. Nothing is left half-accumulated.
    pub fn step(&mut self, micro_batches: Vec<SourceBatch>) -> Result<StepOutcome, WireError> {
        let at = micro_batches.first().map_or((0, 0), |b| (b.epoch, b.batch));
        let outcome = match <[SourceBatch; 1]>::try_from(micro_batches) {
            Ok([only]) if self.world_size == 1 => {
                let batch = self.batch(only.rows);
                self.trainer.step(&batch)
            }
            Ok([only]) => self.accumulate(only).and_then(|()| self.trainer.apply()),
            Err(several) => several
                .into_iter()
                .try_for_each(|micro_batch| self.accumulate(micro_batch))
                .and_then(|()| self.trainer.apply()),
        };
        outcome.map_err(|error| step_error(&error, self.trainer.global_step(), at))
    }

    fn accumulate(&mut self, micro_batch: SourceBatch) -> kernels::Result<()> {
        let global_rows = micro_batch.global_rows as usize;
        let batch = self.batch(micro_batch.rows);
        if self.world_size == 1 {
            return self.trainer.accumulate(&batch);
        }
        let partial = self.trainer.partial(&RankBatch { batch: &batch, global_rows, held: self.held() })?;
        let (root, losses) = self.all_reduce(partial)?;
        self.trainer.accumulate_root(&root, &losses)
    }

    /// The logical shards that this rank computes.
    fn held(&self) -> Range<usize> {
        shards_of(self.rank, self.world_size, self.shards)
    }

    /// Completes the gradient tree and gathers the shards' losses in order. The result has the same
    /// bits for every world size, because the tree is indexed by shard.
    fn all_reduce(&self, own: Partial) -> kernels::Result<(Vec<f32>, Vec<LossSum>)> {
        let held = own.losses.len();
        let losses = own.losses.into_iter().map(|(_, loss)| loss).collect();
        match complete(own.nodes, self.shards) {
            Some(root) if held == self.shards => Ok((root, losses)),
            _ => Err(kernels::Error::Value {
                op: "all_reduce",
                expected: "a world of 1 in this version".into(),
                got: format!("a world of {}", self.world_size),
            }),
        }
    }
}

/// Puts a pretrained encoder's weights into the model's text encoder.
fn begin_with(model: &mut Model, family: Family, weights: &[u8]) -> Result<(), WireError> {
    let wrong = |e: &kernels::Error| WireError::new(Code::ModelInvalid, format!("data.text.pretrained: {e}"));
    let imported = pretrained::import(model, TEXT_ENCODER, family, weights).map_err(|e| wrong(&e))?;
    let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    tracing::info!(
        "pretrained encoder: {} tensors taken; without a place in the model: {}; not in the file: {}",
        imported.taken,
        list(&imported.unknown),
        list(&imported.missing)
    );
    Ok(())
}

/// An error of a step as it goes to the coordinator: where it happened, and what can be done.
pub fn step_error(error: &kernels::Error, step: u64, (epoch, batch): (u32, u64)) -> WireError {
    use kernels::ErrorKind;
    let place = format!("step {} (epoch {}, batch {})", step + 1, epoch + 1, batch + 1);
    match error.kind() {
        ErrorKind::Numeric => WireError::new(Code::NumericError, format!("{place}: {error}")).with_hint(
            "lower training.optimizer.learning_rate, set training.clip_grad_norm, or look at the named samples",
        ),
        ErrorKind::OutOfMemory => WireError::new(Code::OutOfMemory, format!("{place}: {error}"))
            .with_hint("lower training.batch_size or the model's size"),
        // A target or weight that the loss does not take is the data's fault.
        ErrorKind::Value => WireError::new(Code::TrainingError, format!("{place}: {error}")).with_class(Class::Data),
        _ => WireError::new(Code::TrainingError, format!("{place}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::nn::{Init, MlpConfig, ModelConfig};
    use kernels::train::{LossConfig, TrainConfig};

    fn engine(rank: u32, world_size: u32) -> Engine {
        let model = ModelConfig::Mlp(MlpConfig { input_dim: 3, hidden_layers: vec![5], ..MlpConfig::default() });
        let train = TrainConfig { loss: LossConfig::Mse, ..TrainConfig::default() };
        let recipe = Recipe { model, init: Init::Default, init_seed: 1, train, pretrained: None };
        Engine::new(recipe, Task::Regression, rank, world_size, 1).expect("valid")
    }

    fn batch(n: usize) -> SourceBatch {
        let rows = Encoded {
            rows: n,
            width: 3,
            features: (0..3 * n).map(|i| (i as f32 * 0.37).sin()).collect(),
            targets: (0..n).map(|i| i as f32 * 0.1).collect(),
            sample_ids: (0..n as u64).collect(),
            ..Encoded::default()
        };
        SourceBatch { epoch: 0, batch: 0, global_rows: n as u32, first_row: 0, end_of_epoch: false, rows }
    }

    #[test]
    fn the_exchange_gives_the_bits_of_one_process() {
        let (mut whole, mut exchanged) = (engine(0, 1), engine(0, 1));
        let expected = whole.step(vec![batch(20)]).expect("steps");
        let rows = exchanged.batch(batch(20).rows);
        let mut partials: Vec<Partial> = Vec::new();
        for rank in 0..3 {
            let part = engine(rank, 3);
            let held = part.held();
            let from = kernels::shard::rows_of(held.start, 8, 20).start;
            let to = kernels::shard::rows_of(held.end - 1, 8, 20).end;
            let indices: Vec<u32> = (from as u32..to as u32).collect();
            let own = part.batch(batch(20).rows.select(&indices));
            let mut part = part;
            partials.push(part.trainer.partial(&RankBatch { batch: &own, global_rows: 20, held }).expect("computes"));
        }
        let joined = Partial {
            nodes: partials.iter().flat_map(|p| p.nodes.clone()).collect(),
            losses: partials.iter().flat_map(|p| p.losses.clone()).collect(),
        };
        let (root, losses) = exchanged.all_reduce(joined).expect("complete");
        exchanged.trainer.accumulate_root(&root, &losses).expect("fits");
        assert_eq!(exchanged.trainer.apply().expect("applies"), expected);
        let hash = |e: &Engine| kernels::weights::params_blake3(e.trainer.model());
        assert_eq!(hash(&exchanged), hash(&whole));
        assert_eq!(rows.rows, 20);
    }

    #[test]
    fn a_world_that_cannot_exchange_yet_says_so() {
        let mut engine = engine(1, 2);
        let held = engine.held();
        assert_eq!(held, 4..8);
        let half = SourceBatch { global_rows: 20, first_row: 10, ..batch(10) };
        let error = engine.step(vec![half]).expect_err("no collective");
        assert!(error.message.contains("all_reduce"), "{}", error.message);
        let recipe_world = Engine::new(
            Recipe {
                model: ModelConfig::Mlp(MlpConfig::default()),
                init: Init::Default,
                init_seed: 1,
                train: TrainConfig::default(),
                pretrained: None,
            },
            Task::Regression,
            0,
            9,
            1,
        );
        assert_eq!(recipe_world.err().map(|e| e.code), Some(Code::ConfigError));
    }

    #[test]
    fn a_step_that_is_not_finite_names_step_and_samples() {
        let mut engine = engine(0, 1);
        let mut bad = batch(16);
        bad.rows.features[3 * 5] = f32::NAN;
        let error = engine.step(vec![bad]).expect_err("not finite");
        assert_eq!(error.code, Code::NumericError);
        assert!(error.message.contains("step 1") && error.message.contains('5'), "{}", error.message);
    }
}
