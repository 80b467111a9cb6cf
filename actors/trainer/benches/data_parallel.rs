//! Steps of an MLP by two ranks of one thread each, processes that exchange over loopback, beside one rank of one
//! thread: the same global batch and the same bits. A line of JSON a figure, also written to `data_parallel.json` in
//! `WITHIN_BENCH_DIR`.
//!
//! Arguments: `--turns N` (default 5) of `--repeats N` (default 20) steps each, `--rows N` (default 4096), `--bucket
//! KIB` (default 1024).

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernels::collective::Tuning;
use kernels::nn::{Init, Inputs, MlpConfig, Model, ModelConfig};
use kernels::pool::Pool;
use kernels::shard::rows_of;
use kernels::train::{Batch, Interrupted, RankBatch, Targets, TrainConfig, Trainer};
use kernels::weights::params_blake3;
use within_trainer::exchange::{Cancel, Group, Listener, Member, Seat, Token};

const FEATURES: usize = 256;
const SHARDS: usize = 8;
const WARM_UP: usize = 3;
const TIMEOUT: Duration = Duration::from_secs(60);

fn text(name: &str) -> Option<String> {
    std::env::args().skip_while(|a| a != name).nth(1)
}

fn number(name: &str, default: usize) -> usize {
    text(name).and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn trainer() -> Trainer {
    let hidden_layers = vec![1024, 512, 256];
    let mlp = MlpConfig { input_dim: FEATURES, hidden_layers, dropout: 0.1, ..MlpConfig::default() };
    let model = Model::new(&ModelConfig::Mlp(mlp), &Init::Default, 3).expect("valid");
    let config = TrainConfig { logical_shards: SHARDS, ..TrainConfig::default() };
    Trainer::new(model, config, Arc::new(Pool::new(1))).expect("valid")
}

/// Some rows of the global batch.
fn batch(rows: std::ops::Range<usize>) -> Batch {
    let value = |i: usize| ((i * 37) as f32 * 0.61).sin();
    Batch {
        rows: rows.len(),
        features: (rows.start * FEATURES..rows.end * FEATURES).map(value).collect(),
        inputs: Inputs::default(),
        targets: Targets::Real(rows.clone().map(|row| value(row * FEATURES)).collect()),
        weights: None,
        sample_ids: rows.map(|row| row as u64).collect(),
    }
}

/// Seconds of each step, and what the weights came to.
fn measure(mut group: Option<Group>) -> (Vec<f64>, String) {
    let (global_rows, bucket) = (number("--rows", 4096), number("--bucket", 1024) << 8);
    let (rank, world) = group.as_ref().map_or((0, 1), |group| (group.topology().rank, group.topology().world));
    let held = kernels::shard::shards_of(rank, world, SHARDS);
    let rows = rows_of(held.start, SHARDS, global_rows).start..rows_of(held.end - 1, SHARDS, global_rows).end;
    let (mut trainer, batch) = (trainer(), batch(rows));
    let mut seconds = Vec::new();
    for _ in 0..WARM_UP + number("--repeats", 20).max(1) {
        if let Some(group) = &mut group {
            group.barrier().expect("all come");
        }
        let begun = Instant::now();
        match &mut group {
            None => trainer.step(&batch).expect("finite"),
            Some(group) => {
                let part = RankBatch { batch: &batch, global_rows, held: held.clone() };
                let mut exchange = group.begin().expect("a whole group");
                let submitted = trainer.exchange(&part, world, bucket, |bucket, op| exchange.submit(bucket, op));
                submitted
                    .map_err(|why| match why {
                        Interrupted::Compute(error) => error.to_string(),
                        Interrupted::Submit(error) => error.to_string(),
                    })
                    .expect("computes");
                exchange.finish().expect("sums");
                trainer.accumulate_exchanged().expect("whole");
                trainer.apply().expect("finite")
            }
        };
        seconds.push(begun.elapsed().as_secs_f64());
    }
    (seconds.split_off(WARM_UP), params_blake3(trainer.model()))
}

/// A rank in a process of its own: alone, or one that tells its address and hears all of them.
fn rank(rank: u32, world: usize) {
    if world == 1 {
        return println!("{}", serde_json::to_string(&measure(None)).expect("numbers"));
    }
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
    let group = Group::connect(&listener, &seat, Tuning::default(), TIMEOUT, &Cancel::new()).expect("meets");
    println!("{}", serde_json::to_string(&measure(Some(group))).expect("numbers"));
}

/// The seconds of rank 0 of a world of processes.
fn within(world: usize) -> (Vec<f64>, String) {
    let program = std::env::current_exe().expect("this program");
    let start = |rank: usize| {
        let mut command = Command::new(&program);
        let own = ["--world".into(), world.to_string(), "--rank".into(), rank.to_string()];
        command.args(std::env::args().skip(1)).args(own);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts")
    };
    let mut ranks: Vec<Child> = (0..world).map(start).collect();
    let mut readers: Vec<_> = ranks.iter_mut().map(|rank| BufReader::new(rank.stdout.take().expect("piped"))).collect();
    let mut line = |rank: usize| {
        let mut line = String::new();
        readers[rank].read_line(&mut line).expect("reads");
        line
    };
    if world > 1 {
        let addresses: String = (0..world).map(&mut line).collect();
        for rank in &mut ranks {
            rank.stdin.take().expect("piped").write_all(addresses.as_bytes()).expect("tells");
        }
    }
    let figures: Vec<_> = (0..world).map(|rank| serde_json::from_str(&line(rank)).expect("figures")).collect();
    for mut rank in ranks {
        assert!(rank.wait().expect("ends").success());
    }
    figures.into_iter().next().expect("rank 0")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    // `cargo test` may run a bench without asking for a measurement.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    if let Some(own) = text("--rank") {
        return rank(own.parse().expect("a rank"), number("--world", 1));
    }
    let rows = number("--rows", 4096) as f64;
    // Turn by turn, so that a slow minute of the machine hits both.
    let (mut one, mut two, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..number("--turns", 5).max(1) {
        let ((alone, its_bits), (both, their_bits)) = (within(1), within(2));
        assert_eq!(its_bits, their_bits, "the same weights");
        let (alone, both) = (median(alone), median(both));
        ratios.push(alone / both / 2.0);
        one.push(rows / alone);
        two.push(rows / both);
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load1: Option<f64> = load.split(' ').next().and_then(|text| text.parse().ok());
    let short = |figure: f64| (figure * 1e3).round() / 1e3;
    let row = serde_json::json!({
        "name": "MLP of 256-1024-512-256-1, data-parallel, 2 processes of one thread", "unit": "rows/s",
        "figure": short(median(two)), "peer": "one process of one thread", "peer_figure": short(median(one)),
        "ratio": short(median(ratios.clone())), "ratio_is": "of twice one process, median of paired turns",
        "ratios": ratios.iter().map(|r| short(*r)).collect::<Vec<_>>(), "rows": rows, "load1": load1,
    });
    println!("{row}");
    if let Some(folder) = std::env::var_os("WITHIN_BENCH_DIR") {
        let path = std::path::Path::new(&folder).join("data_parallel.json");
        std::fs::write(path, serde_json::to_string_pretty(&[row]).expect("JSON")).expect("writes the figures");
    }
}
