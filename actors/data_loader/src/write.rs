//! A prepared dataset version into the artifact store: the shards of each part, then the manifest. Content-
//! addressed, so a repeated attempt writes the same artifacts again; without its manifest a shard means nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bus::artifact::ArtifactStore;
use bytes::Bytes;
use frame::manifest::{self, ARTIFACT_KIND, ARTIFACT_NAME, Lineage, Pretrained, Shard};
use frame::{Manifest, write_shard_as};
use futures::{StreamExt, TryStreamExt, stream};
use messages::error::Code;
use messages::feed::Split;
use messages::work::TaskOutput;
use messages::{ArtifactRef, WireError};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::augment::gathered;
use crate::cache::{Step, Steps};
use crate::load::alive;
use crate::parallel;
use crate::prepare::Prepared;
use crate::quality::page::page;
use crate::quality::{Quality, report};

/// Of shards that came from the step cache, so many bytes are hashed before they are believed; of the rest, that they
/// are there with their size. Whoever reads a shard hashes it anyway.
const HASHED_BYTES: u64 = 64 << 20;

/// The outcome of the whole, as the step cache keeps it.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    dataset: ArtifactRef,
    rows: [u64; 3],
    warnings: Vec<String>,
    #[serde(default)]
    reports: BTreeMap<String, ArtifactRef>,
}

impl Kept {
    fn output(self, steps: &Steps) -> TaskOutput {
        let [rows_train, rows_val, rows_test] = self.rows;
        let Self { dataset, warnings, reports, .. } = self;
        let steps = steps.reports().to_vec();
        TaskOutput::Prepared { dataset, rows_train, rows_val, rows_test, warnings, reports, steps }
    }
}

/// Writes everything; the manifest comes last.
pub async fn write(
    prepared: Prepared,
    artifacts: &ArtifactStore,
    lineage: Lineage,
    cancelled: &CancellationToken,
) -> Result<TaskOutput, WireError> {
    write_by(prepared, artifacts, lineage, Steps::uncached(), cancelled).await
}

/// The dataset version of the same files and settings, if it was prepared before and is whole. Asked for first of all.
pub async fn find(artifacts: &ArtifactStore, steps: Steps) -> Result<(Steps, Option<TaskOutput>), WireError> {
    let (mut steps, found) = look_up::<Kept>(steps, Step::Prepare, Vec::new()).await?;
    let Some(found) = found else { return Ok((steps, None)) };
    let mut checked = check_dataset(artifacts, &found.dataset).await;
    for report in found.reports.values() {
        if checked.is_ok() && !artifacts.contains(report).await {
            checked = Err(format!("{} is no longer in the artifact store", report.uri));
        }
    }
    match checked {
        Ok(()) => {
            steps.accept(Step::Prepare);
            let output = found.output(&steps);
            Ok((steps, Some(output)))
        }
        Err(why) => {
            steps.refuse(Step::Prepare, why);
            Ok((steps, None))
        }
    }
}

/// Writes what is not there yet; the manifest comes last.
pub async fn write_by(
    mut prepared: Prepared,
    artifacts: &ArtifactStore,
    lineage: Lineage,
    steps: Steps,
    cancelled: &CancellationToken,
) -> Result<TaskOutput, WireError> {
    let mut pretrained = None;
    if let Some((path, config, weights)) = prepared.pretrained() {
        let weights = put(artifacts, &steps, "models", "pretrained.safetensors", weights.into()).await?;
        pretrained = Some(Pretrained { path, config, weights });
    }
    let prepared = Arc::new(prepared);
    let layout = vec![("the list of feature columns".to_owned(), prepared.shard_layout())];
    let (mut steps, found) = look_up::<[Vec<Shard>; 3]>(steps, Step::Shards, layout).await?;
    let mut kept = None;
    if let Some(shards) = found {
        match check_shards(artifacts, shards.iter().flatten()).await {
            Ok(()) => {
                steps.accept(Step::Shards);
                kept = Some(shards);
            }
            Err(why) => steps.refuse(Step::Shards, why),
        }
    }
    let shards = if let Some(shards) = kept {
        shards
    } else {
        let shards = write_shards(&prepared, artifacts, &steps, cancelled).await?;
        steps = keep(steps, Step::Shards, shards.clone()).await?;
        shards
    };
    alive(cancelled)?;
    let mut augmentation = None;
    if !prepared.gathered().is_empty() {
        let bytes = prepared.gathered().to_json().into();
        augmentation = Some(put(artifacts, &steps, ARTIFACT_KIND, gathered::ARTIFACT_NAME, bytes).await?);
    }
    let mut manifest = prepared.manifest(lineage, shards, pretrained, augmentation);
    let mut reports = prepared.reports().clone();
    if let Some(found) = prepared.quality() {
        manifest.quality =
            Some(write_quality(found, &manifest.dataset_version, artifacts, &steps, &mut reports).await?);
    }
    let dataset = put(artifacts, &steps, ARTIFACT_KIND, ARTIFACT_NAME, manifest.to_json().into()).await?;
    let (rows, warnings) = (Split::ALL.map(|split| manifest.rows(split)), manifest.warnings);
    let steps = keep(
        steps,
        Step::Prepare,
        Kept { dataset: dataset.clone(), rows, warnings: warnings.clone(), reports: reports.clone() },
    )
    .await?;
    Ok(Kept { dataset, rows, warnings, reports }.output(&steps))
}

/// The record of all corrections, then the report that names it, and the report as a page.
async fn write_quality(
    found: &Quality,
    dataset_version: &str,
    artifacts: &ArtifactStore,
    steps: &Steps,
    reports: &mut BTreeMap<String, ArtifactRef>,
) -> Result<manifest::Quality, WireError> {
    let mut whole = found.report.clone();
    if !found.corrections.is_empty() {
        let mut lines = Vec::new();
        for correction in &found.corrections {
            lines.extend(serde_json::to_vec(correction).expect("invariant: a correction serializes"));
            lines.push(b'\n');
        }
        let record = put(artifacts, steps, report::ARTIFACT_KIND, report::CORRECTIONS_NAME, lines.into()).await?;
        reports.insert("quality_corrections".to_owned(), record.clone());
        whole.corrections_record = Some(record);
    }
    let bytes = serde_json::to_vec_pretty(&whole).expect("invariant: a report serializes");
    let stored = put(artifacts, steps, report::ARTIFACT_KIND, report::ARTIFACT_NAME, bytes.into()).await?;
    reports.insert("quality_report".to_owned(), stored.clone());
    let html = page(&whole, dataset_version).html().into_bytes();
    let stored_page = put(artifacts, steps, report::ARTIFACT_KIND, report::PAGE_NAME, html.into()).await?;
    reports.insert("quality_page".to_owned(), stored_page);
    Ok(manifest::Quality {
        report: stored,
        corrected: whole.totals.corrections_applied,
        corrections: whole.corrections_record,
    })
}

async fn write_shards(
    prepared: &Arc<Prepared>,
    artifacts: &ArtifactStore,
    steps: &Steps,
    cancelled: &CancellationToken,
) -> Result<[Vec<Shard>; 3], WireError> {
    let pieces = Split::ALL.into_iter().flat_map(|split| {
        prepared.shards(split).into_iter().enumerate().map(move |(index, range)| (split, index, range))
    });
    let made = pieces.map(|(split, index, range)| async move {
        alive(cancelled)?;
        let (rows, prepared) = (range.len() as u64, Arc::clone(prepared));
        let bytes = off_runtime(move || {
            let _inside = prepared.enter();
            let table = prepared.table(split, range)?;
            write_shard_as(&table, prepared.stored_types())
                .map_err(|e| WireError::new(Code::InternalError, e.to_string()))
        })
        .await?;
        let name = format!("{}-{index:05}.arrow", split.as_str());
        let artifact = put(artifacts, steps, ARTIFACT_KIND, &name, bytes).await?;
        Ok::<_, WireError>((split, Shard { artifact, rows }))
    });
    // Each takes a thread; the results come in the order of the pieces.
    let made: Vec<(Split, Shard)> = stream::iter(made).buffered(parallel::threads()).try_collect().await?;
    let mut shards: [Vec<Shard>; 3] = Default::default();
    for (split, shard) in made {
        let at = Split::ALL.iter().position(|other| *other == split).unwrap_or_default();
        shards[at].push(shard);
    }
    Ok(shards)
}

/// Stores an artifact; over what is there, where that was found wanting or the job asked for it.
async fn put(
    artifacts: &ArtifactStore,
    steps: &Steps,
    kind: &str,
    name: &str,
    bytes: Bytes,
) -> Result<ArtifactRef, WireError> {
    let put = if steps.rewrites() {
        artifacts.put_anew(kind, name, bytes).await
    } else {
        artifacts.put_bytes(kind, name, bytes).await
    };
    put.map_err(|error| error.to_wire())
}

/// Why a dataset version cannot be used as it lies in the store.
async fn check_dataset(artifacts: &ArtifactStore, dataset: &ArtifactRef) -> Result<(), String> {
    let bytes = artifacts.get(dataset).await.map_err(|error| format!("the manifest of what was prepared: {error}"))?;
    let manifest = Manifest::from_json(&bytes).map_err(|error| error.to_string())?;
    if let Some(pretrained) = &manifest.pretrained
        && !artifacts.contains(&pretrained.weights).await
    {
        return Err(format!("{} is no longer in the artifact store", pretrained.weights.uri));
    }
    check_shards(artifacts, manifest.parts.iter().flat_map(|part| &part.shards)).await
}

async fn check_shards(artifacts: &ArtifactStore, shards: impl Iterator<Item = &Shard>) -> Result<(), String> {
    let mut hashed_bytes = 0;
    for Shard { artifact, .. } in shards {
        hashed_bytes += artifact.size_bytes;
        if hashed_bytes <= HASHED_BYTES {
            artifacts.get(artifact).await.map_err(|error| error.to_string())?;
        } else if !artifacts.contains(artifact).await {
            return Err(format!("{} is no longer in the artifact store", artifact.uri));
        }
    }
    Ok(())
}

async fn look_up<T: serde::de::DeserializeOwned + Send + 'static>(
    mut steps: Steps,
    step: Step,
    more: Vec<(String, String)>,
) -> Result<(Steps, Option<T>), WireError> {
    off_runtime(move || {
        let found = steps.find(step, &more);
        Ok((steps, found))
    })
    .await
}

async fn keep<T: Serialize + Send + 'static>(mut steps: Steps, step: Step, made: T) -> Result<Steps, WireError> {
    off_runtime(move || {
        steps.keep(step, &made);
        Ok(steps)
    })
    .await
}

/// Runs blocking work on a thread for it. A panic there is a bug of ours, answered as one.
pub async fn off_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WireError> + Send + 'static,
) -> Result<T, WireError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        Err(WireError::new(Code::InternalError, format!("the data loader stopped unexpectedly: {e}")))
    })
}
