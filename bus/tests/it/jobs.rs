//! Records of jobs: compare-and-set.

use bus::{Bus, ErrorKind};
use messages::artifact::ArtifactRef;
use messages::job::{JobRecord, JobState, Role, TaskRecord, TaskState};
use messages::subject::BUCKET_JOB;

use crate::server::{job, raw, ready, shared, task};

fn record(name: &str) -> JobRecord {
    let artifact = ArtifactRef { uri: "file:///a".into(), blake3: "0".repeat(64), size_bytes: 3 };
    JobRecord {
        schema: messages::SCHEMA_VERSION,
        job: job(name),
        source: "urn:test".into(),
        event_id: name.into(),
        content_blake3: "0".repeat(64),
        name: name.into(),
        spec: artifact.clone(),
        plan: artifact,
        state: JobState::Accepted,
        submitted_at: 1,
        since: 1,
        deadline_at: 2,
        max_attempts: 3,
        world_size: 1,
        min_world_size: 1,
        cuda: false,
        max_world_size: 1,
        tasks: vec![TaskRecord {
            id: task("prepare"),
            role: Role::DataLoader,
            needs: vec![],
            state: TaskState::Waiting,
            attempt: 1,
            fence: None,
            worker: None,
            gang: None,
            since: 1,
            not_before: None,
            waiting: None,
            failures: 0,
            output: None,
            error: None,
            checkpoint: None,
        }],
        cancel_reason: None,
        completed: None,
        error: None,
        outbox: vec![],
        traceparent: None,
    }
}

#[tokio::test]
async fn only_the_revision_that_was_read_can_be_replaced() {
    let bus = ready().await;
    let jobs = bus.jobs().await.expect("bucket");
    assert_eq!(jobs.get(&job("j1")).await.expect("reads"), None);
    let created = jobs.create(&record("j1")).await.expect("created");
    assert_eq!(jobs.create(&record("j1")).await.expect_err("exists").kind(), ErrorKind::Conflict);
    let (mut read, revision) = jobs.get(&job("j1")).await.expect("reads").expect("there");
    assert_eq!((&read, revision), (&record("j1"), created));
    read.state = JobState::Running;
    let updated = jobs.update(&read, revision).await.expect("updated");
    assert!(updated > revision);
    assert_eq!(jobs.update(&read, revision).await.expect_err("too late").kind(), ErrorKind::Conflict);
    assert_eq!(jobs.get(&job("j1")).await.expect("reads"), Some((read, updated)));
}

#[tokio::test]
async fn writers_that_compete_lose_no_update() {
    let bus = ready().await;
    let jobs = bus.jobs().await.expect("bucket");
    let mut first = record("counter");
    first.max_attempts = 0;
    jobs.create(&first).await.expect("created");
    let writers = (0..4).map(|_| {
        let jobs = jobs.clone();
        tokio::spawn(async move {
            let mut conflicts = 0;
            for _ in 0..25 {
                loop {
                    let (mut record, revision) = jobs.get(&job("counter")).await.expect("reads").expect("there");
                    record.max_attempts += 1;
                    match jobs.update(&record, revision).await {
                        Ok(_) => break,
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
                    }
                    conflicts += 1;
                }
            }
            conflicts
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.expect("writes");
    }
    let (record, _) = jobs.get(&job("counter")).await.expect("reads").expect("there");
    assert_eq!(record.max_attempts, 100);
}

#[tokio::test]
async fn thousands_of_records_are_listed_at_once() {
    let bus = ready().await;
    let jobs = bus.jobs().await.expect("bucket");
    assert!(jobs.all().await.expect("lists").is_empty());
    let mut revisions = std::collections::BTreeMap::new();
    for chunk in (0..2_000).collect::<Vec<_>>().chunks(64) {
        let creates = chunk.iter().map(|i| {
            let jobs = jobs.clone();
            async move { (format!("j{i}"), jobs.create(&record(&format!("j{i}"))).await.expect("created")) }
        });
        revisions.extend(futures::future::join_all(creates).await);
    }
    let (again, revision) = jobs.get(&job("j7")).await.expect("reads").expect("there");
    revisions.insert("j7".into(), jobs.update(&again, revision).await.expect("updated"));
    let listed: std::collections::BTreeMap<_, _> =
        jobs.all().await.expect("lists").into_iter().map(|(record, revision)| (record.name, revision)).collect();
    assert_eq!(listed, revisions);
}

#[tokio::test]
async fn a_record_of_a_later_version_is_refused_by_name() {
    let config = shared().await;
    let bus = Bus::connect(config.clone()).await.expect("connects");
    bus.ensure_topology().await.expect("topology");
    let jobs = bus.jobs().await.expect("bucket");
    let mut next = record("next");
    next.schema = messages::SCHEMA_VERSION + 1;
    jobs.create(&next).await.expect("created");
    assert_eq!(jobs.all().await.expect("one version ahead is read").len(), 1);
    let mut later = record("later");
    later.schema = messages::SCHEMA_VERSION + 2;
    jobs.create(&later).await.expect("created");
    for error in [jobs.get(&job("later")).await.expect_err("refused"), jobs.all().await.expect_err("refused")] {
        assert_eq!(error.kind(), ErrorKind::BadMessage);
        assert!(error.to_string().contains("job later") && error.to_string().contains("schema version"), "{error}");
    }
    let subject = format!("$KV.{}.garbage", bus.subjects().scoped(BUCKET_JOB));
    raw(&config).await.publish(subject, "\u{1}".into()).await.expect("sent").await.expect("stored");
    assert_eq!(jobs.get(&job("garbage")).await.expect_err("refused").kind(), ErrorKind::BadMessage);
}

#[tokio::test]
async fn an_archived_job_s_id_can_be_used_again() {
    let config = shared().await;
    let bus = Bus::connect(config.clone()).await.expect("connects");
    bus.ensure_topology().await.expect("topology");
    let jobs = bus.jobs().await.expect("bucket");
    jobs.create(&record("j1")).await.expect("created");
    let store = raw(&config).await.get_key_value(bus.subjects().scoped(BUCKET_JOB)).await.expect("bucket");
    store.delete("j1").await.expect("deleted");
    assert_eq!(jobs.get(&job("j1")).await.expect("reads"), None);
    assert!(jobs.all().await.expect("lists").is_empty());
    jobs.create(&record("j1")).await.expect("created over the tombstone");
    assert!(store.get("j1").await.expect("reads").is_some(), "a usual client reads what we write");
}
