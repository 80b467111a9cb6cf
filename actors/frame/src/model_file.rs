//! The trained model as one safetensors file. Its metadata hold everything that serving needs: the
//! model's configuration, the fitted preprocessing, the target with its classes and transform. The
//! bytes carry neither job nor time, so the same training gives the same file.

use std::collections::BTreeMap;

use kernels::nn::Model;
use messages::event::Metrics;
use messages::plan::JobPlan;
use serde::{Deserialize, Serialize};

use crate::derive::Step;
use crate::encode::Encoder;
use crate::manifest::{Feature, Manifest, Target};

/// Kind under which models are stored.
pub const ARTIFACT_KIND: &str = "models";
/// Name under which a model is stored.
pub const ARTIFACT_NAME: &str = "model.safetensors";
/// Metadata key of the [`Serving`] JSON.
pub const KEY_SERVING: &str = "within.serving";
/// Version of [`Serving`].
pub const SERVING_VERSION: u16 = 1;

/// What serving needs beside the weights, as JSON under [`KEY_SERVING`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Serving {
    pub schema: u16,
    /// `JobPlan::name`.
    pub name: String,
    pub plan_blake3: String,
    pub dataset_blake3: String,
    pub dataset_version: String,
    /// Columns made of others before anything is encoded, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub derived: Vec<Step>,
    /// Fitted preprocessing, in the order of the encoded features.
    pub features: Vec<Feature>,
    pub feature_names: Vec<String>,
    /// Whether several rows make one sample.
    #[serde(default)]
    pub sequence: bool,
    pub target: Target,
    /// The training loss: it says how outputs become predictions.
    pub loss: String,
    /// Binary: positive at or above this probability.
    pub threshold: f64,
    /// The epoch, counted from 1, that the weights are of.
    pub epoch: u32,
    /// Of the last epoch.
    pub metrics: Metrics,
}

/// What a model file is made of beside the model.
pub struct Content<'a> {
    pub plan: &'a JobPlan,
    pub plan_blake3: &'a str,
    pub manifest: &'a Manifest,
    pub dataset_blake3: &'a str,
    pub metrics: &'a Metrics,
    pub epoch: u32,
}

/// The file's bytes.
pub fn write(model: &Model, content: &Content<'_>) -> kernels::Result<Vec<u8>> {
    let manifest = content.manifest;
    let serving = Serving {
        schema: SERVING_VERSION,
        name: content.plan.name.clone(),
        plan_blake3: content.plan_blake3.to_owned(),
        dataset_blake3: content.dataset_blake3.to_owned(),
        dataset_version: manifest.dataset_version.clone(),
        derived: manifest.derived.clone(),
        features: manifest.features.clone(),
        feature_names: manifest.feature_names.clone(),
        sequence: manifest.sequence.is_some(),
        target: manifest.target.clone(),
        loss: serde_json::to_value(content.plan.training.loss)
            .ok()
            .and_then(|v| v.as_str().map(str::to_owned))
            .expect("invariant: a loss serializes as its name"),
        threshold: content.plan.evaluation.threshold,
        epoch: content.epoch,
        metrics: content.metrics.clone(),
    };
    let text = serde_json::to_string(&serving).expect("invariant: serving data serialize");
    kernels::weights::save(model, &BTreeMap::from([(KEY_SERVING.to_owned(), text)]))
}

/// A model with its preprocessing, ready for raw rows.
#[derive(Debug)]
pub struct Served {
    pub model: Model,
    pub encoder: Encoder,
    pub serving: Serving,
}

/// Everything that serving needs, from one file.
pub fn open(bytes: &[u8]) -> kernels::Result<Served> {
    let (model, serving) = read(bytes)?;
    let encoder = Encoder::of(&serving.features, serving.target.transform, serving.sequence)
        .map(|encoder| encoder.deriving(&serving.derived));
    let wrong = |e: crate::Error| kernels::Error::Weights {
        what: "model file".into(),
        expected: "fitted preprocessing".into(),
        got: e.to_string(),
    };
    Ok(Served { model, encoder: encoder.map_err(wrong)?, serving })
}

/// Reads what [`write`] wrote: the model and what serving needs.
pub fn read(bytes: &[u8]) -> kernels::Result<(Model, Serving)> {
    let wrong = |got: String| kernels::Error::Weights {
        what: "model file".into(),
        expected: format!("metadata {KEY_SERVING:?} of schema version {SERVING_VERSION}"),
        got,
    };
    let (model, metadata) = kernels::weights::load(bytes)?;
    let text = metadata.get(KEY_SERVING).ok_or_else(|| wrong("none".into()))?;
    let serving: Serving = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
    if serving.schema > SERVING_VERSION {
        return Err(wrong(format!("version {}", serving.schema)));
    }
    Ok((model, serving))
}
