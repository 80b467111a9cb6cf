//! Takes `Evaluate` tasks from the queue and works on several at once; computing runs off the async runtime.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::heartbeat::{self, Pulse};
use bus::now_ms;
use bus::queue::{self, Leased};
use bus::role::RoleEnv;
use bytes::Bytes;
use frame::Manifest;
use messages::envelope::rfc3339;
use messages::error::Code;
use messages::event::ModelRef;
use messages::feed::Split;
use messages::job::Role;
use messages::plan::JobPlan;
use messages::work::{TaskOutput, WorkInput};
use messages::{ArtifactRef, WireError};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::Config;
use crate::evaluation::Evaluation;
use crate::predict::{Predictions, Predictor};
use crate::report::{ARTIFACT_KIND, Generated};

/// The role's task.
pub struct Evaluator {
    pub env: RoleEnv,
    pub config: Config,
    /// The process drains, or the actor is gone.
    pub stop: CancellationToken,
}

impl Evaluator {
    /// Evaluates until told to stop; what is in hand then is finished.
    pub async fn run(self) -> Result<(), WireError> {
        if !self.bound().await {
            return Ok(());
        }
        let slots = self.config.slots.max(1);
        let threads = match self.config.threads {
            0 => (kernels::pool::available_threads() / slots as usize).max(1),
            threads => threads as usize,
        };
        let (deliver, mut tasks) = mpsc::channel::<Leased>(slots as usize);
        let queue = queue::start(&self.env, Role::Evaluator, slots, deliver).await.map_err(|e| e.to_wire())?;
        let counted = queue.clone();
        let pulse = move || Pulse { slots, slots_free: counted.slots_free(), held: counted.held() };
        let (heart, beat) = heartbeat::spawn(&self.env, Role::Evaluator, pulse);
        let _heart = AbortOnDropHandle::new(heart);
        let mut working = JoinSet::new();
        let mut draining: Option<AbortOnDropHandle<()>> = None;
        loop {
            tokio::select! {
                Some(task) = tasks.recv() => {
                    let env = self.env.clone();
                    working.spawn(async move { work(&env, task, threads).await });
                    beat.now();
                }
                Some(ended) = working.join_next() => {
                    if let Err(error) = ended {
                        // The lease was given back as the task was dropped.
                        tracing::error!(%error, "an evaluation ended by a bug");
                    }
                    beat.now();
                }
                () = self.stop.cancelled(), if draining.is_none() => {
                    let queue = queue.clone();
                    draining = Some(AbortOnDropHandle::new(tokio::spawn(async move { queue.drain().await })));
                }
                () = done(draining.as_mut()) => break,
            }
        }
        while working.join_next().await.is_some() {}
        beat.now();
        Ok(())
    }

    /// Waits until a coordinator has made the streams; false when told to stop before.
    async fn bound(&self) -> bool {
        let limit = Duration::from_millis(self.env.bus.timings().request_timeout_ms);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return false,
                bound = self.env.bus.bind(limit) => match bound {
                    Ok(()) => return true,
                    Err(error) => tracing::warn!(%error, "the evaluator waits for the streams"),
                },
            }
        }
    }
}

/// Ends when the queue is drained; never while it is not draining.
async fn done(draining: Option<&mut AbortOnDropHandle<()>>) {
    match draining {
        Some(draining) => {
            // A panic while draining ends it too.
            let _ = draining.await;
        }
        None => std::future::pending().await,
    }
}

async fn work(env: &RoleEnv, task: Leased, threads: usize) {
    let stop = task.cancelled.clone();
    let result = tokio::select! {
        result = evaluate(env, &task, threads) => result,
        () = stop.cancelled() => Err(WireError::new(Code::Cancelled, format!("evaluating job {} was stopped", task.work.job))),
    };
    let outcome = if result.is_ok() { "done" } else { "failed" };
    metrics::counter!("within_evaluator_tasks_total", "result" => outcome).increment(1);
    if let Err(error) = &result {
        tracing::warn!(job = %task.work.job, %error, "an evaluation failed");
    }
    task.finish(result).await;
}

async fn evaluate(env: &RoleEnv, task: &Leased, threads: usize) -> Result<TaskOutput, WireError> {
    let work = &task.work;
    let WorkInput::Evaluate { dataset, model } = &work.input else {
        let message = format!(
            "task {} of job {}: an evaluator evaluates, it does not {}",
            work.task,
            work.job,
            work.input.name()
        );
        return Err(WireError::new(Code::BadMessage, message));
    };
    let started = Instant::now();
    let material = Material::load(env, &work.plan, dataset, model).await?;
    let load_s = started.elapsed().as_secs_f64();

    let started = Instant::now();
    let Material { plan, manifest, model_file } = material;
    let (plan, opened) = {
        let (announced, manifest, plan) = (model.clone(), Arc::clone(&manifest), Arc::clone(&plan));
        compute(move || {
            let opened = Predictor::open(&model_file, &announced, &manifest, &plan, threads);
            (plan, opened)
        })
        .await?
    };
    let predictor = opened?;
    let parameters = predictor.model().parameter_count();
    let (predictor, val) = predict_part(env, predictor, &manifest, Split::Val, &task.cancelled).await?;
    let (_, test) = predict_part(env, predictor, &manifest, Split::Test, &task.cancelled).await?;
    let predict_s = started.elapsed().as_secs_f64();

    let started = Instant::now();
    let rows = (val.rows() + test.rows()) as f64;
    let (job, dataset, model) = (work.job.clone(), dataset.clone(), model.clone());
    let report = compute(move || {
        let evaluation = Evaluation {
            job: &job,
            plan: &plan,
            dataset: &dataset,
            manifest: &manifest,
            model: &model,
            parameters,
            val: &val,
            test: &test,
        };
        evaluation.report()
    });
    let mut report = report.await??;
    let at = now_ms();
    report.generated = Generated {
        generated_at: rfc3339(at),
        build: env.identity.build.clone(),
        load_s,
        predict_s,
        metrics_s: started.elapsed().as_secs_f64(),
        rows_per_s: (predict_s > 0.0).then(|| rows / predict_s),
    };
    let (name, bytes) = (report.file_name(at), Bytes::from(report.to_json()));
    let stored = env.artifacts.put_bytes(ARTIFACT_KIND, &name, bytes).await.map_err(|error| error.to_wire())?;
    Ok(TaskOutput::Evaluated { metrics: report.metrics, report: stored })
}

/// What an evaluation reads before it computes.
struct Material {
    plan: Arc<JobPlan>,
    manifest: Arc<Manifest>,
    model_file: Bytes,
}

impl Material {
    async fn load(
        env: &RoleEnv,
        plan: &ArtifactRef,
        dataset: &ArtifactRef,
        model: &ModelRef,
    ) -> Result<Self, WireError> {
        let plan: JobPlan = env.artifacts.get_json(plan).await.map_err(|error| error.to_wire())?;
        let bytes = env.artifacts.get(dataset).await.map_err(|error| error.to_wire())?;
        let manifest = Manifest::from_json(&bytes)
            .map_err(|error| WireError::new(Code::DatasetValidationError, format!("{}: {error}", dataset.uri)))?;
        let file =
            ArtifactRef { uri: model.uri.clone(), blake3: model.file_blake3.clone(), size_bytes: model.size_bytes };
        let model_file = env.artifacts.get(&file).await.map_err(|error| model_error(&file, &error))?;
        Ok(Self { plan: Arc::new(plan), manifest: Arc::new(manifest), model_file })
    }
}

/// A model file whose bytes are not those announced is an invalid model; other trouble is the store's.
fn model_error(file: &ArtifactRef, error: &bus::Error) -> WireError {
    match error.kind() {
        bus::ErrorKind::Integrity => WireError::new(Code::ModelInvalid, format!("model {}: {error}", file.uri))
            .with_hint("the file was changed or damaged after training: train again, or restore it"),
        _ => error.to_wire(),
    }
}

/// Predicts all rows of a part; a shard at a time is in memory.
async fn predict_part(
    env: &RoleEnv,
    mut predictor: Predictor,
    manifest: &Manifest,
    split: Split,
    stop: &CancellationToken,
) -> Result<(Predictor, Predictions), WireError> {
    let mut part = Predictions::new(manifest.outputs());
    for shard in manifest.part(split).into_iter().flat_map(|part| &part.shards) {
        let bytes = env.artifacts.get(&shard.artifact).await.map_err(|error| error.to_wire())?;
        let stop = stop.clone();
        let done = compute(move || {
            let done = predictor.shard(&bytes, &mut part, &stop);
            (predictor, part, done)
        });
        let result;
        (predictor, part, result) = done.await?;
        result?;
    }
    Ok((predictor, part))
}

/// Runs blocking work; a panic in it is an error of the task, not of the process.
async fn compute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, WireError> {
    spawn_blocking(work)
        .await
        .map_err(|error| WireError::new(Code::InternalError, format!("the evaluation ended by a bug: {error}")))
}
