//! Products whose factors have two bytes: the values that the definition gives, with tensor cores and without, and what
//! training makes of them.

use super::machine::{machine, machines};
use super::simt::{Argument, ORDERS, Shim};
use crate::models::{batch, configs, fit, model, part, step_together};
use kernels::cuda::{ATTENTION_TENSOR, Launch, Machine, PRODUCT, Source, product};
use kernels::dtype::{LossScaleConfig, Precision};
use kernels::nn::ModelConfig;
use kernels::philox::{Key, Stream};
use kernels::pool::Pool;
use kernels::train::{RankBatch, TrainConfig, Trainer};
use kernels::weights::params_blake3;
use std::collections::BTreeSet;
use std::sync::Arc;

const HALVES: [Precision; 2] = [Precision::Bf16, Precision::F16];

fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut rng = Key::new(seed, Stream::Generate).rng(0, 0);
    (0..count).map(|_| rng.normal() as f32).collect()
}

/// The sources with tensor cores and without.
fn shims() -> Option<[Shim; 2]> {
    let text = Box::leak(format!("#define WITHOUT_TENSOR_CORES\n{}", PRODUCT.text).into_boxed_str());
    Some([Shim::new(PRODUCT)?, Shim::new(Source { file: "product_plain.cu", text })?])
}

/// Rows, outputs, inputs: one of everything, odd sizes, more than a tile and more than one step of depth.
const SHAPES: [[usize; 3]; 5] = [[1, 1, 1], [3, 5, 7], [65, 64, 33], [17, 130, 40], [130, 129, 70]];

/// The product x W^T + b in each order of threads, of both sources, in small and in large tiles.
fn forward(shims: &[Shim; 2], precision: Precision, [rows, outputs, inputs]: [usize; 3], x: &[f32]) -> Vec<f32> {
    let (weight, bias) = (numbers(2, outputs * inputs), numbers(3, outputs));
    let mut results: BTreeSet<Vec<u32>> = BTreeSet::new();
    for large in [false, true] {
        let name = format!("linear_forward{}_{}", if large { "_large" } else { "" }, precision.name().to_lowercase());
        let launch =
            product::tiles(precision, large, rows as u64, outputs as u64, [1, 1]).expect("fits").expect("some");
        // Threads of large tiles meet as those of small ones: one order of each is enough.
        let orders = if large { &ORDERS[2..] } else { &ORDERS[..] };
        for (shim, &order) in shims.iter().flat_map(|shim| orders.iter().map(move |order| (shim, order))) {
            let (mut x, mut weight, mut bias) = (x.to_vec(), weight.clone(), bias.clone());
            let (mut y, mut kept) = (vec![f32::NAN; rows * outputs], vec![f32::NAN; rows * outputs]);
            let mut arguments = [
                Argument::Floats(&mut x),
                Argument::Floats(&mut weight),
                Argument::Floats(&mut bias),
                Argument::Floats(&mut y),
                Argument::Floats(&mut kept),
                Argument::Word64(rows as u64),
                Argument::Word(outputs as u32),
                Argument::Word(inputs as u32),
                Argument::Word(0),
            ];
            shim.run(&name, launch, order, &mut arguments).unwrap_or_else(|what| panic!("{name}, {order:?}: {what}"));
            let bits = |all: &[f32]| all.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&y), bits(&kept), "{name}: no activation");
            results.insert(bits(&y));
        }
    }
    assert_eq!(results.len(), 1, "{precision:?} {rows} x {outputs} x {inputs}: an order, a tile or a way changes bits");
    results.pop_first().expect("one").into_iter().map(f32::from_bits).collect()
}

#[test]
fn products_of_halves_are_sums_of_rounded_factors_to_the_same_bits_in_any_tile_and_order() {
    let Some(shims) = shims() else { return };
    for precision in HALVES {
        for shape @ [rows, outputs, inputs] in SHAPES {
            let (x, weight, bias) = (numbers(1, rows * inputs), numbers(2, outputs * inputs), numbers(3, outputs));
            let y = forward(&shims, precision, shape, &x);
            for (at, got) in y.iter().enumerate() {
                let (row, column) = (at / outputs, at % outputs);
                let term = |k| {
                    let rounded = |v: f32| f64::from(precision.round(v));
                    rounded(x[row * inputs + k]) * rounded(weight[column * inputs + k])
                };
                let expected = (0..inputs).map(term).sum::<f64>() + f64::from(bias[column]);
                let apart = (f64::from(*got) - expected).abs();
                assert!(
                    apart <= 2e-5 * expected.abs().max(1.0),
                    "{precision:?} {shape:?} at {at}: {got} for {expected}"
                );
            }
            let alone = forward(&shims, precision, [1, outputs, inputs], &x[..inputs]);
            assert_eq!(alone, y[..outputs], "{precision:?} {shape:?}: a row's bits depend on it alone");
        }
    }
}

#[test]
fn what_is_not_finite_tiny_or_too_large_is_rounded_as_on_the_cpu() {
    let Some(shims) = shims() else { return };
    let values = [0.0, -0.0, 1e-8, 3e-8, 6e-8, -5.97e-8, 6.1e-5, 65_519.0, 65_520.0, -7e4, 1e38, f32::INFINITY];
    for precision in HALVES {
        for value in values.into_iter().chain([1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.000_488_3, 2.002_93]) {
            // One factor is 1, the other inputs are 0.
            let weight = numbers(2, 1);
            let bias = numbers(3, 1);
            let y = forward(&shims, precision, [1, 1, 1], &[value]);
            let expected = precision.round(value) * precision.round(weight[0]) + bias[0];
            assert!(
                y[0] == expected || (y[0].is_nan() && expected.is_nan()),
                "{precision:?} {value}: {} {expected}",
                y[0]
            );
        }
        assert!(forward(&shims, precision, [1, 1, 1], &[f32::NAN])[0].is_nan());
    }
}

/// One head's outputs by the definition, from factors that are rounded as the device rounds them.
fn attended(
    qkv: &[f32],
    rows: std::ops::Range<usize>,
    [heads, width, head]: [usize; 3],
    precision: Precision,
) -> Vec<f64> {
    let model = heads * width;
    let at = |item: usize, part: usize, c: usize| {
        f64::from(precision.round(qkv[item * 3 * model + part * model + head * width + c]))
    };
    let mut out = Vec::new();
    for query in rows.clone() {
        let score = |key| (0..width).map(|c| at(query, 0, c) * at(key, 1, c)).sum::<f64>() / (width as f64).sqrt();
        let scores: Vec<f64> = rows.clone().map(score).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
        let sum: f64 = weights.iter().sum();
        out.extend((0..width).map(|c| rows.clone().zip(&weights).map(|(key, w)| w * at(key, 2, c)).sum::<f64>() / sum));
    }
    out
}

/// Outputs of samples of these lengths, by a source of kernels in one order.
fn attention(shim: &Shim, order: super::simt::Order, qkv: &[f32], lengths: &[usize], precision: Precision) -> Vec<f32> {
    const SHAPE: [usize; 2] = [2, 20];
    let offsets: Vec<u64> = (0..=lengths.len()).map(|n| lengths[..n].iter().sum::<usize>() as u64).collect();
    let (items, [heads, width], ids) = (offsets[lengths.len()] as usize, SHAPE, vec![0; lengths.len()]);
    let (mut qkv, mut y, mut sums) =
        (qkv.to_vec(), vec![f32::NAN; items * heads * width], vec![f32::NAN; items * heads]);
    let tiles = lengths.iter().max().expect("some").div_ceil(64) as u32;
    let launch = Launch {
        grid: [lengths.len() as u32, heads as u32, tiles],
        block: [128, 1, 1],
        shared: (64 + 2 * 32) * 20 * 4,
    };
    let mut arguments = [
        Argument::Floats(&mut qkv),
        Argument::Floats(&mut y),
        Argument::Floats(&mut sums),
        Argument::Words64(&offsets),
        Argument::Words64(&ids),
        Argument::Word(heads as u32),
        Argument::Word(width as u32),
        Argument::Float(1.0 / (width as f32).sqrt()),
        Argument::Words64(&[0; 3]),
        Argument::Word(0),
        Argument::Word(0),
        Argument::Word(0),
        Argument::Float(1.0),
    ];
    let name = format!("attention_forward_32_{}", precision.name().to_lowercase());
    shim.run(&name, launch, order, &mut arguments).unwrap_or_else(|what| panic!("{name}, {order:?}: {what}"));
    y
}

#[test]
fn attention_of_halves_is_softmax_of_rounded_factors_with_tensor_cores_and_without() {
    let text = Box::leak(format!("#define WITHOUT_TENSOR_CORES\n{}", ATTENTION_TENSOR.text).into_boxed_str());
    let Some(shim) = Shim::new(ATTENTION_TENSOR) else { return };
    let plain = Shim::new(Source { file: "attention_plain.cu", text }).expect("a compiler");
    // No item, one, and more than the tiles of queries and of keys.
    let lengths = [3, 0, 70, 1];
    let qkv = numbers(5, 74 * 3 * 40);
    for precision in HALVES {
        let y = attention(&shim, ORDERS[0], &qkv, &lengths, precision);
        for order in ORDERS {
            assert_eq!(attention(&shim, order, &qkv, &lengths, precision), y, "{precision:?}: {order:?} changes bits");
        }
        assert_eq!(attention(&plain, ORDERS[2], &qkv, &lengths, precision), y, "{precision:?}: a way changes bits");
        let unit = if precision == Precision::Bf16 { 1.0 / 256.0 } else { 1.0 / 2048.0 };
        for rows in [0..3, 3..73, 73..74] {
            let alone = attention(&shim, ORDERS[0], &qkv[rows.start * 120..rows.end * 120], &[rows.len()], precision);
            assert_eq!(alone, y[rows.start * 40..rows.end * 40], "{precision:?}: a sample's bits depend on it alone");
            for head in 0..2 {
                let expected = attended(&qkv, rows.clone(), [2, 20, head], precision);
                for (at, expected) in expected.into_iter().enumerate() {
                    let got = f64::from(y[(rows.start + at / 20) * 40 + head * 20 + at % 20]);
                    // Probabilities are rounded too.
                    assert!(
                        (got - expected).abs() <= 2.0 * unit,
                        "{precision:?} {rows:?} at {at}: {got} for {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn in_two_bytes_a_row_and_a_world_keep_their_bits() {
    let Some(machine) = machine() else { return };
    let all = configs();
    for (config, precision) in [(&all[0], Precision::Bf16), (&all[5], Precision::F16), (&all[5], Precision::Bf16)] {
        let rows = fit(&model(config), batch(19, 4));
        let mut one = trainer(config, precision, 1024.0, Some(&machine));
        let (_, outputs) = one.validate(None, &rows).expect("valid");
        let (_, first) = one.validate(None, &part(&rows, 0..1)).expect("valid");
        assert_eq!(first, outputs[..first.len()], "{precision:?}: a row's bits depend on it alone: {config:?}");
        one.step(&rows).expect("finite");
        one.settle().expect("works");
        let mut ranks: Vec<Trainer> = (0..2).map(|_| trainer(config, precision, 1024.0, Some(&machine))).collect();
        step_together(&mut ranks, &rows, 4);
        for rank in &mut ranks {
            rank.settle().expect("works");
            assert_eq!(params_blake3(rank.model()), params_blake3(one.model()), "{precision:?} {config:?}");
        }
    }
}

fn trainer(config: &ModelConfig, precision: Precision, scale: f32, on: Option<&Arc<dyn Machine>>) -> Trainer {
    let loss_scale = LossScaleConfig { initial_scale: scale.into(), ..LossScaleConfig::default() };
    let plan = TrainConfig { precision, loss_scale, logical_shards: 4, ..TrainConfig::default() };
    let trainer = Trainer::new(model(config), plan, Arc::new(Pool::new(1))).expect("valid");
    match on {
        Some(machine) => trainer.on_machine(machine.clone()),
        None => trainer,
    }
}

#[test]
fn gradients_of_models_in_two_bytes_are_near_those_in_four_with_the_same_bits_in_any_order() {
    let machines = machines();
    for config in configs() {
        let rows = fit(&model(&config), batch(19, 1));
        let gradient = |mut trainer: Trainer| {
            let whole = RankBatch { batch: &rows, global_rows: rows.rows, held: 0..4 };
            trainer.partial(&whole).expect("valid").nodes.swap_remove(0).1
        };
        for (precision, unit) in [(Precision::Bf16, 1.0 / 256.0), (Precision::F16, 1.0 / 2048.0)] {
            let expected = gradient(trainer(&config, precision, 1.0, None));
            let size = expected.iter().fold(1.0f32, |top, g| top.max(g.abs()));
            let mut seen = BTreeSet::new();
            for machine in &machines {
                let got = gradient(trainer(&config, precision, 1024.0, Some(machine)));
                for (at, (got, expected)) in got.iter().zip(&expected).enumerate() {
                    let apart = (got - expected).abs();
                    assert!(apart <= 8.0 * unit * size, "{precision:?} at {at}: {got} for {expected}: {config:?}");
                }
                seen.insert(got.iter().map(|g| g.to_bits()).collect::<Vec<_>>());
            }
            assert!(seen.len() <= 1, "{precision:?} {config:?}: an order changes bits");
        }
    }
}

#[test]
fn a_loss_scale_that_overflows_leaves_steps_out_until_it_fits() {
    let Some(machine) = machine() else { return };
    let config = configs().swap_remove(0);
    let mut trainer = trainer(&config, Precision::F16, 1e9, Some(&machine));
    let batches: Vec<_> = (0..24).map(|seed| fit(&model(&config), batch(19, seed % 3 + 1))).collect();
    let outcomes: Vec<_> = batches.iter().map(|batch| trainer.step(batch).expect("the loss is finite")).collect();
    assert!(outcomes[0].skipped && outcomes[0].step == 0, "{:?}", outcomes[0]);
    let last = outcomes.last().expect("some");
    assert!(!last.skipped && last.step > 0 && last.grad_norm.is_finite(), "{last:?}");
    assert!(trainer.loss_scale().expect("f16 has one") < 1e9);
}
