//! Whole models trained on a device that the CPU plays: the numbers of the CPU, the same bits in any order of threads and
//! for any number of ranks, no memory asked for in a steady step, failures that name what failed.

mod curves;
mod png;

use super::machine::{machine, machines};
use super::simt::kernels_of;
use crate::models::{batch, configs, fit, model, part, step_together, trainer};
use kernels::cuda::{Argument, Kernel, Launch, Machine, SOURCES};
use kernels::dtype::Precision;
use kernels::nn::ModelConfig;
use kernels::pool::Pool;
use kernels::train::{Batch, RankBatch, Targets, TrainConfig, Trainer};
use kernels::weights::params_blake3;
use kernels::{Error, ErrorKind, Result};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SHARDS: usize = 4;

fn batches(config: &ModelConfig) -> Vec<Batch> {
    (0..3).map(|seed| fit(&model(config), batch(19, seed + 1))).collect()
}

fn on(machine: &Arc<dyn Machine>, config: &ModelConfig) -> Trainer {
    trainer(config, SHARDS, 1).on_machine(machine.clone())
}

/// Of the parameters as they stand.
fn hash(trainer: &mut Trainer) -> String {
    trainer.settle().expect("the device works");
    params_blake3(trainer.model())
}

#[test]
fn models_learn_what_they_learn_on_the_cpu_with_the_same_bits_in_any_order() {
    let machines = machines();
    for config in configs() {
        let (mut cpu, batches) = (trainer(&config, SHARDS, 1), batches(&config));
        let expected: Vec<f64> = batches.iter().map(|b| cpu.step(b).expect("finite").loss).collect();
        // A step of Adam makes a difference in the last place of a small gradient one of the rate's size: so gradients
        // are compared, and not weights.
        let gradient = |trainer: &mut Trainer| {
            let whole = RankBatch { batch: &batches[0], global_rows: batches[0].rows, held: 0..SHARDS };
            trainer.partial(&whole).expect("valid").nodes.swap_remove(0).1
        };
        let root = gradient(&mut trainer(&config, SHARDS, 1));
        let size = root.iter().fold(1.0f32, |top, g| top.max(g.abs()));
        let mut hashes = BTreeSet::new();
        for machine in &machines {
            for (at, (got, expected)) in gradient(&mut on(machine, &config)).iter().zip(&root).enumerate() {
                assert!((got - expected).abs() <= 1e-5 * size, "{at}: {got} for {expected}: {config:?}");
            }
            let mut device = on(machine, &config);
            for (batch, expected) in batches.iter().zip(&expected) {
                let got = device.step(batch).expect("finite").loss;
                assert!((got - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{got} for {expected}: {config:?}");
            }
            hashes.insert(hash(&mut device));
        }
        assert!(hashes.len() <= 1, "{config:?}: {hashes:?}");
    }
}

#[test]
fn predictions_and_losses_of_a_device_are_those_of_the_cpu_whatever_the_number_of_rows() {
    let Some(machine) = machine() else { return };
    for config in configs() {
        let (mut device, mut cpu) = (on(&machine, &config), trainer(&config, SHARDS, 1));
        for rows in [1, 19, 300] {
            let batch = fit(&model(&config), batch(rows, 4));
            let (got, outputs) = device.validate(None, &batch).expect("valid");
            let (expected, of_cpu) = cpu.validate(None, &batch).expect("valid");
            assert!((got.sum - expected.sum).abs() <= 1e-4 * expected.sum.max(1.0), "{rows} rows of {config:?}");
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * b.abs().max(1.0);
            assert!(
                outputs.len() == of_cpu.len() && outputs.iter().zip(&of_cpu).all(close),
                "{rows} rows of {config:?}"
            );
            let alone = part(&batch, 0..rows.min(1));
            let (_, first) = device.validate(None, &alone).expect("valid");
            assert_eq!(first, outputs[..first.len()], "a row's bits depend on it alone: {config:?}");
        }
    }
}

#[test]
fn weights_of_two_bytes_train_as_on_the_cpu() {
    let Some(machine) = machine() else { return };
    let config = configs().swap_remove(0);
    for precision in [Precision::Bf16, Precision::F16] {
        let trained = |machine: Option<&Arc<dyn Machine>>| {
            let plan = TrainConfig { precision, logical_shards: SHARDS, ..TrainConfig::default() };
            let trainer = Trainer::new(model(&config), plan, Arc::new(Pool::new(1))).expect("valid");
            let mut trainer = match machine {
                Some(machine) => trainer.on_machine(machine.clone()),
                None => trainer,
            };
            let losses: Vec<f64> = batches(&config).iter().map(|b| trainer.step(b).expect("finite").loss).collect();
            trainer.settle().expect("the device works");
            let rounded = trainer.model().params().iter().flat_map(|(_, values)| values.to_vec());
            assert!(rounded.into_iter().all(|v| precision.round(v) == v), "{precision:?}");
            losses
        };
        for (got, expected) in trained(Some(&machine)).into_iter().zip(trained(None)) {
            assert!((got - expected).abs() <= 2e-3 * expected.max(1.0), "{precision:?}: {got} for {expected}");
        }
    }
}

#[test]
fn worlds_agree_to_the_last_bit() {
    let Some(machine) = machine() else { return };
    for config in configs() {
        let batches = batches(&config);
        let mut one = on(&machine, &config);
        batches.iter().for_each(|batch| assert!(one.step(batch).is_ok()));
        let expected = hash(&mut one);
        for world in [2, 3] {
            let mut ranks: Vec<Trainer> = (0..world).map(|_| on(&machine, &config)).collect();
            for batch in &batches {
                step_together(&mut ranks, batch, SHARDS);
            }
            for trainer in &mut ranks {
                assert_eq!(hash(trainer), expected, "{world} ranks of {config:?}");
            }
        }
    }
}

#[test]
fn a_steady_step_asks_for_no_memory() {
    let Some(machine) = machine() else { return };
    for config in configs() {
        let (mut trainer, batches) = (on(&machine, &config), batches(&config));
        batches.iter().for_each(|batch| assert!(trainer.step(batch).is_ok()));
        let before = trainer.allocations();
        assert!(before > 0);
        batches.iter().for_each(|batch| assert!(trainer.step(batch).is_ok()));
        assert_eq!(trainer.allocations(), before, "{config:?}");
    }
}

#[test]
fn what_is_not_finite_is_named_as_on_the_cpu() {
    let Some(machine) = machine() else { return };
    for config in configs() {
        let mut bad = batches(&config).swap_remove(0);
        let Targets::Real(targets) = &mut bad.targets else { panic!("real targets") };
        targets[7] = f32::NAN;
        let outcome = |mut trainer: Trainer| trainer.step(&bad).expect_err("not finite");
        let (device, cpu) = (outcome(on(&machine, &config)), outcome(trainer(&config, SHARDS, 1)));
        assert_eq!(device.kind(), ErrorKind::Numeric);
        assert_eq!(device, cpu, "{config:?}");
    }
}

/// Fails at the n-th thing that is asked of it, and from then on, as a lost device does.
#[derive(Debug)]
struct Failing {
    played: Arc<dyn Machine>,
    left: AtomicU64,
}

impl Failing {
    fn pass(&self, op: &'static str) -> Result<()> {
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let lost = || Error::Device { device: self.describe(), op: op.into(), what: "the device is lost".into() };
        taken.map(drop).map_err(|_| lost())
    }
}

impl Machine for Failing {
    fn describe(&self) -> String {
        "failing device".into()
    }
    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.pass("allocate")?;
        self.played.allocate(bytes)
    }
    fn release(&self, address: u64) {
        self.played.release(address);
    }
    fn upload(&self, from: &[u8], to: u64) -> Result<()> {
        self.pass("upload")?;
        self.played.upload(from, to)
    }
    fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        self.pass("download")?;
        self.played.download(from, to)
    }
    fn clear(&self, at: u64, bytes: usize) -> Result<()> {
        self.pass("clear")?;
        self.played.clear(at, bytes)
    }
    fn upload_aside(&self, parts: &[(usize, &[u8])], to: u64) -> Result<()> {
        self.pass("upload aside")?;
        self.played.upload_aside(parts, to)
    }
    fn take_aside(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.pass("take aside")?;
        self.played.take_aside(from, to, bytes)
    }
    fn start(&self, op: &'static str, kernel: Kernel, launch: Launch, arguments: &[Argument]) -> Result<()> {
        self.pass(op)?;
        self.played.start(op, kernel, launch, arguments)
    }
}

#[test]
fn a_device_that_fails_anywhere_in_a_step_ends_it_and_changes_no_weight() {
    let Some(played) = machine() else { return };
    let config = configs().swap_remove(0);
    let batch = batches(&config).swap_remove(0);
    let mut failures = 0;
    for left in (0..).map(|n| (1 << n) - 1) {
        let machine = Arc::new(Failing { played: played.clone(), left: AtomicU64::new(left) });
        let mut trainer = trainer(&config, SHARDS, 1).on_machine(machine.clone());
        let before = params_blake3(trainer.model());
        let Err(error) = trainer.step(&batch) else { break };
        failures += 1;
        assert_eq!(error.kind(), ErrorKind::Device, "{error}");
        assert!(error.to_string().starts_with("failing device: "), "{error}");
        assert_eq!(params_blake3(trainer.model()), before);
        // It works again: so does the training, with the bits of a first step.
        machine.left.store(u64::MAX, Ordering::Relaxed);
        trainer.step(&batch).expect("finite");
    }
    assert!(failures > 6, "{failures} failures");
}

#[test]
fn every_kernel_is_named_by_what_starts_it() {
    let known: BTreeSet<String> = SOURCES.iter().flat_map(|source| kernels_of(source.text)).collect();
    let named: BTreeSet<String> = [
        include_str!("../../../src/cuda/nccl/sum.rs"),
        include_str!("../../../src/optim/device.rs"),
        include_str!("../../../src/ops/linear.rs"),
        include_str!("../../../src/ops/activation.rs"),
        include_str!("../../../src/ops/attention.rs"),
        include_str!("../../../src/ops/batchnorm.rs"),
        include_str!("../../../src/ops/binary.rs"),
        include_str!("../../../src/ops/columns.rs"),
        include_str!("../../../src/ops/conv.rs"),
        include_str!("../../../src/ops/dropout.rs"),
        include_str!("../../../src/ops/embedding.rs"),
        include_str!("../../../src/ops/gather.rs"),
        include_str!("../../../src/ops/image.rs"),
        include_str!("../../../src/ops/layernorm.rs"),
        include_str!("../../../src/ops/loss/mod.rs"),
        include_str!("../../../src/ops/lstm.rs"),
        include_str!("../../../src/ops/pool.rs"),
        include_str!("../../../src/ops/reduce.rs"),
        include_str!("../../../src/ops/softmax.rs"),
        include_str!("../../../src/ops/transpose.rs"),
        include_str!("../../../src/ops/window.rs"),
        include_str!("../../../src/tape/device.rs"),
    ]
    .iter()
    .flat_map(|text| text.split('"').map(str::to_owned))
    .collect();
    let unused: Vec<&String> = known.iter().filter(|kernel| !named.contains(*kernel)).collect();
    assert!(unused.is_empty(), "no operation starts {unused:?}");
}
