//! Every message in one list: its CloudEvents `type`, its schema, where it travels and who answers.

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::event::{Event, LogLine};
use crate::feed::{FeedControl, OpenFeed};
use crate::gang::{Join, Offer, OfferAnswer};
use crate::job::Role;
use crate::rpc::{self, Request};
use crate::translate::{Translate, Translated};
use crate::work::Work;
use crate::worker::{Control, Heartbeat};

/// A way that messages travel: one subject template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Channel {
    JobSubmit,
    JobCancel,
    /// `svc.<role>.<verb>`.
    Service(Role, &'static str),
    /// `svc.data_loader.<worker>.feed_control`: one worker's instance.
    FeedControl,
    /// `svc.translator.translate`.
    Translator,
    Work,
    Offer,
    Rendezvous(&'static str),
    Event,
    Log,
    Control,
    Heartbeat,
}

/// One message.
pub(super) struct Message {
    /// CloudEvents `type`.
    pub type_name: String,
    pub summary: &'static str,
    pub channel: Channel,
    /// Adds the payload's definition and returns a reference to it.
    pub define: fn(&mut SchemaGenerator) -> Schema,
    /// The same of what a good answer holds, where there is one.
    pub answer: Option<fn(&mut SchemaGenerator) -> Schema>,
}

fn define<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

fn plain<T: JsonSchema>(type_name: impl Into<String>, channel: Channel, summary: &'static str) -> Message {
    Message { type_name: type_name.into(), summary, channel, define: define::<T>, answer: None }
}

/// A request on `svc.<role>.<verb>`; `type_name` is checked against the type by a test.
fn request<R: Request + JsonSchema>(type_name: &str, summary: &'static str) -> Message
where
    R::Answer: JsonSchema,
{
    let mut message = plain::<R>(type_name, Channel::Service(R::ROLE, R::VERB), summary);
    message.answer = Some(define::<R::Answer>);
    message
}

/// A request of a rank on `rdzv.<job>.<verb>`.
fn rendezvous<R: Request + JsonSchema>(type_name: &str, summary: &'static str) -> Message
where
    R::Answer: JsonSchema,
{
    Message { channel: Channel::Rendezvous(R::VERB), ..request::<R>(type_name, summary) }
}

/// Every message of this version.
pub(super) fn messages() -> Vec<Message> {
    let mut all = vec![
        plain::<rpc::Submit>(
            "within.job.submit",
            Channel::JobSubmit,
            "A job event in. The publisher gets JetStream's acknowledgement; the outcome is an event: accepted or rejected.",
        ),
        plain::<rpc::Cancel>("within.job.cancel", Channel::JobCancel, "Cancels a job in any state."),
        request::<rpc::Submit>("within.job.submit", "Submits a job; validates and answers at once."),
        request::<rpc::Cancel>("within.job.cancel", "Cancels a job; answers with its state."),
        request::<rpc::GetJob>("within.job.get", "The record of a job."),
        request::<rpc::ListJobs>("within.job.list", "Jobs, newest first."),
        request::<rpc::Claim>("within.task.claim", "A worker asks for the lease of a task."),
        request::<rpc::Report>("within.task.report", "The holder of a lease reports."),
        request::<rpc::ListRuns>("within.run.list", "Runs of the tracker, newest first."),
        request::<rpc::GetRun>("within.run.get", "One run with params, tags, metrics and artifacts."),
        request::<OpenFeed>("within.feed.open", "A rank opens a feed of batches at a position."),
        rendezvous::<Join>("within.rdzv.join", "A rank joins its gang; answered once all have."),
        Message {
            answer: Some(define::<OfferAnswer>),
            ..plain::<Offer>(
                "within.gang.offer",
                Channel::Offer,
                "Slots of a trainer worker are reserved, used or given back.",
            )
        },
        Message {
            answer: Some(define::<Translated>),
            ..plain::<Translate>("within.translate", Channel::Translator, "Texts in another language.")
        },
        plain::<FeedControl>("within.feed.control", Channel::FeedControl, "More credits for a feed, or its end."),
        plain::<LogLine>("within.log.line", Channel::Log, "A line of a rank's or task's log."),
        plain::<Heartbeat>(
            "within.worker.heartbeat",
            Channel::Heartbeat,
            "A role of a worker lives: slots, leases, build, kernel fingerprint.",
        ),
    ];
    for name in ["prepare", "train", "evaluate", "record"] {
        all.push(plain::<Work>(format!("within.work.{name}"), Channel::Work, "One attempt at one task."));
    }
    for verb in ["stop_task", "drain", "log_level"] {
        all.push(plain::<Control>(format!("within.worker.{verb}"), Channel::Control, "What a worker is told."));
    }
    for name in Event::NAMES {
        all.push(plain::<Event>(format!("within.job.{name}"), Channel::Event, event_summary(name)));
    }
    all
}

fn event_summary(name: &str) -> &'static str {
    match name {
        "accepted" => "The job will end with exactly one terminal event.",
        "rejected" => "The submission was wrong: every mistake is listed. Terminal.",
        "task_started" => "A worker began an attempt at a task.",
        "task_done" => "A task is done.",
        "step" => "A step of a task was computed, or taken from the step cache, and why.",
        "task_retried" => "A task failed or was lost, and is tried again.",
        "progress" => "Training goes on: epoch, step, loss, rate, time left.",
        "metric" => "Metrics at a step.",
        "checkpoint" => "A checkpoint lies in place.",
        "checkpoint_refused" => "A checkpoint is damaged or does not fit; the one before is used.",
        "hook" => "A hook of training.",
        "worker_lost" => "A worker died or cannot be reached.",
        "waiting" => "The job waits, and for what.",
        "completed" => "The job succeeded: metrics, model, report. Terminal.",
        "failed" => "The job failed: class, code, message, hint. Terminal.",
        "cancelled" => "The job was cancelled. Terminal.",
        _ => "An event.",
    }
}
