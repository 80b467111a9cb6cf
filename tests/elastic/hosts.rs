//! Hosts as network namespaces on a bridge, with host names of their own: a gang over several of them, and links that
//! are cut for a while and for good. Needs root and the program `ip`; says so where it is skipped.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Cluster, Model, TIMINGS, changes, number, ranks_in, reaches, reference, run};
use crate::fault::pass;
use crate::harness::{Proxy, Running, Worker, text, wait_for};

/// Both longer than the short cut, with what TCP needs after it to try again.
const PATIENT: &str = "timings: {ack_wait_ms: 15000, heartbeat_ms: 300, worker_lost_ms: 14000, lease_ttl_ms: 3000, \
    request_timeout_ms: 2000, reserve_timeout_ms: 3000, join_timeout_ms: 10000, step_timeout_ms: 14000, \
    rank_silent_ms: 1500, last_call_ms: 1000, feed_timeout_ms: 14000, retry_backoff_ms: 100, drain_grace_ms: 10000}\n";
const SHORT_CUT: Duration = Duration::from_secs(5);
/// From a cut to the event that names the host: `worker_lost_ms`, a heartbeat, and a busy machine.
const NAMED: Duration = Duration::from_secs(8);

fn ip(arguments: &str) -> Output {
    Command::new("ip").args(arguments.split(' ')).output().expect("ip runs")
}

fn must(arguments: &str) {
    let output = ip(arguments);
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Why there can be no namespaces here; None: there can.
fn obstacle() -> Option<String> {
    let name = format!("within-probe-{}-{}", std::process::id(), NETS.fetch_add(1, Ordering::SeqCst));
    match Command::new("ip").args(["netns", "add", &name]).output() {
        Err(error) => Some(format!("ip: {error}")),
        Ok(output) if !output.status.success() => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Ok(_) => {
            must(&format!("netns delete {name}"));
            None
        }
    }
}

static NETS: AtomicU32 = AtomicU32::new(0);

/// A bridge and the hosts on it; the server's proxy listens at the bridge's address.
struct Net {
    id: String,
    subnet: String,
    hosts: usize,
}

impl Net {
    fn new(hosts: usize) -> Self {
        let number = NETS.fetch_add(1, Ordering::SeqCst);
        let id = format!("w{}x{number}", std::process::id());
        let subnet = format!("10.231.{}", (std::process::id() * 8 + number) % 250);
        let net = Self { id, subnet, hosts };
        let (id, subnet) = (&net.id, &net.subnet);
        must(&format!("link add {id} type bridge"));
        must(&format!("addr add {subnet}.1/24 dev {id}"));
        must(&format!("link set {id} up"));
        for host in 0..hosts {
            let name = net.namespace(host);
            must(&format!("netns add {name}"));
            must(&format!("link add {name} type veth peer name eth0 netns {name}"));
            must(&format!("link set {name} master {id} up"));
            must(&format!("-n {name} addr add {subnet}.{}/24 dev eth0", host + 10));
            must(&format!("-n {name} link set eth0 up"));
            must(&format!("-n {name} link set lo up"));
        }
        net
    }

    /// Of a host; its end of the link on the bridge has the same name.
    fn namespace(&self, host: usize) -> String {
        format!("{}h{host}", self.id)
    }

    /// Packets of this host vanish, and those to it.
    fn cut(&self, host: usize) {
        must(&format!("link set {} nomaster", self.namespace(host)));
    }

    fn heal(&self, host: usize) {
        must(&format!("link set {} master {}", self.namespace(host), self.id));
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in 0..self.hosts {
            ip(&format!("netns delete {}", self.namespace(host)));
        }
        ip(&format!("link delete {}", self.id));
    }
}

/// A cluster with one trainer `t<n>` on each of its hosts `host-<n>`.
struct Spread {
    // Dropped in this order: processes first, then their network.
    cluster: Cluster,
    _proxy: Proxy,
    net: Net,
}

impl Spread {
    /// None where namespaces cannot be had.
    fn start(timings: &str, hosts: usize, slots: u32) -> Option<Self> {
        if let Some(reason) = obstacle() {
            println!("skipped: no network namespaces: {reason}");
            return None;
        }
        let net = Net::new(hosts);
        let mut cluster = Cluster::start(timings);
        let url = cluster.platform.server.url();
        let port = url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        let proxy = Proxy::start_at(&format!("{}.1:0", net.subnet), port);
        let starting: Vec<_> = (0..hosts).map(|host| launch(&cluster, &net, &proxy, host, slots)).collect();
        for worker in starting {
            let worker = worker.ready();
            cluster.platform.workers.insert(worker.name.clone(), worker);
        }
        Some(Self { cluster, _proxy: proxy, net })
    }
}

/// A worker with a network and a host name of its own.
fn launch(cluster: &Cluster, net: &Net, proxy: &Proxy, host: usize, slots: u32) -> Worker {
    const ENTER: &str = "echo $0 > /proc/sys/kernel/hostname && exec ip netns exec \"$@\"";
    let name = format!("t{host}");
    let (home, slots) = (cluster.platform.sandbox.outside(&name).display().to_string(), slots.to_string());
    let inner = cluster.platform.sandbox.command(&[
        "worker",
        "--json",
        "--name",
        &name,
        "--roles",
        "trainer",
        "--slots",
        &slots,
        "--nats",
        &proxy.url(),
        "--home",
        &home,
    ]);
    let mut command = Command::new("unshare");
    command.args(["--uts", "sh", "-c", ENTER, &format!("host-{host}"), &net.namespace(host)]);
    command.arg(inner.get_program()).args(inner.get_args());
    command.current_dir(inner.get_current_dir().expect("invariant: it has one"));
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Worker { running: Running::start(command), started: Value::Null, name }
}

#[test]
fn a_link_that_is_cut_for_five_seconds() {
    let Some(mut spread) = Spread::start(PATIENT, 2, 2) else { return };
    let expected = reference(Model::Mlp, &[]);
    let mut job = spread.cluster.submit(Model::Mlp, "short", 4, 4, &[]);
    reaches(&mut job, expected.steps / 4);
    spread.net.cut(1);
    pass(SHORT_CUT);
    spread.net.heal(1);
    let begun = Instant::now();
    let ended = spread.cluster.succeeded(job, &expected);
    println!("the job ended {:.1} s after the link was whole", begun.elapsed().as_secs_f64());
    for event in ["rank_lost", "worker_lost", "task_retried"] {
        assert!(ended.events(event).is_empty(), "{event}: {}", ended.stdout);
    }
    spread.cluster.slots_are_free();
    spread.cluster.dismiss();
}

/// The gang shrinks; the host that was cut off tidies up when it is back.
#[test]
fn a_link_that_stays_cut() {
    let Some(mut spread) = Spread::start(TIMINGS, 2, 2) else { return };
    let expected = reference(Model::Mlp, &[]);
    let mut job = spread.cluster.submit(Model::Mlp, "long", 4, 4, &[]);
    reaches(&mut job, expected.steps / 4);
    let begun = Instant::now();
    spread.net.cut(1);
    let lost = job.line("worker_lost", |line| line["event"] == "worker_lost");
    let took = begun.elapsed();
    println!("host-1 was named {:.1} s after the cut", took.as_secs_f64());
    assert!(took < NAMED, "{took:?}");
    assert_eq!((text(&lost, "/error/class"), text(&lost, "/worker")), ("network_partition", "t1"), "{lost}");
    assert!(text(&lost, "/error/message").contains("host-1"), "{lost}");
    let ended = spread.cluster.succeeded(job, &expected);
    let gone: Vec<_> = ended.events("rank_lost").iter().map(|event| number(event, "/rank") as u64).collect();
    let shrunk = changes(&ended).pop().unwrap_or_default();
    assert_eq!((gone, number(&shrunk, "/world_size")), (ranks_in(&shrunk, "gone"), 2.0), "{}", ended.stdout);
    assert!(ended.events("task_retried").is_empty(), "{}", ended.stdout);
    spread.net.heal(1);
    wait_for("the end of the ranks that were cut off", Duration::from_secs(30), || {
        (spread.cluster.platform.logged("t1", "told to stop").len()
            + spread.cluster.platform.logged("t1", "released").len()
            > 0)
        .then_some(())
    });
    spread.cluster.dismiss();
}

/// A gang that may not shrink ends by its deadline, and the next one waits for the host to come back.
#[test]
fn a_gang_that_may_not_shrink() {
    let Some(mut spread) = Spread::start(TIMINGS, 2, 2) else { return };
    let expected = reference(Model::Mlp, &[]);
    let whole = "resources.min_world_size=4";
    let mut job = spread.cluster.submit(Model::Mlp, "fails", 4, 4, &[whole, "limits.deadline_s=12"]);
    reaches(&mut job, expected.steps / 4);
    spread.net.cut(1);
    let begun = Instant::now();
    let ended = job.wait().expect(1);
    println!("failed {:.1} s after the cut: {}", begun.elapsed().as_secs_f64(), ended.last()["message"]);
    assert!(begun.elapsed() < Duration::from_secs(20), "{}", ended.stdout);
    let lost = [ended.events("worker_lost"), ended.events("task_retried")].concat();
    let named = |event: &Value| {
        let (class, message) = (text(event, "/error/class"), text(event, "/error/message"));
        class == "network_partition" && message.contains("worker t1 on host host-1")
    };
    assert!(lost.iter().any(named), "{}", ended.stdout);
    spread.net.heal(1);
    let next = spread.cluster.submit(Model::Mlp, "waits", 4, 4, &[whole]);
    spread.cluster.succeeded(next, &expected);
    spread.cluster.dismiss();
}

#[test]
fn sixteen_ranks_on_four_hosts() {
    let set = ["training.logical_shards=16", "training.epochs=3"];
    let Some(mut spread) = Spread::start(TIMINGS, 4, 4) else { return };
    let expected = run(Model::Mlp, 1, &set);
    let job = spread.cluster.submit(Model::Mlp, "wide", 16, 16, &set);
    let ended = spread.cluster.succeeded(job, &expected);
    assert!(ended.events("regrouped").is_empty(), "{}", ended.stdout);
    spread.cluster.slots_are_free();
    spread.cluster.dismiss();
}
