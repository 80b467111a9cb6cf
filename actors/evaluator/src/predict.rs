//! Predictions of one part of a dataset version, shard by shard: decode, encode as training did, predict in
//! batches, turn outputs into values or probabilities. Blocking; called off the async runtime.

use std::sync::Arc;

use frame::{Encoder, Manifest, objective, read_shard};
use kernels::nn::Model;
use kernels::pool::Pool;
use kernels::tape::Workspace;
use kernels::train::{Batch, LossSum, Targets, TrainConfig, Trainer};
use messages::WireError;
use messages::error::Code;
use messages::event::{MetricValue, ModelRef};
use messages::plan::{JobPlan, Task};
use tokio_util::sync::CancellationToken;

/// Rows that are predicted at a time; between two batches a stop is seen.
const BATCH_ROWS: usize = 4_096;

/// What the model says of the rows of a part, in stored order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Predictions {
    pub sample_ids: Vec<u64>,
    /// The target in its own unit; a class as its index.
    pub actual: Vec<f64>,
    /// `[rows, columns]`: a value in the target's unit, the positive class's probability, or one a class.
    pub predicted: Vec<f64>,
    pub columns: usize,
    loss: LossSum,
    /// Why there is no loss, once there is none.
    no_loss: Option<String>,
}

impl Predictions {
    pub fn new(columns: usize) -> Self {
        Self { columns, ..Self::default() }
    }

    pub fn rows(&self) -> usize {
        self.actual.len()
    }

    /// What was predicted for one row.
    pub fn row(&self, row: usize) -> &[f64] {
        &self.predicted[row * self.columns..(row + 1) * self.columns]
    }

    /// The training loss over the part, weights included.
    pub fn loss(&self) -> MetricValue {
        match (&self.no_loss, self.loss.mean()) {
            (Some(reason), _) => MetricValue::undefined(reason),
            (None, Some(mean)) => MetricValue::of(mean),
            (None, None) => MetricValue::undefined("there are no samples"),
        }
    }
}

/// A model ready to predict the rows of a dataset version.
pub struct Predictor {
    /// Holds the model and knows the loss; it is never stepped.
    trainer: Trainer,
    pool: Arc<Pool>,
    encoder: Encoder,
    manifest: Arc<Manifest>,
}

impl Predictor {
    /// Reads the model's file and checks that it is the one that was announced and fits the dataset.
    ///
    /// # Errors
    /// `model_invalid`: damaged, other parameters than announced, or made for other data.
    pub fn open(
        file: &[u8],
        announced: &ModelRef,
        manifest: &Arc<Manifest>,
        plan: &JobPlan,
        threads: usize,
    ) -> Result<Self, WireError> {
        let invalid =
            |message: String| WireError::new(Code::ModelInvalid, format!("model {}: {message}", announced.uri));
        let (model, _) = kernels::weights::load(file).map_err(|error| invalid(error.to_string()))?;
        let blake3 = kernels::weights::params_blake3(&model);
        if blake3 != announced.blake3 {
            return Err(invalid(format!("its parameters hash to {blake3}, announced were {}", announced.blake3)));
        }
        if (model.input_dim(), model.output_dim()) != (manifest.width(), manifest.outputs()) {
            return Err(invalid(format!(
                "made for {} features and {} outputs, but the dataset has {} and {}",
                model.input_dim(),
                model.output_dim(),
                manifest.width(),
                manifest.outputs()
            )));
        }
        let encoder = Encoder::new(manifest)
            .map_err(|e| WireError::new(Code::ArtifactCorrupt, format!("the dataset's preprocessing: {e}")))?;
        let pool = Arc::new(Pool::new(threads));
        let config = TrainConfig { loss: objective::loss(plan, manifest), ..TrainConfig::default() };
        let trainer = Trainer::new(model, config, Arc::clone(&pool)).map_err(|error| invalid(error.to_string()))?;
        Ok(Self { trainer, pool, encoder, manifest: Arc::clone(manifest) })
    }

    pub fn model(&self) -> &Model {
        self.trainer.model()
    }

    /// Predicts the rows of one shard and appends them to `part`.
    ///
    /// # Errors
    /// `dataset_validation_error` for a shard that is none or does not fit the manifest; `cancelled`.
    pub fn shard(&mut self, bytes: &[u8], part: &mut Predictions, stop: &CancellationToken) -> Result<(), WireError> {
        let wrong = |error: frame::Error| {
            WireError::new(Code::DatasetValidationError, format!("a shard of the dataset: {error}"))
        };
        let table = read_shard(bytes).map_err(wrong)?;
        let encoded = self.encoder.encode(table.batch()).map_err(wrong)?;
        let actual = self.encoder.own_targets(table.batch());
        for first in (0..encoded.rows).step_by(BATCH_ROWS) {
            if stop.is_cancelled() {
                return Err(WireError::new(Code::Cancelled, "the evaluation was stopped"));
            }
            let rows = first..(first + BATCH_ROWS).min(encoded.rows);
            part.actual.extend(actual[rows.clone()].iter().map(|target| f64::from(*target)));
            let picked = encoded.select(&rows.map(|row| row as u32).collect::<Vec<_>>());
            part.sample_ids.extend_from_slice(&picked.sample_ids);
            let batch = Batch {
                rows: picked.rows,
                targets: self.targets(&picked.targets),
                features: picked.features,
                inputs: picked.inputs,
                weights: picked.weights,
                sample_ids: picked.sample_ids,
            };
            self.predict(&batch, part)?;
        }
        Ok(())
    }

    /// Predictions, and the loss where there is one.
    fn predict(&mut self, batch: &Batch, part: &mut Predictions) -> Result<(), WireError> {
        let failed = |error: kernels::Error| {
            let code = match error.kind() {
                kernels::ErrorKind::OutOfMemory => Code::OutOfMemory,
                _ => Code::EvaluationError,
            };
            WireError::new(code, error.to_string())
        };
        let mut outputs = match self.trainer.validate(None, batch) {
            Ok((sum, outputs)) => {
                part.loss.merge(sum);
                outputs
            }
            Err(error) => {
                part.no_loss.get_or_insert(error.to_string());
                let mut workspace = Workspace::default();
                self.model().predict_feed(&batch.feed(), &self.pool, &mut workspace).map_err(failed)?
            }
        };
        self.trainer.config().loss.to_predictions(&mut outputs, part.columns);
        if self.manifest.target.task == Task::Regression {
            self.manifest.invert_target(&mut outputs);
        }
        part.predicted.extend(outputs.into_iter().map(f64::from));
        Ok(())
    }

    fn targets(&self, encoded: &[f32]) -> Targets {
        match self.manifest.target.task {
            Task::Multiclass => Targets::Class(encoded.iter().map(|class| *class as u32).collect()),
            Task::Regression | Task::BinaryClassification => Targets::Real(encoded.to_vec()),
        }
    }
}
