//! Launches of every operation at sizes that no test could compute: more than 2^32 numbers, so many rows and so many columns
//! that 32 bits or a grid's limits would not hold them. A machine without memory takes the starts and looks at them.

use crate::support::{RANDOMNESS, random, store};
use kernels::buffer::AlignedBuf;
use kernels::cuda::launch::{MOST_BLOCKS, MOST_THREADS, SHARED_BYTES};
use kernels::cuda::{Argument, Kernel, Launch, Machine};
use kernels::dtype::Precision;
use kernels::ops::batchnorm::BatchNormParams;
use kernels::ops::conv::Stride;
use kernels::ops::image::Grid;
use kernels::ops::loss::{Loss, LossConfig, Targets};
use kernels::ops::lstm::{Direction, LstmParams};
use kernels::ops::{Activation, Arithmetic, Pooling, Var, WindowPooling};
use kernels::params::{ParamId, ParamStore};
use kernels::pool::Pool;
use kernels::shard::Node;
use kernels::tape::{HeldShards, InputGrad, Mode, Rows, Space, Tape, Workspace};
use kernels::{ErrorKind, Result};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Gives out addresses, keeps nothing, and reads as zeros.
#[derive(Debug, Default)]
struct Counting {
    next: AtomicU64,
    started: Mutex<BTreeSet<&'static str>>,
}

impl Machine for Counting {
    fn describe(&self) -> String {
        "counting machine".into()
    }
    fn allocate(&self, bytes: usize) -> Result<u64> {
        Ok(self.next.fetch_add(bytes as u64 + 4096, Ordering::Relaxed) + (1 << 20))
    }
    fn release(&self, _: u64) {}
    fn upload(&self, _: &[u8], _: u64) -> Result<()> {
        Ok(())
    }
    fn download(&self, _: u64, to: &mut [u8]) -> Result<()> {
        to.fill(0);
        Ok(())
    }
    fn clear(&self, _: u64, _: usize) -> Result<()> {
        Ok(())
    }
    fn take_aside(&self, _: u64, _: u64, _: usize) -> Result<()> {
        Ok(())
    }
    fn start(&self, _: &'static str, kernel: Kernel, launch: Launch, _: &[Argument]) -> Result<()> {
        let fits = |(blocks, most): (&u32, u32)| (1..=most).contains(blocks);
        assert!(launch.grid.iter().zip(MOST_BLOCKS).all(fits), "{}: {launch:?}", kernel.name);
        let threads: u32 = launch.block.iter().product();
        assert!((1..=MOST_THREADS).contains(&threads) && launch.shared <= SHARED_BYTES, "{}: {launch:?}", kernel.name);
        self.started.lock().unwrap_or_else(PoisonError::into_inner).insert(kernel.name);
        Ok(())
    }
}

type Graph = fn(&mut Tape<'_>, Var, &ParamStore) -> Result<Var>;

fn id(params: &ParamStore, name: &str) -> ParamId {
    params.find(name).expect("declared")
}

/// Records and starts everything of a graph over `rows` samples of `items` items; the kernels that it started.
fn started(
    rows: usize,
    items: usize,
    declared: &[(&str, &[usize])],
    precision: Precision,
    graph: Graph,
) -> Result<BTreeSet<&'static str>> {
    const SHARDS: usize = 4;
    let values: Vec<Vec<f32>> = declared.iter().map(|(_, shape)| random(1, shape.iter().product())).collect();
    let list: Vec<(&str, &[usize], &[f32])> =
        declared.iter().zip(&values).map(|((name, shape), values)| (*name, *shape, values.as_slice())).collect();
    let (params, machine) = (store(&list), Arc::new(Counting::default()));
    let mut ws = Workspace::on(machine.clone());
    ws.round_on_device(precision, 2.0);
    let sample_ids: Vec<u64> = (0..rows as u64).collect();
    let of = Rows { count: rows, sample_ids: &sample_ids, mode: Mode::Train, randomness: RANDOMNESS };
    let mut tape = Tape::new(&mut ws, &params, of)?;
    let bounds: Vec<usize> = (0..=SHARDS).map(|shard| rows * shard / SHARDS).collect();
    tape.set_shards(&bounds);
    let space = if items == 1 { Space::SAMPLES } else { tape.items(items) };
    let x = vec![1.0; rows * items];
    let input = tape.input_in(space, &x, 1, InputGrad::Wanted)?;
    let output = graph(&mut tape, input, &params)?;
    let targets = Targets::Real(vec![0.0; rows * tape.columns(output)]);
    let loss = Loss { config: &LossConfig::Mse, targets: &targets, weights: None };
    tape.forward_backward(&Pool::new(1), output, &loss)?;
    let held = HeldShards { nodes: vec![Node::root(SHARDS)], bounds, first: 0 };
    let mut gradient = [AlignedBuf::zeroed(params.flat_len())?];
    tape.param_gradients(&Pool::new(1), &held, &mut gradient)?;
    let mut found = machine.started.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *found))
}

fn expect(found: &BTreeSet<&'static str>, names: &[&str]) {
    for name in names {
        assert!(found.contains(name), "{name} is not among {found:?}");
    }
}

#[test]
fn rows_and_columns_beyond_what_32_bits_count_are_started_in_turns() {
    const WIDE: usize = 1 << 15;
    let declared: [(&str, &[usize]); 5] =
        [("w", &[WIDE, 1]), ("b", &[WIDE]), ("gain", &[WIDE]), ("bias", &[WIDE]), ("last", &[1, WIDE])];
    let found = started((1 << 17) + 3, 1, &declared, Precision::F32, |tape, x, params| {
        let x = tape.linear(x, id(params, "w"), Some(id(params, "b")), Activation::Gelu)?;
        let y = tape.activation(x, Activation::Silu)?;
        let y = tape.arithmetic(Arithmetic::Divide, x, y)?;
        let y = tape.scale(y, 0.5)?;
        let y = tape.dropout(y, 0.1, 1)?;
        let y = tape.layer_norm(y, id(params, "gain"), id(params, "bias"))?;
        let y = tape.softmax(y)?;
        let (a, b) = (tape.slice(y, 0..WIDE - 1)?, tape.slice(y, WIDE - 1..WIDE)?);
        let y = tape.concat(&[b, a])?;
        let of = tape.linear(y, id(params, "last"), None, Activation::Identity)?;
        let sum = tape.sum_columns(y)?;
        tape.add(of, sum)
    });
    expect(
        &found.expect("fits"),
        &[
            "linear_forward_large",
            "activation_backward",
            "arithmetic_backward",
            "scale",
            "dropout",
            "layer_norm_backward",
            "layer_norm_gains",
            "softmax_backward",
            "columns_copy",
            "reduce_backward",
            "linear_weight",
            "column_sums",
            "join_shards",
        ],
    );
}

#[test]
fn items_beyond_what_32_bits_count_are_started_in_turns() {
    const HEADS: usize = 8;
    const WIDE: usize = 3 * 1_024;
    for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
        let declared: [(&str, &[usize]); 1] = [("w", &[WIDE, 1])];
        let found = started(1 << 17, 16, &declared, precision, |tape, x, params| {
            let qkv = tape.linear(x, id(params, "w"), None, Activation::Identity)?;
            let y = tape.attention(qkv, HEADS, 0.1, 0)?;
            let y = tape.pool(y, Pooling::Mean)?;
            tape.sum_columns(y)
        });
        let found = found.expect("fits");
        let has = |part: &str| found.iter().any(|name| name.starts_with(part));
        let parts = ["attention_forward", "attention_queries", "attention_keys", "pool_backward", "linear_backward"];
        assert!(parts.into_iter().all(has), "{found:?}");
        let declared: [(&str, &[usize]); 2] = [("w", &[2_048, 1]), ("u", &[2_048, 512])];
        let found = started(1 << 17, 16, &declared, precision, |tape, x, params| {
            let (input_weight, hidden_weight) = (id(params, "w"), id(params, "u"));
            let params = LstmParams { input_weight, hidden_weight, input_bias: None, hidden_bias: None };
            let y = tape.lstm(x, params, Direction::Forward)?;
            let y = tape.pool(y, Pooling::Last)?;
            tape.sum_columns(y)
        });
        let found = found.expect("fits");
        let has = |part: &str| found.iter().any(|name| name.starts_with(part));
        assert!(["lstm_forward", "lstm_backward", "linear_weight"].into_iter().all(has), "{found:?}");
    }
}

#[test]
fn images_beyond_what_32_bits_count_are_started_in_turns() {
    const CHANNELS: usize = 1_024;
    let norm: &[usize] = &[CHANNELS];
    let declared: [(&str, &[usize]); 6] = [
        ("c", &[CHANNELS, 3, 3, 1]),
        ("gain", norm),
        ("bias", norm),
        ("n.running_mean", norm),
        ("n.running_variance", norm),
        ("n.rows_seen", &[1]),
    ];
    let found = started((1 << 12) + 1, 32 * 32, &declared, Precision::F32, |tape, x, params| {
        let grid = Grid { height: 32, width: 32, channels: 1 };
        let stride = Stride { stride: 1, padding: 1, groups: 1 };
        let (y, grid) = tape.conv2d(x, grid, id(params, "c"), None, stride, Activation::Relu)?;
        let norm = BatchNormParams {
            gain: id(params, "gain"),
            bias: id(params, "bias"),
            mean: id(params, "n.running_mean"),
            variance: id(params, "n.running_variance"),
            rows: id(params, "n.rows_seen"),
        };
        let y = tape.batch_norm(y, norm)?;
        let (y, _) = tape.pool2d(y, grid, WindowPooling::Max, (2, 2, 0))?;
        let y = tape.transpose(y)?;
        let y = tape.pool(y, Pooling::Max)?;
        tape.sum_columns(y)
    });
    let found = found.expect("fits");
    let has = |part: &str| found.iter().any(|name| name.starts_with(part));
    assert!(
        ["conv_forward", "conv_backward", "conv_weight", "batch_norm", "window", "pool"].into_iter().all(has),
        "{found:?}"
    );
}

#[test]
fn what_no_grid_holds_is_refused_by_name() {
    let declared: [(&str, &[usize]); 1] = [("w", &[3 * 70_000, 1])];
    let refused = started(2, 3, &declared, Precision::F32, |tape, x, params| {
        let qkv = tape.linear(x, id(params, "w"), None, Activation::Identity)?;
        let y = tape.attention(qkv, 70_000, 0.0, 0)?;
        tape.pool(y, Pooling::Sum)
    });
    let error = refused.expect_err("too many heads");
    assert_eq!(error.kind(), ErrorKind::Value);
    assert!(error.to_string().contains("attention: expected at most 65535 blocks, got 70000"), "{error}");
}

#[test]
fn nothing_is_started_for_no_rows() {
    let declared: [(&str, &[usize]); 1] = [("w", &[4, 1])];
    let found = started(0, 1, &declared, Precision::F32, |tape, x, params| {
        let x = tape.linear(x, id(params, "w"), None, Activation::Gelu)?;
        let x = tape.softmax(x)?;
        tape.sum_columns(x)
    });
    // A sum of no rows is still a gradient, of zeros.
    let found = found.expect("nothing to do");
    assert!(found.iter().all(|name| ["linear_weight", "join_shards", "rescale"].contains(name)), "{found:?}");
}
