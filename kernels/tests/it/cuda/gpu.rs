//! The real path to a GPU, with a driver in its place that runs kernels on the CPU and does all work as late as it may
//! (`tests/simt/driver.cpp`): NVRTC, the cache, modules, streams, copies, failures. What it plays is set by the
//! environment of the process, so each test runs as a process of its own.

use super::simt::driver;
use super::{compiler, folder};
use crate::models::{batch, configs, fit, model, trainer};
use kernels::cuda::{Cache, CudaEnvironment, Gpu, Machine};
use kernels::weights::params_blake3;
use kernels::{Error, ErrorKind, Result};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs the test `name` of this binary by itself with these settings; it does its work where `WITHIN_PLAYED` is set.
fn apart(name: &str, settings: &[(&str, &str)]) {
    alone(&format!("cuda::gpu::{name}"), settings);
}

/// The same of a test by its whole path.
pub fn alone(path: &str, settings: &[(&str, &str)]) {
    let (Some(played), Some(_)) = (driver(), compiler()) else { return };
    // The driver's library is found under its bare name by who has not been told of the folder.
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", path, "--nocapture"])
        .env("WITHIN_PLAYED", played)
        .envs(settings.iter().copied())
        .output()
        .expect("runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{settings:?}: {said}");
    assert!(said.contains("1 passed"), "no test {path}: {said}");
}

pub fn environment() -> Option<CudaEnvironment> {
    let played = std::env::var("WITHIN_PLAYED").ok()?;
    Some(CudaEnvironment {
        folder: Some(played.into()),
        library_path: Some(folder().display().to_string()),
        ..CudaEnvironment::default()
    })
}

pub fn open(environment: &CudaEnvironment) -> Result<Arc<Gpu>> {
    let cache = Cache::new(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("cubins"));
    Gpu::open(0, environment, cache, |warning| panic!("{warning}")).map(Arc::new)
}

/// Trains the first model for two steps on the GPU.
fn train(gpu: Arc<Gpu>) -> Result<(String, Vec<f64>)> {
    let config = configs().swap_remove(0);
    let mut trainer = trainer(&config, 4, 1).on_machine(gpu);
    let batches = [1, 2].map(|seed| fit(&model(&config), batch(19, seed)));
    let losses = batches.iter().map(|batch| Ok(trainer.step(batch)?.loss)).collect::<Result<_>>()?;
    trainer.settle()?;
    Ok((params_blake3(trainer.model()), losses))
}

#[test]
fn training_goes_through_the_driver_to_the_bits_of_the_kernels() {
    let Some(environment) = environment() else {
        return apart("training_goes_through_the_driver_to_the_bits_of_the_kernels", &[]);
    };
    let gpu = open(&environment).expect("opens");
    assert_eq!((gpu.describe().as_str(), gpu.arch().to_string().as_str()), ("cuda:0 (played device)", "sm_90"));
    gpu.prepare().expect("compiles");
    let got = train(gpu).expect("trains");
    // The same kernels without a driver.
    let machine = super::machine::Played::new(super::simt::Order::Forward).expect("a compiler");
    let config = configs().swap_remove(0);
    let mut plain = trainer(&config, 4, 1).on_machine(machine);
    let step = |seed| plain.step(&fit(&model(&config), batch(19, seed))).expect("finite").loss;
    let losses: Vec<f64> = [1, 2].map(step).to_vec();
    plain.settle().expect("works");
    assert_eq!(got, (params_blake3(plain.model()), losses));
}

#[test]
fn copies_of_any_size_arrive_though_the_device_reads_late() {
    let Some(environment) = environment() else {
        return apart("copies_of_any_size_arrive_though_the_device_reads_late", &[]);
    };
    let gpu = open(&environment).expect("opens");
    // More than both halves of the page-locked memory, and sizes that fill one to the last byte.
    let sizes = [1, 255, 8 << 20, (8 << 20) + 1, 40_000_003, 16, (16 << 20) - 16];
    let copies: Vec<(u64, Vec<u8>)> = sizes
        .into_iter()
        .enumerate()
        .map(|(n, size)| {
            let bytes: Vec<u8> = (0..size).map(|i| ((i as u64 * 2_654_435_761) >> (n + 7)) as u8).collect();
            let at = gpu.allocate(size).expect("memory");
            gpu.upload(&bytes, at).expect("queued");
            (at, bytes)
        })
        .collect();
    for (at, bytes) in copies {
        let mut back = vec![0; bytes.len()];
        gpu.download(at, &mut back).expect("copied");
        assert!(back == bytes, "{} bytes", bytes.len());
        gpu.clear(at, bytes.len()).expect("queued");
        gpu.download(at, &mut back).expect("copied");
        assert!(back.iter().all(|byte| *byte == 0));
        gpu.release(at);
    }
}

#[test]
fn a_failure_on_the_device_names_the_operation_and_stays() {
    let Some(environment) = environment() else {
        return apart(
            "a_failure_on_the_device_names_the_operation_and_stays",
            &[("SIMT_FAIL", "attention_forward_32:2")],
        );
    };
    let gpu = open(&environment).expect("opens");
    let error = train(gpu.clone()).expect_err("fails");
    assert_eq!(error.kind(), ErrorKind::Device);
    let text = error.to_string();
    assert!(text.starts_with("cuda:0 (played device): attention: an illegal memory access was encountered"), "{text}");
    assert!(text.contains("in attention_forward_32, told by "), "{text}");
    // A context that has failed does nothing any more, and says why again.
    assert_eq!(gpu.allocate(16), Err(error.clone()));
    assert_eq!(gpu.upload(&[1], 0), Err(error));
}

#[test]
fn a_device_that_does_not_tell_how_far_it_is_trains_all_the_same() {
    let Some(environment) = environment() else {
        return apart(
            "a_device_that_does_not_tell_how_far_it_is_trains_all_the_same",
            &[("SIMT_SILENT", "1"), ("SIMT_FAIL", "attention_forward_32:2")],
        );
    };
    let error = train(open(&environment).expect("opens")).expect_err("fails").to_string();
    assert!(error.contains("an illegal memory access") && error.contains("told by cu"), "{error}");
    assert!(!error.contains("attention_forward_32"), "nobody told: {error}");
}

#[test]
fn memory_that_is_not_there_is_told_with_what_would_fit() {
    let Some(environment) = environment() else {
        return apart("memory_that_is_not_there_is_told_with_what_would_fit", &[("SIMT_MEMORY", "1700000")]);
    };
    let error = train(open(&environment).expect("opens")).expect_err("out of memory");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    let Error::DeviceMemory { needed, had, rows: Some([of, fit]), .. } = error else { panic!("{error}") };
    assert!(of == 19 && (1..19).contains(&fit) && needed > had, "{error}");
    assert!(error.to_string().contains("for a part of 19 rows; one of about "), "{error}");
}

/// Warnings of a test that counts them.
static WARNED: AtomicUsize = AtomicUsize::new(0);

#[test]
fn a_cache_that_is_damaged_or_cannot_be_written_to_is_no_obstacle_to_training() {
    let Some(environment) = environment() else {
        return apart("a_cache_that_is_damaged_or_cannot_be_written_to_is_no_obstacle_to_training", &[]);
    };
    let folder = tempfile::tempdir().expect("a folder");
    let (good, file) = (folder.path().join("good"), folder.path().join("file"));
    std::fs::write(&file, b"no folder").expect("written");
    let run = |cache: &std::path::Path| {
        WARNED.store(0, Ordering::Relaxed);
        let warn = |warning: &str| {
            assert!(warning.contains("it is made anew") || warning.contains("cannot be written"), "{warning}");
            WARNED.fetch_add(1, Ordering::Relaxed);
        };
        let gpu = Gpu::open(0, &environment, Cache::new(cache), warn).map(Arc::new).expect("opens");
        gpu.prepare().expect("compiles");
        (train(gpu).expect("trains"), WARNED.load(Ordering::Relaxed))
    };
    let (expected, warnings) = run(&good);
    assert_eq!(warnings, 0);
    for (n, entry) in std::fs::read_dir(&good).expect("lists").enumerate() {
        let path = entry.expect("an entry").path();
        let mut bytes = std::fs::read(&path).expect("reads");
        match n % 3 {
            0 => bytes.truncate(20),
            1 => bytes.clear(),
            _ => *bytes.last_mut().expect("some") ^= 1,
        }
        std::fs::write(&path, bytes).expect("writes");
    }
    assert_eq!(run(&good), (expected.clone(), kernels::cuda::SOURCES.len()), "each is made anew, and says so");
    assert_eq!(run(&good), (expected.clone(), 0), "and is whole again");
    assert_eq!(run(&file.join("below")), (expected, kernels::cuda::SOURCES.len()));
}

#[test]
fn what_is_too_old_busy_or_not_there_is_refused() {
    let settings = [
        ("SIMT_DRIVER", "12040", "the driver is too old: it is of CUDA 12.4"),
        ("SIMT_CAPABILITY", "70", "played device has compute capability 7.0, at least 7.5 is needed"),
        ("SIMT_BUSY", "1", "the device is busy: another process has it to itself"),
        ("SIMT_DEVICES", "0", "there is no such device: the driver sees 0 devices"),
    ];
    let Some(environment) = environment() else {
        for (name, value, _) in settings {
            apart("what_is_too_old_busy_or_not_there_is_refused", &[(name, value)]);
        }
        return;
    };
    let error = open(&environment).expect_err("refused").to_string();
    let set = settings.iter().find(|(name, ..)| std::env::var_os(name).is_some()).expect("one is set");
    assert!(error.starts_with("cuda:0: open: ") && error.contains(set.2), "{error}");
}

#[test]
fn without_a_driver_the_error_says_where_it_was_sought() {
    let nowhere = CudaEnvironment { folder: Some("/nowhere".into()), ..CudaEnvironment::default() };
    match Gpu::open(0, &nowhere, Cache::none(), |_| {}) {
        Err(Error::Library { library, sought, .. }) => {
            assert!(["cuda", "nvrtc"].contains(&library) && sought.contains(&"/nowhere".to_owned()), "{sought:?}");
        }
        // A machine with a GPU, or with parts of one.
        other => println!("not asserted: {other:?}"),
    }
}
