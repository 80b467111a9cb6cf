//! The stall of a checkpoint that is saved beside training, as a share of a step, for a network of about five million
//! parameters with AdamW: the copy of the state that the compute thread takes, and what the steps lose while the
//! files are hashed, written and synced. A line of JSON a figure, also written to `checkpoint.json` in
//! `WITHIN_BENCH_DIR`. Arguments: `--rows N` of a batch (default 1024), `--turns N` (default 10), `--threads N`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use kernels::nn::{Init, Inputs, MlpConfig, Model, ModelConfig};
use kernels::pool::{Pool, available_threads};
use kernels::train::{Batch, LossConfig, StateCopy, Targets, TrainConfig, Trainer};
use messages::Fence;
use within_trainer::checkpoint::{CheckpointStore, Snapshot, TrainState};

const WIDTH: usize = 512;
/// Undisturbed steps before each save.
const STEPS: usize = 5;

fn number(name: &str, default: usize) -> usize {
    let text = std::env::args().skip_while(|a| a != name).nth(1);
    text.and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn trainer() -> Trainer {
    let layers = vec![1_536, 1_536, 1_024];
    let config = ModelConfig::Mlp(MlpConfig { input_dim: WIDTH, hidden_layers: layers, ..MlpConfig::default() });
    let model = Model::new(&config, &Init::Default, 1).expect("a model");
    let train = TrainConfig { loss: LossConfig::Mse, ..TrainConfig::default() };
    let threads = number("--threads", available_threads());
    Trainer::new(model, train, Arc::new(Pool::new(threads))).expect("a trainer")
}

fn batch(rows: usize) -> Batch {
    Batch {
        rows,
        features: (0..rows * WIDTH).map(|i| (i as f32 * 0.37).sin()).collect(),
        inputs: Inputs::default(),
        targets: Targets::Real((0..rows).map(|i| (i as f32 * 0.1).cos()).collect()),
        weights: None,
        sample_ids: (0..rows as u64).collect(),
    }
}

fn state(step: u64) -> TrainState {
    serde_json::from_value(serde_json::json!({
        "schema": 1, "epoch": 0, "step": step, "position": {"epoch": 0, "batch": step},
        "learning_rate": "0000000000000000", "early_stopping": [], "best": [], "best_model": null,
        "running": {"rows": 0, "loss": "0000000000000000", "grad_norm": "0000000000000000", "steps": 0},
        "rng": {"seed": 1, "shuffle_seed": 1, "dropout_seed": 1}, "metrics": {}, "timestamp": "",
        "extra_info": {
            "job": "bench", "task": "train", "attempt": 1, "fence": "1", "generation": 1, "world_size": 1,
            "plan_blake3": "", "dataset_blake3": "", "params_blake3": ""
        }
    }))
    .expect("a state")
}

/// Seconds of a step.
fn step(trainer: &mut Trainer, batch: &Batch) -> f64 {
    let begun = Instant::now();
    trainer.step(batch).expect("steps");
    begun.elapsed().as_secs_f64()
}

/// Writes what the thread `checkpoint` writes; seconds.
fn write(store: &CheckpointStore, copy: &StateCopy, turn: u64) -> f64 {
    let begun = Instant::now();
    let model = copy.save_announced(&BTreeMap::new()).expect("saves");
    let mut state = state(turn + 1);
    state.extra_info.params_blake3 = copy.params_blake3();
    let optimizer = copy.to_bytes().expect("saves");
    store.commit(&Snapshot { state, model, optimizer, best: None }).expect("commits");
    begun.elapsed().as_secs_f64()
}

fn main() {
    // `cargo test` may run a bench without asking for a measurement.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let (rows, turns) = (number("--rows", 1_024), number("--turns", 10).max(1));
    let (mut trainer, batch) = (trainer(), batch(rows));
    let folder = tempfile::TempDir::new().expect("a folder");
    let store = CheckpointStore::open(folder.path(), Fence(1)).expect("opens");
    // The first turns warm up; the first copy takes the memory, as `Saver::prepare` does before training.
    let mut held = Some(trainer.copy_state(None).expect("copies"));
    let mut figures: [Vec<f64>; 4] = Default::default();
    for turn in 0..turns as u64 + 2 {
        let mut alone: Vec<f64> = (0..STEPS).map(|_| step(&mut trainer, &batch)).collect();
        let usual = median(&mut alone);
        let begun = Instant::now();
        let copy = trainer.copy_state(held.take()).expect("copies");
        let stall = begun.elapsed().as_secs_f64();
        let (written, lost) = std::thread::scope(|scope| {
            let writing = scope.spawn(|| write(&store, &copy, turn));
            let mut lost = 0.0;
            while !writing.is_finished() {
                lost += step(&mut trainer, &batch) - usual;
            }
            (writing.join().expect("writes"), lost)
        });
        held = Some(copy);
        if turn >= 2 {
            figures.iter_mut().zip([usual, stall, lost, written]).for_each(|(all, seconds)| all.push(seconds));
        }
    }
    let [usual, stall, lost, written] = figures.each_mut().map(|seconds| median(seconds));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let ms = |seconds: f64| (seconds * 1e5).round() / 1e2;
    let share = |seconds: f64| (seconds / usual * 1e4).round() / 1e2;
    let row = serde_json::json!({
        "name": format!("stall of a checkpoint, {} parameters, {rows} rows, p50", trainer.model().parameter_count()),
        "unit": "% of a step", "figure": share(stall), "stall_ms": ms(stall), "step_ms": ms(usual),
        "steps_lose_ms": ms(lost), "written_in_ms": ms(written),
        "load1": load.split(' ').next().and_then(|text| text.parse::<f64>().ok()),
    });
    println!("{row}");
    if let Some(folder) = std::env::var_os("WITHIN_BENCH_DIR") {
        let path = std::path::Path::new(&folder).join("checkpoint.json");
        std::fs::write(path, serde_json::to_string_pretty(&[row]).expect("JSON")).expect("writes the figures");
    }
}
