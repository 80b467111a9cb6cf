//! From a job plan to the configurations of `kernels`. What a plan says and this version cannot do is
//! refused here by its key, never ignored.

use std::sync::Arc;

use frame::{Manifest, objective};
use kernels::dtype::{LossScaleConfig, Precision};
use kernels::nn::{Init, ModelConfig};
use kernels::optim::{
    AdamConfig, AdamWConfig, ClipConfig, Direction, EmaConfig, LambConfig, OptimizerConfig, ParamGroup,
    SchedulerConfig, SgdConfig,
};
use kernels::train::TrainConfig;
use kernels::weights::pretrained::{Family, PretrainedConfig};
use messages::WireError;
use messages::error::Code;
use messages::plan::{
    Initialization, JobPlan, Loss, Mode, OptimizerType, Precision as PlanPrecision, SchedulerPlan, Task,
};

use super::architecture;

/// What training needs of a plan and a dataset.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    pub model: ModelConfig,
    pub init: Init,
    pub init_seed: u64,
    pub train: TrainConfig,
    /// What the text encoder begins with: contents of a `model.safetensors` of this family.
    pub pretrained: Option<(Family, Arc<Vec<u8>>)>,
}

/// The recipe for `steps_per_epoch` optimizer steps an epoch.
pub fn recipe(plan: &JobPlan, manifest: &Manifest, steps_per_epoch: u64) -> Result<Recipe, WireError> {
    check_task(plan, manifest)?;
    let model = architecture::model(plan, manifest)?;
    model.validate().map_err(|e| config_error("model", &e))?;
    let training = &plan.training;
    let clip = |bound: f64| (bound > 0.0).then_some(bound);
    let train = TrainConfig {
        optimizer: optimizer(plan),
        scheduler: scheduler(plan, steps_per_epoch),
        loss: objective::loss(plan, manifest),
        clip: ClipConfig { max_norm: clip(training.clip_grad_norm), max_value: clip(training.clip_grad_value) },
        logical_shards: training.logical_shards as usize,
        seed: plan.model.dropout_seed,
        precision: match training.precision {
            PlanPrecision::F32 => Precision::F32,
            PlanPrecision::Bf16 => Precision::Bf16,
            PlanPrecision::F16 => Precision::F16,
        },
        loss_scale: LossScaleConfig {
            initial_scale: training.loss_scale.initial_scale,
            growth_factor: training.loss_scale.growth_factor,
            backoff_factor: training.loss_scale.backoff_factor,
            growth_interval: u64::from(training.loss_scale.growth_interval),
        },
        ema: (training.ema.decay > 0.0).then_some(EmaConfig { decay: training.ema.decay, warmup: training.ema.warmup }),
        groups: training
            .optimizer
            .groups
            .iter()
            .map(|group| ParamGroup {
                pattern: group.pattern.clone(),
                learning_rate_multiplier: group.learning_rate_multiplier,
                weight_decay: group.weight_decay,
            })
            .collect(),
    };
    let (init, init_seed) = (init(&plan.model.initialization), plan.model.initialization_seed);
    Ok(Recipe { model, init, init_seed, train, pretrained: None })
}

impl Recipe {
    /// Lets the text encoder begin with the weights of the manifest's pretrained encoder.
    pub fn begin_with(&mut self, manifest: &Manifest, weights: Option<&Arc<Vec<u8>>>) -> Result<(), WireError> {
        let (Some(pretrained), Some(weights)) = (&manifest.pretrained, weights) else { return Ok(()) };
        let config = PretrainedConfig::from_json(&pretrained.config);
        let family = config.map_err(|e| config_error("data.text.pretrained", &e))?.family;
        self.pretrained = Some((family, Arc::clone(weights)));
        Ok(())
    }
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

fn init(initialization: &Initialization) -> Init {
    match *initialization {
        Initialization::Standard => Init::Default,
        Initialization::Normal { mean, std } => Init::Normal { mean, std },
        Initialization::TruncatedNormal { mean, std } => Init::TruncatedNormal { mean, std },
        Initialization::XavierUniform => Init::XavierUniform,
        Initialization::XavierNormal => Init::XavierNormal,
        Initialization::KaimingUniform => Init::KaimingUniform,
        Initialization::KaimingNormal => Init::KaimingNormal,
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
            nesterov: o.nesterov,
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
