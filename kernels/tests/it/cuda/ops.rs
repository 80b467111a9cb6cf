//! Every kernel: through NVRTC for every kind of device, and on the CPU at odd shapes in three orders of its threads,
//! with the same bits in each and the values that the definitions give.

use kernels::cuda::{Arch, DROPOUT, LAYER_NORM, Launch, OPTIMIZER, SHARDS, SOURCES, dropout, layernorm, optimizer};
use kernels::philox::{Key, Stream};

use super::compiler;
use super::simt::{Argument, ORDERS, Shim, kernels_of};

const ARCHS: [&str; 7] = ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_120"];

#[test]
fn every_kernel_compiles_for_every_kind_of_device() {
    let Some(compiler) = compiler() else { return };
    for source in SOURCES {
        for arch in ARCHS {
            let arch: Arch = arch.parse().expect("a kind");
            let compiled = compiler.compile(source, arch).unwrap_or_else(|error| panic!("{error}"));
            let mut found: Vec<&str> = compiled.kernels.iter().map(|of| of.kernel.as_str()).collect();
            let mut expected = kernels_of(source.text);
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "{}", source.file);
            for of in &compiled.kernels {
                println!("{arch} {} {} registers, {} bytes spilled", of.kernel, of.registers, of.spills);
                // How many threads it may have is its launch bound, which the compiler keeps to. A few registers are put
                // aside around the slow path of a division, which is a call.
                assert!(of.spills <= 128, "{arch}: {of:?}");
            }
        }
    }
}

/// Numbers without a pattern, of size 1.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut rng = Key::new(seed, Stream::Generate).rng(0, 0);
    (0..count).map(|_| rng.normal() as f32).collect()
}

/// Runs a kernel in each order on the same input; the buffers after it, which must not depend on the order.
fn in_all_orders(
    shim: &Shim,
    kernel: &str,
    launch: Launch,
    buffers: &[Vec<f32>],
    rest: &dyn Fn() -> Vec<Argument<'static>>,
) -> Vec<Vec<f32>> {
    let mut first: Option<Vec<Vec<f32>>> = None;
    for order in ORDERS {
        let mut now = buffers.to_vec();
        let mut arguments: Vec<Argument<'_>> = now.iter_mut().map(|values| Argument::Floats(values)).collect();
        arguments.extend(rest());
        shim.run(kernel, launch, order, &mut arguments).unwrap_or_else(|what| panic!("{kernel}, {order:?}: {what}"));
        drop(arguments);
        let bits = |all: &[Vec<f32>]| all.iter().flatten().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert!(first.as_ref().is_none_or(|first| bits(first) == bits(&now)), "{kernel}: {order:?} changes the result");
        first.get_or_insert(now);
    }
    first.expect("three orders")
}

fn close(what: &str, got: &[f32], expected: &[f64], size: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let apart = (f64::from(*got) - expected).abs();
        assert!(apart <= 3e-6 * size.max(expected.abs()), "{what} at {at}: {got} for {expected}");
    }
}

const EPSILON: f32 = 1e-5;

struct Normalized {
    x: Vec<f32>,
    gain: Vec<f32>,
    bias: Vec<f32>,
    grad: Vec<f32>,
    statistics: Vec<(f64, f64)>,
    columns: usize,
}

impl Normalized {
    fn new(rows: usize, columns: usize) -> Self {
        let x: Vec<f32> = numbers(1, rows * columns).iter().map(|v| v * 3.0 + 1.0).collect();
        let of = |row: &[f32]| {
            let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / columns as f64;
            let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / columns as f64;
            (mean, 1.0 / (variance + f64::from(EPSILON)).sqrt())
        };
        let statistics = x.chunks(columns).map(of).collect();
        let (gain, bias, grad) = (numbers(2, columns), numbers(3, columns), numbers(4, rows * columns));
        Self { x, gain, bias, grad, statistics, columns }
    }

    /// Of each element: row, column, its normalized value and its gradient.
    fn elements(&self) -> impl Iterator<Item = (usize, usize, f64, f64)> + '_ {
        self.x.iter().zip(&self.grad).enumerate().map(|(at, (x, g))| {
            let (row, column) = (at / self.columns, at % self.columns);
            let (mean, inverse) = self.statistics[row];
            (row, column, (f64::from(*x) - mean) * inverse, f64::from(*g))
        })
    }

    fn flat_statistics(&self) -> Vec<f32> {
        self.statistics.iter().flat_map(|(mean, inverse)| [*mean as f32, *inverse as f32]).collect()
    }
}

/// Shapes with one of everything, parts of warps, more columns than threads, and more rows than a chunk.
const SHAPES: [(usize, usize); 7] = [(1, 1), (3, 5), (2, 32), (5, 33), (4, 768), (2, 2_500), (1_100, 3)];

#[test]
fn layer_norm_goes_forward() {
    let Some(shim) = Shim::new(LAYER_NORM) else { return };
    for (rows, columns) in SHAPES {
        let it = Normalized::new(rows, columns);
        let launch = layernorm::rows(rows as u64, columns as u32).expect("fits").expect("some");
        for order in ORDERS {
            let (mut x, mut gain, mut bias) = (it.x.clone(), it.gain.clone(), it.bias.clone());
            let (mut y, mut statistics) = (vec![f32::NAN; rows * columns], vec![f32::NAN; rows * 2]);
            let mut arguments = [
                Argument::Floats(&mut x),
                Argument::Floats(&mut gain),
                Argument::Floats(&mut bias),
                Argument::Float(EPSILON),
                Argument::Floats(&mut y),
                Argument::Floats(&mut statistics),
                Argument::Word64(rows as u64),
                Argument::Word(columns as u32),
            ];
            shim.run("layer_norm_forward", launch, order, &mut arguments).unwrap_or_else(|what| panic!("{what}"));
            let expected =
                it.elements().map(|(_, c, normalized, _)| normalized * f64::from(it.gain[c]) + f64::from(it.bias[c]));
            close(&format!("{rows} x {columns}, {order:?}"), &y, &expected.collect::<Vec<_>>(), 4.0);
            let expected: Vec<f64> = it.statistics.iter().flat_map(|(mean, inverse)| [*mean, *inverse]).collect();
            // One column has no variance, and the deviation is what epsilon makes it.
            close("statistics", &statistics, &expected, 4.0);
        }
    }
}

#[test]
fn layer_norm_goes_backward() {
    let Some(shim) = Shim::new(LAYER_NORM) else { return };
    for (rows, columns) in SHAPES.into_iter().filter(|(_, columns)| *columns > 1) {
        let it = Normalized::new(rows, columns);
        let launch = layernorm::rows(rows as u64, columns as u32).expect("fits").expect("some");
        let mut means = vec![(0.0, 0.0); rows];
        for (row, column, normalized, g) in it.elements() {
            let term = g * f64::from(it.gain[column]);
            means[row].0 += term / columns as f64;
            means[row].1 += term * normalized / columns as f64;
        }
        let expected: Vec<f64> = it
            .elements()
            .map(|(row, c, normalized, g)| {
                it.statistics[row].1 * (g * f64::from(it.gain[c]) - means[row].0 - normalized * means[row].1)
            })
            .collect();
        for add in [0, 1] {
            let before = vec![if add == 1 { 0.5 } else { f32::NAN }; rows * columns];
            let buffers = [it.grad.clone(), it.x.clone(), it.gain.clone(), it.flat_statistics(), before];
            let rest = || vec![Argument::Word64(rows as u64), Argument::Word(columns as u32), Argument::Word(add)];
            let after = in_all_orders(&shim, "layer_norm_backward", launch, &buffers, &rest);
            let expected: Vec<f64> = expected.iter().map(|v| v + 0.5 * f64::from(add)).collect();
            let size = it.statistics.iter().map(|(_, inverse)| inverse * 4.0).fold(1.0, f64::max);
            close(&format!("{rows} x {columns}"), &after[4], &expected, size);
        }
    }
}

#[test]
fn sums_of_shards_meet_in_the_order_of_the_tree() {
    let (Some(norm), Some(shards)) = (Shim::new(LAYER_NORM), Shim::new(SHARDS)) else { return };
    for (rows, columns) in SHAPES {
        let it = Normalized::new(rows, columns);
        // Empty ones too.
        for leaves in [1, 2, 3, 7, 8] {
            let bounds: Vec<u64> = (0..=leaves as u64).map(|leaf| leaf * rows as u64 / leaves as u64).collect();
            let launch = Launch::down_columns("t", columns as u64, leaves as u64, 4).expect("fits").expect("some");
            let of_shard = |kernel: &str, shim: &Shim, read: &[Vec<f32>]| {
                let mut first: Option<Vec<f32>> = None;
                for order in ORDERS {
                    let (mut read, mut partial) = (read.to_vec(), vec![f32::NAN; leaves * columns]);
                    let mut arguments: Vec<Argument<'_>> = read.iter_mut().map(|v| Argument::Floats(v)).collect();
                    arguments.push(Argument::Words64(&bounds));
                    arguments.push(Argument::Floats(&mut partial));
                    arguments.push(Argument::Word(columns as u32));
                    shim.run(kernel, launch, order, &mut arguments).unwrap_or_else(|what| panic!("{what}"));
                    drop(arguments);
                    let same = |one: &[f32]| one.iter().zip(&partial).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(first.as_deref().is_none_or(same), "{kernel}: {order:?} changes the result");
                    first = Some(partial);
                }
                first.expect("three orders")
            };
            let gains = of_shard("layer_norm_gains", &norm, &[it.grad.clone(), it.x.clone(), it.flat_statistics()]);
            let biases = of_shard("column_sums", &shards, std::slice::from_ref(&it.grad));
            let (mut of_gains, mut of_biases) = (vec![0.0; columns], vec![0.0; columns]);
            for (_, column, normalized, g) in it.elements() {
                of_gains[column] += g * normalized;
                of_biases[column] += g;
            }
            let size = (rows as f64).max(4.0);
            for (partial, expected) in [(gains, of_gains), (biases, of_biases)] {
                for add in [0, 1] {
                    let launch = Launch::over("t", columns as u64, 256).expect("fits").expect("some");
                    let before = vec![if add == 1 { 2.0 } else { f32::NAN }; columns];
                    let rest =
                        || vec![Argument::Word64(columns as u64), Argument::Word(leaves as u32), Argument::Word(add)];
                    let after = in_all_orders(&shards, "join_shards", launch, &[partial.clone(), before], &rest);
                    let expected: Vec<f64> = expected.iter().map(|v| v + 2.0 * f64::from(add)).collect();
                    close(&format!("{rows} x {columns}, {leaves} shards"), &after[1], &expected, size);
                    for column in 0..if add == 0 { columns } else { 0 } {
                        let leaf = |shard: usize| partial[shard * columns + column];
                        let tree = tree(0..leaves, &leaf);
                        assert_eq!(after[1][column].to_bits(), tree.to_bits(), "column {column} of {leaves} shards");
                    }
                }
            }
        }
    }
}

/// The sum of leaves as `shard.rs` defines its order.
fn tree(leaves: std::ops::Range<usize>, leaf: &dyn Fn(usize) -> f32) -> f32 {
    if leaves.len() == 1 {
        return leaf(leaves.start);
    }
    let middle = leaves.start + leaves.len().next_power_of_two() / 2;
    tree(leaves.start..middle, leaf) + tree(middle..leaves.end, leaf)
}

#[test]
fn dropout_drops_what_the_cpu_drops() {
    let Some(shim) = Shim::new(DROPOUT) else { return };
    let (step, rate) = (7, 0.3);
    let (key, random) = (Key::new(99, Stream::Dropout).lane(3).epoch(1 << 33), [99, 1 << 33, u64::from(step)]);
    let (below, scale) = dropout::threshold(rate);
    for (lengths, columns) in [(&[1u64][..], 1), (&[1, 1, 1], 5), (&[3, 0, 7], 5), (&[40, 1], 64)] {
        // Sample ids of more than 32 bits.
        let samples: Vec<u64> = (0..lengths.len() as u64).map(|row| row << 31 | row).collect();
        let mut offsets = vec![0];
        lengths.iter().for_each(|length| offsets.push(offsets[offsets.len() - 1] + length));
        let count = offsets[lengths.len()] as usize * columns;
        let x = numbers(5, count);
        let expected: Vec<f32> = samples
            .iter()
            .zip(lengths)
            .flat_map(|(sample, length)| {
                let mut rng = key.rng(*sample, step);
                (0..*length as usize * columns).map(move |_| rng.next_u32()).collect::<Vec<_>>()
            })
            .zip(&x)
            .map(|(word, x)| x * if word < below { 0.0 } else { scale })
            .collect();
        let launch = Launch::over_samples("t", lengths.len() as u64, count as u64).expect("fits").expect("some");
        for order in ORDERS {
            for add in [0, 1] {
                let (mut from, mut out) = (x.clone(), vec![if add == 1 { 1.0 } else { f32::NAN }; count]);
                let mut arguments = vec![
                    Argument::Floats(&mut from),
                    Argument::Floats(&mut out),
                    Argument::Words64(&offsets),
                    Argument::Words64(&samples),
                    Argument::Word64(lengths.len() as u64),
                    Argument::Word(columns as u32),
                    Argument::Words64(&random),
                    Argument::Word(Stream::Dropout as u32),
                    Argument::Word(3),
                    Argument::Word(below),
                    Argument::Float(scale),
                    Argument::Word(add),
                ];
                shim.run("dropout", launch, order, &mut arguments).unwrap_or_else(|what| panic!("{what}"));
                drop(arguments);
                let same = |(out, e): (&f32, &f32)| *out == if add == 1 { 1.0 + e } else { *e };
                assert!(out.iter().zip(&expected).all(same), "{lengths:?} x {columns}, {order:?}");
            }
        }
    }
}

#[test]
fn the_norm_is_summed_in_one_order_and_shows_what_is_not_finite() {
    let Some(shim) = Shim::new(OPTIMIZER) else { return };
    for count in [1, 5, 4_096, 4_097, 20_001] {
        let (of_chunk, chunks) = optimizer::chunks(count as u64);
        let of = |values: &[f32], order| {
            let (mut x, mut partial, mut sum) = (values.to_vec(), vec![f64::NAN; chunks as usize], vec![f64::NAN]);
            let launch = optimizer::squares(count as u64).expect("fits").expect("some");
            let mut arguments = [
                Argument::Floats(&mut x),
                Argument::Doubles(&mut partial),
                Argument::Word64(count as u64),
                Argument::Word64(of_chunk),
            ];
            shim.run("squares", launch, order, &mut arguments).unwrap_or_else(|what| panic!("{what}"));
            let launch = optimizer::squares_sum().expect("fits").expect("some");
            let mut arguments = [Argument::Doubles(&mut partial), Argument::Doubles(&mut sum), Argument::Word(chunks)];
            shim.run("squares_sum", launch, order, &mut arguments).unwrap_or_else(|what| panic!("{what}"));
            sum[0]
        };
        let x = numbers(10, count);
        let expected: f64 = x.iter().map(|v| f64::from(*v).powi(2)).sum();
        let sums = ORDERS.map(|order| of(&x, order));
        assert!(sums.iter().all(|sum| sum.to_bits() == sums[0].to_bits()), "{sums:?}");
        assert!((sums[0] - expected).abs() <= 1e-12 * expected, "{} for {expected}", sums[0]);
        let mut broken = x.clone();
        broken[count - 1] = f32::INFINITY;
        assert!(of(&broken, ORDERS[0]).is_infinite());
        broken[count / 2] = f32::NAN;
        assert!(of(&broken, ORDERS[0]).is_nan());
    }
}
