//! A prepare task from its work message to its output.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bus::role::RoleEnv;
use frame::manifest::Lineage;
use messages::error::Code;
use messages::plan::{DataPlan, JobPlan};
use messages::work::{TaskOutput, Work, WorkInput};
use messages::{ArtifactRef, WireError};
use tokio_util::sync::CancellationToken;

use crate::mirror::Mirror;
use crate::prepare::prepare_without;
use crate::validate::{self, Dropped};
use crate::write::{off_runtime, write};

/// Kind under which reports are stored.
const REPORTS: &str = "reports";

/// Prepares the dataset version of a job. Ends soon after `cancelled`, and then leaves no manifest.
pub async fn run(env: &RoleEnv, work: &Work, cancelled: &CancellationToken) -> Result<TaskOutput, WireError> {
    // When this future is dropped, the blocking work must not go on for nobody.
    let token = cancelled.child_token();
    let _stop = token.clone().drop_guard();
    tokio::select! {
        biased;
        () = cancelled.cancelled() => Err(WireError::new(Code::Cancelled, "preparing the data was cancelled")),
        result = steps(env, work, &token) => result,
    }
}

async fn steps(env: &RoleEnv, work: &Work, cancelled: &CancellationToken) -> Result<TaskOutput, WireError> {
    if work.input != WorkInput::Prepare {
        return Err(WireError::new(Code::BadMessage, format!("a data_loader cannot do {}", work.input.name())));
    }
    let plan: JobPlan = env.artifacts.get_json(&work.plan).await.map_err(|e| e.to_wire())?;
    let lineage =
        Lineage { plan_blake3: plan.content_blake3(), code_version: env.identity.build.clone(), parents: Vec::new() };
    let mirror = Mirror::of(env, &plan.data).await?;
    let roots = mirror.roots(&env.data_roots);
    let (reports, dropped, told) = validated(env, &plan.data, &roots, cancelled).await?;
    let token = cancelled.clone();
    let mut prepared = off_runtime(move || prepare_without(&plan.data, plan.task, &roots, &dropped, &token)).await?;
    prepared.warn(told);
    for warning in prepared.warnings() {
        tracing::warn!(job = %work.job, "{warning}");
    }
    write(prepared, &env.artifacts, lineage, reports, cancelled).await
}

type Validated = (BTreeMap<String, ArtifactRef>, Dropped, Vec<String>);

/// Holds the data against the plan's schema, if it names one. The report is kept whatever it says; an error tells where.
async fn validated(
    env: &RoleEnv,
    data: &DataPlan,
    roots: &[PathBuf],
    cancelled: &CancellationToken,
) -> Result<Validated, WireError> {
    if data.validation.schema.is_none() {
        return Ok(Validated::default());
    }
    let (plan, roots, token, now) = (data.clone(), roots.to_vec(), cancelled.clone(), bus::now_ms());
    let checked = off_runtime(move || validate::of_plan(&plan, &roots, now, &token)).await?;
    let Some(checked) = checked else { return Ok(Validated::default()) };
    let mut reports = BTreeMap::new();
    let files = [
        ("validation_report", "validation_report.json", checked.report.to_json()),
        ("validation_page", "validation_report.html", checked.page.html().into_bytes()),
    ];
    for (name, file, bytes) in files {
        let stored = env.artifacts.put_bytes(REPORTS, file, bytes.into()).await.map_err(|e| e.to_wire())?;
        reports.insert(name.to_owned(), stored);
    }
    if let Some(quarantine) = &checked.quarantine {
        let stored = env.artifacts.put_file(REPORTS, "quarantined_rows.parquet", quarantine.path()).await;
        reports.insert("quarantined_rows".to_owned(), stored.map_err(|e| e.to_wire())?);
    }
    checked.report.verdict().map_err(|error| {
        let hint = error.hint.clone().unwrap_or_default();
        let place = reports.get("validation_page").map(|page| page.uri.as_str()).unwrap_or_default();
        error.with_hint(format!("{hint}; the whole report: {place}"))
    })?;
    Ok((reports, checked.dropped, checked.report.warnings()))
}
