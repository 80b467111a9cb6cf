//! Linear models over sparse rows: words of texts, hashed, and what stands beside them.

mod logistic;
mod sparse;

pub use logistic::{Logistic, LogisticConfig};
pub use sparse::{HashedWords, Sparse};
