//! The material of a record task: job record and plan, fetched beside the writer, which does not wait for them.

use std::time::Duration;

use bus::queue::Leased;
use bus::role::RoleEnv;
use messages::WireError;
use messages::error::Code;
use messages::plan::JobPlan;
use messages::rpc::GetJob;
use messages::work::WorkInput;

use crate::record::Recording;
use crate::row::RowSet;

/// A record task whose rows are ready, or cannot be had.
pub struct Prepared {
    pub leased: Leased,
    pub rows: Result<RowSet, WireError>,
}

pub async fn prepare(env: &RoleEnv, leased: Leased) -> Prepared {
    let rows = rows_of(env, &leased).await;
    Prepared { leased, rows }
}

async fn rows_of(env: &RoleEnv, leased: &Leased) -> Result<RowSet, WireError> {
    let work = &leased.work;
    let WorkInput::Record { dataset, model, metrics, report } = &work.input else {
        let message =
            format!("task {} of job {}: a tracker records, it does not {}", work.task, work.job, work.input.name());
        return Err(WireError::new(Code::BadMessage, message));
    };
    let limit = Duration::from_millis(env.bus.timings().request_timeout_ms);
    let record = env.bus.request(GetJob { job: work.job.clone() }, Some(&work.job), limit * 2).await?;
    let plan: JobPlan = tokio::time::timeout(limit, env.artifacts.get_json(&work.plan))
        .await
        .map_err(|_| {
            WireError::new(
                Code::ArtifactStoreUnavailable,
                format!("reading {} took longer than {limit:?}", work.plan.uri),
            )
        })?
        .map_err(|error| error.to_wire())?;
    let recording = Recording {
        task: &work.task,
        fence: leased.fence,
        record: &record,
        plan: &plan,
        dataset,
        model,
        metrics,
        report,
    };
    Ok(recording.rows())
}
