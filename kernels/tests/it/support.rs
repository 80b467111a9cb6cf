//! What the tests share: random data, a small graph run on the tape, comparisons.

use kernels::Result;
use kernels::buffer::AlignedBuf;
use kernels::nn::{Init, MlpConfig, Model, ModelConfig, Norm};
use kernels::ops::Activation;
use kernels::ops::loss::{Loss, LossConfig, LossSum, Targets};
use kernels::ops::{Randomness, Var};
use kernels::params::{Decay, Layout, ParamBuilder, ParamId, ParamStore};
use kernels::philox::{Key, Stream};
use kernels::pool::Pool;
use kernels::shard::{Node, rows_of};
use kernels::tape::{HeldShards, InputGrad, Mode, Rows, Tape, Workspace};
use kernels::train::Batch;

/// Values in [-1, 1).
pub fn random(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = Key::new(seed, Stream::Generate).rng(0, 0);
    (0..n).map(|_| (rng.uniform() * 2.0 - 1.0) as f32).collect()
}

/// A store with these parameters: (name, shape, values).
pub fn store(params: &[(&str, &[usize], &[f32])]) -> ParamStore {
    let mut builder = ParamBuilder::default();
    let ids: Vec<ParamId> = params
        .iter()
        .map(|(name, shape, _)| {
            let layout = if shape.len() >= 2 { Layout::Product } else { Layout::Plain };
            builder.add((*name).into(), shape, Decay::Decayed, layout).expect("a small parameter")
        })
        .collect();
    let mut store = builder.build().expect("small");
    for (id, (_, _, values)) in ids.into_iter().zip(params) {
        store.set(id, values).expect("values of the shape");
    }
    store
}

/// What one run of a graph gives.
pub struct Run {
    pub output: Vec<f32>,
    pub loss: LossSum,
    pub input_grad: Vec<f32>,
    /// The root of the gradient tree, flat.
    pub gradient: Vec<f32>,
}

/// The randomness of every test's graph.
pub const RANDOMNESS: Randomness = Randomness { seed: 5, epoch: 1, step: 9 };

/// Runs a graph over all rows, in `shards` logical shards.
pub fn run(
    params: &ParamStore,
    x: &[f32],
    columns: usize,
    loss: &Loss<'_>,
    (shards, threads): (usize, usize),
    graph: impl Fn(&mut Tape<'_>, Var) -> Result<Var>,
) -> Result<Run> {
    let graph = |tape: &mut Tape<'_>| {
        let input = tape.input(x, columns, InputGrad::Wanted)?;
        Ok((input, graph(tape, input)?))
    };
    run_graph(params, x.len() / columns, loss, (shards, threads), graph)
}

/// Runs a graph over `rows` samples; it returns the input whose gradient is wanted and the output.
pub fn run_graph(
    params: &ParamStore,
    rows: usize,
    loss: &Loss<'_>,
    (shards, threads): (usize, usize),
    graph: impl Fn(&mut Tape<'_>) -> Result<(Var, Var)>,
) -> Result<Run> {
    let ids: Vec<u64> = (0..rows as u64).map(|i| i * 7 + 1).collect();
    let bounds: Vec<usize> = (0..shards).map(|s| rows_of(s, shards, rows).start).chain([rows]).collect();
    let mut ws = Workspace::default();
    let mut tape =
        Tape::new(&mut ws, params, Rows { count: rows, sample_ids: &ids, mode: Mode::Train, randomness: RANDOMNESS })?;
    tape.set_shards(&bounds);
    let (input, output) = graph(&mut tape)?;
    let pool = Pool::new(threads);
    tape.forward_backward(&pool, output, loss)?;
    let held = HeldShards { nodes: vec![Node::root(shards)], bounds, first: 0 };
    let mut gradient = [AlignedBuf::zeroed(params.flat_len())?];
    tape.param_gradients(&pool, &held, &mut gradient).expect("computes");
    Ok(Run {
        output: tape.value(output).to_vec(),
        loss: tape.loss_sum(0..rows),
        input_grad: tape.grad(input).expect("the input's gradient was wanted").to_vec(),
        gradient: gradient[0].to_vec(),
    })
}

/// Asserts that all are within `tolerance` of max(1, |want|).
pub fn close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*g) - w).abs() <= tolerance * w.abs().max(1.0), "{what}[{i}]: {g}, not {w}");
    }
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// A model with norm and dropout, so that every operation takes part.
pub fn model(input_dim: usize, output_dim: usize, seed: u64) -> Model {
    let config = MlpConfig {
        input_dim,
        hidden_layers: vec![37, 18],
        activation: Activation::Gelu,
        dropout: 0.2,
        norm: Norm::LayerNorm,
        output_dim,
    };
    Model::new(&ModelConfig::Mlp(config), &Init::Default, seed).expect("a valid model")
}

/// A regression batch.
pub fn batch(rows: usize, features: usize, seed: u64) -> Batch {
    let x = random(seed, rows * features);
    let targets = x.chunks_exact(features).map(|row| row[0] * 2.0 - row[features - 1]).collect();
    let sample_ids = (0..rows as u64).map(|i| seed * 1000 + i).collect();
    Batch { rows, features: x, inputs: Default::default(), targets: Targets::Real(targets), weights: None, sample_ids }
}

/// Mean squares against zeros.
pub fn against(targets: &Targets) -> Loss<'_> {
    Loss { config: &LossConfig::Mse, targets, weights: None }
}
