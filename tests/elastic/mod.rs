//! Elastic training: a gang of rank processes that loses members, is given new ones, stands still or is cut in two,
//! and whose job ends with the bits and the samples of a run of one rank that nothing disturbed.
//!
//! Here is what these tests share: small jobs of three models, their references, and a cluster whose trainers come
//! and go.

mod cases;
mod hosts;
mod launch;
mod recovery;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use futures::StreamExt;
use messages::job::Role;
use messages::worker::Heartbeat;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::fault::{Platform, ends_in_time, signal};
use crate::harness::{Ended, Running, Sandbox, children, number, spec, table, text};
use crate::models::{AD_SCORE, accounts, ads};

/// Short deadlines, so that what was lost is missed soon; a busy machine of two processors meets them.
const TIMINGS: &str = "timings: {ack_wait_ms: 5000, heartbeat_ms: 300, worker_lost_ms: 3000, lease_ttl_ms: 3000, \
    request_timeout_ms: 2000, reserve_timeout_ms: 3000, join_timeout_ms: 10000, step_timeout_ms: 8000, \
    rank_silent_ms: 1500, last_call_ms: 1000, feed_timeout_ms: 2000, retry_backoff_ms: 100, drain_grace_ms: 10000}\n";
/// All but the coordinator and the trainers.
const REST: &str = "data_loader,evaluator,tracker,notifier";

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Model {
    Mlp,
    AdScore,
    LstmSequence,
}

const MODELS: [Model; 3] = [Model::Mlp, Model::AdScore, Model::LstmSequence];

impl Model {
    /// Writes the data and the job, which lasts for a few seconds.
    fn write(self, sandbox: &Sandbox) {
        let job = match self {
            Self::Mlp => {
                sandbox.write("table.csv", table(400));
                spec("table.csv", 160, "")
            }
            Self::AdScore => {
                ads(sandbox);
                AD_SCORE.replace("epochs: 12", "epochs: 24")
            }
            Self::LstmSequence => {
                accounts(sandbox);
                LSTM.to_owned()
            }
        };
        sandbox.write(self.file(), job);
    }

    fn file(self) -> &'static str {
        match self {
            Self::Mlp => "mlp.yaml",
            Self::AdScore => "ad_score.yaml",
            Self::LstmSequence => "lstm_sequence.yaml",
        }
    }
}

const LSTM: &str = "\
task: regression
data:
  path: accounts.csv
  target: {column: health, transform: standard}
  sequence: {group_column: account, order_column: day}
model: {type: lstm_sequence, lstm: {hidden_size: 8, num_layers: 1, bidirectional: true}}
training:
  epochs: 64
  batch_size: 32
  clip_grad_norm: 1.0
  optimizer: {learning_rate: 0.02}
";

/// What a job comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bits {
    blake3: String,
    /// By epoch: which samples it saw, summed over the ranks.
    samples: BTreeMap<u64, String>,
    /// Optimizer steps in all.
    steps: u64,
}

impl Bits {
    /// Of a job that was watched to its end. An epoch that was told twice was told the same.
    fn of(ended: &Ended) -> Self {
        let mut samples = BTreeMap::new();
        for hook in ended.events("hook").iter().filter(|hook| hook["hook"] == "on_epoch_end") {
            let (epoch, seen) = (number(hook, "/epoch") as u64, text(hook, "/detail").to_owned());
            let before = samples.insert(epoch, seen.clone());
            assert!(before.is_none_or(|before| before == seen), "epoch {epoch}: {}", ended.stdout);
        }
        let steps = ended.events("metric").iter().map(|metric| number(metric, "/step") as u64).max();
        Self { blake3: text(&ended.last(), "/model/blake3").to_owned(), samples, steps: steps.unwrap_or(0) }
    }
}

/// What the job comes to with one rank that nothing disturbs, by model and settings.
fn reference(model: Model, set: &[&str]) -> Bits {
    type Known = BTreeMap<(Model, String), Bits>;
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().expect("not poisoned");
    let make = || run(model, 1, set);
    known.entry((model, set.join(" "))).or_insert_with(make).clone()
}

/// `within run --world` from its beginning to its end.
fn run(model: Model, world: u32, set: &[&str]) -> Bits {
    let sandbox = Sandbox::new();
    model.write(&sandbox);
    let world = world.to_string();
    let mut arguments = vec!["run", model.file(), "--json", "--id", "j", "--world", &world];
    arguments.extend(set.iter().flat_map(|pair| ["--set", *pair]));
    Bits::of(&sandbox.within(&arguments).expect(0))
}

/// A server, a coordinator, the other roles, and trainers that come and go.
struct Cluster {
    platform: Platform,
}

impl Cluster {
    fn start(timings: &str) -> Self {
        let platform = Platform::start(timings, 1, &[("lead", "coordinator"), ("rest", REST)]);
        for model in MODELS {
            model.write(&platform.sandbox);
        }
        Self { platform }
    }

    /// Starts trainers and waits until they are ready: name and slots of each.
    fn boot(&mut self, trainers: &[(&str, u32)]) {
        let launch = |(name, slots): &(&str, u32)| {
            self.platform.sandbox.launch(name, "trainer", &["--slots", &slots.to_string()])
        };
        let starting: Vec<_> = trainers.iter().map(launch).collect();
        for worker in starting {
            let worker = worker.ready();
            self.platform.workers.insert(worker.name.clone(), worker);
        }
    }

    /// A job of ranks between these numbers; it begins with `world`.
    fn submit(&self, model: Model, id: &str, world: u32, most: u32, set: &[&str]) -> Running {
        let (world, most) = (format!("resources.world_size={world}"), format!("resources.max_world_size={most}"));
        let set = [&[world.as_str(), most.as_str()], set].concat();
        self.platform.submit_spec(model.file(), id, &set)
    }

    /// Rank processes of these workers.
    fn ranks(&self, names: &[&str]) -> Vec<u32> {
        let pids = names.iter().map(|name| self.platform.worker(name).running.pid());
        pids.flat_map(|pid| children(pid, " rank")).map(|seen| seen.pid).collect()
    }

    /// Hits one of the ranks of these workers.
    fn hit(&self, names: &[&str], which: u64, kind: Signal) {
        let ranks = self.ranks(names);
        assert!(!ranks.is_empty(), "no rank runs at {names:?}");
        signal(ranks[which as usize % ranks.len()], kind);
    }

    /// The job ended in time, well, and with these bits and samples; its lines.
    fn succeeded(&self, job: Running, expected: &Bits) -> Ended {
        assert!(ends_in_time(&job), "a job hangs");
        let ended = job.wait().expect(0);
        let found = Bits::of(&ended);
        assert!(
            &found == expected,
            "{found:#?}\nexpected {expected:#?}\n{}\n{}",
            ended.stdout,
            self.logs(&ended.last()["job"])
        );
        ended
    }

    /// Waits until the trainers say that all of their slots are free.
    fn slots_are_free(&self) {
        let expected: BTreeSet<String> = self.trainers();
        let bus = self.platform.bus();
        let heard = async {
            let mut heard = bus.subscribe(&bus.subjects().hb_all()).await.expect("subscribes");
            let mut free = BTreeSet::new();
            while free != expected {
                let beat = heard.next().await.expect("a heartbeat").decode::<Heartbeat>().expect("reads").data;
                if beat.role == Role::Trainer && beat.slots_free == beat.slots {
                    free.insert(beat.worker.to_string());
                } else {
                    free.remove(beat.worker.as_str());
                }
            }
        };
        let patience = Duration::from_secs(10);
        let in_time = async { tokio::time::timeout(patience, heard).await.is_ok() };
        assert!(self.platform.server.block_on(in_time), "slots of {expected:?} are kept");
    }

    fn trainers(&self) -> BTreeSet<String> {
        let names = self.platform.workers.keys().filter(|name| !["lead", "rest"].contains(&name.as_str()));
        names.cloned().collect()
    }

    /// Ends all trainers; nothing of them remains.
    fn dismiss(&mut self) {
        let names = self.trainers();
        let pids: Vec<_> = names.iter().map(|name| self.platform.worker(name).running.pid()).collect();
        let ranks: Vec<_> = pids.iter().flat_map(|pid| children(*pid, " rank")).collect();
        for name in &names {
            self.platform.worker(name).running.signal(Signal::SIGTERM);
        }
        for name in &names {
            self.platform.take(name).running.wait().expect(0);
        }
        for rank in ranks {
            crate::harness::gone("a rank", rank.pid);
        }
    }

    /// What the ranks of a job said, which may explain a failure.
    fn logs(&self, job: &Value) -> String {
        let job = job.as_str().unwrap_or_default();
        self.platform.sandbox.within(&["jobs", "logs", job, "--json"]).all_text()
    }
}

/// Generations that ranks left or joined. A call to meet that comes late costs one more meeting of the same ranks.
fn changes(ended: &Ended) -> Vec<Value> {
    let mut regrouped = ended.events("regrouped");
    regrouped.retain(|event| !ranks_in(event, "gone").is_empty() || !ranks_in(event, "joined").is_empty());
    regrouped
}

/// Waits until the job has done so many steps.
fn reaches(job: &mut Running, step: u64) {
    job.line("step", |line| {
        ["progress", "metric"].iter().any(|e| line["event"] == *e) && line["step"].as_u64() >= Some(step)
    });
}

/// Milliseconds of a UTC time of the day, such as that of `2026-11-23T23:19:58.025Z`.
fn milliseconds(time: &Value) -> f64 {
    let time = time.as_str().and_then(|time| time.split_once('T')).expect("a time").1.trim_end_matches('Z');
    time.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().expect("a number")) * 1000.0
}

/// From one event to another, over midnight too.
fn between(from: &Value, to: &Value) -> Duration {
    let day = 86_400_000.0;
    let passed = milliseconds(&to["time"]) - milliseconds(&from["time"]);
    Duration::from_millis(((passed + day) % day) as u64)
}

/// The ranks in a list of an event.
fn ranks_in(event: &Value, key: &str) -> Vec<u64> {
    event[key].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
}
