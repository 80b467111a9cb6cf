//! From a job plan to the configurations of `kernels`. What a plan says and this version cannot do is
//! refused here by its key, never ignored.

use frame::Manifest;
use kernels::dtype::Precision;
use kernels::nn::{Init, MlpConfig, ModelConfig, Norm};
use kernels::ops::Activation as KernelActivation;
use kernels::optim::{
    AdamConfig, AdamWConfig, ClipConfig, Direction, LambConfig, OptimizerConfig, SchedulerConfig, SgdConfig,
};
use kernels::train::{LossConfig, TrainConfig};
use messages::WireError;
use messages::error::Code;
use messages::plan::{
    Activation, Initialization, JobPlan, Loss, Mode, ModelPlan, Normalization, OptimizerType,
    Precision as PlanPrecision, SchedulerPlan, Task,
};

/// What training needs of a plan and a dataset.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    pub model: ModelConfig,
    pub init: Init,
    pub init_seed: u64,
    pub train: TrainConfig,
}

/// The recipe for `steps_per_epoch` optimizer steps an epoch.
pub fn recipe(plan: &JobPlan, manifest: &Manifest, steps_per_epoch: u64) -> Result<Recipe, WireError> {
    check_task(plan, manifest)?;
    let ModelPlan::Mlp(mlp) = &plan.model;
    let model = ModelConfig::Mlp(MlpConfig {
        input_dim: manifest.width(),
        hidden_layers: mlp.hidden_layers.iter().map(|&n| n as usize).collect(),
        activation: activation(mlp.activation),
        dropout: mlp.dropout as f32,
        norm: match mlp.normalization {
            Normalization::None => Norm::None,
            Normalization::LayerNorm => Norm::LayerNorm,
        },
        output_dim: manifest.outputs(),
    });
    model.validate().map_err(|e| config_error("model", &e))?;
    let training = &plan.training;
    let clip = |bound: f64| (bound > 0.0).then_some(bound);
    let train = TrainConfig {
        optimizer: optimizer(plan),
        scheduler: scheduler(plan, steps_per_epoch),
        loss: loss(plan),
        clip: ClipConfig { max_norm: clip(training.clip_grad_norm), max_value: clip(training.clip_grad_value) },
        logical_shards: training.logical_shards as usize,
        seed: mlp.dropout_seed,
        precision: match training.precision {
            PlanPrecision::F32 => Precision::F32,
            PlanPrecision::Bf16 => Precision::Bf16,
            PlanPrecision::F16 => Precision::F16,
        },
        ..TrainConfig::default()
    };
    Ok(Recipe { model, init: init(&mlp.initialization), init_seed: mlp.initialization_seed, train })
}

/// Whether less or more is better, as `kernels` says it.
pub fn direction(mode: Mode) -> Direction {
    match mode {
        Mode::Min => Direction::Min,
        Mode::Max => Direction::Max,
    }
}

/// A setting that `kernels` refuses, as an error of the spec.
pub fn config_error(key: &str, error: &kernels::Error) -> WireError {
    WireError::new(Code::ConfigError, format!("{key}: {error}"))
}

fn check_task(plan: &JobPlan, manifest: &Manifest) -> Result<(), WireError> {
    if plan.task != manifest.target.task {
        let message =
            format!("task {}: the dataset was prepared for {}", plan.task.as_str(), manifest.target.task.as_str());
        return Err(WireError::new(Code::ConfigError, message));
    }
    let fits = match plan.training.loss {
        Loss::Mse | Loss::Mae | Loss::Huber => plan.task == Task::Regression,
        Loss::BceWithLogits => plan.task == Task::BinaryClassification,
        Loss::CrossEntropy => plan.task == Task::Multiclass,
    };
    if !fits {
        let message = format!("training.loss: {:?} is no loss of task {}", plan.training.loss, plan.task.as_str());
        return Err(WireError::new(Code::ConfigError, message));
    }
    Ok(())
}

fn activation(activation: Activation) -> KernelActivation {
    match activation {
        Activation::Relu => KernelActivation::Relu,
        Activation::Gelu => KernelActivation::Gelu,
        Activation::GeluTanh => KernelActivation::GeluTanh,
        Activation::Sigmoid => KernelActivation::Sigmoid,
        Activation::Tanh => KernelActivation::Tanh,
        Activation::Silu => KernelActivation::Silu,
    }
}

fn init(initialization: &Initialization) -> Init {
    match *initialization {
        Initialization::Normal { mean, std } => Init::Normal { mean, std },
        Initialization::XavierUniform => Init::XavierUniform,
        Initialization::XavierNormal => Init::XavierNormal,
        Initialization::KaimingUniform => Init::KaimingUniform,
        Initialization::KaimingNormal => Init::KaimingNormal,
    }
}

fn loss(plan: &JobPlan) -> LossConfig {
    match plan.training.loss {
        Loss::Mse => LossConfig::Mse,
        Loss::Mae => LossConfig::Mae,
        Loss::Huber => LossConfig::Huber { delta: 1.0 },
        Loss::BceWithLogits => LossConfig::BceWithLogits { pos_weight: Some(plan.training.positive_weight) },
        Loss::CrossEntropy => {
            LossConfig::CrossEntropy { label_smoothing: plan.training.label_smoothing, class_weights: None }
        }
    }
}

fn optimizer(plan: &JobPlan) -> OptimizerConfig {
    let o = &plan.training.optimizer;
    match o.r#type {
        OptimizerType::Adamw => OptimizerConfig::AdamW(AdamWConfig {
            learning_rate: o.learning_rate,
            weight_decay: o.weight_decay,
            beta1: o.beta1,
            beta2: o.beta2,
            epsilon: o.epsilon,
        }),
        OptimizerType::Adam => OptimizerConfig::Adam(AdamConfig {
            learning_rate: o.learning_rate,
            weight_decay: o.weight_decay,
            beta1: o.beta1,
            beta2: o.beta2,
            epsilon: o.epsilon,
        }),
        OptimizerType::Lamb => OptimizerConfig::Lamb(LambConfig {
            learning_rate: o.learning_rate,
            weight_decay: o.weight_decay,
            beta1: o.beta1,
            beta2: o.beta2,
            epsilon: o.epsilon,
        }),
        OptimizerType::Sgd => OptimizerConfig::Sgd(SgdConfig {
            learning_rate: o.learning_rate,
            weight_decay: o.weight_decay,
            momentum: o.momentum,
            nesterov: false,
        }),
    }
}

fn scheduler(plan: &JobPlan, steps_per_epoch: u64) -> SchedulerConfig {
    let total_steps = steps_per_epoch * u64::from(plan.training.epochs);
    match plan.training.scheduler {
        SchedulerPlan::Constant => SchedulerConfig::Constant,
        SchedulerPlan::CosineAnnealing { t_max, eta_min } => {
            SchedulerConfig::CosineAnnealing { t_max: u64::from(t_max), eta_min }
        }
        SchedulerPlan::LinearWarmup { warmup_steps, start_factor } => {
            SchedulerConfig::LinearWarmup { warmup_steps: u64::from(warmup_steps), start_factor }
        }
        SchedulerPlan::WarmupCosine { warmup_steps, start_factor: _, eta_min } => {
            // A training shorter than its warm-up never leaves it.
            let warmup_steps = u64::from(warmup_steps);
            SchedulerConfig::WarmupCosine { warmup_steps, total_steps: total_steps.max(warmup_steps + 1), eta_min }
        }
        SchedulerPlan::ReduceOnPlateau { factor, patience, threshold, cooldown, min_lr } => {
            SchedulerConfig::ReduceOnPlateau {
                factor,
                patience: u64::from(patience),
                threshold,
                cooldown: u64::from(cooldown),
                min_lr,
                // It watches a loss.
                mode: Direction::Min,
            }
        }
        SchedulerPlan::Step { step_size, gamma } => SchedulerConfig::Step { step_size: u64::from(step_size), gamma },
        SchedulerPlan::OneCycle { max_lr, pct_start, div_factor, final_div_factor } => SchedulerConfig::OneCycle {
            total_steps: total_steps.max(2),
            max_lr: Some(max_lr),
            pct_start,
            div_factor,
            final_div_factor,
        },
    }
}
