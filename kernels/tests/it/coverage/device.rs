//! The table on a device that the CPU plays (`cuda/machine.rs`): every kernel of every operation by the path that a GPU
//! takes, held against PyTorch and against the CPU's operations, in three orders of its threads.

mod tolerance;

use super::{TOLERANCE, Whole, goldens, numbers, offsets, params, singles};
use crate::coverage::table::{Golden, VARIANTS};
use crate::cuda::machine::{machine, machines};
use crate::support::{close, random};
use kernels::shard::complete;
use kernels::tape::{Mode, Workspace};

#[test]
fn a_device_computes_what_pytorch_computes() {
    let Some(machine) = machine() else { return };
    let mut ws = Workspace::on(machine);
    let goldens = goldens();
    for variant in VARIANTS.iter().filter(|v| matches!(v.golden, Golden::Whole) && v.mode == Mode::Train) {
        let (what, case) = (variant.name, super::find(&goldens, variant.name));
        let width = case["width"].as_u64().expect("a count") as usize;
        let params = params(variant, width, |name, _| singles(&case["params"][name]));
        let whole = Whole {
            variant,
            params: &params,
            width,
            x: &singles(&case["x"]),
            offsets: &offsets(numbers(&case["lengths"]).into_iter().map(|n| n as usize)),
            targets: &singles(&case["t"]),
            shards: 1,
        };
        let got = whole.run_in(&mut ws, 0..1, 1);
        close(&format!("{what} y"), &got.output, &numbers(&case["y"]), TOLERANCE);
        close(&format!("{what} dx"), &got.input_grad, &numbers(&case["dx"]), TOLERANCE);
        for (name, want) in case["grads"].as_object().expect("by name") {
            let part = params.part(params.find(name).expect("declared"), &got.nodes[0].1);
            close(&format!("{what} {name}"), part, &numbers(want), TOLERANCE);
        }
    }
}

/// Everything but statistics through which no gradient passes on a device.
#[test]
fn odd_shapes_give_the_same_bits_in_any_order_and_any_split_at_shards_and_the_numbers_of_the_cpu() {
    const SHARDS: usize = 4;
    let mut spaces: Vec<Workspace> = machines().into_iter().map(Workspace::on).collect();
    if spaces.is_empty() {
        return;
    }
    for variant in VARIANTS.iter().filter(|variant| variant.mode == Mode::Train) {
        for (n, width) in [1, 2, 7, 33, 67].into_iter().enumerate() {
            for samples in [0, 1, if width < 10 { 13 } else { 5 }] {
                let lengths = (0..samples).map(|s| variant.items.unwrap_or(s * (n + 3) % 6));
                let offsets = offsets(lengths);
                let items = offsets[samples] as usize;
                let params = params(variant, width, |name, len| random(name.len() as u64, len));
                let x: Vec<f32> = random(n as u64, items * (variant.inputs)(width)).iter().map(|v| v + 1.5).collect();
                let targets = random(9, 61);
                let whole = Whole {
                    variant,
                    params: &params,
                    width,
                    x: &x,
                    offsets: &offsets,
                    targets: &targets,
                    shards: SHARDS,
                };
                let what = format!("{} width {width}, {samples} samples", variant.name);
                let one = std::slice::from_ref(&(0..SHARDS));
                let want = whole.bits_in(&mut spaces[0], one, 1);
                for ws in &mut spaces[1..] {
                    assert_eq!(whole.bits_in(ws, one, 1), want, "{what}: the order of threads");
                }
                for split in [vec![0..1, 1..4], vec![0..2, 2..4], vec![0..1, 1..2, 2..3, 3..4]] {
                    assert_eq!(whole.bits_in(&mut spaces[0], &split, 1), want, "{what}, split {split:?}");
                }
                let cpu = whole.run(0..SHARDS, 1);
                let root = complete(cpu.nodes, SHARDS).expect("the whole tree");
                let parts = [("y", cpu.output), ("dx", cpu.input_grad), ("gradient", root)];
                for ((part, cpu), want) in parts.into_iter().zip(&want) {
                    let got: Vec<f32> = want.iter().map(|v| f32::from_bits(*v)).collect();
                    let cpu: Vec<f64> = cpu.into_iter().map(f64::from).collect();
                    let size = cpu.iter().fold(1.0f64, |top, v| top.max(v.abs()));
                    close(&format!("{what} {part}"), &got, &cpu, 1e-5 * size);
                }
            }
        }
    }
}
