//! Trees: a random forest for classification and regression (Breiman 2001), and the isolation forest (Liu, Ting and
//! Zhou 2008). Pure functions of data, settings and seed: each tree has random numbers of its own, votes are summed in
//! the order of the trees, so the bits do not depend on the number of threads.

mod bins;
mod grow;
mod isolation;
mod random;
mod tree;

pub use bins::{Binned, Bins, MAX_BINS};
pub use isolation::{IsolationConfig, IsolationForest, average_path_length};
pub use random::{ForestConfig, Labels, RandomForest};
pub use tree::{Node, Tree, gini, gini_gain};
