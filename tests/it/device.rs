//! Training on CUDA devices through the whole platform: the real binary finds a driver, NVRTC compiles the kernels, ranks
//! take devices and sum over TCP (over NCCL: `nccl.rs`). There is no GPU: the driver runs kernels on the CPU (`kernels/tests/simt/driver.cpp`).
//!
//! `WITHIN_PLAYED_CUDA`: its folder, `WITHIN_NVRTC`: that of the compiler. Without them these tests say so and pass, unless
//! `REQUIRE_NVRTC` is set, as `make test` does.

use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{Ended, PATIENCE, Running, Sandbox, children, spec, table, text, wait_for};

const ROWS: usize = 300;

/// Folders of libraries; none where the test is to be skipped.
fn libraries() -> Option<(PathBuf, PathBuf)> {
    let folder = |name: &str| {
        let found = std::env::var_os(name).map(PathBuf::from);
        assert!(found.is_some() || std::env::var_os("REQUIRE_NVRTC").is_none(), "{name} is not set: run `make test`");
        if found.is_none() {
            println!("skipped: {name} is not set (`make test` sets it)");
        }
        found
    };
    Some((folder("WITHIN_PLAYED_CUDA")?, folder("WITHIN_NVRTC")?))
}

/// A sandbox with a table and a job, whose processes find a played device.
pub struct Played {
    pub sandbox: Sandbox,
    libraries: (PathBuf, PathBuf),
}

impl Played {
    pub fn new(resources: &str) -> Option<Self> {
        let (libraries, sandbox) = (libraries()?, Sandbox::new());
        sandbox.write("t.csv", table(ROWS));
        let more = format!("resources: {{{resources}}}\nlimits: {{max_attempts: 1}}\n");
        sandbox.write("job.yaml", spec("t.csv", 2, &more));
        // Kernels are compiled once for all of these tests, as for all processes of a machine.
        let shared = libraries.0.join("cubins");
        std::fs::create_dir_all(&shared).expect("a folder");
        std::fs::create_dir_all(sandbox.home()).expect("a home");
        std::os::unix::fs::symlink(shared, sandbox.home().join("cubins")).expect("a link");
        Some(Self { sandbox, libraries })
    }

    pub fn command(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Command {
        let mut command = self.sandbox.command(arguments);
        command.env("WITHIN_CUDA_LIBRARIES", &self.libraries.0).env("LD_LIBRARY_PATH", &self.libraries.1);
        command.envs(settings.iter().copied());
        command
    }

    pub fn run(&self, id: &str, more: &[&str], settings: &[(&str, &str)]) -> Ended {
        let arguments = [&["run", "--json", "--id", id, "job.yaml"], more].concat();
        Running::start(self.command(&arguments, settings)).wait_up_to(2 * PATIENCE)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.sandbox.home().join("logs/training.log")).expect("a log")
    }
}

#[test]
fn a_job_trains_on_a_device_with_the_same_bits_for_any_number_of_ranks() {
    let Some(played) = Played::new("device: auto") else { return };
    // As on a new machine: the worker compiles the kernels before it offers its slots.
    std::fs::remove_file(played.sandbox.home().join("cubins")).expect("there");
    let one = played.run("one", &[], &[]).expect(0).last();
    assert!(played.log().contains("files of kernels for sm_90"), "{}", played.log());
    assert!(played.log().contains("trains on cuda:0 (played device) (sm_90)"), "{}", played.log());
    let two = played.run("two", &["--world", "2"], &[("SIMT_DEVICES", "2")]).expect(0).last();
    assert!(played.log().contains("trains on cuda:1 (played device) (sm_90)"), "{}", played.log());
    assert_eq!(two["model"], one["model"], "a device more changes no bit");
    // Between devices and the CPU the numbers are close, and not the same.
    let cpu = played.run("cpu", &["--set", "resources.device=cpu"], &[]).expect(0).last();
    assert_ne!(cpu["model"]["blake3"], one["model"]["blake3"]);
    let loss = |of: &Value| of["metrics"]["val"]["loss"].as_f64().expect("a loss");
    assert!((loss(&one) - loss(&cpu)).abs() < 1e-3 * loss(&cpu), "{} and {}", loss(&one), loss(&cpu));
}

#[test]
fn a_device_that_fails_in_the_middle_of_training_ends_the_job_with_its_name() {
    let Some(played) = Played::new("device: 'cuda:0'") else { return };
    let ended = played.run("lost", &[], &[("SIMT_FAIL", "linear_backward:5")]).expect(1);
    let error = &ended.last();
    assert_eq!((text(error, "/class"), text(error, "/code")), ("device", "device_error"), "{error:#}");
    let message = text(error, "/message");
    for part in ["step ", "cuda:0 (played device): linear: an illegal memory access", "in linear_backward, told by"] {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
}

#[test]
fn a_job_that_wants_a_device_waits_for_one_and_says_so() {
    let sandbox = Sandbox::new();
    sandbox.write("t.csv", table(ROWS));
    sandbox.write("job.yaml", spec("t.csv", 2, "resources: {device: cuda}\n"));
    sandbox.write("within.yaml", "devices: cpu\n");
    let mut running = sandbox.start(&["run", "--json", "--id", "waits", "job.yaml"]);
    let line = running.line("a reason to wait", |line| line.to_string().contains("asks for a CUDA device"));
    assert!(line.to_string().contains("none of the 1 trainers that are up has one that works"), "{line}");
}

#[test]
fn devices_that_are_asked_for_and_not_there_keep_a_worker_from_starting() {
    let Some(played) = Played::new("device: cuda") else { return };
    played.sandbox.write("within.yaml", "devices: [0, 3]\n");
    let ended = played.run("missing", &[], &[]);
    let said = ended.all_text();
    assert!(said.contains("devices: there is no CUDA device 3; those of this host are 0"), "{said}");
    played.sandbox.write("within.yaml", "devices: gpu\n");
    let ended = played.run("wrong", &[], &[]);
    assert!(ended.all_text().contains("auto, cpu, or a list of CUDA devices such as [0, 1]"), "{}", ended.all_text());
}

#[test]
fn doctor_lists_devices_and_libraries() {
    let Some(played) = Played::new("device: auto") else { return };
    let ended = Running::start(played.command(&["doctor"], &[])).wait_up_to(PATIENCE);
    let said = ended.all_text();
    for part in ["played device (9.0)", "cuda 13.0 (", "nvrtc 13.0 (", "nccl 2.28.9 ("] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
}

#[test]
fn a_worker_whose_device_cannot_be_taken_leaves_the_pool() {
    let Some(played) = Played::new("device: auto") else { return };
    let arguments = ["run", "--json", "--id", "busy", "job.yaml", "--set", "limits.max_attempts=3"];
    let mut running = Running::start(played.command(&arguments, &[("SIMT_BUSY", "1")]));
    let failed = running.line("a failed attempt", |line| line.to_string().contains("the device is busy"));
    assert!(failed.to_string().contains("device_error"), "{failed}");
    running.line("nobody is left", |line| line.to_string().contains("no trainer is up"));
    assert!(played.log().contains("could not be taken and is not used any more"), "{}", played.log());
}

#[test]
fn a_device_that_is_lost_in_the_middle_of_a_step_takes_its_worker_out_of_the_pool() {
    let Some(played) = Played::new("device: auto") else { return };
    let gone = played.sandbox.home().join("gone").display().to_string();
    let arguments = ["run", "--json", "--id", "gone", "job.yaml", "--set", "limits.max_attempts=3"];
    let settings = [("SIMT_FAIL", "linear_backward:5"), ("SIMT_LOST", gone.as_str())];
    let mut running = Running::start(played.command(&arguments, &settings));
    let failed = running.line("a failed attempt", |line| line.to_string().contains("in linear_backward, told by"));
    assert!(failed.to_string().contains("device_error"), "{failed}");
    // The next attempt does not get the device.
    running.line("nobody is left", |line| line.to_string().contains("no trainer is up"));
    wait_for("a device that is given out no more", PATIENCE, || {
        played.log().contains("could not be taken and is not used any more").then_some(())
    });
}

#[test]
fn a_gang_on_devices_that_loses_a_rank_goes_on_to_the_same_bits() {
    let Some(played) = Played::new("device: auto, min_world_size: 1, collective: tcp") else { return };
    // Long enough that the rank is hit in the middle.
    let longer = ["--set", "training.epochs=40", "--set", "model.hidden_layers=[64, 64]"];
    let expected = played.run("whole", &longer, &[]).expect(0).last();
    let arguments = [&["run", "--json", "--id", "lossy", "job.yaml", "--world", "2"][..], &longer].concat();
    let mut running = Running::start(played.command(&arguments, &[]));
    running.line("an epoch", |line| line["event"] == "metric" && line["epoch"] == 1);
    let ranks = children(running.pid(), " rank");
    assert_eq!(ranks.len(), 2, "{ranks:?}");
    kill(Pid::from_raw(ranks[1].pid as i32), Signal::SIGKILL).expect("it lives");
    let ended = running.wait_up_to(2 * PATIENCE).expect(0);
    assert!(!ended.events("rank_lost").is_empty() && !ended.events("regrouped").is_empty(), "{}", ended.stdout);
    assert!(ended.events("task_retried").is_empty(), "no checkpoint is read: {}", ended.stdout);
    assert_eq!(ended.last()["model"], expected["model"]);
}
