//! Every kernel: through NVRTC for every kind of device, and on the CPU at odd shapes in three orders of its threads,
//! with the same bits in each and the values that the definitions give.

use kernels::cuda::{Arch, Launch, SOURCES, dropout, layernorm, optimizer};
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
                assert!(of.spills == 0 && of.registers <= 64, "{arch}: {of:?}");
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
    let Some(shim) = Shim::new(layernorm::SOURCE) else { return };
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
    let Some(shim) = Shim::new(layernorm::SOURCE) else { return };
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
fn layer_norm_sums_the_gradients_of_its_parameters() {
    let Some(shim) = Shim::new(layernorm::SOURCE) else { return };
    for (rows, columns) in SHAPES {
        let it = Normalized::new(rows, columns);
        let (of_chunk, chunks) = layernorm::chunks(rows as u64);
        let launch = layernorm::parameters(rows as u64, columns as u32).expect("fits").expect("some");
        let partial = vec![f32::NAN; 2 * chunks as usize * columns];
        let buffers = [it.grad.clone(), it.x.clone(), it.flat_statistics(), partial];
        let rest = || vec![Argument::Word64(rows as u64), Argument::Word(columns as u32), Argument::Word(of_chunk)];
        let partial = in_all_orders(&shim, "layer_norm_parameters", launch, &buffers, &rest).swap_remove(3);
        let launch = layernorm::parameters_sum(columns as u32).expect("fits").expect("some");
        let buffers = [partial, vec![1.0; columns], vec![2.0; columns]];
        let rest = || vec![Argument::Word(chunks), Argument::Word(columns as u32), Argument::Word(1)];
        let after = in_all_orders(&shim, "layer_norm_parameters_sum", launch, &buffers, &rest);
        let (mut gains, mut biases) = (vec![1.0; columns], vec![2.0; columns]);
        for (_, column, normalized, g) in it.elements() {
            gains[column] += g * normalized;
            biases[column] += g;
        }
        let size = rows as f64;
        close(&format!("gain, {rows} x {columns}"), &after[1], &gains, size.max(4.0));
        close(&format!("bias, {rows} x {columns}"), &after[2], &biases, size.max(4.0));
    }
}

#[test]
fn dropout_drops_what_the_cpu_drops() {
    let Some(shim) = Shim::new(dropout::SOURCE) else { return };
    let (step, rate) = (7, 0.3);
    let key = Key::new(99, Stream::Dropout).lane(3).epoch(1 << 33);
    let (below, scale) = dropout::threshold(rate);
    for (rows, columns) in [(1, 1), (3, 5), (2, 64), (5, 333)] {
        // Sample ids of more than 32 bits.
        let samples: Vec<u64> = (0..rows as u64).map(|row| row << 31 | row).collect();
        let x = numbers(5, rows * columns);
        let expected: Vec<f32> = samples
            .iter()
            .flat_map(|sample| {
                let mut rng = key.rng(*sample, step);
                (0..columns).map(move |_| rng.next_u32()).collect::<Vec<_>>()
            })
            .zip(&x)
            .map(|(word, x)| x * if word < below { 0.0 } else { scale })
            .collect();
        let launch = dropout::rows(rows as u64, columns as u32).expect("fits").expect("some");
        for order in ORDERS {
            let (mut from, mut y) = (x.clone(), vec![f32::NAN; rows * columns]);
            let words = key.words();
            let shared = || {
                vec![
                    Argument::Words64(&samples),
                    Argument::Word64(rows as u64),
                    Argument::Word(columns as u32),
                    Argument::Word(words[0]),
                    Argument::Word(words[1]),
                    Argument::Word(step),
                    Argument::Word(below),
                    Argument::Float(scale),
                ]
            };
            let mut arguments = vec![Argument::Floats(&mut from), Argument::Floats(&mut y)];
            arguments.extend(shared());
            shim.run("dropout_forward", launch, order, &mut arguments).unwrap_or_else(|what| panic!("{what}"));
            drop(arguments);
            assert_eq!(y, expected, "{rows} x {columns}, {order:?}");
            let mut out = vec![1.0; rows * columns];
            let mut arguments = vec![Argument::Floats(&mut from), Argument::Floats(&mut out)];
            arguments.extend(shared());
            arguments.push(Argument::Word(1));
            shim.run("dropout_backward", launch, order, &mut arguments).unwrap_or_else(|what| panic!("{what}"));
            drop(arguments);
            assert!(out.iter().zip(&expected).all(|(out, e)| *out == 1.0 + e), "{rows} x {columns}, {order:?}");
        }
    }
}

/// Gradients with both ends of the bound, zero, and what is not finite.
fn gradients(count: usize) -> Vec<f32> {
    let mut grad: Vec<f32> = numbers(7, count).iter().map(|v| v * 40.0).collect();
    for (at, odd) in [(0, 0.0), (3, f32::INFINITY), (4, f32::NAN)] {
        if let Some(place) = grad.get_mut(at).filter(|_| count > 4) {
            *place = odd;
        }
    }
    grad
}

fn scaled(g: f32, factor: f32, most: f32) -> f32 {
    let g = g * factor;
    let g = if g > most { most } else { g };
    if g < -most { -most } else { g }
}

/// The same bits; one NaN is as good as another.
fn same(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!(
            got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan()),
            "{what} at {at}: {got}, {expected}"
        );
    }
}

#[test]
fn adam_steps_to_the_bits_of_the_cpu() {
    let Some(shim) = Shim::new(optimizer::SOURCE) else { return };
    let (factor, most, rate, correction, beta1, beta2) = (0.03f32, 1.0f32, 0.01f32, 1.7f32, 0.9f32, 0.999f32);
    for (count, shrink, l2) in [(1, 1.0f32, 0.0f32), (255, 0.999, 0.0), (1_000, 1.0, 0.01)] {
        let buffers =
            [numbers(6, count), gradients(count), numbers(8, count), numbers(9, count).iter().map(|v| v * v).collect()];
        let (fresh1, fresh2, epsilon) = (1.0 - beta1, 1.0 - beta2, 1e-8);
        let rest = || {
            let numbers = [factor, most, rate, correction, beta1, beta2, fresh1, fresh2, epsilon, shrink, l2];
            std::iter::once(Argument::Word64(count as u64)).chain(numbers.map(Argument::Float)).collect()
        };
        let launch = optimizer::elements(count as u64).expect("fits").expect("some");
        let after = in_all_orders(&shim, "adam", launch, &buffers, &rest);
        let mut expected = buffers.clone();
        for i in 0..count {
            let (w, g) = (buffers[0][i], l2.mul_add(buffers[0][i], scaled(buffers[1][i], factor, most)));
            let m = beta1.mul_add(buffers[2][i], fresh1 * g);
            let v = beta2.mul_add(buffers[3][i], fresh2 * (g * g));
            (expected[2][i], expected[3][i]) = (m, v);
            expected[0][i] = w * shrink - rate * m / v.sqrt().mul_add(correction, epsilon);
        }
        for (what, got, expected) in
            [("weights", &after[0], &expected[0]), ("m", &after[2], &expected[2]), ("v", &after[3], &expected[3])]
        {
            same(&format!("{what} of {count}"), got, expected);
        }
    }
}

#[test]
fn sgd_steps_to_the_bits_of_the_cpu() {
    let Some(shim) = Shim::new(optimizer::SOURCE) else { return };
    let (factor, most, rate, momentum, l2, count) = (0.03f32, f32::INFINITY, 0.1f32, 0.9f32, 0.001f32, 777);
    for nesterov in [0, 1] {
        let buffers = [numbers(6, count), gradients(count), numbers(8, count)];
        let rest = || {
            let numbers = [factor, most, rate, momentum, l2];
            let last = std::iter::once(Argument::Word(nesterov));
            std::iter::once(Argument::Word64(count as u64)).chain(numbers.map(Argument::Float)).chain(last).collect()
        };
        let launch = optimizer::elements(count as u64).expect("fits").expect("some");
        let after = in_all_orders(&shim, "sgd", launch, &buffers, &rest);
        let mut expected = buffers.clone();
        for i in 0..count {
            let g = l2.mul_add(buffers[0][i], scaled(buffers[1][i], factor, most));
            let b = momentum.mul_add(buffers[2][i], g);
            expected[2][i] = b;
            expected[0][i] -= rate * if nesterov == 1 { momentum.mul_add(b, g) } else { b };
        }
        same("weights", &after[0], &expected[0]);
        same("buffer", &after[2], &expected[2]);
    }
}

#[test]
fn the_norm_is_summed_in_one_order_and_shows_what_is_not_finite() {
    let Some(shim) = Shim::new(optimizer::SOURCE) else { return };
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
