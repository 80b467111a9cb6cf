//! A small job for tests: its plan, manifest and rows of each task.

use std::sync::Arc;

use frame::manifest::{Encoding, Feature, FittedScale, FittedTransform, Part, SampleIdScheme, SplitInfo, Target};
use frame::{Encoded, Manifest};
use messages::feed::Split;
use messages::plan::{JobPlan, Loss, SplitStrategy, Task};

pub const TRAIN_ROWS: usize = 300;
pub const VAL_ROWS: usize = 100;

/// Four epochs of ten steps.
pub fn plan(task: Task) -> JobPlan {
    let loss = match task {
        Task::Regression => Loss::Mse,
        Task::BinaryClassification => Loss::BceWithLogits,
        Task::Multiclass => Loss::CrossEntropy,
    };
    let metrics = match task {
        Task::Regression => vec!["rmse", "r2"],
        Task::BinaryClassification => vec!["auc", "f1"],
        Task::Multiclass => vec!["accuracy"],
    };
    serde_json::from_value(serde_json::json!({
        "schema": 1, "kind": "job", "name": "t", "description": "", "seed": 1, "task": task,
        "data": {
            "dataset_version": "v", "path": ["x.csv"], "test_path": [], "format": "auto",
            "csv": {"delimiter": ",", "quote": "\"", "header": true, "comment": "", "trim": true, "decimal": ".", "null_values": []},
            "target": {"column": "y", "positive": "", "strip_suffix": "", "transform": "none", "threshold": null},
            "id_column": null, "weight_column": null, "include": [], "exclude": [], "columns": {},
            "preprocessing": {"impute": "mean", "missing_indicator": false, "scale": "standard", "clip": 0.0, "min_frequency": 1, "max_categories": 10},
            "split": {"strategy": "random", "test_size": 0.2, "val_size": 0.2, "random_state": 42,
                      "stratify_column": null, "group_column": null, "time_column": null},
            "shuffle": true, "shuffle_seed": 7, "drop_last": false
        },
        "model": {"type": "mlp", "hidden_layers": [16], "activation": "relu", "dropout": 0.1, "normalization": "layer_norm",
                  "initialization": {"type": "xavier_uniform"}, "initialization_seed": 3, "dropout_seed": 4},
        "training": {
            "epochs": 4, "batch_size": 32, "loss": loss, "positive_weight": 1.0, "label_smoothing": 0.0,
            "optimizer": {"type": "adamw", "learning_rate": 0.01, "weight_decay": 0.01, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "momentum": 0.0},
            "scheduler": {"type": "constant"}, "clip_grad_norm": 1.0, "clip_grad_value": 0.0, "accumulation_steps": 1,
            "early_stopping": null, "logical_shards": 8,
            "checkpoint": {"save_freq": 1, "keep_best": 2, "metric_name": "val_loss", "mode": "min"},
            "log_interval": 2, "precision": "f32"
        },
        "evaluation": {"metrics": metrics, "primary_metric": metrics[0], "threshold": 0.5},
        "tracking": {"experiment": "e", "tags": {}, "parameters": []},
        "notifications": {"webhooks": []},
        "resources": {"device": "cpu", "world_size": 1, "threads": 2},
        "limits": {"deadline_s": 60, "max_attempts": 1},
        "origins": {}, "warnings": []
    }))
    .expect("a plan")
}

/// Features of a row.
pub const WIDTH: usize = 4;

/// Rows of a task that a small network learns.
pub fn rows(task: Task, n: usize, first_id: u64) -> Arc<Encoded> {
    let mut encoded = Encoded { rows: n, width: WIDTH, ..Encoded::default() };
    for id in first_id..first_id + n as u64 {
        let mut rng = kernels::philox::Key::new(99, kernels::philox::Stream::Generate).rng(id, 0);
        let x: Vec<f32> = (0..WIDTH).map(|_| rng.normal() as f32).collect();
        let signal = x[0] * 2.0 - x[1] + (x[2] * x[3]).tanh() + 0.1 * rng.normal() as f32;
        encoded.targets.push(match task {
            Task::Regression => signal,
            Task::BinaryClassification => f32::from(u8::from(signal > 0.3)),
            Task::Multiclass => f32::from(u8::from(signal > -1.0)) + f32::from(u8::from(signal > 1.0)),
        });
        encoded.features.extend(x);
        encoded.sample_ids.push(id);
    }
    Arc::new(encoded)
}

/// A manifest for so many rows.
pub fn manifest(task: Task, train: u64, val: u64) -> Manifest {
    let names: Vec<String> = (0..WIDTH).map(|i| format!("x{i}")).collect();
    let scale = FittedScale::Standard { mean: 0.0, std: 1.0 };
    let feature = |(first, column): (usize, &String)| Feature {
        column: column.clone(),
        first,
        encoding: Encoding::Number { impute: 0.0, missing_indicator: false, scale: scale.clone(), clip: 0.0 },
    };
    let part = |split, rows| Part { split, rows, class_counts: vec![], shards: vec![] };
    let classes = match task {
        Task::Regression => 0,
        Task::BinaryClassification => 2,
        Task::Multiclass => 3,
    };
    Manifest {
        schema: 1,
        dataset_version: "v".into(),
        lineage: frame::manifest::Lineage::default(),
        sources: vec![],
        columns: vec![],
        target: Target {
            task,
            column: "y".into(),
            classes: (0..classes).map(|c| c.to_string()).collect(),
            transform: FittedTransform::None,
            train_mean: 0.0,
            train_priors: vec![],
        },
        features: names.iter().enumerate().map(feature).collect(),
        feature_names: names,
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
        parts: vec![part(Split::Train, train), part(Split::Val, val), part(Split::Test, 0)],
        quality: None,
        warnings: vec![],
    }
}
