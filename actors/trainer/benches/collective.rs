//! all_reduce between two processes on loopback in the bit-exact order, beside Gloo in the same run. A line of
//! JSON a figure, also written to `collective.json` in `WITHIN_BENCH_DIR`.
//!
//! Gloo runs by the Python of `WITHIN_TORCH_PYTHON`, one that has torch; without it no peer is measured.
//! Arguments: `--turns N` (default 3) of `--repeats N` (default 30) each, `--world N` (default 2; Gloo only at 2),
//! `--route exchange|direct|halving`, `--piece KIB`, `--alone` (no peer).

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kernels::collective::{Route, Tuning};
use within_trainer::exchange::{Cancel, Group, Listener, Member, Seat, Token};

const SHARDS: usize = 16;
const SIZES: [usize; 4] = [4 << 10, 1 << 20, 16 << 20, 64 << 20];
/// Short messages are sent so many times more often.
const SHORT: usize = 20;
const WARM_UP: usize = 5;
const TIMEOUT: Duration = Duration::from_secs(60);

fn text(name: &str) -> Option<String> {
    std::env::args().skip_while(|a| a != name).nth(1)
}

fn number(name: &str, default: usize) -> usize {
    text(name).and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn tuning() -> Tuning {
    let route = text("--route").map(|name| match name.as_str() {
        "exchange" => Route::Exchange,
        "direct" => Route::Direct,
        "halving" => Route::Halving,
        other => panic!("--route {other}: expected exchange, direct or halving"),
    });
    let default = Tuning::default();
    Tuning { route, piece_bytes: number("--piece", default.piece_bytes >> 10) << 10, ..default }
}

fn count(size: usize) -> usize {
    let repeats = number("--repeats", 30).max(1);
    if size < 1 << 20 { repeats * SHORT } else { repeats }
}

/// Seconds of each all_reduce of every size, as rank 0 of the world sees them.
fn measure(mut group: Group) -> Vec<Vec<f64>> {
    let nodes = group.topology().nodes();
    SIZES
        .iter()
        .map(|size| {
            let mut buffers = vec![vec![0.0f32; size / 4]; nodes.len()];
            let mut seconds = Vec::new();
            for _ in 0..count(*size) + WARM_UP {
                buffers.iter_mut().zip(&nodes).for_each(|(buffer, node)| buffer.fill(node.span() as f32));
                group.barrier().expect("all come");
                let begun = Instant::now();
                let lent = nodes.iter().copied().zip(buffers.iter_mut().map(Vec::as_mut_slice)).collect();
                group.all_reduce(lent).expect("sums");
                seconds.push(begun.elapsed().as_secs_f64());
                assert!(buffers[0].iter().all(|sum| *sum == SHARDS as f32), "a wrong sum");
            }
            seconds.split_off(WARM_UP)
        })
        .collect()
}

/// A rank in a process of its own: tells its address, hears all of them, and works.
fn rank(rank: u32, world: usize) {
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("listens");
    println!("{}", listener.address().expect("an address"));
    std::io::stdout().flush().expect("a pipe");
    let addresses = std::io::stdin().lines().take(world).map(|line| line.expect("a line").parse().expect("an address"));
    let members =
        addresses.zip(0..).map(|(address, rank)| Member { rank, host: "localhost".into(), address }).collect();
    let seat = Seat {
        job: "bench".into(),
        generation: 1,
        rank,
        shards: SHARDS,
        token: Token::new([7; 32]),
        encrypted: false,
        members,
    };
    let seconds = measure(Group::connect(&listener, &seat, tuning(), TIMEOUT, &Cancel::new()).expect("meets"));
    println!("{}", serde_json::to_string(&seconds).expect("numbers"));
}

/// The seconds of rank 0 of a world of processes.
fn within(world: usize) -> Vec<Vec<f64>> {
    let program = std::env::current_exe().expect("this program");
    let start = |rank: usize| {
        let mut command = Command::new(&program);
        command.args(std::env::args().skip(1)).args(["--rank", &rank.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts")
    };
    let mut ranks: Vec<Child> = (0..world).map(start).collect();
    let mut readers: Vec<_> = ranks.iter_mut().map(|rank| BufReader::new(rank.stdout.take().expect("piped"))).collect();
    let mut line = |rank: usize| {
        let mut line = String::new();
        readers[rank].read_line(&mut line).expect("reads");
        line
    };
    let addresses: String = (0..world).map(&mut line).collect();
    for rank in &mut ranks {
        rank.stdin.take().expect("piped").write_all(addresses.as_bytes()).expect("tells");
    }
    let seconds: Vec<Vec<Vec<f64>>> =
        (0..world).map(|rank| serde_json::from_str(&line(rank)).expect("figures")).collect();
    for mut rank in ranks {
        assert!(rank.wait().expect("ends").success());
    }
    seconds.into_iter().next().expect("rank 0")
}

/// The same of Gloo.
fn gloo() -> Option<Vec<Vec<f64>>> {
    let python = std::env::var_os("WITHIN_TORCH_PYTHON")?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/gloo.py");
    let mut command = Command::new(python);
    command.arg(script).arg(number("--repeats", 30).to_string()).args(SIZES.map(|size| size.to_string()));
    let output = command.output().expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seconds: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let of = |size: &usize| serde_json::from_value(seconds[size.to_string()].clone()).expect("seconds");
    Some(SIZES.iter().map(of).collect())
}

/// Best and median, of seconds.
fn best_and_median(seconds: &[f64]) -> (f64, f64) {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted[0], sorted[sorted.len() / 2])
}

/// Rounded to three digits behind the point.
fn short(figure: f64) -> f64 {
    (figure * 1e3).round() / 1e3
}

fn main() {
    // `cargo test` may run a bench without asking for a measurement.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let world = number("--world", 2);
    if let Some(own) = text("--rank") {
        return rank(own.parse().expect("a rank"), world);
    }
    let compared = world == 2 && !std::env::args().any(|a| a == "--alone");
    // Turn by turn, so that a slow minute of the machine hits both.
    let mut ours: Vec<Vec<f64>> = vec![Vec::new(); SIZES.len()];
    let mut peer: Option<Vec<Vec<f64>>> = None;
    let append = |all: &mut Vec<Vec<f64>>, more: Vec<Vec<f64>>| {
        all.iter_mut().zip(more).for_each(|(all, more)| all.extend(more));
    };
    for _ in 0..number("--turns", 3).max(1) {
        append(&mut ours, within(world));
        if let Some(more) = if compared { gloo() } else { None } {
            append(peer.get_or_insert_with(|| vec![Vec::new(); SIZES.len()]), more);
        }
    }
    let mut rows = Vec::new();
    for (index, size) in SIZES.iter().enumerate() {
        let gb_per_s = |seconds: f64| short(*size as f64 / seconds / 1e9);
        let (best, median) = best_and_median(&ours[index]);
        let (peer_best, peer_median) = peer.as_ref().map(|peer| best_and_median(&peer[index])).unzip();
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load1: Option<f64> = load.split(' ').next().and_then(|text| text.parse().ok());
        let row = if *size < 1 << 20 {
            serde_json::json!({
                "name": format!("all_reduce of {} KiB, {world} processes, p50", size >> 10), "unit": "us",
                "figure": short(median * 1e6), "best": short(best * 1e6),
                "peer": peer.as_ref().map(|_| "gloo"), "peer_figure": peer_median.map(|s| short(s * 1e6)),
                "ratio": peer_median.map(|peer| short(peer / median)), "load1": load1,
            })
        } else {
            serde_json::json!({
                "name": format!("all_reduce of {} MiB, {world} processes, best", size >> 20), "unit": "GB/s",
                "figure": gb_per_s(best), "median": gb_per_s(median),
                "peer": peer.as_ref().map(|_| "gloo"), "peer_figure": peer_best.map(gb_per_s),
                "peer_median": peer_median.map(gb_per_s),
                "ratio": peer_best.map(|peer| short(peer / best)), "load1": load1,
            })
        };
        println!("{row}");
        rows.push(row);
    }
    if let Some(folder) = std::env::var_os("WITHIN_BENCH_DIR") {
        let path = std::path::Path::new(&folder).join("collective.json");
        std::fs::write(path, serde_json::to_string_pretty(&rows).expect("JSON")).expect("writes the figures");
    }
}
