//! The mathematics of WITHIN: tensors, reverse-mode autograd, layers, optimizers, training steps,
//! weight files and metrics. No network, no async, no clock, no environment, no unseeded randomness:
//! what is computed is a function of the arguments, to the last bit.
//!
//! # What holds everywhere
//! - **A row's bits depend on that row and the weights only**: not on the number of rows beside it, the
//!   number of threads, the host's caches, or the vector instruction set ([`cpu::gemm`] says how).
//! - **Gradients are sums over logical shards** in the order of one fixed tree ([`shard`]), so a global
//!   batch gives the same weights however its shards are spread over ranks.
//! - **Random numbers are addressed, not drawn** ([`philox`]): (seed, stream, epoch, sample, step).
//! - A step in steady state allocates nothing ([`buffer::Arena::allocations`] counts).
//!
//! # A tour for callers
//! ```
//! use kernels::nn::{Init, MlpConfig, Model, ModelConfig};
//! use kernels::optim::{AdamWConfig, OptimizerConfig, SchedulerConfig};
//! use kernels::ops::loss::LossConfig;
//! use kernels::train::{Batch, Targets, TrainConfig, Trainer};
//! use kernels::pool::Pool;
//! use std::sync::Arc;
//! # fn main() -> Result<(), kernels::Error> {
//! let config = ModelConfig::Mlp(MlpConfig { input_dim: 2, hidden_layers: vec![8], output_dim: 1, ..MlpConfig::default() });
//! let model = Model::new(&config, &Init::default(), 42)?;
//! let plan = TrainConfig {
//!     optimizer: OptimizerConfig::AdamW(AdamWConfig::default()),
//!     scheduler: SchedulerConfig::Constant,
//!     loss: LossConfig::Mse,
//!     ..TrainConfig::default()
//! };
//! let pool = Arc::new(Pool::new(2));
//! let mut trainer = Trainer::new(model, plan, pool.clone())?;
//! let batch = Batch {
//!     rows: 4,
//!     features: vec![0., 0., 0., 1., 1., 0., 1., 1.],
//!     targets: Targets::Real(vec![0., 1., 1., 2.]),
//!     weights: None,
//!     sample_ids: vec![0, 1, 2, 3],
//! };
//! let outcome = trainer.step(&batch)?;              // StepOutcome { loss, grad_norm, rows, learning_rate, step }
//! trainer.end_epoch(Some(outcome.loss))?;           // schedulers that count epochs, reduce_on_plateau
//! let saved = trainer.save_state()?;                // bytes (safetensors): everything a bit-exact resume needs
//! trainer.load_state(&saved)?;
//! let predictions = trainer.model().predict(&batch.features, 4, &pool)?; // [rows, output_dim], raw outputs
//! let file = kernels::weights::save(trainer.model(), &Default::default())?; // model file with its config
//! let (again, _metadata) = kernels::weights::load(&file)?;
//! assert_eq!(kernels::weights::params_blake3(&again), kernels::weights::params_blake3(trainer.model()));
//! # assert_eq!(predictions.len(), 4);
//! # Ok(()) }
//! ```
//!
//! ## Signatures others build on
//! ```text
//! pool::Pool::new(threads) ; pool::available_threads() -> usize (cgroup quota and affinity)
//!
//! nn::ModelConfig            serde, tag "type": {"type":"mlp","input_dim":32,"hidden_layers":[256,128],"activation":"relu",
//!                            "dropout":0.1,"norm":"none"|"layer_norm","output_dim":1}
//! nn::Init                   serde, tag "type": default | normal{mean,std} | xavier_uniform | xavier_normal | kaiming_uniform
//!                            | kaiming_normal | zeros
//! nn::Model::new(&ModelConfig, &Init, seed: u64) -> Result<Model>
//!   .config() .input_dim() .output_dim() .parameter_count() .params() -> &ParamStore (name, shape, values, decay)
//!   .predict(&self, features: &[f32], rows: usize, &Pool) -> Result<Vec<f32>>       raw outputs (logits), [rows, output_dim]
//!
//! ops::loss::LossConfig      serde, tag "type": mse | mae | huber{delta} | bce_with_logits{pos_weight} | cross_entropy
//!                            {label_smoothing, class_weights}
//!   .to_predictions(&self, outputs: &mut [f32], columns: usize)   logits -> value | probability | class probabilities
//!
//! optim::OptimizerConfig     serde, tag "type": adamw | adam | sgd (learning_rate, weight_decay, beta1, beta2, epsilon, momentum, nesterov)
//! optim::SchedulerConfig     serde, tag "type": constant | cosine_annealing{T_max, eta_min} | linear_warmup{warmup_steps, start_factor}
//!                            | step{step_size, gamma} | one_cycle{..} | reduce_on_plateau{..} | warmup_cosine{..}
//! optim::ClipConfig          serde: { max_norm: Option<f64>, max_value: Option<f64> }
//!
//! train::TrainConfig { optimizer, scheduler, loss, clip, logical_shards (8), seed }
//! train::Batch { rows, features: Vec<f32> [rows, input_dim], targets: Targets::Real(Vec<f32>) | Targets::Class(Vec<u32>),
//!                weights: Option<Vec<f32>>, sample_ids: Vec<u64> }
//! train::Trainer::new(Model, TrainConfig, Arc<Pool>) -> Result<Trainer>
//!   .step(&Batch) -> Result<StepOutcome { loss: f64, grad_norm: f64, rows: usize, learning_rate: f64, step: u64 }>
//!   .accumulate(&Batch) ... .apply() -> StepOutcome          gradient accumulation, weighed by sample counts
//!   .partial(&RankBatch) -> Result<Partial>                  several ranks: nodes of the gradient tree and sums per shard
//!   .accumulate_root(&[f32] , &[ShardLoss])                  the completed tree, then .apply()
//!   .evaluate(&Batch) -> Result<LossSum { sum, weight, rows }>; .mean()
//!   .end_epoch(metric: Option<f64>) -> Result<()> ; .learning_rate() -> f64 ; .epoch() ; .global_step()
//!   .save_state() -> Result<Vec<u8>> ; .load_state(&[u8]) -> Result<()> ; .model() ; .into_model() ; .set_epoch(u64)
//! train::EarlyStopping::new(EarlyStoppingConfig { monitor, patience, min_delta, mode }) .observe(value) -> bool (stop)
//! train::BestK::new(k, mode) .admit(value, id) -> Admission { kept, evicted }
//!
//! weights::save(&Model, &BTreeMap<String, String>) -> Result<Vec<u8>> ; weights::load(&[u8]) -> Result<(Model, BTreeMap)>
//! weights::params_blake3(&Model) -> String (hex) ; weights::load_into(&mut Model, &[u8])
//!
//! philox::Stream { Init, Shuffle, Dropout, Augment, Split, Generate, Sample } ; philox::Key::new(seed, stream).epoch(e)
//! philox::permutation(seed, stream, epoch, n) -> Vec<u32> ; Key::rng(sample, step) -> Rng .uniform() .normal() .below(n)
//! fingerprint::fingerprint(&Device) -> String ; cuda::probe(&CudaEnvironment) -> CudaReport
//! ```


pub mod buffer;
pub mod cpu;
pub mod cuda;
pub mod device;
pub mod error;
pub mod fingerprint;
pub mod metrics;
pub mod nn;
pub mod ops;
pub mod optim;
pub mod params;
pub mod philox;
pub mod pool;
pub mod shard;
pub mod tape;
pub mod tensor;
pub mod train;
pub mod weights;

pub use error::{Error, ErrorKind, Result};
