//! A prepared dataset version into the artifact store: the shards of each part, then the manifest. Content-
//! addressed, so a repeated attempt writes the same artifacts again; without its manifest a shard means nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bus::artifact::ArtifactStore;
use frame::manifest::{self, ARTIFACT_KIND, ARTIFACT_NAME, Lineage, Pretrained, Shard};
use frame::write_shard_as;
use messages::WireError;
use messages::error::Code;
use messages::feed::Split;
use messages::work::TaskOutput;
use tokio_util::sync::CancellationToken;

use crate::augment::gathered;
use crate::load::alive;
use crate::prepare::Prepared;
use crate::quality::page::page;
use crate::quality::{Quality, report};

/// Writes everything; the manifest comes last.
pub async fn write(
    mut prepared: Prepared,
    artifacts: &ArtifactStore,
    lineage: Lineage,
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
                write_shard_as(&table, prepared.stored_types())
                    .map_err(|e| WireError::new(Code::InternalError, e.to_string()))
            })
            .await?;
            let name = format!("{}-{index:05}.arrow", split.as_str());
            let artifact = artifacts.put_bytes(ARTIFACT_KIND, &name, bytes).await.map_err(|e| e.to_wire())?;
            shards.push(Shard { artifact, rows });
        }
    }
    alive(cancelled)?;
    let mut augmentation = None;
    if !prepared.gathered().is_empty() {
        let bytes = prepared.gathered().to_json().into();
        let artifact = artifacts.put_bytes(ARTIFACT_KIND, gathered::ARTIFACT_NAME, bytes).await;
        augmentation = Some(artifact.map_err(|e| e.to_wire())?);
    }
    let mut manifest = prepared.manifest(lineage, shards, pretrained, augmentation);
    let mut reports = BTreeMap::new();
    if let Some(quality) = prepared.quality() {
        let written = write_quality(quality, artifacts).await?;
        let page = page(&quality.report, &manifest.dataset_version).html().into_bytes();
        let page = artifacts.put_bytes(report::ARTIFACT_KIND, report::PAGE_NAME, page.into()).await;
        reports.insert("quality_page".to_owned(), page.map_err(|e| e.to_wire())?);
        reports.insert("quality_report".to_owned(), written.report.clone());
        reports.extend(written.corrections.clone().map(|record| ("quality_corrections".to_owned(), record)));
        manifest.quality = Some(written);
    }
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

/// The record of all corrections, then the report that names it.
async fn write_quality(found: &Quality, artifacts: &ArtifactStore) -> Result<manifest::Quality, WireError> {
    let mut report = found.report.clone();
    if !found.corrections.is_empty() {
        let mut lines = Vec::new();
        for correction in &found.corrections {
            lines.extend(serde_json::to_vec(correction).expect("invariant: a correction serializes"));
            lines.push(b'\n');
        }
        let record = artifacts.put_bytes(report::ARTIFACT_KIND, report::CORRECTIONS_NAME, lines.into()).await;
        report.corrections_record = Some(record.map_err(|e| e.to_wire())?);
    }
    let bytes = serde_json::to_vec_pretty(&report).expect("invariant: a report serializes");
    let stored = artifacts.put_bytes(report::ARTIFACT_KIND, report::ARTIFACT_NAME, bytes.into()).await;
    Ok(manifest::Quality {
        report: stored.map_err(|e| e.to_wire())?,
        corrected: report.totals.corrections_applied,
        corrections: report.corrections_record,
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
