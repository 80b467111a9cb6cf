//! What is bound by memory, beside the memory's own speed: a plain triad (a = b + s c), then an AdamW step (f32,
//! bf16, with averages), a LAMB step and a layer norm over arrays that no cache holds; one line of JSON per figure.
//! Bytes are what crosses the bus: a written line is first read, unless the loop has read it anyway. Each round
//! measures all of them, one after the other, and the best of the rounds counts.
//!
//! Arguments: `--millions N` (elements, default 24), `--rounds N` (default 15), `--threads N` (default 1 and 2).

mod figures;

use figures::{Figures, argument};
use kernels::dtype::Precision;
use kernels::optim::{AdamWConfig, EmaConfig, Extras, LambConfig, Optimizer, OptimizerConfig, StepGradient};
use kernels::params::{Decay, Layout, ParamBuilder, ParamStore};
use kernels::pool::Pool;
use kernels::tape::{InputGrad, Mode, Rows, Tape, Workspace};
use std::time::Instant;

/// Columns of a row: a hidden size of the BERT family.
const COLUMNS: usize = 768;

/// Seconds of one call.
fn seconds(work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_secs_f64()
}

fn triad(a: &mut [f32], b: &[f32], c: &[f32], threads: usize) {
    let part = a.len().div_ceil(threads);
    std::thread::scope(|scope| {
        for ((a, b), c) in a.chunks_mut(part).zip(b.chunks(part)).zip(c.chunks(part)) {
            scope.spawn(move || {
                for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
                    *a = *b + 0.5 * *c;
                }
            });
        }
    });
}

/// One table of `rows` x COLUMNS.
fn store(rows: usize, layout: Layout) -> ParamStore {
    let mut builder = ParamBuilder::default();
    let id = builder.add("table".into(), &[rows, COLUMNS], Decay::Decayed, layout).expect("a valid size");
    let mut params = builder.build().expect("memory");
    params.set(id, &vec![0.5; rows * COLUMNS]).expect("its shape");
    params
}

/// An optimizer with its parameters and a gradient.
struct Stepper {
    figure: &'static str,
    bytes_per_element: f64,
    params: ParamStore,
    optimizer: Optimizer,
    gradient: Vec<f32>,
}

impl Stepper {
    fn new(
        figure: &'static str,
        bytes: f64,
        rows: usize,
        layout: Layout,
        config: &OptimizerConfig,
        extras: &Extras<'_>,
    ) -> Stepper {
        let mut params = store(rows, layout);
        let optimizer = Optimizer::new(config, extras, &mut params).expect("a valid optimizer");
        let gradient = vec![1e-3; params.flat_len()];
        Stepper { figure, bytes_per_element: bytes, params, optimizer, gradient }
    }

    fn step(&mut self, pool: &Pool) {
        let gradient = StepGradient { sum: &self.gradient, factor: 1.0, max_value: None };
        self.optimizer.step(&mut self.params, gradient, 1e-3, pool);
    }
}

fn steppers(rows: usize) -> Vec<Stepper> {
    let adamw = OptimizerConfig::AdamW(AdamWConfig::default());
    let lamb = OptimizerConfig::Lamb(LambConfig::default());
    let ema = EmaConfig::default();
    let (plain, averaged) = (Extras::default(), Extras { ema: Some(&ema), ..Extras::default() });
    let mixed = Extras { precision: Precision::Bf16, ..Extras::default() };
    vec![
        // Reads of weights, gradient and both moments; writes of all but the gradient.
        Stepper::new("adamw_step", 28.0, rows, Layout::Plain, &adamw, &plain),
        // And the packed copy: a write of lines that nobody has read.
        Stepper::new("adamw_step_product", 36.0, rows, Layout::Product, &adamw, &plain),
        Stepper::new("adamw_step_ema", 36.0, rows, Layout::Plain, &adamw, &averaged),
        Stepper::new("adamw_step_bf16", 36.0, rows, Layout::Plain, &adamw, &mixed),
        // First pass: reads of all four, writes of the moments; second: reads of three, a write of the weights.
        Stepper::new("lamb_step", 40.0, rows, Layout::Plain, &lamb, &plain),
    ]
}

fn report(figures: &mut Figures, figure: &str, threads: usize, bytes: f64, best: f64, triad: f64) {
    let speed = bytes / best / 1e9;
    let line = serde_json::json!({
        "figure": figure, "unit": "GB/s", "threads": threads, "value": speed, "of_triad": speed / triad, "ms": best * 1e3,
    });
    figures.line(line);
}

fn measure(figures: &mut Figures, rows: usize, threads: usize, rounds: usize) {
    let n = rows * COLUMNS;
    let pool = Pool::new(threads);
    let (mut a, b, c) = (vec![0.0f32; n], vec![1.0f32; n], vec![2.0f32; n]);
    let mut steppers = steppers(rows);
    let mut norm_params = ParamBuilder::default();
    let gain = norm_params.add("gain".into(), &[COLUMNS], Decay::Exempt, Layout::Plain).expect("a valid size");
    let shift = norm_params.add("bias".into(), &[COLUMNS], Decay::Exempt, Layout::Plain).expect("a valid size");
    let norm_params = norm_params.build().expect("memory");
    let mut ws = Workspace::default();
    let of = Rows { count: rows, sample_ids: &[], mode: Mode::Evaluate, randomness: Default::default() };
    let mut tape = Tape::new(&mut ws, &norm_params, of).expect("a valid tape");
    let x = tape.input(&b, COLUMNS, InputGrad::Skip).expect("its shape");
    let normed = tape.layer_norm(x, gain, shift).expect("its shape");
    let (mut triad_best, mut norm_best) = (f64::INFINITY, f64::INFINITY);
    let mut bests = vec![f64::INFINITY; steppers.len()];
    for _ in 0..rounds {
        triad_best = triad_best.min(seconds(|| triad(&mut a, &b, &c, threads)));
        norm_best = norm_best.min(seconds(|| tape.forward(&pool, normed).expect("computes")));
        for (stepper, best) in steppers.iter_mut().zip(&mut bests) {
            *best = best.min(seconds(|| stepper.step(&pool)));
        }
    }
    let of = |bytes_per_element: f64| bytes_per_element * n as f64;
    let speed = of(16.0) / triad_best / 1e9;
    report(figures, "triad", threads, of(16.0), triad_best, speed);
    report(figures, "layer_norm", threads, of(12.0), norm_best, speed);
    for (stepper, best) in steppers.iter().zip(&bests) {
        report(figures, stepper.figure, threads, of(stepper.bytes_per_element), *best, speed);
    }
}

fn main() {
    if !figures::wanted() {
        return;
    }
    let mut figures = Figures::new("memory");
    let rows = argument("--millions").unwrap_or(24).max(1) * 1_000_000 / COLUMNS;
    let rounds = argument("--rounds").unwrap_or(15).max(1);
    for threads in argument("--threads").map_or(vec![1, 2], |n| vec![n.max(1)]) {
        measure(&mut figures, rows, threads, rounds);
    }
}
