//! From a submission to a validated plan, with spec and plan stored as artifacts.

use bus::role::RoleEnv;
use bytes::Bytes;
use messages::error::Code;
use messages::plan::JobPlan;
use messages::rpc::{SpecDocument, Submit};
use messages::spec::{self, PlanDefaults, SpecError};
use messages::trace::TraceContext;
use messages::{Envelope, JobId, WireError};

use crate::state::Submission;

/// Why a submission was not accepted.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) error: WireError,
    pub(crate) errors: Vec<SpecError>,
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        Self { error, errors: Vec::new() }
    }
}

/// The job of a submitting event.
pub(crate) fn job_of(envelope: &Envelope<Submit>) -> JobId {
    JobId::of_event(&envelope.source, &envelope.id)
}

/// Validates the spec, all of it, and stores what the record refers to.
pub(crate) async fn accept(env: &RoleEnv, envelope: Envelope<Submit>) -> Result<Submission, Refusal> {
    let job = job_of(&envelope);
    let name_hint = job.to_string();
    let submit = envelope.data.clone();
    let planned = tokio::task::spawn_blocking(move || plan(&submit, &name_hint))
        .await
        .map_err(|error| WireError::new(Code::InternalError, format!("validation of the spec: {error}")))?;
    let plan = planned.map_err(|errors| Refusal { error: spec::to_wire(&errors), errors })?;
    let document = serde_json::to_vec(&envelope.data).map_err(internal)?;
    let content_blake3 = blake3_hex(&document);
    let (name, bytes) = match &envelope.data.spec {
        SpecDocument::Text { text, bases, .. } if bases.is_empty() => ("spec.yaml", Bytes::from(text.clone())),
        // With the texts of its base configurations, or as the object that it came as.
        SpecDocument::Text { .. } | SpecDocument::Object(_) => ("spec.json", Bytes::from(document)),
    };
    let plan_bytes = Bytes::from(serde_json::to_vec_pretty(&plan).map_err(internal)?);
    let stored = |error: bus::Error| Refusal::from(error.to_wire());
    let spec = env.artifacts.put_bytes("specs", name, bytes).await.map_err(stored)?;
    let plan_ref = env.artifacts.put_bytes("plans", "plan.json", plan_bytes).await.map_err(stored)?;
    let traceparent = envelope
        .traceparent
        .as_ref()
        .and_then(|parent| TraceContext::parse(&parent.0))
        .unwrap_or_else(|| TraceContext::of_job(job.as_str()))
        .child("job");
    Ok(Submission {
        source: envelope.source,
        event_id: envelope.id,
        content_blake3,
        name: plan.name,
        spec,
        plan: plan_ref,
        deadline_ms: plan.limits.deadline_s.saturating_mul(1_000),
        max_attempts: plan.limits.max_attempts,
        world_size: plan.resources.world_size,
        min_world_size: plan.resources.min_world_size,
        max_world_size: plan.resources.max_world_size,
        cuda: plan.resources.device.starts_with("cuda"),
        warnings: plan.warnings,
        traceparent: Some(traceparent.to_parent()),
        job,
    })
}

fn plan(submit: &Submit, name_hint: &str) -> Result<JobPlan, Vec<SpecError>> {
    let tree = spec::parse_document(&submit.spec)?;
    // A spec that came as a file is named after it, as where it was submitted.
    let from_file = matches!(&submit.spec, SpecDocument::Text { file: Some(_), .. });
    let name = (!from_file).then_some(name_hint);
    spec::plan(&tree, &submit.set, &PlanDefaults { name })
}

fn internal(error: serde_json::Error) -> Refusal {
    WireError::new(Code::InternalError, format!("the submission does not serialize: {error}")).into()
}

fn blake3_hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}
