//! A small dataset version and a model that fits it, made of the real parts.

use arrow_array::Float64Array;
use bytes::Bytes;
use frame::manifest::{
    Encoding, Feature, FittedScale, FittedTransform, Lineage, MANIFEST_VERSION, Part, SampleIdScheme, Shard, SplitInfo,
    Target,
};
use frame::{ColumnValues, Manifest, Table, write_shard};
use kernels::nn::{Init, MlpConfig, Model, ModelConfig};
use messages::ArtifactRef;
use messages::event::ModelRef;
use messages::feed::Split;
use messages::plan::{JobPlan, SplitStrategy, Task};

/// A plan for the task.
pub fn plan(task: Task) -> JobPlan {
    let mut plan: serde_json::Value = serde_json::from_str(include_str!("../plan.json")).expect("JSON");
    plan["task"] = serde_json::json!(task);
    let (loss, metrics, primary) = match task {
        Task::Regression => ("mse", vec!["rmse", "mae", "r2"], "rmse"),
        Task::BinaryClassification => ("bce_with_logits", vec!["accuracy", "auc", "loss", "confusion_matrix"], "f1"),
        Task::Multiclass => ("cross_entropy", vec![], "f1_macro"),
    };
    plan["training"]["loss"] = serde_json::json!(loss);
    plan["evaluation"]["metrics"] = serde_json::json!(metrics);
    plan["evaluation"]["primary_metric"] = serde_json::json!(primary);
    serde_json::from_value(plan).expect("a plan")
}

/// The class texts of a task.
fn classes(task: Task) -> Vec<String> {
    let names: &[&str] = match task {
        Task::Regression => &[],
        Task::BinaryClassification => &["no", "yes"],
        Task::Multiclass => &["a", "b", "c"],
    };
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Rows of a part as one shard: `x`, and a target that follows from it.
pub fn shard(task: Task, first: u64, rows: u64) -> Bytes {
    let ids: Vec<u64> = (first..first + rows).collect();
    let x: Vec<f64> = ids.iter().map(|id| (id % 7) as f64).collect();
    let target = |x: &f64| match task {
        Task::Regression => (10.0 + 2.0 * x) as f32,
        Task::BinaryClassification => f32::from(*x >= 4.0),
        Task::Multiclass => (*x as u32 % 3) as f32,
    };
    let targets = x.iter().map(target).collect();
    let table = Table::new(ids, vec![("x".into(), ColumnValues::Number(Float64Array::from(x)))], targets, None);
    write_shard(&table.expect("a table")).expect("a shard")
}

/// The manifest over shards that `store` has put; regression targets are learned standardized.
pub fn manifest(task: Task, parts: [(Split, u64, Vec<ArtifactRef>); 3]) -> Manifest {
    let transform = match task {
        Task::Regression => FittedTransform::Standard { mean: 16.0, std: 4.0 },
        _ => FittedTransform::None,
    };
    let classes = classes(task);
    let part = |(split, rows, shards): (Split, u64, Vec<ArtifactRef>)| {
        let each = rows / shards.len().max(1) as u64;
        let shards = shards.into_iter().map(|artifact| Shard { artifact, rows: each }).collect();
        Part { split, rows, class_counts: vec![], shards }
    };
    Manifest {
        schema: MANIFEST_VERSION,
        dataset_version: "v1".into(),
        lineage: Lineage::default(),
        sources: vec![],
        columns: vec![],
        target: Target {
            task,
            column: "score".into(),
            train_priors: vec![1.0 / classes.len().max(1) as f64; classes.len()],
            classes,
            transform,
            train_mean: if task == Task::Regression { 16.0 } else { 0.25 },
        },
        features: vec![Feature {
            column: "x".into(),
            first: 0,
            encoding: Encoding::Number {
                impute: 3.0,
                missing_indicator: false,
                scale: FittedScale::Standard { mean: 3.0, std: 2.0 },
                clip: 0.0,
            },
        }],
        feature_names: vec!["x".into()],
        sequence: None,
        pretrained: None,
        augmentation: None,
        synthetic: None,
        sample_id: SampleIdScheme::RowNumber,
        weighted: false,
        derived: vec![],
        storage: None,
        inference: vec![],
        split: SplitInfo {
            strategy: SplitStrategy::Random,
            test_size: 0.2,
            val_size: 0.2,
            random_state: 42,
            column: None,
            official_test: false,
            by: messages::plan::SplitBy::Exact,
            fold: None,
            repeat: 0,
            gap: None,
            left_out: 0,
        },
        parts: parts.into_iter().map(part).collect(),
        quality: None,
        warnings: vec![],
    }
}

/// A model's file. Of a regression, one that has learned the target to the last digit: the standardized target
/// is the standardized feature.
pub fn model(task: Task) -> (Vec<u8>, ModelRef) {
    let output_dim = if task == Task::Multiclass { 3 } else { 1 };
    let config =
        ModelConfig::Mlp(MlpConfig { input_dim: 1, hidden_layers: vec![], output_dim, ..MlpConfig::default() });
    let mut model = Model::new(&config, &Init::default(), 42).expect("a model");
    if task == Task::Regression {
        let learned = |weight: bool| if weight { vec![1.0] } else { vec![0.0] };
        model.set_parameters(|param| learned(param.shape.len() > 1)).expect("parameters");
    }
    let file = kernels::weights::save(&model, &std::collections::BTreeMap::new()).expect("a file");
    let reference = ModelRef {
        uri: "file:///store/model.safetensors".into(),
        file_blake3: String::new(),
        blake3: kernels::weights::params_blake3(&model),
        size_bytes: file.len() as u64,
    };
    (file, reference)
}
