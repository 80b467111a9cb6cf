//! NCCL without one: a library that moves data between ranks (`tests/simt/nccl.cpp`) behind our own loader, communicators
//! and sums, on devices that are played; libraries that cannot be used; and NVIDIA's own as far as it goes without a device.
//! With `REQUIRE_CUDA` set, what is in [`device`] runs on all devices of this machine and with its own NCCL.

use super::gpu::{alone, environment};
use super::simt::library;
use crate::models::{batch, configs, fit, model, trainer};
use kernels::collective::{Arena, Plans, Round, Topology, Tuning};
use kernels::cuda::nccl::{Communicator, DeviceSum, Nccl, SumMode, UniqueId};
use kernels::cuda::{Cache, CudaEnvironment, Gpu, Machine};
use kernels::philox::{Key, Stream};
use kernels::shard::complete;
use kernels::train::{DeviceBucket, RankBatch};
use kernels::weights::params_blake3;
use kernels::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Numbers of a gradient, and where it is cut: an empty bucket, one that no rank gets a whole 16 bytes of, and two more.
const LEN: usize = 2_000;
const CUTS: [usize; 5] = [0, 1_021, 1_021, 1_024, LEN];

fn apart(name: &str, settings: &[(&str, &str)]) {
    alone(&format!("cuda::nccl::{name}"), settings);
}

fn open(environment: &CudaEnvironment, ordinal: usize) -> Arc<Gpu> {
    let cache = Cache::new(Path::new(env!("CARGO_TARGET_TMPDIR")).join("cubins"));
    let gpu = Gpu::open(ordinal as u32, environment, cache, |warning| panic!("{warning}"));
    Arc::new(gpu.expect("a device"))
}

/// Goes on for a minute.
fn patient() -> impl FnMut() -> bool {
    let until = Instant::now() + Duration::from_secs(60);
    move || {
        std::thread::yield_now();
        Instant::now() < until
    }
}

/// What each of `world` ranks comes to in a thread of its own, with device `device_of` that rank.
fn ranks<T: Send>(
    world: usize,
    device_of: impl Fn(usize) -> usize + Sync,
    act: impl Fn(usize, Arc<Gpu>, Result<Communicator>) -> T + Sync,
) -> Vec<T> {
    let environment = environment().unwrap_or_else(super::machine::environment);
    let nccl = Arc::new(Nccl::load(&environment).expect("a library"));
    let id = nccl.unique_id().expect("an id");
    std::thread::scope(|scope| {
        let rank = |rank: usize| {
            let (nccl, environment, device_of, act) = (nccl.clone(), &environment, &device_of, &act);
            scope.spawn(move || {
                let gpu = open(environment, device_of(rank));
                let communicator = Communicator::new(&nccl, &gpu, id, rank, world, &mut patient());
                act(rank, gpu, communicator)
            })
        };
        let ranks: Vec<_> = (0..world).map(rank).collect();
        ranks.into_iter().map(|rank| rank.join().expect("no panic")).collect()
    })
}

/// The gradient of a logical shard.
fn leaf(shard: usize) -> Vec<f32> {
    let mut rng = Key::new(shard as u64, Stream::Generate).rng(0, 0);
    (0..LEN).map(|_| (rng.normal() * 10f64.powf(rng.uniform() * 6.0)) as f32).collect()
}

/// The gradients of the nodes of a rank, as it would have computed them.
fn nodes(rank: usize, world: usize, shards: usize) -> Vec<Vec<f32>> {
    let of = |node: kernels::shard::Node| {
        let leaves =
            (0..node.span()).map(|at| (kernels::shard::Node { first: at, end: at + 1 }, leaf(node.first + at)));
        complete(leaves.collect(), node.span()).expect("a tree")
    };
    Topology::new(rank, world, shards).expect("valid").nodes().into_iter().map(of).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The sum of all ranks' gradients on this rank's device, bucket by bucket, twice.
fn summed(gpu: &Arc<Gpu>, communicator: Communicator, shards: usize, mode: SumMode) -> Result<Vec<f32>> {
    let (rank, world) = (communicator.rank(), communicator.world());
    let mut sum = DeviceSum::new(communicator, shards, mode)?;
    let own = nodes(rank, world, shards);
    let addresses: Vec<u64> = own.iter().map(|_| gpu.allocate(LEN * 4)).collect::<Result<_>>()?;
    let mut back = vec![0; LEN * 4];
    for _ in 0..2 {
        own.iter().zip(&addresses).try_for_each(|(values, at)| gpu.upload(&bytes(values), *at))?;
        for (number, cut) in CUTS.windows(2).rev().enumerate() {
            sum.begin(&DeviceBucket::new(number, cut[0]..cut[1], &addresses, &**gpu), &mut patient())?;
        }
        let mut go_on = patient();
        while !sum.is_done()? {
            assert!(go_on(), "a sum that does not end");
        }
        gpu.download(addresses[0], &mut back)?;
    }
    sum.close(&mut patient())?;
    addresses.into_iter().for_each(|at| gpu.release(at));
    Ok(back.chunks_exact(4).map(|four| f32::from_le_bytes(std::array::from_fn(|i| four[i]))).collect())
}

/// Sums of `world` devices, held against the tree.
fn sum_by_tree(world: usize, shards: usize) {
    let leaves = (0..shards).map(|at| (kernels::shard::Node { first: at, end: at + 1 }, leaf(at))).collect();
    let expected = complete(leaves, shards).expect("a tree");
    let act = |_, gpu: Arc<Gpu>, communicator: Result<Communicator>| {
        summed(&gpu, communicator.expect("meets"), shards, SumMode::Deterministic).expect("sums")
    };
    for (rank, got) in ranks(world, |rank| rank, act).into_iter().enumerate() {
        let same = got.iter().zip(&expected).all(|(got, expected)| got.to_bits() == expected.to_bits());
        assert!(same, "rank {rank} of {world}, {shards} shards");
    }
}

#[test]
fn sums_of_any_number_of_devices_have_the_bits_of_the_tree() {
    if environment().is_none() {
        return apart("sums_of_any_number_of_devices_have_the_bits_of_the_tree", &[("SIMT_DEVICES", "8")]);
    }
    for (world, shards) in [(1, 8), (2, 8), (3, 8), (4, 7), (5, 19), (8, 8)] {
        sum_by_tree(world, shards);
    }
}

/// Two steps whose gradients go through NCCL, beside two of a device alone.
fn train_at_world_1() {
    let config = configs().swap_remove(0);
    let act = |_, gpu: Arc<Gpu>, communicator: Result<Communicator>| {
        let mut sum = DeviceSum::new(communicator.expect("meets"), 4, SumMode::Deterministic).expect("a device");
        let mut alone = trainer(&config, 4, 1).on_machine(gpu.clone());
        let mut over = trainer(&config, 4, 1).on_machine(gpu);
        let plans = Plans::new(Topology::new(0, 1, 4).expect("valid"), Tuning::default());
        for seed in [1, 2] {
            let batch = fit(&model(&config), batch(19, seed));
            let part = RankBatch { batch: &batch, global_rows: batch.rows, held: 0..4 };
            let mut arena = Arena::default();
            let mut round = Round::new(&plans, &mut arena, 0);
            let begin = |bucket: &DeviceBucket<'_>| sum.begin(bucket, &mut patient());
            let handed_over = over.exchange_on_device(&part, 1, 512, |bucket, op| round.submit(bucket, op), begin);
            assert!(handed_over.is_ok() && round.done(), "{handed_over:?}");
            drop(round);
            let mut go_on = patient();
            while !sum.is_done().expect("no error") {
                assert!(go_on(), "a sum that does not end");
            }
            over.accumulate_exchanged().expect("whole");
            assert_eq!(over.apply().expect("finite"), alone.step(&batch).expect("finite"));
        }
        [alone, over].map(|mut trainer| {
            trainer.settle().expect("works");
            params_blake3(trainer.model())
        })
    };
    let [alone, over] = ranks(1, |rank| rank, act).swap_remove(0);
    assert_eq!(alone, over);
}

#[test]
fn a_step_over_nccl_is_that_of_a_device_alone() {
    if environment().is_none() {
        return apart("a_step_over_nccl_is_that_of_a_device_alone", &[]);
    }
    train_at_world_1();
}

mod device {
    use super::*;

    /// How many devices this machine has; none where there is nothing to test.
    fn devices() -> Option<usize> {
        if std::env::var_os("REQUIRE_CUDA").is_none() {
            println!("skipped: REQUIRE_CUDA is not set");
            return None;
        }
        let environment = super::super::machine::environment();
        match Nccl::load(&environment) {
            Ok(nccl) => println!("{nccl:?}"),
            Err(error) if std::env::var_os("REQUIRE_NCCL").is_some() => panic!("{error}"),
            Err(error) => {
                println!("skipped: {error}");
                return None;
            }
        }
        Some(kernels::cuda::probe(&environment).devices.len())
    }

    #[test]
    fn sums_of_all_devices_have_the_bits_of_the_tree() {
        for world in 1..=devices().unwrap_or(0).min(8) {
            sum_by_tree(world, 8);
            println!("world {world}: the bits of the tree");
        }
    }

    #[test]
    fn a_step_over_nccl_is_that_of_a_device_alone() {
        if devices().is_some() {
            train_at_world_1();
        }
    }
}

#[test]
fn the_librarys_own_order_gives_every_rank_the_same_sum() {
    if environment().is_none() {
        return apart("the_librarys_own_order_gives_every_rank_the_same_sum", &[("SIMT_DEVICES", "3")]);
    }
    let leaves = (0..8).map(|at| (kernels::shard::Node { first: at, end: at + 1 }, leaf(at))).collect();
    let expected = complete(leaves, 8).expect("a tree");
    let act = |_, gpu: Arc<Gpu>, communicator: Result<Communicator>| {
        summed(&gpu, communicator.expect("meets"), 8, SumMode::Fast).expect("sums")
    };
    let got = ranks(3, |rank| rank, act);
    assert!(got.iter().all(|other| *other == got[0]));
    // Terms of up to 10^6 times a few, eight of them: their sums differ in the last bits of the largest.
    assert!(got[0].iter().zip(&expected).all(|(got, expected)| (got - expected).abs() < 8.0));
}

#[test]
fn every_collective_moves_what_it_says() {
    if environment().is_none() {
        return apart("every_collective_moves_what_it_says", &[("SIMT_DEVICES", "3")]);
    }
    const WORLD: usize = 3;
    let act = |rank: usize, gpu: Arc<Gpu>, communicator: Result<Communicator>| {
        let mut communicator = communicator.expect("meets");
        let (all, part) = (gpu.allocate(4 * 6).expect("memory"), gpu.allocate(4 * 2).expect("memory"));
        let own: Vec<f32> = (0..6).map(|i| (10 * rank + i) as f32).collect();
        let read = |at: u64, count: usize| {
            let mut back = vec![0; count * 4];
            gpu.download(at, &mut back).expect("copied");
            back.chunks_exact(4).map(|four| f32::from_le_bytes(std::array::from_fn(|i| four[i]))).collect::<Vec<_>>()
        };
        let mut run = |calls: &dyn Fn(&kernels::cuda::nccl::Calls<'_>) -> Result<()>| {
            gpu.upload(&bytes(&own), all).expect("copied");
            communicator.side().follow("test").expect("follows");
            communicator.group(|to| calls(to), &mut patient()).expect("begun");
            communicator.side().mark("test").expect("marked");
            let mut go_on = patient();
            while !communicator.is_done().expect("no error") {
                assert!(go_on(), "does not end");
            }
        };
        run(&|to| to.reduce_scatter(all, part, 2));
        let scattered = read(part, 2);
        run(&|to| to.broadcast(all, 6, 1));
        let broadcast = read(all, 6);
        run(&|to| to.all_gather(all, 2));
        let gathered = read(all, 6);
        let next = (rank + 1) % WORLD;
        run(&|to| {
            to.recv(part, 2, (rank + WORLD - 1) % WORLD)?;
            to.send(all, 2, next)
        });
        (scattered, broadcast, gathered, read(part, 2))
    };
    for (rank, (scattered, broadcast, gathered, received)) in ranks(WORLD, |rank| rank, act).into_iter().enumerate() {
        let sum = |i: usize| (30 + 3 * i) as f32;
        assert_eq!(scattered, [sum(2 * rank), sum(2 * rank + 1)]);
        assert_eq!(broadcast, [10.0, 11.0, 12.0, 13.0, 14.0, 15.0]);
        // Each rank's own part of its own numbers.
        assert_eq!(gathered, [0.0, 1.0, 12.0, 13.0, 24.0, 25.0]);
        let before = 10 * ((rank + WORLD - 1) % WORLD);
        assert_eq!(received, [before as f32, (before + 1) as f32]);
    }
}

#[test]
fn ranks_that_share_a_device_are_refused() {
    if environment().is_none() {
        return apart("ranks_that_share_a_device_are_refused", &[]);
    }
    let said = ranks(2, |_| 0, |_, _, communicator| communicator.err().expect("refused").to_string());
    for said in said {
        assert!(said.starts_with("NCCL: ncclCommInitRankConfig: invalid usage: Duplicate GPU detected"), "{said}");
    }
}

#[test]
fn a_rank_that_is_gone_ends_the_communicator_and_nothing_panics() {
    if environment().is_none() {
        return apart("a_rank_that_is_gone_ends_the_communicator_and_nothing_panics", &[("SIMT_DEVICES", "2")]);
    }
    let act = |rank: usize, gpu: Arc<Gpu>, communicator: Result<Communicator>| {
        let mut communicator = communicator.expect("meets");
        if rank == 1 {
            return None;
        }
        let at = gpu.allocate(64).expect("memory");
        communicator.side().follow("test").expect("follows");
        communicator.group(|to| to.all_reduce(at, 16), &mut patient()).expect("begun");
        communicator.side().mark("test").expect("marked");
        let mut go_on = patient();
        let error = loop {
            match communicator.is_done() {
                Ok(done) => assert!(!done && go_on(), "nobody came"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Collective);
        let after = communicator.group(|to| to.all_reduce(at, 16), &mut patient()).expect_err("over").to_string();
        // The device itself goes on.
        gpu.upload(&[7; 64], at).expect("copied");
        let mut back = [0; 64];
        gpu.download(at, &mut back).expect("copied");
        assert_eq!(back, [7; 64]);
        Some((error.to_string(), after))
    };
    let (error, after) = ranks(2, |rank| rank, act).swap_remove(0).expect("rank 0");
    assert!(error.contains("remote process exited") && error.contains("rank 1 has closed its connection"), "{error}");
    assert_eq!(after, "NCCL: ncclGroupStart: the communicator was aborted");
}

#[test]
fn whoever_waits_can_give_up() {
    if environment().is_none() {
        return apart("whoever_waits_can_give_up", &[("SIMT_DEVICES", "2")]);
    }
    let environment = environment().expect("set");
    let nccl = Arc::new(Nccl::load(&environment).expect("the played one"));
    let id = nccl.unique_id().expect("an id");
    let mut looks = 0;
    let mut few = || {
        looks += 1;
        looks < 5
    };
    // Rank 1 never comes.
    let error = Communicator::new(&nccl, &open(&environment, 0), id, 0, 2, &mut few).err().expect("given up");
    assert_eq!(error, Error::Collective { call: "ncclCommInitRankConfig", what: "given up".into() });
    let gpu = open(&environment, 1);
    let error = Communicator::new(&nccl, &gpu, UniqueId::from_bytes([1; 128]), 2, 2, &mut few).err();
    assert_eq!(error.expect("no such rank").kind(), ErrorKind::Value);
    let error = Communicator::new(&nccl, &gpu, UniqueId::from_bytes([1; 128]), 0, 1, &mut few).err();
    assert!(error.expect("no such id").to_string().contains("an id of another library"));
}

#[test]
fn a_group_that_fails_says_why() {
    if environment().is_none() {
        let settings = [("SIMT_DEVICES", "2"), ("PLAYED_NCCL_FAIL", "3"), ("PLAYED_NCCL_HANGS", "1")];
        return apart("a_group_that_fails_says_why", &settings);
    }
    let act = |_, gpu: Arc<Gpu>, communicator: Result<Communicator>| {
        let mut communicator = communicator.expect("meets");
        let at = gpu.allocate(64).expect("memory");
        let wrong = communicator.group(|to| to.all_reduce(at, 1 << 20), &mut patient()).expect_err("too long");
        wrong.to_string()
    };
    for said in ranks(2, |rank| rank, act) {
        assert!(said.starts_with("NCCL: ncclAllReduce: unhandled cuda error: memory that is not"), "{said}");
    }
    let act = |_, gpu: Arc<Gpu>, communicator: Result<Communicator>| {
        summed(&gpu, communicator.expect("meets"), 8, SumMode::Deterministic).err().map(|error| error.to_string())
    };
    // The third group of this process is asked to fail.
    let said = ranks(1, |rank| rank, act).swap_remove(0).expect("fails");
    assert_eq!(said, "NCCL: ncclGroupEnd: unhandled system error: it was asked to fail");
}

/// A folder of this name with a `libnccl.so.2` of this content.
fn with(name: &str, content: &[u8]) -> CudaEnvironment {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nccl-{name}"));
    std::fs::create_dir_all(&folder).expect("a folder");
    let aside = folder.join(format!("{}", std::process::id()));
    std::fs::write(&aside, content).expect("written");
    std::fs::rename(aside, folder.join("libnccl.so.2")).expect("placed");
    CudaEnvironment { folder: Some(folder), ..CudaEnvironment::default() }
}

fn compiled(name: &str, text: &str) -> Option<CudaEnvironment> {
    Some(with(name, &std::fs::read(library(name, text)?).expect("reads")))
}

fn refused(environment: &CudaEnvironment) -> (String, Vec<String>) {
    match Nccl::load(environment) {
        Err(Error::Library { library: "nccl", error, sought }) => (error, sought),
        other => panic!("{other:?}"),
    }
}

#[test]
fn libraries_that_cannot_be_used_are_refused_by_name() {
    let played = include_str!("../../simt/nccl.cpp");
    let stub = "extern \"C\" int ncclGetVersion(int* v) { *v = 22809; return 0; }\n";
    let (Some(old), Some(stub)) = (compiled("old", &played.replace("22809", "21405")), compiled("stub", stub)) else {
        return;
    };
    let (error, _) = refused(&old);
    assert!(error.ends_with("nccl-old/libnccl.so.2: it is NCCL 2.14.5, 2.18 or newer is needed"), "{error}");
    let (error, _) = refused(&stub);
    assert!(error.ends_with("nccl-stub/libnccl.so.2: it has no ncclGetUniqueId: it is damaged, or no NCCL"), "{error}");
    let report = kernels::cuda::probe(&stub).libraries.swap_remove(3);
    assert_eq!(report.version.as_deref(), Some("2.28.9"));
    assert!(report.error.expect("told").contains("no ncclGetUniqueId"));
    let report = kernels::cuda::probe(&old).libraries.swap_remove(3);
    assert_eq!(report.error.as_deref(), Some("too old to sum gradients on devices: 2.18 or newer is needed"));
}

#[test]
fn a_file_that_is_no_library_and_one_that_is_missing_are_told_with_their_places() {
    let damaged = with("damaged", b"\x7fELF and nothing more");
    match Nccl::load(&damaged) {
        // A machine that has one all the same.
        Ok(found) => println!("not asserted: {found:?}"),
        Err(error) => {
            let said = error.to_string();
            assert!(said.contains("nccl-damaged/libnccl.so.2") && said.contains("could be used"), "{said}");
        }
    }
    let nowhere = CudaEnvironment { folder: Some("/nowhere".into()), ..CudaEnvironment::default() };
    match Nccl::load(&nowhere) {
        Ok(found) => println!("not asserted: {found:?}"),
        Err(error) => {
            let said = error.to_string();
            let places = "none of libnccl.so.2, libnccl.so was found; sought in /nowhere, /usr/local/cuda/lib64";
            assert!(said.contains(places), "{said}");
        }
    }
}

#[test]
fn nvidias_own_library_makes_ids_without_a_device() {
    let provisioned = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/nccl/nvidia/nccl/lib");
    let folder = std::env::var_os("WITHIN_NCCL").map_or_else(provisioned, PathBuf::from);
    let environment = CudaEnvironment { folder: Some(folder), ..CudaEnvironment::default() };
    let nccl = match Nccl::load(&environment) {
        Ok(nccl) => nccl,
        Err(error) if std::env::var_os("REQUIRE_NCCL").is_some() => panic!("{error}"),
        Err(error) => return println!("skipped: {error} (scripts/provision-nccl fetches it)"),
    };
    println!("{nccl:?}");
    let ids = [nccl.unique_id().expect("an id"), nccl.unique_id().expect("an id")];
    assert!(ids[0] != ids[1], "each id is for one group");
    assert!(ids.iter().all(|id| id.to_bytes().iter().any(|byte| *byte != 0)));
}
