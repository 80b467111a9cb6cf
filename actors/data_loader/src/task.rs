//! A prepare task from its work message to its output.

use bus::role::RoleEnv;
use frame::manifest::Lineage;
use messages::WireError;
use messages::error::Code;
use messages::plan::JobPlan;
use messages::work::{TaskOutput, Work, WorkInput};
use tokio_util::sync::CancellationToken;

use crate::mirror::Mirror;
use crate::prepare::prepare;
use crate::write::{off_runtime, write};

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
    let (roots, token) = (mirror.roots(&env.data_roots), cancelled.clone());
    let prepared = off_runtime(move || prepare(&plan.data, plan.task, &roots, &token)).await?;
    for warning in prepared.warnings() {
        tracing::warn!(job = %work.job, "{warning}");
    }
    write(prepared, &env.artifacts, lineage, cancelled).await
}
