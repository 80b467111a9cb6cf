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
    Reserve {
        job: JobId,
        task: TaskId,
        attempt: u32,
        slots: u32,
        expires_at: UnixMs,
        /// The first of the ranks that are to join a gang under way; none where the gang begins.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        joining: Option<u32>,
    },
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
        /// Only these ranks, which the gang goes on without; empty: all.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ranks: Vec<u32>,
    },
    /// The ranks of this attempt are to meet again: somebody joins or is gone.
    Regroup { job: JobId, task: TaskId, attempt: u32, when: RegroupWhen },
}

/// How soon ranks meet again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RegroupWhen {
    /// At the next step boundary: nothing is lost.
    NextStep,
    /// At once: a rank of the exchange under way is gone, and the step is done again.
    Now,
}

/// The worker's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum OfferAnswer {
    Accepted {
        slots: u32,
        fingerprint: String,
    },
    Started,
    Released,
    /// The ranks have been told.
    Regrouping,
    Declined {
        reason: String,
    },
}

impl Payload for Offer {
    fn type_name(&self) -> String {
        "within.gang.offer".into()
    }

    fn accepts(type_name: &str) -> bool {
        type_name == "within.gang.offer"
    }
}

/// A rank arrives, or comes back from a generation that is over. The answer comes when all have, or when
/// the join time-out has passed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Join {
    pub job: JobId,
    pub task: TaskId,
    pub attempt: u32,
    pub fence: Fence,
    /// The generation that the rank was started for.
    pub generation: u32,
    /// Its number in the attempt, which stays its own however often the gang regroups.
    pub rank: u32,
    pub worker: WorkerId,
    pub host: String,
    pub pid: u32,
    /// Where its collective listens; none where it cannot be part of a world above 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The generation that it comes back from; none on arrival.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<Left>,
}

/// Why a rank left a generation of its gang.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Left {
    pub generation: u32,
    /// Its completed optimizer steps.
    pub step: u64,
    /// The rank that it blames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspect: Option<u32>,
    /// What went wrong; none where the gang was only asked to regroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<WireError>,
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

/// The group, once complete. A rank's seat, which decides its logical shards, is its index in `peers`; the
/// first seat leads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Joined {
    pub generation: u32,
    pub world_size: u32,
    /// By rank.
    pub peers: Vec<Peer>,
    /// Of this generation; none from a coordinator of the version before: that of the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    /// What the members prove to each other that they know, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}
request!(Join, Coordinator, "join", "within.rdzv.join" -> Joined);
