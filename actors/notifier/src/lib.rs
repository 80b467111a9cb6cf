//! The notifier: tells the outside how a job ended, by the webhooks that its plan names.
//!
//! - **Subscribes**: the terminal events of jobs (`completed`, `failed`, `cancelled`) by a durable consumer,
//!   shared by all notifiers of a tenant. Asks `svc.coordinator.get` for the job's plan.
//! - **Publishes**: HTTP posts to allowed hosts; what could not be delivered to the dead letters; heartbeats.
//!   The completion event itself leaves through the coordinator's outbox and needs no notifier.
//! - **Owns**: nothing durable: the event's acknowledgement is the only mark, given after its last webhook.
//! - **Invariants**: a webhook is posted at least once, each time with the event's id as `Idempotency-Key`;
//!   once a post is answered, only a crash of the notifier before the acknowledgement can repeat it.
//! - **A crash loses** nothing: the event is delivered again, to another notifier or to the next start.

mod actor;
mod notice;
mod post;
mod state;
mod target;
mod worker;

use bus::role::RoleEnv;
use messages::WireError;
use ractor::ActorCell;
use serde::Deserialize;

pub use notice::notice;
pub use state::Policy;
pub use target::{AllowedHosts, redacted};

/// What an operator sets; the hosts are `webhook_hosts` in `within.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Hosts that a job's webhooks may name: exact names, or `*.example.com` for what is below.
    pub allowed_hosts: Vec<String>,
    /// One post, until its answer, in milliseconds.
    pub timeout_ms: u64,
    /// Times that a webhook is tried before its notice goes to the dead letters.
    pub attempts: u32,
    /// Pause before the second try, in milliseconds; doubles with each.
    pub first_pause_ms: u64,
    /// Events in delivery at once.
    pub slots: u32,
    /// `project_name` of the notices.
    pub project_name: String,
    /// `dashboard_url` of the notices.
    pub dashboard_url: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allowed_hosts: vec!["127.0.0.1".into(), "localhost".into()],
            timeout_ms: 5_000,
            attempts: 5,
            first_pause_ms: 500,
            slots: 8,
            project_name: "within".into(),
            dashboard_url: None,
        }
    }
}

/// Starts the role under `supervisor`.
///
/// # Errors
/// Not to be retried: an allowed host that is none.
pub async fn start(env: RoleEnv, config: Config, supervisor: ActorCell) -> Result<ActorCell, WireError> {
    let allowed = AllowedHosts::new(&config.allowed_hosts)?;
    let poster = post::Poster::new(config.timeout_ms)?;
    actor::spawn(env, config, allowed, poster, supervisor).await
}
