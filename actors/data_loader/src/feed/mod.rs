//! The feed of batches: encoded rows of a dataset version, in an order that depends on (seed, epoch) only,
//! cut into the frames that one rank gets.

pub mod order;
pub mod session;

use std::sync::Arc;

use bus::artifact::ArtifactStore;
use frame::{Encoded, Encoder, Manifest, read_shard};
use messages::error::Code;
use messages::feed::Split;
use messages::{ArtifactRef, WireError};

use crate::write::off_runtime;

/// One part of a dataset version, encoded, in stored order.
#[derive(Debug)]
pub struct Part {
    pub encoded: Encoded,
    pub feature_names: Vec<String>,
    /// Largest size of one row in a frame.
    pub row_bytes: usize,
}

/// Reads and encodes a part.
pub async fn load(artifacts: &ArtifactStore, dataset: &ArtifactRef, split: Split) -> Result<Part, WireError> {
    let corrupt = |e: frame::Error| WireError::new(Code::ArtifactCorrupt, e.to_string());
    let bytes = artifacts.get(dataset).await.map_err(|e| e.to_wire())?;
    let manifest = Manifest::from_json(&bytes).map_err(corrupt)?;
    let encoder = Arc::new(Encoder::new(&manifest).map_err(corrupt)?);
    let width = manifest.width();
    let mut encoded = Encoded { width, ..Encoded::default() };
    if manifest.sequence.is_none() {
        encoded.features.reserve_exact(width * manifest.rows(split) as usize);
    }
    for shard in manifest.part(split).into_iter().flat_map(|part| &part.shards) {
        let bytes = artifacts.get(&shard.artifact).await.map_err(|e| e.to_wire())?;
        let (encoder, expected) = (Arc::clone(&encoder), shard.rows);
        let rows = off_runtime(move || {
            let table = read_shard(&bytes).map_err(corrupt)?;
            let rows = encoder.encode(table.batch()).map_err(corrupt)?;
            if rows.rows as u64 != expected {
                let message = format!("shard of {} rows, but the manifest says {expected}", rows.rows);
                return Err(WireError::new(Code::ArtifactCorrupt, message));
            }
            Ok(rows)
        })
        .await?;
        encoded.append(rows).map_err(corrupt)?;
    }
    let row_bytes = manifest.row_bytes();
    Ok(Part { encoded, feature_names: manifest.feature_names, row_bytes })
}
