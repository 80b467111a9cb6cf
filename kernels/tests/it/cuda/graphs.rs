//! Steps that are replayed as graphs, and batches that are brought beside the device while it computes, on the played
//! driver: the bits of steps that do neither, whatever streams do between the points where one waits for another.

use super::gpu::{alone, environment};
use super::machine::Played;
use super::simt::{Order, driver};
use crate::models::{batch, configs, fit, model};
use kernels::collective::Op;
use kernels::cuda::{Argument, Cache, CudaEnvironment, ELEMENTWISE, Gpu, Graphs, Kernel, Launch, Machine, SideStream};
use kernels::dtype::{LossScaleConfig, Precision};
use kernels::nn::{MlpConfig, ModelConfig};
use kernels::optim::{AdamWConfig, EmaConfig, OptimizerConfig};
use kernels::pool::Pool;
use kernels::train::{Batch, DeviceBucket, RankBatch, Targets, TrainConfig, Trainer};
use kernels::weights::params_blake3;
use kernels::{Error, ErrorKind, Result};
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

/// What streams do between waits.
const ORDERS: [&str; 4] = ["late", "beside", "random:1", "random:2"];
const SHARDS: usize = 2;
const ROWS: usize = 7;
/// Two lists of work take turns, as two gradients do, and each is captured when it comes for the third time; the very first
/// step is begun in pieces, as scratch grows.
const UNCAPTURED: usize = 5;

/// Lines of a device to its operator.
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn said() -> Vec<String> {
    std::mem::take(&mut *SAID.lock().unwrap_or_else(PoisonError::into_inner))
}

fn open(environment: &CudaEnvironment, graphs: Graphs) -> Arc<Gpu> {
    let cache = Cache::new(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("cubins"));
    let say = |line: &str| SAID.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_owned());
    Arc::new(Gpu::open(0, environment, cache, say).expect("opens").with_graphs(graphs))
}

/// Runs a test of this file by itself in every order of streams; the driver that it plays on, where it is that process.
fn in_every_order(name: &str, settings: &[(&str, &str)]) -> Option<CudaEnvironment> {
    let environment = environment();
    if environment.is_none() {
        for order in ORDERS {
            alone(&format!("cuda::graphs::{name}"), &[&[("SIMT_STREAMS", order)], settings].concat());
        }
    }
    environment
}

/// `ad_score` with everything, `lstm_sequence` and `mlp`, all with dropout.
fn models() -> [ModelConfig; 3] {
    let mut all = configs();
    let (lstm, ad_score) = (all.swap_remove(5), all.swap_remove(0));
    assert!(matches!((&lstm, &ad_score), (ModelConfig::LstmSequence(_), ModelConfig::AdScore(_))));
    let mlp = MlpConfig { input_dim: 3, hidden_layers: vec![12, 9], dropout: 0.2, ..MlpConfig::default() };
    [ad_score, lstm, ModelConfig::Mlp(mlp)]
}

/// A batch of the sizes of the first one, with other numbers, tokens and samples.
fn like(first: &Batch, n: u64) -> Arc<Batch> {
    let mut other = first.clone();
    let turned = |value: f32, at: usize| value * (1.0 - 0.1 * n as f32) + 0.01 * at as f32;
    other.features.iter_mut().enumerate().for_each(|(at, value)| *value = turned(*value, at));
    if let Some(tokens) = &mut other.inputs.tokens {
        tokens.ids.iter_mut().for_each(|id| *id = (*id + 7 * n as u32) % 50);
    }
    if let Some(steps) = &mut other.inputs.steps {
        steps.values.iter_mut().enumerate().for_each(|(at, value)| *value = turned(*value, at));
    }
    let Targets::Real(targets) = &mut other.targets else { panic!("real targets") };
    targets.iter_mut().for_each(|target| *target += 0.1 * n as f32);
    other.sample_ids.iter_mut().for_each(|id| *id += 100 * n);
    Arc::new(other)
}

fn trainer(config: &ModelConfig, precision: Precision, machine: Arc<dyn Machine>) -> Trainer {
    let optimizer = OptimizerConfig::AdamW(AdamWConfig { learning_rate: 3e-3, ..Default::default() });
    // The scale of f16 is raised after each step.
    let loss_scale = LossScaleConfig { growth_interval: 1, ..LossScaleConfig::default() };
    let ema = Some(EmaConfig::default());
    let plan = TrainConfig {
        optimizer,
        precision,
        loss_scale,
        ema,
        logical_shards: SHARDS,
        seed: 11,
        ..TrainConfig::default()
    };
    Trainer::new(model(config), plan, Arc::new(Pool::new(1))).expect("valid").on_machine(machine)
}

/// Whether each batch is said to come before it does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Next {
    Known,
    Unknown,
}

/// Steps over batches, an epoch ending after the seventh; what came of it.
fn trained(mut trainer: Trainer, batches: &[Arc<Batch>], next: Next) -> (String, Vec<u64>) {
    let mut losses = Vec::new();
    for (n, batch) in batches.iter().enumerate() {
        if let Some(coming) = batches.get(n + 1).filter(|_| next == Next::Known) {
            trainer.expect(coming);
        }
        losses.push(trainer.step(batch).expect("finite").loss.to_bits());
        if n == 6 {
            trainer.end_epoch(None).expect("ends");
        }
    }
    trainer.settle().expect("the device works");
    (params_blake3(trainer.model()), losses)
}

#[test]
fn replayed_steps_have_the_bits_of_steps_whose_kernels_are_started_one_by_one() {
    let name = "replayed_steps_have_the_bits_of_steps_whose_kernels_are_started_one_by_one";
    let Some(environment) = in_every_order(name, &[]) else { return };
    let [ad_score, lstm, mlp] = models();
    let mut cases = vec![(mlp.clone(), Precision::F32)];
    // What a model computes does not depend on what streams do.
    if std::env::var("SIMT_STREAMS").as_deref() == Ok(ORDERS[0]) {
        let both = [Precision::F32, Precision::Bf16];
        cases.extend(both.into_iter().flat_map(|precision| [(ad_score.clone(), precision), (lstm.clone(), precision)]));
        cases.extend([(mlp.clone(), Precision::Bf16), (mlp, Precision::F16)]);
    }
    for (config, precision) in cases {
        let first = fit(&model(&config), batch(ROWS, 1));
        let batches: Vec<Arc<Batch>> = (0..9).map(|n| like(&first, n)).collect();
        let played = Played::new(Order::Forward).expect("a compiler");
        let expected = trained(trainer(&config, precision, played), &batches, Next::Unknown);
        for (graphs, next) in [(Graphs::Off, Next::Known), (Graphs::Auto, Next::Known), (Graphs::Auto, Next::Unknown)] {
            if (graphs, next) != (Graphs::Auto, Next::Known) && !matches!(config, ModelConfig::Mlp(_)) {
                continue;
            }
            let gpu = open(&environment, graphs);
            let got = trained(trainer(&config, precision, gpu.clone()), &batches, next);
            assert_eq!(got, expected, "{precision:?} {graphs:?} {config:?}");
            let replays = if graphs == Graphs::Off { 0 } else { batches.len() - UNCAPTURED };
            assert_eq!(gpu.replays(), replays as u64, "{precision:?} {config:?}");
        }
    }
    assert_eq!(said(), [""; 0]);
}

/// The same by gradients in buckets, each of which is a list of its own, as ranks of a gang compute them.
fn handed_over(mut trainer: Trainer, batches: &[Arc<Batch>]) -> (String, usize) {
    let mut buckets = 0;
    for batch in batches {
        let part = RankBatch { batch, global_rows: batch.rows, held: 0..SHARDS };
        let submit = |_, _: Op<'_>| Ok::<(), ()>(());
        let sum = |_: &DeviceBucket<'_>| {
            buckets += 1;
            Ok(())
        };
        trainer.exchange_on_device(&part, 1, 60, submit, sum).expect("computes");
        trainer.accumulate_exchanged().expect("whole");
        trainer.apply().expect("finite");
    }
    trainer.settle().expect("the device works");
    (params_blake3(trainer.model()), buckets / batches.len())
}

#[test]
fn buckets_of_gradients_are_replayed_however_many_there_are() {
    let name = "buckets_of_gradients_are_replayed_however_many_there_are";
    let Some(environment) = in_every_order(name, &[]) else { return };
    let config = models()[0].clone();
    let first = fit(&model(&config), batch(ROWS, 1));
    let batches: Vec<Arc<Batch>> = (0..9).map(|n| like(&first, n)).collect();
    let gpu = open(&environment, Graphs::Off);
    let (expected, buckets) = handed_over(trainer(&config, Precision::F32, gpu), &batches);
    let gpu = open(&environment, Graphs::Auto);
    assert_eq!(handed_over(trainer(&config, Precision::F32, gpu.clone()), &batches), (expected, buckets));
    // Buckets of fewer than four kernels are started one by one; with either of two gradients, the others are a dozen lists.
    let steady = (batches.len() - UNCAPTURED) as u64;
    assert!(buckets > 8 && gpu.replays() >= 5 * steady, "{buckets} buckets, {} replays", gpu.replays());
    assert_eq!(said(), [""; 0]);
}

#[test]
fn batches_of_changing_sizes_arrive_beside_the_device_or_with_their_step() {
    let name = "batches_of_changing_sizes_arrive_beside_the_device_or_with_their_step";
    let Some(environment) = in_every_order(name, &[]) else { return };
    let config = models()[1].clone();
    // What was brought ahead needs more memory than the last one, and less.
    let batches: Vec<Arc<Batch>> = [4, 9, 20, 3, 30, 30]
        .into_iter()
        .zip(1..)
        .map(|(rows, seed)| Arc::new(fit(&model(&config), batch(rows, seed))))
        .collect();
    let stepped = |machine: Arc<dyn Machine>, comes: &dyn Fn(usize) -> Option<usize>| {
        let mut trainer = trainer(&config, Precision::F32, machine);
        for (n, batch) in batches.iter().enumerate() {
            if let Some(coming) = comes(n).and_then(|n| batches.get(n)) {
                trainer.expect(coming);
            }
            trainer.step(batch).expect("finite");
            // What lies ahead is none of validation's business.
            trainer.validate(None, &batches[0]).expect("valid");
        }
        trainer.settle().expect("the device works");
        params_blake3(trainer.model())
    };
    let expected = stepped(Played::new(Order::Forward).expect("a compiler"), &|_| None);
    let gpu = open(&environment, Graphs::Auto);
    // The next one, each second one, one that never comes next, the one that was just there.
    let orders: [&dyn Fn(usize) -> Option<usize>; 4] =
        [&|n| Some(n + 1), &|n| (n % 2 == 0).then_some(n + 1), &|n| Some(n + 2), &Some];
    for comes in orders {
        assert_eq!(stepped(gpu.clone(), comes), expected);
    }
}

#[test]
fn a_batch_that_is_wrong_is_told_of_when_it_is_its_turn() {
    let Some(machine) = super::machine::machine() else { return };
    let config = models()[2].clone();
    let good = Arc::new(fit(&model(&config), batch(ROWS, 1)));
    let mut bad = (*good).clone();
    bad.features.pop();
    let bad = Arc::new(bad);
    let mut one = trainer(&config, Precision::F32, machine);
    one.expect(&bad);
    one.step(&good).expect("finite");
    assert_eq!(one.step(&bad).expect_err("too few features").kind(), ErrorKind::Shape);
    one.step(&good).expect("finite");
    // Part of a batch that was expected whole is another batch.
    one.expect(&good);
    one.step(&good).expect("finite");
    let part = RankBatch { batch: &good, global_rows: good.rows, held: 0..SHARDS };
    let losses = one.partial(&part).expect("valid").losses;
    assert_eq!(losses.iter().map(|(_, loss)| loss.rows).sum::<usize>(), good.rows);
}

#[test]
fn where_a_graph_cannot_be_made_a_line_says_why_and_the_bits_are_the_same() {
    let name = "where_a_graph_cannot_be_made_a_line_says_why_and_the_bits_are_the_same";
    let Some(environment) = environment() else {
        for refused in ["no", "kernels"] {
            alone(&format!("cuda::graphs::{name}"), &[("SIMT_CAPTURE", refused)]);
        }
        return;
    };
    let config = models()[2].clone();
    let first = fit(&model(&config), batch(ROWS, 1));
    let batches: Vec<Arc<Batch>> = (0..8).map(|n| like(&first, n)).collect();
    let expected = trained(
        trainer(&config, Precision::F32, Played::new(Order::Forward).expect("a compiler")),
        &batches,
        Next::Unknown,
    );
    let gpu = open(&environment, Graphs::Auto);
    assert_eq!(trained(trainer(&config, Precision::F32, gpu.clone()), &batches, Next::Known), expected);
    if std::env::var("SIMT_CAPTURE").as_deref() == Ok("kernels") {
        // Without the numbers that tell how far it is.
        assert_eq!((gpu.replays(), said()), ((batches.len() - UNCAPTURED) as u64, Vec::new()));
        return;
    }
    let line = "CUDA graphs are not used, kernels are started one by one: cuStreamBeginCapture: operation not supported \
                (CUDA_ERROR_NOT_SUPPORTED)";
    assert_eq!((gpu.replays(), said()), (0, vec![line.to_owned()]));
}

#[test]
fn steps_that_are_never_alike_are_told_of_once() {
    let Some(environment) = environment() else {
        return alone("cuda::graphs::steps_that_are_never_alike_are_told_of_once", &[]);
    };
    let config = models()[2].clone();
    let gpu = open(&environment, Graphs::Auto);
    let mut one = trainer(&config, Precision::F32, gpu.clone());
    for rows in 10..80 {
        one.step(&fit(&model(&config), batch(rows, 1))).expect("finite");
    }
    let said = said();
    assert_eq!((gpu.replays(), said.len()), (0, 1), "{said:?}");
    let text = "CUDA graphs are not used, kernels are started one by one: they change from step to step: ";
    assert!(said[0].starts_with(text) && said[0].contains("has another size or other memory"), "{said:?}");
}

#[test]
fn a_failure_within_a_graph_names_the_operation() {
    let Some(environment) = environment() else {
        // Forward once a step, in the seventh, which is replayed.
        let fail = [("SIMT_FAIL", "attention_forward_32:13")];
        return alone("cuda::graphs::a_failure_within_a_graph_names_the_operation", &fail);
    };
    let config = models()[0].clone();
    let first = fit(&model(&config), batch(ROWS, 1));
    let gpu = open(&environment, Graphs::Auto);
    let mut one = trainer(&config, Precision::F32, gpu.clone());
    let error = (0..10).find_map(|n| one.step(&like(&first, n)).err()).expect("fails");
    assert!(gpu.replays() > 1, "{error}");
    let text = error.to_string();
    assert!(text.starts_with("cuda:0 (played device): attention: an illegal memory access was encountered"), "{text}");
    assert!(text.contains("in attention_forward_32, told by "), "{text}");
}

#[test]
fn a_stream_waits_for_another_only_where_an_event_says_so() {
    let Some(environment) = in_every_order("a_stream_waits_for_another_only_where_an_event_says_so", &[]) else {
        return;
    };
    let gpu = open(&environment, Graphs::Off);
    let scaled = |follows: bool| -> Result<Vec<f32>> {
        let side = SideStream::new(&gpu)?;
        let count = 64;
        let (from, to) = (gpu.allocate(count * 4)?, gpu.allocate(count * 4)?);
        let values: Vec<u8> = (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect();
        gpu.clear(from, count * 4)?;
        gpu.upload(&values, from)?;
        if follows {
            side.follow("test")?;
        }
        let launch = Launch::over("test", count as u64, 256)?.expect("some");
        let [x, out] = [from, to].map(Argument::Address);
        let arguments = [x, out, Argument::Word64(count as u64), Argument::Float(2.0), Argument::Word(0)];
        side.start("test", Kernel { source: ELEMENTWISE, name: "scale" }, launch, &arguments)?;
        side.mark("test")?;
        while !side.is_done("test")? {}
        let mut bytes = vec![0; count * 4];
        gpu.download(to, &mut bytes)?;
        [from, to].into_iter().for_each(|at| gpu.release(at));
        Ok(bytes.chunks_exact(4).map(|four| f32::from_le_bytes(std::array::from_fn(|i| four[i]))).collect())
    };
    let expected: Vec<f32> = (0..64).map(|i| 2.0 * i as f32).collect();
    assert_eq!(scaled(true).expect("works"), expected);
    let random = std::env::var("SIMT_STREAMS").is_ok_and(|order| order.starts_with("random"));
    // Nobody has to be wrong at random.
    assert!(random || scaled(false).expect("works") != expected);
}

/// In one order what is brought would be taken too early, in the other it would be brought too early.
#[test]
fn streams_that_do_not_wait_for_each_other_show() {
    let Some(environment) = environment() else {
        for order in &ORDERS[..2] {
            alone("cuda::graphs::streams_that_do_not_wait_for_each_other_show", &[("SIMT_STREAMS", order)]);
        }
        return;
    };
    let config = models()[2].clone();
    let first = fit(&model(&config), batch(ROWS, 1));
    let batches: Vec<Arc<Batch>> = (0..6).map(|n| like(&first, n)).collect();
    let losses = |deaf: bool| -> Vec<u64> {
        let mut one = trainer(&config, Precision::F32, open(&environment, Graphs::Auto));
        let steps = batches.iter().enumerate().map(|(n, batch)| {
            if deaf && n == 2 {
                // SAFETY: this process runs one test, and no other thread of it reads the environment now.
                unsafe { std::env::set_var("SIMT_DEAF", "1") };
            }
            batches.get(n + 1).into_iter().for_each(|coming| one.expect(coming));
            one.step(batch).expect("finite").loss.to_bits()
        });
        steps.collect()
    };
    let expected = losses(false);
    assert_eq!(losses(false), expected);
    assert_ne!(losses(true), expected);
}

/// The driver's own calls.
type Call2 = unsafe extern "C" fn(*mut c_void, i32) -> i32;
type Make = unsafe extern "C" fn(*mut *mut c_void, u32) -> i32;
type End = unsafe extern "C" fn(*mut c_void, *mut *mut c_void) -> i32;
type Wait = unsafe extern "C" fn(*mut c_void) -> i32;
type Allocate = unsafe extern "C" fn(*mut u64, usize) -> i32;
type Clear = unsafe extern "C" fn(u64, u8, usize, *mut c_void) -> i32;

#[test]
fn what_a_capture_refuses_spoils_the_played_one_too() {
    const UNSUPPORTED: i32 = 900;
    const INVALIDATED: i32 = 901;
    const IMPLICIT: i32 = 906;
    let Some(played) = driver() else { return };
    // SAFETY: the driver that was just made, whose functions have these types; it runs nothing when it is loaded.
    let library = unsafe { libloading::Library::new(played.join("libcuda.so.1")) }.expect("loads");
    // SAFETY: as above.
    unsafe {
        let begin = library.get::<Call2>(b"cuStreamBeginCapture_v2").expect("there");
        let end = library.get::<End>(b"cuStreamEndCapture").expect("there");
        let wait = library.get::<Wait>(b"cuStreamSynchronize").expect("there");
        let wait_event = library.get::<Wait>(b"cuEventSynchronize").expect("there");
        let allocate = library.get::<Allocate>(b"cuMemAlloc_v2").expect("there");
        let clear = library.get::<Clear>(b"cuMemsetD8Async").expect("there");
        let [mut stream, mut other, mut event] = [std::ptr::null_mut(); 3];
        let make = library.get::<Make>(b"cuStreamCreate").expect("there");
        assert_eq!((make(&raw mut stream, 1), make(&raw mut other, 1)), (0, 0));
        assert_eq!(library.get::<Make>(b"cuEventCreate").expect("there")(&raw mut event, 2), 0);
        let mut address = 0;
        assert_eq!(allocate(&raw mut address, 16), 0);
        let capture = |act: &dyn Fn() -> i32| {
            let mut graph = std::ptr::null_mut();
            assert_eq!(begin(stream, 1), 0);
            assert_eq!(clear(address, 1, 16, stream), 0, "taken, not done");
            let status = act();
            (status, end(stream, &raw mut graph), graph.is_null())
        };
        assert_eq!(capture(&|| wait(stream)), (UNSUPPORTED, INVALIDATED, true));
        assert_eq!(capture(&|| wait(other)), (UNSUPPORTED, INVALIDATED, true));
        assert_eq!(capture(&|| wait_event(event)), (UNSUPPORTED, INVALIDATED, true));
        assert_eq!(capture(&|| allocate(&mut 0, 16)), (UNSUPPORTED, INVALIDATED, true));
        assert_eq!(capture(&|| clear(address, 1, 16, std::ptr::null_mut())), (IMPLICIT, INVALIDATED, true));
        assert_eq!(capture(&|| clear(address, 1, 16, other)), (0, 0, false));
        assert_eq!((wait(stream), wait(other)), (0, 0));
    }
}

#[test]
fn a_device_that_is_lost_while_a_batch_is_brought_ends_the_step() {
    let Some(environment) = environment() else {
        let fail = [("SIMT_FAIL", "squares:3"), ("SIMT_STREAMS", "beside")];
        return alone("cuda::graphs::a_device_that_is_lost_while_a_batch_is_brought_ends_the_step", &fail);
    };
    let config = models()[2].clone();
    let first = fit(&model(&config), batch(ROWS, 1));
    let batches: Vec<Arc<Batch>> = (0..4).map(|n| like(&first, n)).collect();
    let mut one = trainer(&config, Precision::F32, open(&environment, Graphs::Auto));
    let mut step = |n: usize| {
        one.expect(&batches[n + 1]);
        one.step(&batches[n])
    };
    assert!(step(0).is_ok() && step(1).is_ok());
    let error = step(2).expect_err("lost");
    assert!(matches!(error, Error::Device { .. }) && error.to_string().contains("in squares, told by"), "{error}");
}
