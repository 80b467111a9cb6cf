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
//! - Rows of a value are samples or their items (tokens, pixels, steps), packed: padding is never computed
//!   ([`tape::Space`]).
//! - A step in steady state allocates nothing ([`tape::Workspace::allocations`] counts).
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
//!     inputs: Default::default(),                     // tokens, images, categories, sequences
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
//! # Where things are
//! - Models: [`nn::ModelConfig`] (serde, tag `type`: `mlp`, `tabular`, `transformer_classifier`, `image_classifier`,
//!   `lstm_sequence`, `ad_score`), [`nn::Init`], [`nn::Inputs`] (what a batch has beside features), [`nn::Model`]
//!   (`predict` for features, `predict_feed` for all inputs, `embed_text` for sentences give raw outputs;
//!   [`ops::loss::LossConfig::to_predictions`] turns them into values or probabilities).
//! - Training: [`train::TrainConfig`], [`train::Trainer`] (`step`; `accumulate` + `apply`; for several ranks
//!   `exchange` with a collective, then `accumulate_exchanged` + `apply`, or by copies `partial`, then
//!   [`shard::complete`] in the order a collective keeps, then `accumulate_root` + `apply`; `mark` and `back_to`
//!   repeat a step that was interrupted; `evaluate`, `end_epoch`, `save_state`, `load_state`, `diagnose`, `averaged_model`), [`train::EarlyStopping`],
//!   [`train::BestK`].
//! - Optimizers, parameter groups, averages of weights, schedules, clipping: [`optim`]. Sixteen bits and loss
//!   scaling: [`dtype`]. Losses: [`ops::loss`]. Evaluation: [`metrics`].
//! - Files: [`weights::save`], [`weights::save_with`], [`weights::load`], [`weights::load_file`],
//!   [`weights::load_into`], [`weights::params_blake3`]; pretrained encoders: [`weights::Folder`],
//!   [`weights::pretrained::import`]. Text: [`text::Tokenizer`].
//! - Inputs of other element types (i32, i64, u8, bf16, f16): [`tensor::Tensor`], [`text::Packed::from_tensor`],
//!   [`nn::Images::from_tensor`].
//! - Between ranks: [`collective`] (what to send, what to wait for, the sums), without sockets.
//! - Randomness: [`philox::Key`], [`philox::permutation`]. Threads: [`pool::Pool`], [`pool::available_threads`].
//! - Own graphs: [`tape::Tape`] over a [`params::ParamStore`]; gradients of inputs ([`nn::Model::input_gradients`]; on a
//!   tape [`tape::InputGrad`], `forward_backward_of`, [`tape::Mode::Explain`]) and of single samples (`sample_grad_squares`,
//!   `scale_sample_grads`).
//! - What data are judged by: [`forest::RandomForest`], [`forest::IsolationForest`], [`linear::Logistic`] over hashed
//!   words, [`minhash`] for texts that are nearly the same.
//! - This host: [`fingerprint::fingerprint`], [`cuda::probe`].

pub mod buffer;
pub mod collective;
pub mod cpu;
pub mod cuda;
pub mod device;
pub mod drift;
pub mod dtype;
pub mod error;
pub mod fingerprint;
pub mod forest;
pub mod linear;
pub mod metrics;
pub mod minhash;
pub mod nn;
pub mod ops;
pub mod optim;
pub mod params;
pub mod philox;
pub mod pool;
pub mod shard;
pub mod tape;
pub mod tensor;
pub mod text;
pub mod train;
pub mod weights;

pub use error::{Error, ErrorKind, Result};
