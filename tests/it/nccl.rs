//! Ranks on devices of their own whose gradients NCCL sums, through the whole platform. Neither is there: the driver runs
//! kernels on the CPU, and the library moves data between processes (`kernels/tests/simt/nccl.cpp`). As in `device.rs`, these
//! tests are skipped without what `make test` provides.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::device::Played;
use crate::harness::{PATIENCE, Running, children, text};

const BY_TREE: &str = "gradients are summed by NCCL 2.28.9, in the order of the tree";

/// Long enough that a rank is hit in the middle.
const LONGER: [&str; 4] = ["--set", "training.epochs=40", "--set", "model.hidden_layers=[64, 64]"];

#[test]
fn every_number_of_devices_gives_the_bits_of_one_over_nccl_and_over_tcp() {
    let Some(played) = Played::new("device: auto") else { return };
    let devices = [("SIMT_DEVICES", "4")];
    let one = played.run("one", &[], &devices).expect(0).last();
    assert!(!played.log().contains("gradients are summed"), "one rank sums nothing: {}", played.log());
    let over_tcp = ["--world", "3", "--set", "resources.collective=tcp"];
    let tcp = played.run("tcp", &over_tcp, &devices).expect(0).last();
    assert!(!played.log().contains("by NCCL"), "{}", played.log());
    assert_eq!(tcp["model"], one["model"]);
    for world in ["2", "3", "4"] {
        let id = format!("nccl{world}");
        let over_nccl = ["--world", world, "--set", "resources.collective=nccl"];
        let ended = played.run(&id, &over_nccl, &devices).expect(0);
        let told = played.log().matches(BY_TREE).count();
        assert!(told >= world.parse().expect("a number"), "{told} of {world} ranks: {}", played.log());
        assert_eq!(ended.last()["model"], one["model"], "world {world}");
    }
}

#[test]
fn ranks_that_share_a_device_sum_over_tcp_unless_the_job_insists() {
    let Some(played) = Played::new("device: auto") else { return };
    let one = played.run("one", &[], &[]).expect(0).last();
    let two = played.run("two", &["--world", "2"], &[]).expect(0).last();
    let log = played.log();
    assert!(log.contains("gradients are summed over TCP: rank 0 (") && log.contains("share a device"), "{log}");
    assert_eq!(two["model"], one["model"]);
    let insists = ["--world", "2", "--set", "resources.collective=nccl"];
    let error = played.run("insists", &insists, &[]).expect(1).last();
    assert_eq!(text(&error, "/code"), "device_error", "{error:#}");
    let message = text(&error, "/message");
    assert!(
        message.contains("resources.collective: nccl: rank 0 (") && message.contains("share a device"),
        "{message}"
    );
}

#[test]
fn what_nccl_cannot_serve_is_refused() {
    let Some(played) = Played::new("collective: nccl") else { return };
    let error = played.run("cpu", &["--world", "2", "--set", "resources.device=cpu"], &[]).expect(1).last();
    let message = text(&error, "/message");
    assert!(message.contains("resources.collective: nccl: the ranks compute on the CPU"), "{message}");
    // What the ranks say to each other is encrypted, and NCCL does not encrypt.
    played.sandbox.write("within.yaml", "collective_tls: true\ncollective_interface: lo\n");
    let error = played.run("tls", &["--world", "2"], &[("SIMT_DEVICES", "2")]).expect(1).last();
    let message = text(&error, "/message");
    assert!(message.contains("collective_tls is set, and NCCL does not encrypt"), "{message}");
    played.sandbox.write("within.yaml", "collective_interface: eth99\n");
    let error = played.run("eth99", &["--world", "2"], &[("SIMT_DEVICES", "2")]).expect(1).last();
    let message = text(&error, "/message");
    assert!(message.contains("collective_interface: eth99 is no interface of this host"), "{message}");
}

#[test]
fn a_library_that_is_too_old_is_told_and_tcp_serves() {
    let Some(played) = Played::new("device: auto") else { return };
    let settings = [("SIMT_DEVICES", "2"), ("PLAYED_NCCL_VERSION", "21703")];
    played.run("old", &["--world", "2"], &settings).expect(0);
    let log = played.log();
    assert!(log.contains("it is NCCL 2.17.3, 2.18 or newer is needed"), "{log}");
}

#[test]
fn doctor_says_what_nccl_lacks() {
    let Some(played) = Played::new("device: auto") else { return };
    let command = played.command(&["doctor"], &[("PLAYED_NCCL_VERSION", "21703")]);
    let said = Running::start(command).wait_up_to(PATIENCE).all_text();
    let line = said.lines().find(|line| line.contains("nccl 2.17.3 (")).unwrap_or_else(|| panic!("no NCCL in {said}"));
    assert!(line.ends_with("too old to sum gradients on devices: 2.18 or newer is needed"), "{line}");
}

#[test]
fn nccls_own_order_trains_as_well() {
    let Some(played) = Played::new("device: auto") else { return };
    let devices = [("SIMT_DEVICES", "3")];
    let tree = played.run("tree", &["--world", "3"], &devices).expect(0).last();
    let own = ["--world", "3", "--set", "resources.collective_mode=fast"];
    let fast = played.run("fast", &own, &devices).expect(0).last();
    assert!(played.log().contains("gradients are summed by NCCL 2.28.9, in its own order"), "{}", played.log());
    let loss = |of: &serde_json::Value| of["metrics"]["val"]["loss"].as_f64().expect("a loss");
    assert!((loss(&tree) - loss(&fast)).abs() < 1e-3 * loss(&tree), "{} and {}", loss(&tree), loss(&fast));
}

/// Kills one of two ranks in the middle; what is left goes on to the bits of a whole training.
fn loses_a_rank(settings: &[(&str, &str)]) {
    let Some(played) = Played::new("device: auto, min_world_size: 1") else { return };
    let expected = played.run("whole", &LONGER, settings).expect(0).last();
    let arguments = [&["run", "--json", "--id", "lossy", "job.yaml", "--world", "3"][..], &LONGER].concat();
    let mut running = Running::start(played.command(&arguments, settings));
    running.line("an epoch", |line| line["event"] == "metric" && line["epoch"] == 1);
    let ranks = children(running.pid(), " rank");
    assert_eq!(ranks.len(), 3, "{ranks:?}");
    kill(Pid::from_raw(ranks[1].pid as i32), Signal::SIGKILL).expect("it lives");
    let ended = running.wait_up_to(2 * PATIENCE).expect(0);
    assert!(!ended.events("rank_lost").is_empty() && !ended.events("regrouped").is_empty(), "{}", ended.stdout);
    assert!(ended.events("task_retried").is_empty(), "no checkpoint is read: {}", ended.stdout);
    assert_eq!(ended.last()["model"], expected["model"]);
    assert!(played.log().contains(BY_TREE), "{}", played.log());
}

#[test]
fn a_gang_that_loses_a_rank_meets_again_over_nccl_to_the_same_bits() {
    loses_a_rank(&[("SIMT_DEVICES", "3")]);
}

#[test]
fn a_rank_that_nccl_never_misses_is_missed_by_the_group() {
    loses_a_rank(&[("SIMT_DEVICES", "3"), ("PLAYED_NCCL_HANGS", "1")]);
}

#[test]
fn nccl_that_fails_with_all_ranks_alive_is_not_used_again() {
    let Some(played) = Played::new("device: auto, min_world_size: 1") else { return };
    let whole = played.run("whole", &[], &[("SIMT_DEVICES", "2")]).expect(0).last();
    let settings = [("SIMT_DEVICES", "2"), ("PLAYED_NCCL_FAIL", "9")];
    let ended = played.run("fails", &["--world", "2"], &settings).expect(0);
    let log = played.log();
    assert!(log.contains("gradients are summed over TCP: rank ") && log.contains("NCCL has failed: "), "{log}");
    assert_eq!(ended.last()["model"], whole["model"]);
}
