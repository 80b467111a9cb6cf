//! The trainer (contract below, being assembled).
pub mod checkpoint;
mod error;
pub mod link;
pub mod model_file;
pub mod state;
pub mod train;
pub mod vitals;
