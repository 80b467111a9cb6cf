//! Arrow frames, the manifest of a dataset version, and applying fitted preprocessing.
//!
//! What the data_loader prepares, others read through here: the trainer by the feed's frames, the
//! evaluator by shards, later the predictor row by row. All use the same [`Encoder`], so a row has the same
//! features, to the last bit, wherever it is encoded. No network, no async, no clock.
//!
//! | module | holds |
//! | --- | --- |
//! | [`manifest`] | [`Manifest`]: the schema, statistics, split, shards and fitted preprocessing of a dataset version |
//! | [`table`] | [`Table`]: raw typed rows |
//! | [`shard`] | a table as an Arrow IPC file, and back |
//! | [`derive`] | columns made of others, and [`datetime`], [`clean`] that it needs |
//! | [`encode`] | [`Encoder`]: raw rows to what a model reads |
//! | [`encoded`] | [`Encoded`]: rows of features, tokens, pixels or sequences with their targets |
//! | [`feed_frame`] | encoded rows as an Arrow IPC stream, and back |
//! | [`model_file`] | a trained model with its preprocessing as one file, and back in one call |
//! | [`objective`] | the loss of a plan |
//! | [`hash`] | the hash of the hashing encoding |
//! | [`scale`] | the scalings' arithmetic, the same on every host |

pub mod clean;
pub mod datetime;
pub mod derive;
pub mod encode;
pub mod encoded;
pub mod error;
pub mod feed_frame;
pub mod hash;
mod inference;
mod ipc;
pub mod manifest;
pub mod model_file;
pub mod objective;
pub mod scale;
pub mod shard;
pub mod table;

pub use encode::Encoder;
pub use encoded::Encoded;
pub use error::{Error, ErrorKind};
pub use feed_frame::{decode_frame, encode_frame, frame_bytes_bound, row_bytes};
pub use manifest::Manifest;
pub use shard::{read_shard, write_shard, write_shard_as};
pub use table::{ColumnValues, Table};
