//! The configuration of deploy/nats on a real server: a whole job with workers that each have only their
//! role's user, over TLS; what is forbidden is refused, at once and by name.

use std::time::{Duration, Instant};

use bus::{Bus, ErrorKind, From};
use messages::error::Code;
use messages::event::Event;
use messages::job::Role;
use messages::rpc::ListJobs;
use messages::subject::{CONSUMER_NOTIFIER, STREAM_EVT};
use messages::timings::Timings;
use messages::{JobId, TaskId, WorkerId};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{PATIENCE, Sandbox, Secured, spec, table, text};

const ROLES: [&str; 6] = ["coordinator", "data_loader", "trainer", "evaluator", "tracker", "notifier"];

/// A sandbox of a tenant at this server; who a process is, its `--creds` say.
fn sandbox(server: &Secured) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.share_store(&server.yaml());
    sandbox.write("table.csv", table(400));
    sandbox.write("job.yaml", spec("table.csv", 3, ""));
    sandbox
}

#[test]
fn a_job_runs_with_workers_that_have_only_their_role_s_user() {
    let server = Secured::start();
    let sandbox = sandbox(&server);
    let creds = |user: &str| server.seed("default", user).display().to_string();
    let workers: Vec<_> = ROLES.iter().map(|role| sandbox.worker(role, role, &["--creds", &creds(role)])).collect();
    let client = creds("client");
    let submit = ["submit", "job.yaml", "--watch", "--json", "--id", "one", "--creds", &client];
    let ended = sandbox.within(&submit).expect(0);
    assert_eq!(ended.last()["event"], "completed", "{}", ended.stdout);
    for command in
        [&["jobs", "list"][..], &["jobs", "show", "one"], &["jobs", "events", "one"], &["jobs", "logs", "one"]]
    {
        let ended = sandbox.within(&[command, &["--json", "--creds", &client]].concat()).expect(0);
        assert!(ended.stdout.contains("one"), "{command:?}: {}", ended.stdout);
    }
    let subscriber = server.connect("default", Some("subscriber")).expect("connects");
    server.block_on(async {
        let mut events = subscriber.durable_events("downstream", &["completed"]).await.expect("allowed");
        let event = events.next(PATIENCE).await.expect("reads").expect("in time");
        assert!(matches!(event.envelope.data, Event::Completed(_)));
        event.ack().await.expect("sent");
    });
    no_complaint(&sandbox);
    forbidden(&server);
    for worker in &workers {
        worker.running.signal(Signal::SIGTERM);
    }
    for worker in workers {
        let name = worker.name.clone();
        let ended = worker.running.wait();
        assert_eq!(ended.code, Some(0), "{name}: {}", ended.stderr);
    }
}

/// No role missed a permission, also none that only makes noise.
fn no_complaint(sandbox: &Sandbox) {
    for role in ROLES {
        let log = std::fs::read_to_string(sandbox.outside(role).join("logs/training.log")).expect("a log");
        let denied: Vec<&str> = log.lines().filter(|line| line.contains("permission denied")).collect();
        assert!(denied.is_empty(), "{role}: {denied:#?}");
    }
}

fn subject_of(bus: &Bus, make: impl Fn(&messages::subject::Subjects) -> String) -> String {
    make(bus.subjects())
}

/// What each of them must not do is refused, without waiting for a time-out.
fn forbidden(server: &Secured) {
    let (job, task) = (JobId::new("one").expect("an id"), TaskId::new("evaluate").expect("an id"));
    let worker = WorkerId::new("evaluator").expect("an id");
    let limit = Duration::from_millis(Timings::default().request_timeout_ms);
    let publishes = |user: &str, subject: String| {
        let bus = server.connect("default", Some(user)).expect("connects");
        let begun = Instant::now();
        let asked = bus.request_to::<_, Value>(&subject, ListJobs { limit: 1 }, limit * 4);
        let error = server.block_on(asked).err().unwrap_or_else(|| panic!("{user} may publish on {subject}"));
        assert_eq!(error.code, Code::PermissionDenied, "{user} {subject}: {error:?}");
        assert!(error.message.contains(&subject) && error.hint.is_some(), "{error:?}");
        assert!(begun.elapsed() < limit, "{user}: a time-out was waited for: {:?}", begun.elapsed());
    };
    let bus = server.connect("default", Some("client")).expect("connects");
    let of = |make: fn(&messages::subject::Subjects, &JobId, &TaskId, &WorkerId) -> String| {
        subject_of(&bus, |subjects| make(subjects, &job, &task, &worker))
    };
    publishes("trainer", "$KV.WITHIN_JOB.one".into());
    publishes("trainer", "$KV.WITHIN_LEASE.coordinator".into());
    publishes("trainer", of(|s, job, _, _| s.evt(job, "completed")));
    publishes("data_loader", "$JS.ACK.WITHIN_WORK.work_evaluator.1.1.1.1.0".into());
    publishes("data_loader", "$JS.API.CONSUMER.MSG.NEXT.WITHIN_WORK.work_evaluator".into());
    publishes("evaluator", of(|s, _, _, worker| s.hb(Role::Trainer, worker)));
    publishes("evaluator", "$JS.API.STREAM.DELETE.WITHIN_EVT".into());
    publishes("tracker", format!("$JS.API.CONSUMER.MSG.NEXT.{STREAM_EVT}.{CONSUMER_NOTIFIER}"));
    publishes("notifier", of(|s, _, _, _| s.job_submit()));
    publishes("client", of(|s, job, task, _| s.work(Role::Evaluator, job, task)));
    publishes("client", of(|s, _, _, worker| s.ctl(worker, "drain")));
    publishes("subscriber", format!("$JS.API.CONSUMER.CREATE.{STREAM_EVT}.{CONSUMER_NOTIFIER}"));
    publishes("coordinator", "$JS.API.STREAM.DELETE.WITHIN_JOB".into());

    for (user, subject) in [
        ("trainer", of(|s, _, _, _| s.evt_all())),
        ("evaluator", of(|s, job, _, _| s.feed(job, 0))),
        ("client", of(|s, _, _, _| s.svc(Role::Coordinator, "*"))),
        ("subscriber", of(|s, _, _, _| s.hb_all())),
    ] {
        let bus = server.connect("default", Some(user)).expect("connects");
        let error = server.block_on(bus.subscribe(&subject)).err().unwrap_or_else(|| panic!("{user} hears {subject}"));
        assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
    }
    strangers(server);
}

/// Who has no user, and who is another tenant's, reads nothing.
fn strangers(server: &Secured) {
    let nobody = server.connect("default", None).expect_err("without a user");
    assert_eq!(nobody.kind(), ErrorKind::Unauthorized, "{nobody}");
    let trainer = server.connect("default", Some("trainer")).expect("connects");
    let error = server.block_on(trainer.events(None, From::First)).err().expect("a trainer reads no events");
    assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
    // In its own account there is nothing of this tenant.
    let stranger = server.connect("acme", Some("subscriber")).expect("connects");
    assert!(server.block_on(stranger.topology()).expect("asks").is_empty(), "its own streams, of which there are none");
    let error = server.block_on(stranger.events(None, From::First)).err().expect("no streams in its account");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let error = server.block_on(stranger.subscribe("within.v1.default.evt.>")).err().expect("not its tenant");
    assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
}

/// The other tenant's file is made as the README says, and is as good.
#[test]
fn another_tenant_s_account_works_alike() {
    let server = Secured::start();
    let sandbox = sandbox(&server);
    let creds = |user: &str| server.seed("acme", user).display().to_string();
    let of = |user: &str| ["--tenant".to_owned(), "acme".to_owned(), "--creds".to_owned(), creds(user)];
    let workers: Vec<_> = ROLES
        .iter()
        .map(|role| {
            let more = of(role);
            sandbox.worker(role, role, &more.each_ref().map(String::as_str))
        })
        .collect();
    let client = of("client");
    let mut submit = vec!["submit", "job.yaml", "--watch", "--json"];
    submit.extend(client.iter().map(String::as_str));
    assert_eq!(sandbox.within(&submit).expect(0).last()["event"], "completed");
    no_complaint(&sandbox);
    drop(workers);
}

/// A worker with another role's user ends at once, says which role and which subject, and does not begin again.
#[test]
fn a_role_without_its_permissions_ends_the_process() {
    let server = Secured::start();
    let sandbox = sandbox(&server);
    let creds = |user: &str| server.seed("default", user).display().to_string();
    let _coordinator = sandbox.worker("coordinator", "coordinator", &["--creds", &creds("coordinator")]);
    for (role, user, subject) in [
        ("trainer", "evaluator", "within.v1.default.offer."),
        ("data_loader", "evaluator", "data_loader"),
        ("evaluator", "data_loader", "evaluator"),
        ("tracker", "notifier", "tracker"),
        ("notifier", "tracker", "notifier"),
        ("coordinator", "trainer", "within.v1.default.hb.>"),
    ] {
        let begun = Instant::now();
        let home = sandbox.outside(&format!("denied-{role}")).display().to_string();
        let worker = ["worker", "--json", "--roles", role, "--creds", &creds(user), "--home", &home];
        let ended = sandbox.within(&worker).expect(3);
        let took = begun.elapsed();
        let last = ended.last();
        assert_eq!((text(&last, "/class"), text(&last, "/code")), ("infrastructure", "permission_denied"), "{last}");
        assert_eq!((last["retry"].as_bool(), last["hint"].is_string()), (Some(false), true), "{last}");
        let message = text(&last, "/message");
        assert!(message.contains(role) && message.contains(subject), "{role} as {user}: {message}");
        let count = |part: &str| ended.stderr.lines().filter(|line| line.contains(part)).count();
        assert_eq!(count("role cannot run"), 1, "{}", ended.stderr);
        assert_eq!(count("it is started again"), 0, "{}", ended.stderr);
        // Twice, for a machine that is busy; silence would last for the claim's time-out, a minute.
        let limit = Duration::from_millis(2 * Timings::default().request_timeout_ms);
        assert!(took < limit, "{role} as {user} ended after {took:?}");
    }
}
