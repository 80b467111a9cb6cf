//! Every subject, stream, consumer, bucket and key name. Nothing else in the workspace builds one.

use crate::id::{JobId, TaskId, Tenant, WorkerId};
use crate::job::Role;

/// The work queue: submissions, cancellations and tasks of queue roles.
pub const STREAM_WORK: &str = "WITHIN_WORK";
/// What happened to jobs.
pub const STREAM_EVT: &str = "WITHIN_EVT";
/// Log lines of ranks and tasks.
pub const STREAM_LOG: &str = "WITHIN_LOG";
/// What could not be processed.
pub const STREAM_DLQ: &str = "WITHIN_DLQ";
/// The truth about jobs: every transition a compare-and-set.
pub const BUCKET_JOB: &str = "WITHIN_JOB";
/// Leases of leaders and single writers.
pub const BUCKET_LEASE: &str = "WITHIN_LEASE";
/// State of rendezvous.
pub const BUCKET_RDZV: &str = "WITHIN_RDZV";

/// Durable consumer of submissions and cancellations.
pub const CONSUMER_SUBMIT: &str = "coordinator_submit";
/// Durable consumer of the notifier.
pub const CONSUMER_NOTIFIER: &str = "notifier_notices";

/// The server itself answers here, whoever else listens: what was sent before has been processed then.
pub const SERVER_USER_INFO: &str = "$SYS.REQ.USER.INFO";

/// Header of the deduplication window; the event's id.
pub const HEADER_MSG_ID: &str = "Nats-Msg-Id";
/// Header of the trace; look-up is case-sensitive.
pub const HEADER_TRACEPARENT: &str = "traceparent";
/// Header that tells JSON from MessagePack.
pub const HEADER_CONTENT_TYPE: &str = "Content-Type";
/// Header of a feed frame: its [`crate::feed::FrameHeader`] as JSON.
pub const HEADER_FRAME: &str = "Within-Frame";

/// Header of a dead letter: why it could not be processed.
pub const HEADER_DLQ_REASON: &str = "Within-Reason";
/// Header of a dead letter: the subject that it came on.
pub const HEADER_DLQ_SUBJECT: &str = "Within-Subject";
/// Header of a dead letter: how many bytes the original had; more than are kept if it was cut.
pub const HEADER_DLQ_BYTES: &str = "Within-Original-Bytes";

/// The subjects of one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subjects {
    root: String,
}

impl Subjects {
    pub fn new(tenant: &Tenant) -> Self {
        Self { root: format!("within.v1.{tenant}") }
    }

    /// Prefix of every subject of the tenant, without the last dot.
    pub fn root(&self) -> &str {
        &self.root
    }

    pub fn job_submit(&self) -> String {
        format!("{}.job.submit", self.root)
    }

    pub fn job_cancel(&self) -> String {
        format!("{}.job.cancel", self.root)
    }

    /// `job.*`: what the coordinator's submission consumer filters.
    pub fn job_all(&self) -> String {
        format!("{}.job.*", self.root)
    }

    pub fn svc(&self, role: Role, verb: &str) -> String {
        format!("{}.svc.{role}.{verb}", self.root)
    }

    /// Requests for translations.
    pub fn translate(&self) -> String {
        format!("{}.svc.translator.translate", self.root)
    }

    /// A request to one worker's instance of a role, as with an open feed.
    pub fn svc_of(&self, role: Role, worker: &WorkerId, verb: &str) -> String {
        format!("{}.svc.{role}.{worker}.{verb}", self.root)
    }

    pub fn work(&self, role: Role, job: &JobId, task: &TaskId) -> String {
        format!("{}.work.{role}.{job}.{task}", self.root)
    }

    /// `work.<role>.>`: the filter of a role's durable consumer.
    pub fn work_of(&self, role: Role) -> String {
        format!("{}.work.{role}.>", self.root)
    }

    pub fn work_all(&self) -> String {
        format!("{}.work.>", self.root)
    }

    pub fn offer(&self, worker: &WorkerId) -> String {
        format!("{}.offer.{worker}", self.root)
    }

    pub fn rdzv(&self, job: &JobId, verb: &str) -> String {
        format!("{}.rdzv.{job}.{verb}", self.root)
    }

    pub fn rdzv_all(&self) -> String {
        format!("{}.rdzv.*.*", self.root)
    }

    pub fn evt(&self, job: &JobId, event_type: &str) -> String {
        format!("{}.evt.{job}.{event_type}", self.root)
    }

    pub fn evt_of(&self, job: &JobId) -> String {
        format!("{}.evt.{job}.*", self.root)
    }

    /// Events of every job of one type.
    pub fn evt_type(&self, event_type: &str) -> String {
        format!("{}.evt.*.{event_type}", self.root)
    }

    pub fn evt_all(&self) -> String {
        format!("{}.evt.>", self.root)
    }

    /// Frames of a feed, to one rank.
    pub fn feed(&self, job: &JobId, rank: u32) -> String {
        format!("{}.feed.{job}.{rank}", self.root)
    }

    pub fn log(&self, job: &JobId, source: &str) -> String {
        format!("{}.log.{job}.{source}", self.root)
    }

    pub fn log_of(&self, job: &JobId) -> String {
        format!("{}.log.{job}.*", self.root)
    }

    pub fn log_all(&self) -> String {
        format!("{}.log.>", self.root)
    }

    pub fn ctl(&self, worker: &WorkerId, verb: &str) -> String {
        format!("{}.ctl.{worker}.{verb}", self.root)
    }

    pub fn ctl_all(&self, verb: &str) -> String {
        format!("{}.ctl.all.{verb}", self.root)
    }

    /// Every control message that one worker must hear, itself and `all`: subscribe to both.
    pub fn ctl_of(&self, worker: &WorkerId) -> [String; 2] {
        [format!("{}.ctl.{worker}.*", self.root), format!("{}.ctl.all.*", self.root)]
    }

    pub fn hb(&self, role: Role, worker: &WorkerId) -> String {
        format!("{}.hb.{role}.{worker}", self.root)
    }

    pub fn hb_all(&self) -> String {
        format!("{}.hb.>", self.root)
    }

    pub fn dlq(&self, role: Role, job: &str) -> String {
        format!("{}.dlq.{role}.{job}", self.root)
    }

    pub fn dlq_all(&self) -> String {
        format!("{}.dlq.>", self.root)
    }

    /// Stream and bucket names carry the tenant when it is not the default one, so that two tenants
    /// may share an account in tests; in production each has an account of its own.
    pub fn scoped(&self, name: &str) -> String {
        let tenant = self.root.trim_start_matches("within.v1.");
        if tenant == "default" { name.to_owned() } else { format!("{name}_{tenant}") }
    }
}

/// The durable consumer of a queue role.
pub fn consumer_work(role: Role) -> String {
    format!("work_{role}")
}

/// Name of the lease that the leading coordinator holds.
pub const LEASE_COORDINATOR: &str = "coordinator";
/// Name of the lease of the tracker's only writer.
pub const LEASE_TRACKER: &str = "tracker";

/// Deduplication id of the work message of one attempt.
pub fn work_msg_id(job: &JobId, task: &TaskId, attempt: u32) -> String {
    format!("work.{job}.{task}.{attempt}")
}

/// Deduplication id of an event that happens once in the life of a job.
pub fn event_msg_id(job: &JobId, event_type: &str, ordinal: u64) -> String {
    format!("evt.{job}.{event_type}.{ordinal}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_as_published() {
        let s = Subjects::new(&Tenant::default());
        let (job, task, worker) =
            (JobId::new("j1").expect("id"), TaskId::new("train").expect("id"), WorkerId::new("w1").expect("id"));
        let all = [
            s.job_submit(),
            s.job_cancel(),
            s.svc(Role::Coordinator, "submit"),
            s.work(Role::DataLoader, &job, &task),
            s.offer(&worker),
            s.rdzv(&job, "join"),
            s.evt(&job, "completed"),
            s.feed(&job, 0),
            s.log(&job, "rank0"),
            s.ctl(&worker, "drain"),
            s.hb(Role::Trainer, &worker),
            s.dlq(Role::Tracker, "j1"),
        ];
        expect_test::expect![[r"
            within.v1.default.job.submit
            within.v1.default.job.cancel
            within.v1.default.svc.coordinator.submit
            within.v1.default.work.data_loader.j1.train
            within.v1.default.offer.w1
            within.v1.default.rdzv.j1.join
            within.v1.default.evt.j1.completed
            within.v1.default.feed.j1.0
            within.v1.default.log.j1.rank0
            within.v1.default.ctl.w1.drain
            within.v1.default.hb.trainer.w1
            within.v1.default.dlq.tracker.j1"]]
        .assert_eq(&all.join("\n"));
    }

    #[test]
    fn another_tenant_has_its_own_streams() {
        let s = Subjects::new(&Tenant::new("acme").expect("id"));
        assert_eq!(s.scoped(STREAM_EVT), "WITHIN_EVT_acme");
        assert_eq!(Subjects::new(&Tenant::default()).scoped(STREAM_EVT), "WITHIN_EVT");
    }
}
