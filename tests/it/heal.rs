//! The bus heals: outages, silent partitions, slow readers, full streams, messages that nobody can read; and
//! what cannot heal ends at once with a message. Each is seen, told once, and recovered from or reported.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bus::{Bus, ErrorKind, Once};
use messages::event::Event;
use messages::job::Role;
use messages::rpc::{Cancel, SpecDocument, Submit};
use messages::work::{Work, WorkInput};
use messages::{ArtifactRef, Envelope, JobId, TaskId};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{
    Ended, PATIENCE, Proxy, Running, Sandbox, Server, Worker, children, gone, python_json, spec, table, text, wait_for,
};

/// Short deadlines, so that what was lost is missed soon.
const TIMINGS: &str = "timings: {ack_wait_ms: 3000, heartbeat_ms: 300, worker_lost_ms: 2500, lease_ttl_ms: 3000, \
    request_timeout_ms: 2000, reserve_timeout_ms: 2000, join_timeout_ms: 5000, step_timeout_ms: 3000, \
    feed_timeout_ms: 2000, retry_backoff_ms: 100, drain_grace_ms: 10000}\n";
/// A ping is sent every two and a half heartbeats, but not more often than twice a second; the third that is
/// not answered ends the connection.
const PARTITION_SEEN_WITHIN: Duration = Duration::from_millis(3 * 750);
const SOME_ROLES: &str = "coordinator,data_loader,evaluator,tracker,notifier";

const LOST: &str = "connection to NATS lost";
const BACK: &str = "connected to NATS again";

fn accept() -> bool {
    std::env::var_os("WITHIN_ACCEPT").is_some()
}

/// A platform whose only trainer is a worker of its own.
fn sandbox(server: &Server, settings: &str) -> Sandbox {
    let sandbox = Sandbox::at(server, "default");
    sandbox.share_store(settings);
    sandbox.write("table.csv", table(2_000));
    sandbox.write("job.yaml", spec("table.csv", 40, "  checkpoint: {keep_best: 2}\nlimits: {max_attempts: 8}\n"));
    sandbox
}

fn submit(sandbox: &Sandbox, id: &str) -> Running {
    sandbox.start(&["submit", "job.yaml", "--watch", "--json", "--id", id])
}

fn is_checkpoint(line: &Value) -> bool {
    line["event"] == "checkpoint"
}

fn bits(ended: &Ended) -> String {
    text(&ended.last(), "/model/blake3").to_owned()
}

/// Lines of a worker's log, from `from` on. Those of its ranks are there too.
fn log(sandbox: &Sandbox, worker: &str, from: usize) -> Vec<Value> {
    let text = std::fs::read_to_string(sandbox.outside(worker).join("logs/training.log")).expect("a log");
    text.lines().skip(from).filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn own(lines: &[Value]) -> Vec<Value> {
    lines.iter().filter(|line| line["rank"].is_null()).cloned().collect()
}

fn count(lines: &[Value], part: &str) -> usize {
    lines.iter().filter(|line| line["message"].as_str().is_some_and(|message| message.contains(part))).count()
}

/// Processor time that a process has taken.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    // USER_HZ is 100 on every Linux that we build for.
    Duration::from_millis(ticks * 10)
}

/// Lets an outage last.
fn last_for(duration: Duration) {
    let begun = Instant::now();
    wait_for("the outage", duration + PATIENCE, || (begun.elapsed() >= duration).then_some(()));
}

fn end(workers: Vec<Worker>) {
    for worker in &workers {
        worker.running.signal(Signal::SIGTERM);
    }
    for worker in workers {
        worker.running.wait().expect(0);
    }
}

/// The loss and the return are told once by the worker, and no trouble is told again and again, by its ranks
/// neither.
fn told_once(lines: &[Value], worker: &str) {
    let own = own(lines);
    assert_eq!((count(&own, LOST), count(&own, BACK)), (1, 1), "{worker}: {lines:#?}");
    let troubles = lines.iter().filter(|line| line["level"] != "INFO");
    let mut told: Vec<(bool, &str)> =
        troubles.map(|line| (line["rank"].is_null(), line["message"].as_str().unwrap_or_default())).collect();
    told.sort_unstable();
    for same in told.chunk_by(|a, b| a == b) {
        assert!(same.len() <= 2, "{worker}: told {} times: {}\n{lines:#?}", same.len(), same[0].1);
    }
}

#[test]
fn an_outage_is_told_once_not_spun_on_and_changes_no_bit() {
    let mut server = Server::start();
    // In full with the default deadlines and for a minute, which is as long as anybody watches by default.
    let (settings, outage) = if accept() { ("timings: {claim_timeout_ms: 300000}\n", 60) } else { (TIMINGS, 5) };
    let outage = Duration::from_secs(outage);
    let sandbox = sandbox(&server, settings);
    let workers = vec![sandbox.worker("rest", SOME_ROLES, &[]), sandbox.worker("trainer", "trainer", &[])];
    let undisturbed = bits(&submit(&sandbox, "undisturbed").wait().expect(0));

    let before = workers.iter().map(|worker| log(&sandbox, &worker.name, 0).len()).collect::<Vec<_>>();
    let mut job = submit(&sandbox, "disturbed");
    job.lines("checkpoints", 2, is_checkpoint);
    server.kill9();
    let taken: Vec<Duration> = workers.iter().map(|worker| cpu(worker.running.pid())).collect();
    last_for(outage);
    for (worker, taken) in workers.iter().zip(taken) {
        let during = cpu(worker.running.pid()).saturating_sub(taken);
        println!("{}: {during:?} of processor time in {outage:?} without a server", worker.name);
        assert!(during < outage / 5, "{} spins: {during:?} in {outage:?}", worker.name);
    }
    server.restart();
    let ended = job.wait().expect(0);
    assert_eq!(bits(&ended), undisturbed);
    assert_eq!(ended.events("completed").len(), 1);
    for (worker, before) in workers.iter().zip(before) {
        told_once(&log(&sandbox, &worker.name, before), &worker.name);
    }
    end(workers);
}

/// The wire to the only trainer falls silent: nobody closes anything.
#[test]
fn a_silent_partition_is_seen_and_the_job_moves_on_with_the_same_bits() {
    let server = Server::start();
    let sandbox = sandbox(&server, TIMINGS);
    let rest = sandbox.worker("rest", SOME_ROLES, &[]);
    let port = server.url().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let proxy = Proxy::start(port);
    let behind = sandbox.worker("behind", "trainer", &["--nats", &proxy.url()]);
    let undisturbed = bits(&submit(&sandbox, "undisturbed").wait().expect(0));

    let mut job = submit(&sandbox, "disturbed");
    job.lines("checkpoints", 2, is_checkpoint);
    let before = log(&sandbox, "behind", 0).len();
    let other = sandbox.worker("other", "trainer", &[]);
    proxy.fall_silent();
    let begun = Instant::now();
    let told = |part: &str| (count(&own(&log(&sandbox, "behind", before)), part) > 0).then_some(());
    wait_for("the partition is seen", PATIENCE, || told(LOST));
    let seen = begun.elapsed();
    assert!(seen < PARTITION_SEEN_WITHIN + Duration::from_secs(4), "seen after {seen:?}");
    let ended = job.wait().expect(0);
    assert_eq!(bits(&ended), undisturbed);
    let lost = ended.events("worker_lost");
    assert_eq!(lost.len(), 1, "{}", ended.stdout);
    assert_eq!((text(&lost[0], "/worker"), text(&lost[0], "/task")), ("behind", "train"));
    let trained: Vec<_> = ended.events("task_started").into_iter().filter(|line| line["task"] == "train").collect();
    assert_eq!(text(trained.last().expect("trained"), "/worker"), "other");

    proxy.speak();
    wait_for("it is back", PATIENCE, || told(BACK));
    end(vec![other]);
    // The slot behind the partition is free again, and its old rank is gone: only that of this job waits.
    let ended = submit(&sandbox, "after").wait().expect(0);
    assert_eq!(bits(&ended), undisturbed);
    told_once(&log(&sandbox, "behind", before), "behind");
    assert!(children(behind.running.pid(), " rank").len() <= 1);
    end(vec![rest, behind]);
}

/// Who reads slowly, or not at all, hurts nobody else.
#[test]
fn slow_readers_hurt_only_themselves() {
    let server = Server::start();
    let sandbox = sandbox(&server, TIMINGS);
    let worker = sandbox.worker("all", "all", &[]);
    let undisturbed = bits(&submit(&sandbox, "undisturbed").wait().expect(0));

    // A client that asks for everything and never reads.
    let (user, password) = server.user();
    let mut deaf = TcpStream::connect(server.url().trim_start_matches("nats://")).expect("connects");
    let login = format!("{{\"verbose\":false,\"user\":\"{user}\",\"pass\":\"{password}\"}}");
    write!(deaf, "CONNECT {login}\r\nSUB > 1\r\nPING\r\n").expect("subscribes");
    // A watcher that sleeps through the job.
    let mut watcher = submit(&sandbox, "watched");
    watcher.line("accepted", |line| line["event"] == "accepted");
    watcher.signal(Signal::SIGSTOP);
    let ended = sandbox.within(&["jobs", "events", "watched", "--follow", "--json"]).expect(0);
    let completed = ended.last();
    assert_eq!(text(&completed, "/model/blake3"), undisturbed);
    watcher.signal(Signal::SIGCONT);
    let late = watcher.wait().expect(0);
    assert_eq!(bits(&late), undisturbed);
    // It has missed nothing, and saw it in order.
    let sequences = |ended: &Ended| -> Vec<u64> {
        ended.json().iter().filter(|line| !line["sequence"].is_null()).filter_map(|l| l["sequence"].as_u64()).collect()
    };
    let all = sequences(&ended);
    assert_eq!(sequences(&late), all[..all.len() - 1], "the last line is the result");
    assert!(all.is_sorted());
    assert_eq!(count(&log(&sandbox, "all", 0), LOST), 0);
    drop(deaf);
    end(vec![worker]);
}

/// Fills the event stream to its limit with events of other jobs.
fn fill(server: &Server, bus: &Bus) {
    server.block_on(async {
        for number in 0u64.. {
            let event = Event::Waiting { task: TaskId::new("train").expect("an id"), reason: "filler".into() };
            let job = JobId::new("filler").expect("an id");
            match bus.publish_event(&job, &format!("f{number}"), event, None, None, bus::now_ms(), Once::ById).await {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Full => return,
                Err(error) => panic!("{error}"),
            }
        }
    });
}

/// A submission that finds no room says "try later".
fn refused_for_now(sandbox: &Sandbox, id: &str, stream: &str) {
    let told = sandbox.within(&["submit", "job.yaml", "--json", "--id", id]).expect(3).last();
    assert_eq!((text(&told, "/class"), text(&told, "/code")), ("infrastructure", "overloaded"), "{told}");
    assert!(text(&told, "/message").contains("try later") && text(&told, "/message").contains(stream), "{told}");
    assert!(told["retry"] == true && text(&told, "/hint").contains("streams"), "{told}");
}

#[test]
fn a_full_event_stream_refuses_new_jobs_and_loses_nothing_of_the_others() {
    let server = Server::start();
    let with = |messages: u64| format!("{TIMINGS}streams: {{event_messages: {messages}}}\n");
    let sandbox = sandbox(&server, &with(1_000));
    let worker = sandbox.worker("all", "all", &[]);
    let undisturbed = bits(&submit(&sandbox, "undisturbed").wait().expect(0));
    let mut job = submit(&sandbox, "running");
    job.lines("checkpoints", 2, is_checkpoint);
    let bus = server.connect("default");
    fill(&server, &bus);

    refused_for_now(&sandbox, "refused", "WITHIN_EVT");
    let request = || Submit { spec: SpecDocument::Object(serde_json::Map::new()), set: Vec::new() };
    let refused = wait_for("the refusal of a request", PATIENCE, || {
        server.block_on(bus.request(request(), None, PATIENCE)).err()
    });
    assert_eq!((refused.code.as_str(), refused.retry), ("overloaded", true), "{refused:?}");
    // What runs waits for room, and tells that once.
    wait_for("the rank waits", PATIENCE, || {
        let told = sandbox.within(&["jobs", "logs", "running", "--json"]).stdout;
        told.contains("waits for room").then_some(())
    });
    assert!(!job.has_ended());

    // The operator gives it room.
    sandbox.share_store(&with(100_000));
    let more = sandbox.worker("more", "coordinator", &[]);
    let ended = job.wait().expect(0);
    assert_eq!(bits(&ended), undisturbed);
    let events = server.events(&bus, "running");
    let of = |name: &str| events.iter().filter(|event| event["data"]["event"] == name).count();
    assert_eq!((of("accepted"), of("metric"), of("completed")), (1, 40, 1), "nothing is lost, nothing comes twice");
    assert_eq!(bits(&submit(&sandbox, "refused").wait().expect(0)), undisturbed);
    let full = log(&sandbox, "all", 0);
    assert!(count(&full, "an event could not be stored") <= 2, "{full:#?}");
    end(vec![worker, more]);
}

#[test]
fn a_full_work_queue_refuses_submissions_until_there_is_room() {
    let server = Server::start();
    let sandbox = sandbox(&server, &format!("{TIMINGS}streams: {{work_messages: 3}}\n"));
    sandbox.write("job.yaml", spec("table.csv", 1, ""));
    // Makes the streams, and goes: nobody takes what is submitted.
    end(vec![sandbox.worker("first", "coordinator", &[])]);
    for id in ["a", "b", "c"] {
        sandbox.within(&["submit", "job.yaml", "--json", "--id", id]).expect(0);
    }
    refused_for_now(&sandbox, "d", "WITHIN_WORK");
    let worker = sandbox.worker("all", "all", &[]);
    let bus = server.connect("default");
    for id in ["a", "b", "c"] {
        let events = server.events(&bus, id);
        assert_eq!(events.last().expect("events")["data"]["event"], "completed", "{id}: {events:#?}");
    }
    assert_eq!(submit(&sandbox, "d").wait().expect(0).last()["event"], "completed");
    end(vec![worker]);
}

/// Subject, where it came on, reason and size of each dead letter.
const LETTERS: &str = r#"
import asyncio, json, sys
import nats

async def main(url, user, password):
    nc = await nats.connect(url, user=user, password=password, allow_reconnect=False)
    js = nc.jetstream()
    state = (await js.stream_info("WITHIN_DLQ")).state
    out = []
    for sequence in range(state.first_seq, state.last_seq + 1):
        message = await js.get_msg("WITHIN_DLQ", sequence)
        out.append([message.headers["Within-Subject"], message.headers["Within-Reason"], len(message.data)])
    print(json.dumps(out))
    await nc.close()

asyncio.run(main(*sys.argv[1:]))
"#;

/// Garbage, a schema version out of reach and 8 MB of nesting, on every durable consumer.
#[test]
fn poison_on_every_durable_consumer_is_kept_and_the_rest_goes_on() {
    let server = Server::start();
    let sandbox = sandbox(&server, "");
    sandbox.write("job.yaml", spec("table.csv", 1, ""));
    let worker = sandbox.worker("all", "all", &[]);
    let bus = server.connect("default");
    let subjects = poison(&server, &bus);
    assert_eq!(submit(&sandbox, "good").wait().expect(0).last()["event"], "completed");

    let (user, password) = server.user();
    let letters = wait_for("the dead letters", PATIENCE, || {
        let letters = python_json(LETTERS, &[&server.url(), &user, &password]);
        (letters.as_array().expect("a list").len() >= 3 * subjects.len()).then_some(letters)
    });
    let letters = letters.as_array().expect("a list");
    assert_eq!(letters.len(), 3 * subjects.len(), "{letters:#?}");
    for subject in &subjects {
        let mut reasons: Vec<&str> =
            letters.iter().filter(|letter| letter[0] == **subject).map(|letter| text(letter, "/1")).collect();
        reasons.sort_unstable();
        for part in ["MessagePack", "schema version 99", "deeper"] {
            assert!(reasons.iter().any(|reason| reason.contains(part)), "{subject}: no {part:?} in {reasons:?}");
        }
    }
    // Each consumer goes on, also after its own poison: all of them took part in this job.
    assert_eq!(submit(&sandbox, "after").wait().expect(0).last()["event"], "completed");
    wait_for("the last acknowledgement", PATIENCE, || {
        let left = server.block_on(bus.topology()).expect("lists");
        let mut consumers = left.iter().flat_map(|stream| &stream.consumers);
        consumers.all(|consumer| consumer.ack_pending == 0).then_some(())
    });
    end(vec![worker]);
}

/// Sends three unreadable messages to each durable consumer; the subjects.
fn poison(server: &Server, bus: &Bus) -> Vec<String> {
    let s = bus.subjects();
    let job = JobId::new("bad").expect("an id");
    let task = |name: &str| TaskId::new(name).expect("an id");
    let work = [(Role::DataLoader, "prepare"), (Role::Evaluator, "evaluate"), (Role::Tracker, "record")];
    let mut subjects = vec![s.job_submit(), s.job_cancel(), s.evt(&job, "completed")];
    subjects.extend(work.map(|(role, name)| s.work(role, &job, &task(name))));
    let plan = ArtifactRef { uri: "file:///none".into(), blake3: "0".repeat(64), size_bytes: 1 };
    let nested = [b"\x81\xa1x".as_slice(), &vec![0x91u8; 8_000_000]].concat();
    let packed = [("Content-Type", "application/cloudevents+msgpack")];
    server.block_on(async {
        for subject in &subjects {
            bus.publish_raw(subject, &packed, vec![0xc1u8; 64].into()).await.expect("sent");
            bus.publish_raw(subject, &packed, nested.clone().into()).await.expect("sent");
        }
        let id = |subject: &str| format!("poison.{}", subject.len());
        let submit = Submit { spec: SpecDocument::Object(serde_json::Map::new()), set: Vec::new() };
        let mut from_later = Envelope::new(id("s"), "/test", bus::now_ms(), submit);
        from_later.withinschema = 99;
        bus.publish(&subjects[0], &from_later).await.expect("sent");
        let cancel = Cancel { job: job.clone(), reason: None };
        let mut from_later = Envelope::new(id("cc"), "/test", bus::now_ms(), cancel);
        from_later.withinschema = 99;
        bus.publish(&subjects[1], &from_later).await.expect("sent");
        let event = Event::Cancelled { reason: "r".into() };
        let mut from_later = Envelope::new(id("eee"), "/test", bus::now_ms(), event);
        from_later.withinschema = 99;
        bus.publish(&subjects[2], &from_later).await.expect("sent");
        for (number, (subject, (_, name))) in subjects[3..].iter().zip(work).enumerate() {
            let work = Work {
                job: job.clone(),
                task: task(name),
                attempt: 1,
                name: "bad".into(),
                plan: plan.clone(),
                deadline_at: bus::now_ms() + 600_000,
                input: WorkInput::Prepare,
            };
            let mut from_later = Envelope::new(format!("w{number}"), "/test", bus::now_ms(), work);
            from_later.withinschema = 99;
            bus.publish(subject, &from_later).await.expect("sent");
        }
    });
    subjects
}

/// What waiting does not heal ends the process at once, with what to do, and without a restart loop.
#[test]
fn a_store_that_another_process_holds_ends_the_process() {
    const HOLD: &str = "import sqlite3, sys, threading\n\
        db = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
        db.execute('pragma journal_mode=wal'); db.execute('begin exclusive')\n\
        print('{}', flush=True)\n\
        threading.Event().wait()";
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.home()).expect("creates");
    let database = sandbox.home().join("tracker.db");
    let mut command = std::process::Command::new(crate::harness::python());
    command.args(["-c", HOLD]).arg(&database);
    let mut holder = Running::start(command);
    holder.line("the lock", |_| true);
    let ended = sandbox.within(&["worker", "--json"]).expect(3);
    let told = ended.last();
    assert_eq!((text(&told, "/class"), text(&told, "/code")), ("infrastructure", "tracker_unavailable"), "{told}");
    assert!(text(&told, "/message").contains(&database.display().to_string()), "{told}");
    assert!(text(&told, "/hint").contains("tracker_database"), "{told}");
    assert!(!ended.stderr.contains("it is started again"), "{}", ended.stderr);
    drop(holder);

    let store = sandbox.home().join("nats");
    let lock = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(store.join("lock"));
    let lock = lock.expect("opens");
    lock.try_lock().expect("nobody else has it");
    for command in [&["worker", "--json"][..], &["run", "--json"]] {
        let told = sandbox.within(command).expect(3).last();
        assert_eq!(text(&told, "/class"), "infrastructure", "{told}");
        assert!(text(&told, "/message").contains("another process uses it"), "{told}");
        assert!(text(&told, "/hint").contains("--home"), "{told}");
    }
}

/// A second run in a home would share the first one's workers, who know another folder of data.
#[test]
fn a_home_is_for_one_run_at_a_time() {
    let sandbox = Sandbox::new();
    sandbox.write("within.yaml", TIMINGS);
    sandbox.write("table.csv", table(2_000));
    sandbox.write("job.yaml", spec("table.csv", 100_000, ""));
    let mut first = sandbox.start(&["run", "job.yaml", "--json", "--id", "first"]);
    first.line("progress", |line| line["event"] == "progress");
    let begun = Instant::now();
    let told = sandbox.within(&["run", "job.yaml", "--json", "--id", "second"]).expect(3).last();
    assert!(begun.elapsed() < Duration::from_secs(10), "refused after {:?}", begun.elapsed());
    assert!(text(&told, "/message").contains(&format!("process {}", first.pid())), "{told}");
    assert!(text(&told, "/hint").contains("within worker"), "{told}");
    sandbox.within(&["jobs", "cancel", "first"]).expect(0);
    first.wait().expect(1);
    // And the next one may.
    sandbox.within(&["run", "job.yaml", "--json", "--id", "third", "--set", "training.epochs=1"]).expect(0);
}

/// With its server gone a run has nothing to wait for.
#[test]
fn a_terminated_run_without_its_server_ends_within_seconds() {
    let sandbox = Sandbox::new();
    sandbox.write("table.csv", table(2_000));
    sandbox.write("job.yaml", spec("table.csv", 100_000, ""));
    let mut run = sandbox.start(&["run", "job.yaml", "--json", "--id", "left"]);
    run.line("progress", |line| line["event"] == "progress");
    let ranks = children(run.pid(), " rank");
    for server in children(run.pid(), "nats-server.conf") {
        kill(Pid::from_raw(server.pid as i32), Signal::SIGKILL).expect("the server runs");
    }
    let begun = Instant::now();
    run.signal(Signal::SIGTERM);
    run.wait().expect(143);
    let took = begun.elapsed();
    println!("ended after {took:?}");
    assert!(took < Duration::from_secs(12), "ended after {took:?}");
    for rank in ranks {
        gone("the rank", rank.pid);
    }
}

#[test]
fn wrong_settings_of_the_bus_are_refused() {
    let sandbox = Sandbox::new();
    for (settings, parts) in [
        ("webhook_hosts: ['http://hooks.example.com']\n", &["webhook_hosts", "http://hooks.example.com"][..]),
        ("webhook_hosts: ['*']\n", &["webhook_hosts", "*"]),
        ("streams: {event_mesages: 3}\n", &["within.yaml", "event_mesages"]),
        ("streams: {work_messages: 0}\n", &["streams.work_messages", "at least 1"]),
        ("nats: {url: 'nats://h', tls: {cacert: x}}\n", &["within.yaml", "cacert"]),
        ("nats: 3\n", &["within.yaml", "URL"]),
    ] {
        sandbox.write("within.yaml", settings);
        for command in ["worker", "run"] {
            let told = sandbox.within(&[command, "--json"]).expect(2).last();
            for part in parts {
                assert!(text(&told, "/message").contains(part), "no {part:?} in {told}");
            }
        }
    }
    sandbox.write("within.yaml", "nats: {url: 'tls://127.0.0.1:1', tls: {ca: gone.pem}}\n");
    let told = sandbox.within(&["worker", "--json"]).expect(3).last();
    assert!(text(&told, "/message").contains("gone.pem") && text(&told, "/hint").contains("nats.tls"), "{told}");
}
