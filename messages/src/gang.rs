//! The gang of a training task: slots are offered and reserved all or nothing, then the ranks meet
//! at the rendezvous. Subjects `offer.<worker>` and `rdzv.<job>.<verb>`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::UnixMs;
use crate::envelope::Payload;
use crate::error::WireError;
use crate::id::{Fence, JobId, TaskId, WorkerId};
use crate::job::Role;
use crate::rpc::{Request, request};
use crate::work::Work;

/// What the coordinator asks of one trainer worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "offer", rename_all = "snake_case")]
pub enum Offer {
    /// Hold so many slots for this attempt until the deadline.
    Reserve { job: JobId, task: TaskId, attempt: u32, slots: u32, expires_at: UnixMs },
    /// Start the ranks in the reserved slots.
    Start {
        work: Box<Work>,
        fence: Fence,
        generation: u32,
        /// Ranks of this worker, one process each.
        ranks: Vec<u32>,
        world_size: u32,
    },
    /// Give reserved or running slots of this attempt back, and stop what runs in them.
    Release {
        job: JobId,
        task: TaskId,
        attempt: u32,
        reason: String,
        /// The task is done: its ranks end by themselves, and need no signal.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        done: bool,
    },
}

/// The worker's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum OfferAnswer {
    Accepted { slots: u32, fingerprint: String },
    Started,
    Released,
    Declined { reason: String },
}

impl Payload for Offer {
    fn type_name(&self) -> String {
        "within.gang.offer".into()
    }

    fn accepts(type_name: &str) -> bool {
        type_name == "within.gang.offer"
    }
}

/// A rank arrives. The answer comes when all have, or when the join time-out has passed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Join {
    pub job: JobId,
    pub task: TaskId,
    pub attempt: u32,
    pub fence: Fence,
    pub generation: u32,
    pub rank: u32,
    pub worker: WorkerId,
    pub host: String,
    pub pid: u32,
    /// Where its collective listens; none at world size 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// One rank as the others see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Peer {
    pub rank: u32,
    pub worker: WorkerId,
    pub host: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// The group, once complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Joined {
    pub generation: u32,
    pub world_size: u32,
    pub peers: Vec<Peer>,
}
request!(Join, Coordinator, "join", "within.rdzv.join" -> Joined);

/// A rank names who it waited for in vain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Culprit {
    pub job: JobId,
    pub task: TaskId,
    pub attempt: u32,
    pub fence: Fence,
    pub reporter: u32,
    pub suspect: u32,
    pub error: WireError,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CulpritNoted {}
request!(Culprit, Coordinator, "culprit", "within.rdzv.culprit" -> CulpritNoted);
