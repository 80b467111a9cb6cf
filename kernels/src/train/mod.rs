//! The training engine: batches in, updated parameters and figures out. It decides nothing about epochs,
//! data or stopping; that is the trainer role's.

mod ahead;
mod batch;
mod best;
mod copy;
mod early_stop;
mod engine;
mod mixed;
mod partial;
mod state;

pub use crate::ops::loss::{LossConfig, LossSum, Targets};
pub use crate::tape::DeviceBucket;
pub use batch::{Batch, RankBatch};
pub use best::{Admission, BestK};
pub use copy::StateCopy;
pub use early_stop::{EarlyStopping, EarlyStoppingConfig};
pub use engine::{StepOutcome, TrainConfig, Trainer};
pub use partial::{Interrupted, Mark, Partial};
