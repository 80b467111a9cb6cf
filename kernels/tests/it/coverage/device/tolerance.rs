//! How far a device is from the CPU, by operation and by what its products round to: one table, asserted and printed.
//! `cargo test -p within-kernels --test it tolerance -- --nocapture` shows it; on a GPU, `make gpu-test`.

use super::super::{Outcome, Whole, offsets, params};
use crate::coverage::table::VARIANTS;
use crate::cuda::machine::machine;
use crate::support::random;
use kernels::dtype::Precision;
use kernels::shard::complete;
use kernels::tape::{Mode, Workspace};
use std::collections::BTreeMap;

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::F16];

/// What sums in another order come to, as a share of the largest number.
const ORDER: f64 = 1e-5;

/// Products round their factors to 8 or 11 bits; a result is a sum of such products, a few of them one behind the other.
const ROUNDED: [f64; 3] = [ORDER, 16.0 / 256.0, 16.0 / 2048.0];

/// The same before a kink: a number near zero that comes to lie on its other side lets a gradient through, or does not.
const KINKED: [f64; 3] = [ORDER, 32.0 / 256.0, 32.0 / 2048.0];

/// What is allowed, with factors of f32, bf16 and f16.
fn allowed(op: &str) -> [f64; 3] {
    match op {
        "linear" => KINKED,
        "conv" | "attention" | "lstm" => ROUNDED,
        _ => [ORDER; 3],
    }
}

/// The largest difference of outputs, input's and parameters' gradients, each as a share of the CPU's largest number there.
fn apart(device: Outcome, cpu: Outcome, shards: usize) -> f64 {
    let root = |outcome: &Outcome| complete(outcome.nodes.clone(), shards).expect("the whole tree");
    let (of_device, of_cpu) = (root(&device), root(&cpu));
    let pairs = [(device.output, cpu.output), (device.input_grad, cpu.input_grad), (of_device, of_cpu)];
    pairs.into_iter().fold(0.0, |top: f64, (got, expected)| {
        let size = expected.iter().fold(1.0f32, |top, v| top.max(v.abs()));
        let apart = got.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs() / size));
        apart.fold(top, |top, v| if v > top || v.is_nan() { v } else { top })
    })
}

#[test]
fn every_operation_is_as_near_to_the_cpu_as_the_table_says() {
    const SHARDS: usize = 4;
    let Some(machine) = machine() else { return };
    let (name, mut ws) = (machine.describe(), Workspace::on(machine));
    let mut wrong = Vec::new();
    let mut worst: BTreeMap<&str, [f64; 3]> = BTreeMap::new();
    for variant in VARIANTS.iter().filter(|variant| variant.mode == Mode::Train) {
        for (n, width) in [3, 33, 67].into_iter().enumerate() {
            let offsets = offsets((0..7).map(|sample| variant.items.unwrap_or((sample * 3 + n) % 7)));
            let items = offsets[7] as usize;
            let params = params(variant, width, |name, len| random(name.len() as u64, len));
            let mut x = random(n as u64, items * (variant.inputs)(width));
            if variant.name == "divide" {
                x.iter_mut().for_each(|v| *v += 1.5);
            }
            let targets = random(9, 61);
            let whole =
                Whole { variant, params: &params, width, x: &x, offsets: &offsets, targets: &targets, shards: SHARDS };
            for (at, precision) in PRECISIONS.into_iter().enumerate() {
                ws.round_on_device(precision, 1.0);
                let found = apart(whole.run_in(&mut ws, 0..SHARDS, 1), whole.run(0..SHARDS, 1), SHARDS);
                let most = allowed(variant.op)[at];
                if found.is_nan() || found > most {
                    wrong.push(format!("{} width {width} in {precision:?}: {found:.2e}", variant.name));
                }
                let worst = &mut worst.entry(variant.op).or_default()[at];
                *worst = worst.max(found);
            }
        }
    }
    println!("\nLargest difference between {name} and the CPU, as a share of the largest number:\n");
    println!(
        "| operation | f32 | allowed | bf16 | allowed | f16 | allowed |\n| --- | --- | --- | --- | --- | --- | --- |"
    );
    for (op, found) in worst {
        let cells: Vec<String> =
            found.iter().zip(allowed(op)).map(|(found, most)| format!("{found:.1e} | {most:.1e}")).collect();
        println!("| {op} | {} |", cells.join(" | "));
    }
    assert!(wrong.is_empty(), "further than allowed: {wrong:#?}");
}
