//! What an all_reduce would take at 4 to 4,096 ranks, by a model, not by measurement: a row of the table in
//! RESULTS.md a line, as JSON. LogGP-like: a message takes a latency and costs its sender and its receiver
//! an overhead; bytes leave and enter a rank one after the other, both ways at once; adding takes memory
//! bandwidth. Sources: Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in
//! MPICH" (2005), for ring and halving-doubling; the module `kernels::collective` for the other two.
//!
//! Assumed: every two ranks have a full-speed path (no congestion, no incast), equal ranks, powers of two, one
//! bucket, nothing overlaps with compute, and phases do not overlap with each other.

/// A network between ranks.
struct Network {
    name: &'static str,
    /// Seconds from the end of a send to the begin of its receipt.
    latency: f64,
    /// Seconds of processor time per message, at each end.
    overhead: f64,
    /// Bytes per second, each way.
    bandwidth: f64,
}

const NETWORKS: [Network; 2] = [
    Network { name: "10 Gbit/s", latency: 25e-6, overhead: 5e-6, bandwidth: 1.15e9 },
    Network { name: "100 Gbit/s", latency: 10e-6, overhead: 5e-6, bandwidth: 11.5e9 },
];
/// Bytes added per second and rank.
const ADDED: f64 = 7.5e9;
const SIZES: [usize; 3] = [4 << 10, 1 << 20, 64 << 20];

/// Seconds of one all_reduce of `bytes` over `ranks`.
struct Costs {
    ring: f64,
    halving_doubling: f64,
    /// The deterministic tree, two trips: each piece's owner collects, adds and hands out.
    tree_direct: f64,
    /// The same where the shards do not divide evenly and each rank has two nodes to send.
    tree_direct_two_nodes: f64,
    /// The deterministic tree, one trip: everybody sends everything to everybody.
    tree_exchange: f64,
}

fn costs(network: &Network, ranks: usize, bytes: usize) -> Costs {
    let (p, n) = (ranks as f64, bytes as f64);
    let share = (p - 1.0) / p;
    let (wire, sums) = (n / network.bandwidth, n / ADDED);
    let message = network.latency + 2.0 * network.overhead;
    // Messages to many at once overlap in flight; their overheads do not.
    let burst = network.latency + (p - 1.0) * 2.0 * network.overhead;
    let bandwidth_optimal = 2.0 * share * wire + share * sums;
    Costs {
        ring: 2.0 * (p - 1.0) * message + bandwidth_optimal,
        halving_doubling: 2.0 * p.log2() * message + bandwidth_optimal,
        tree_direct: 2.0 * burst + bandwidth_optimal,
        tree_direct_two_nodes: 2.0 * burst
            + (p - 1.0) * 2.0 * network.overhead
            + 3.0 * share * wire
            + 2.0 * share * sums,
        tree_exchange: burst + (p - 1.0) * (wire + sums),
    }
}

fn main() {
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    for network in &NETWORKS {
        for bytes in SIZES {
            for ranks in (2..=12).map(|power| 1usize << power) {
                let costs = costs(network, ranks, bytes);
                let us = |seconds: f64| (seconds * 1e6).round();
                let row = serde_json::json!({
                    "name": "model of all_reduce", "model": true, "network": network.name, "bytes": bytes,
                    "ranks": ranks, "unit": "us", "ring": us(costs.ring),
                    "halving_doubling": us(costs.halving_doubling), "tree_halving": us(costs.halving_doubling),
                    "tree_direct": us(costs.tree_direct), "tree_direct_two_nodes": us(costs.tree_direct_two_nodes),
                    "tree_exchange": us(costs.tree_exchange),
                });
                println!("{row}");
            }
        }
    }
}
