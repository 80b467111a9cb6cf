//! A prepare task from its work message to its output.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bus::queue::Leased;
use bus::role::RoleEnv;
use bus::{Once, now_ms};
use frame::manifest::Lineage;
use messages::error::Code;
use messages::event::Event;
use messages::plan::{JobPlan, TextMethod};
use messages::step::StepReport;
use messages::work::{TaskOutput, WorkInput};
use messages::{ArtifactRef, WireError};
use scratch::Scope;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::augment::translate::back_translations;
use crate::cache::settings::settings_blake3;
use crate::cache::{Step, StepCache, Steps};
use crate::memory;
use crate::mirror::Mirror;
use crate::prepare::prepare_without;
use crate::validate::{self, Dropped};
use crate::write::{find, off_runtime, write_by};

/// Kind under which reports are stored.
const REPORTS: &str = "reports";
/// Steps that may wait to be told: more than a task has.
const TOLD: usize = 4 * Step::ALL.len();

/// Prepares the dataset version of a job. Ends soon after it is cancelled, and then leaves no manifest.
pub async fn run(env: &RoleEnv, cache: &Arc<StepCache>, leased: &Leased) -> Result<TaskOutput, WireError> {
    // When this future is dropped, the blocking work must not go on for nobody.
    let token = leased.cancelled.child_token();
    let _stop = token.clone().drop_guard();
    let (tell, told) = mpsc::channel(TOLD);
    let telling = tell_all(env, leased, told);
    let work = async {
        let result = prepared(env, cache, leased, &tell, &token).await;
        drop(tell);
        result
    };
    tokio::select! {
        biased;
        () = leased.cancelled.cancelled() => Err(WireError::new(Code::Cancelled, "preparing the data was cancelled")),
        (result, ()) = async { tokio::join!(work, telling) } => result,
    }
}

async fn prepared(
    env: &RoleEnv,
    cache: &Arc<StepCache>,
    leased: &Leased,
    tell: &mpsc::Sender<StepReport>,
    cancelled: &CancellationToken,
) -> Result<TaskOutput, WireError> {
    let work = &leased.work;
    if work.input != WorkInput::Prepare {
        return Err(WireError::new(Code::BadMessage, format!("a data_loader cannot do {}", work.input.name())));
    }
    let plan: JobPlan = env.artifacts.get_json(&work.plan).await.map_err(|e| e.to_wire())?;
    let plan = Arc::new(plan);
    match once(env, cache, &plan, tell, cancelled).await {
        // A remembered hash was of an older content; now it is forgotten.
        Err(Failed { changed: true, .. }) => {}
        Err(failed) => return Err(failed.error),
        Ok(output) => return Ok(output),
    }
    once(env, cache, &plan, tell, cancelled).await.map_err(|failed| failed.error)
}

struct Failed {
    error: WireError,
    /// Because a file was not what its remembered hash says.
    changed: bool,
}

impl From<WireError> for Failed {
    fn from(error: WireError) -> Self {
        Self { error, changed: false }
    }
}

async fn once(
    env: &RoleEnv,
    cache: &Arc<StepCache>,
    plan: &Arc<JobPlan>,
    tell: &mpsc::Sender<StepReport>,
    cancelled: &CancellationToken,
) -> Result<TaskOutput, Failed> {
    // What lies elsewhere is fetched first: its content is what counts.
    let mirror = Mirror::of(env, plan, cancelled).await?;
    let roots = Arc::new(mirror.roots(&env.data_roots));
    let (found_in, token) = (Arc::clone(&roots), cancelled.clone());
    let (cache, of, tell) = (Arc::clone(cache), Arc::clone(plan), tell.clone());
    let steps = off_runtime(move || {
        let mut steps = Steps::of(cache, &of.data, of.task, &found_in, &token)?;
        steps.tell(tell);
        Ok(steps)
    })
    .await?;
    let (mut steps, found) = find(&env.artifacts, steps).await?;
    if let Some(output) = found {
        return Ok(output);
    }
    let scope = memory::scope(&env.home);
    let (reports, dropped, mut told) = validated(env, plan, &roots, &scope, cancelled).await?;
    let (token, of, inside) = (cancelled.clone(), Arc::clone(plan), scope.clone());
    let (prepared, steps) = off_runtime(move || {
        let _inside = inside.enter();
        let prepared = prepare_without(&of.data, of.task, &roots, &dropped, &mut steps, &token);
        Ok((prepared, steps))
    })
    .await?;
    let mut prepared = prepared.map_err(|error| Failed { error, changed: steps.changed() })?;
    told.extend(memory::without_files(&scope));
    prepared.tell(told, reports);
    let augmentation = plan.data.augmentation.as_ref();
    if let Some(augmentation) = augmentation.filter(|plan| plan.uses_text(TextMethod::BackTranslation)) {
        let texts = prepared.train_texts().into_iter().map(str::to_owned).collect();
        prepared.set_translations(back_translations(&env.bus, texts, &augmentation.text.languages).await?);
    }
    for warning in prepared.warnings() {
        tracing::warn!(job = plan.name, "{warning}");
    }
    let lineage = Lineage {
        settings_blake3: settings_blake3(&plan.data, plan.task),
        code_version: env.identity.build.clone(),
        parents: Vec::new(),
    };
    Ok(write_by(prepared, &env.artifacts, lineage, steps, cancelled).await?)
}

type Validated = (BTreeMap<String, ArtifactRef>, Dropped, Vec<String>);

/// Holds the data against the plan's schema, if it names one. The report is kept whatever it says; an error tells where.
async fn validated(
    env: &RoleEnv,
    plan: &Arc<JobPlan>,
    roots: &Arc<Vec<PathBuf>>,
    scope: &Scope,
    cancelled: &CancellationToken,
) -> Result<Validated, WireError> {
    if plan.data.validation.schema.is_none() {
        return Ok(Validated::default());
    }
    let (of, roots, token, now) = (Arc::clone(plan), Arc::clone(roots), cancelled.clone(), now_ms());
    let scope = scope.clone();
    let checked = off_runtime(move || {
        let _inside = scope.enter();
        validate::of_plan(&of.data, &roots, now, &token)
    })
    .await?;
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

/// Publishes what became of each step. A notice that cannot be stored in the time of a request is lost; the record of
/// the task has it too.
async fn tell_all(env: &RoleEnv, leased: &Leased, mut told: mpsc::Receiver<StepReport>) {
    let work = &leased.work;
    let limit = Duration::from_millis(env.bus.timings().request_timeout_ms);
    let mut silent = false;
    while let Some(report) = told.recv().await {
        if silent {
            continue;
        }
        let id = format!("{}.{}.{}.step.{}", work.job, work.task, work.attempt, report.step);
        let event = Event::Step { task: work.task.clone(), attempt: work.attempt, report };
        let fence = Some((leased.fence, work.attempt));
        let stored = env.bus.publish_event(&work.job, &id, event, fence, leased.trace.clone(), now_ms(), Once::ById);
        let failed = match tokio::time::timeout(limit, stored).await {
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no acknowledgement in time".to_owned(),
        };
        // One time-out is enough: the task does not wait for more.
        silent = true;
        tracing::warn!(job = %work.job, error = failed, "the steps of preparing the data cannot be told");
    }
}
