//! A prepared dataset version into the artifact store: the shards of each part, then the manifest. Content-
//! addressed, so a repeated attempt writes the same artifacts again; without its manifest a shard means nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bus::artifact::ArtifactStore;
use frame::manifest::{ARTIFACT_KIND, ARTIFACT_NAME, Lineage, Pretrained, Shard};
use frame::write_shard;
use messages::error::Code;
use messages::feed::Split;
use messages::work::TaskOutput;
use messages::{ArtifactRef, WireError};
use tokio_util::sync::CancellationToken;

use crate::load::alive;
use crate::prepare::Prepared;

/// Writes everything; the manifest comes last. `reports` were stored before.
pub async fn write(
    mut prepared: Prepared,
    artifacts: &ArtifactStore,
    lineage: Lineage,
    reports: BTreeMap<String, ArtifactRef>,
    cancelled: &CancellationToken,
) -> Result<TaskOutput, WireError> {
    let mut pretrained = None;
    if let Some((path, config, weights)) = prepared.pretrained() {
        let weights = artifacts.put_bytes("models", "pretrained.safetensors", weights.into()).await;
        pretrained = Some(Pretrained { path, config, weights: weights.map_err(|e| e.to_wire())? });
    }
    let prepared = Arc::new(prepared);
    let mut shards: [Vec<Shard>; 3] = Default::default();
    for (split, shards) in Split::ALL.into_iter().zip(&mut shards) {
        for (index, range) in prepared.shards(split).into_iter().enumerate() {
            alive(cancelled)?;
            let (rows, prepared) = (range.len() as u64, Arc::clone(&prepared));
            let bytes = off_runtime(move || {
                let table = prepared.table(split, range)?;
                write_shard(&table).map_err(|e| WireError::new(Code::InternalError, e.to_string()))
            })
            .await?;
            let name = format!("{}-{index:05}.arrow", split.as_str());
            let artifact = artifacts.put_bytes(ARTIFACT_KIND, &name, bytes).await.map_err(|e| e.to_wire())?;
            shards.push(Shard { artifact, rows });
        }
    }
    alive(cancelled)?;
    let manifest = prepared.manifest(lineage, shards, pretrained);
    let bytes = manifest.to_json().into();
    let dataset = artifacts.put_bytes(ARTIFACT_KIND, ARTIFACT_NAME, bytes).await.map_err(|e| e.to_wire())?;
    Ok(TaskOutput::Prepared {
        dataset,
        rows_train: manifest.rows(Split::Train),
        rows_val: manifest.rows(Split::Val),
        rows_test: manifest.rows(Split::Test),
        warnings: manifest.warnings,
        reports,
    })
}

/// Runs blocking work on a thread for it. A panic there is a bug of ours, answered as one.
pub async fn off_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WireError> + Send + 'static,
) -> Result<T, WireError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        Err(WireError::new(Code::InternalError, format!("the data loader stopped unexpectedly: {e}")))
    })
}
