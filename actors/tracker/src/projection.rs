//! Reading the event stream in order and turning it into rows, ahead of the writer by a bounded number of events.

use std::time::Duration;

use bus::role::RoleEnv;
use messages::event::{Accepted, Event};
use messages::plan::JobPlan;
use tokio::sync::mpsc;

use crate::params::unmatched_patterns;
use crate::row::RowSet;
use crate::state::project;

/// Events read but not yet written.
pub const AHEAD: usize = 2_048;
/// How long one look for the next event takes at most.
const LOOK: Duration = Duration::from_secs(1);

/// An event of the stream as rows; without rows it only moves the position.
#[derive(Debug)]
pub struct Projected {
    pub sequence: u64,
    pub rows: Option<RowSet>,
}

/// Reads from `sequence` on until nobody listens.
pub async fn read(env: RoleEnv, sequence: u64, out: mpsc::Sender<Projected>) -> Result<(), bus::Error> {
    let mut events = env.bus.events(None, bus::From::Sequence(sequence)).await?;
    while !out.is_closed() {
        let Some(stored) = events.next(LOOK).await? else { continue };
        let plan = match &stored.envelope.data {
            Event::Accepted(accepted) => plan_of(&env, accepted).await,
            _ => None,
        };
        let rows = project(&stored.envelope, stored.stored_at, plan.as_ref());
        if out.send(Projected { sequence: stored.sequence, rows }).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The plan of an accepted job. Without it the run has no parameters until its record task; that is
/// better than a projection that waits for an artifact that may never come back.
async fn plan_of(env: &RoleEnv, accepted: &Accepted) -> Option<JobPlan> {
    let limit = Duration::from_millis(env.bus.timings().request_timeout_ms);
    let plan = match tokio::time::timeout(limit, env.artifacts.get_json::<JobPlan>(&accepted.plan)).await {
        Ok(Ok(plan)) => plan,
        Ok(Err(error)) => {
            tracing::warn!(job = accepted.name, %error, "the plan of an accepted job cannot be read: its run begins without parameters");
            return None;
        }
        Err(_) => {
            tracing::warn!(
                job = accepted.name,
                "reading the plan of an accepted job took too long: its run begins without parameters"
            );
            return None;
        }
    };
    for pattern in unmatched_patterns(&plan) {
        tracing::warn!(job = accepted.name, pattern, "tracking.parameters: the pattern names nothing of the plan");
    }
    Some(plan)
}
