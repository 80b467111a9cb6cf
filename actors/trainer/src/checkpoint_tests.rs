//! Tests of checkpoint directories: whole or refused, fenced, recovered, pruned.

use super::*;
use messages::event::MetricValue;
use tempfile::TempDir;

fn snapshot(epoch: u32, batch: u64, fence: u64) -> Snapshot {
    let step = u64::from(epoch) * 10 + batch;
    Snapshot {
        state: TrainState {
            schema: CHECKPOINT_VERSION,
            epoch,
            step,
            position: Position { epoch, batch },
            learning_rate: Bits(0.1 + f64::EPSILON),
            early_stopping: vec![Bits(f64::NAN), Bits(1.0 / 3.0)],
            best: vec![BestEntry { name: "checkpoint_epoch_001".into(), value: Bits(0.3) }],
            best_model: Some(BestModel { epoch: 1, value: Bits(0.3) }),
            running: Running::default(),
            rng: Seeds { seed: u64::MAX, shuffle_seed: 2, dropout_seed: 3 },
            metrics: [("val_loss".to_owned(), MetricValue::of(0.5))].into(),
            timestamp: "2026-01-01T00:00:00.000Z".into(),
            extra_info: ExtraInfo {
                job: JobId::new("j").expect("id"),
                task: TaskId::new("train").expect("id"),
                attempt: 1,
                fence: Fence(fence),
                generation: 1,
                world_size: 1,
                plan_blake3: "p".into(),
                dataset_blake3: "d".into(),
                params_blake3: "w".into(),
            },
        },
        model: format!("model {epoch} {batch}").into_bytes(),
        optimizer: vec![7; 10_000],
        best: (epoch > 1).then(|| Arc::new(b"best".to_vec())),
    }
}

fn names(dir: &TempDir) -> Vec<String> {
    CheckpointStore { dir: dir.path().into(), fence: Fence(0) }.entries().expect("lists")
}

fn same(a: &Snapshot, b: &Snapshot) -> bool {
    // NaN differs from itself, so the states are compared as they are written.
    let text = |s: &Snapshot| serde_json::to_string(&s.state).expect("serializes");
    text(a) == text(b) && a.model == b.model && a.optimizer == b.optimizer && a.best == b.best
}

#[test]
fn what_is_committed_is_loaded_bit_for_bit() {
    let dir = TempDir::new().expect("folder");
    let store = CheckpointStore::open(dir.path(), Fence(5)).expect("opens");
    for (epoch, batch, name) in
        [(1, 0, "checkpoint_epoch_001"), (2, 0, "checkpoint_epoch_002"), (2, 4, "checkpoint_step_000024")]
    {
        let written = snapshot(epoch, batch, 5);
        let committed = store.commit(&written).expect("commits");
        assert_eq!(committed.name, name);
        let read = store.load(name, Some(&committed.blake3)).expect("loads");
        assert!(same(&read, &written));
        assert!(read.state.early_stopping[0].0.is_nan());
    }
    assert_eq!(names(&dir), ["checkpoint_epoch_001", "checkpoint_epoch_002", "checkpoint_step_000024"]);
    let (newest, refused) = store.newest(|_| Ok(())).expect("scans");
    assert_eq!(newest.map(|s| s.state.position), Some(Position { epoch: 2, batch: 4 }));
    assert!(refused.is_empty());
}

#[test]
fn any_damage_is_refused_and_the_previous_one_serves() {
    for file in [MODEL, OPTIMIZER, STATE, BEST, MANIFEST] {
        for damage in ["flip", "cut", "grow", "remove"] {
            let dir = TempDir::new().expect("folder");
            let store = CheckpointStore::open(dir.path(), Fence(5)).expect("opens");
            store.commit(&snapshot(1, 0, 5)).expect("commits");
            let committed = store.commit(&snapshot(2, 0, 5)).expect("commits");
            let path = dir.path().join(&committed.name).join(file);
            let mut bytes = fs::read(&path).expect("reads");
            match damage {
                "flip" => bytes[2] ^= 1,
                "cut" => bytes.truncate(bytes.len() / 2),
                "grow" => bytes.push(b' '),
                _ => {}
            }
            fs::write(&path, &bytes).expect("writes");
            if damage == "remove" {
                fs::remove_file(&path).expect("removes");
            }
            let error = store.load(&committed.name, Some(&committed.blake3)).expect_err("damaged");
            assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Missing), "{file} {damage}: {error}");
            let whole_without_pointer = file == MANIFEST && damage == "grow";
            let (newest, refused) = store.newest(|_| Ok(())).expect("scans");
            let epoch = newest.map(|s| s.state.epoch);
            assert_eq!(epoch, Some(if whole_without_pointer { 2 } else { 1 }), "{file} {damage}");
            assert_eq!(refused.len(), usize::from(!whole_without_pointer));
        }
    }
}

#[test]
fn a_higher_fence_is_not_overwritten_and_a_lower_one_is() {
    let dir = TempDir::new().expect("folder");
    let old = CheckpointStore::open(dir.path(), Fence(5)).expect("opens");
    let new = CheckpointStore::open(dir.path(), Fence(9)).expect("opens");
    old.commit(&snapshot(1, 0, 5)).expect("commits");
    let taken_over = new.commit(&snapshot(1, 0, 9)).expect("replaces");
    assert_eq!(old.commit(&snapshot(1, 0, 5)).expect_err("fenced").kind(), ErrorKind::Fenced);
    let read = new.load("checkpoint_epoch_001", Some(&taken_over.blake3)).expect("loads");
    assert_eq!(read.state.extra_info.fence, Fence(9));
    assert_eq!(names(&dir), ["checkpoint_epoch_001"]);
}

#[test]
fn what_a_dead_writer_left_is_finished_or_removed() {
    let dir = TempDir::new().expect("folder");
    let store = CheckpointStore::open(dir.path(), Fence(5)).expect("opens");
    for epoch in 1..=2 {
        store.commit(&snapshot(epoch, 0, 5)).expect("commits");
    }
    let at = |name: &str| dir.path().join(name);
    fs::rename(at("checkpoint_epoch_001"), at(".old-6-checkpoint_epoch_001")).expect("renames");
    fs::create_dir(at(".tmp-6-checkpoint_epoch_001")).expect("creates");
    fs::create_dir(at(".old-6-checkpoint_epoch_002")).expect("creates");
    fs::create_dir(at(".tmp-8-checkpoint_epoch_003")).expect("creates");
    CheckpointStore::open(dir.path(), Fence(7)).expect("opens");
    assert_eq!(names(&dir), [".tmp-8-checkpoint_epoch_003", "checkpoint_epoch_001", "checkpoint_epoch_002"]);
    store.load("checkpoint_epoch_001", None).expect("restored");
}

#[test]
fn only_what_is_kept_stays() {
    let dir = TempDir::new().expect("folder");
    let store = CheckpointStore::open(dir.path(), Fence(5)).expect("opens");
    for epoch in 1..=4 {
        store.commit(&snapshot(epoch, 0, 5)).expect("commits");
    }
    store.prune(&["checkpoint_epoch_002", "checkpoint_epoch_004"].map(str::to_owned).into()).expect("prunes");
    assert_eq!(names(&dir), ["checkpoint_epoch_002", "checkpoint_epoch_004"]);
}

#[test]
fn names_cannot_leave_the_folder_and_versions_are_checked() {
    let dir = TempDir::new().expect("folder");
    let store = CheckpointStore::open(dir.path(), Fence(5)).expect("opens");
    for name in ["../x", "checkpoint_epoch_", "checkpoint_epoch_1/../..", ""] {
        assert_eq!(store.load(name, None).expect_err("refused").kind(), ErrorKind::Corrupt);
    }
    let mut future = snapshot(1, 0, 5);
    future.state.schema = 9;
    store.commit(&future).expect("commits");
    assert_eq!(store.load("checkpoint_epoch_001", None).expect_err("refused").kind(), ErrorKind::Mismatch);
}

#[test]
fn a_folder_that_cannot_be_written_is_a_storage_error() {
    let dir = TempDir::new().expect("folder");
    let file = dir.path().join("file");
    fs::write(&file, b"x").expect("writes");
    let error = CheckpointStore::open(file.join("checkpoints"), Fence(1)).expect_err("not a folder");
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert_eq!(error.to_wire().code, messages::error::Code::ArtifactStoreUnavailable);
}

/// Commits a checkpoint in parts, each of the others' by a thread of its own that begins when it is told to.
fn commit_in_parts(store: &CheckpointStore, snapshot: &Snapshot, of: u32, without: Option<u32>) -> Checkpoint {
    let name = name_of(snapshot.state.position, snapshot.state.step);
    let given_up = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for index in (1..of).filter(|index| Some(*index) != without) {
            let name = &name;
            scope.spawn(move || {
                store.write_part(name, Share { index, of }, &snapshot.optimizer).expect("writes its part");
            });
        }
        let patience = Duration::from_secs(if without.is_some() { 1 } else { 60 });
        let writing = Writing { share: Share { index: 0, of }, patience, given_up: &given_up };
        store.commit_as(snapshot, writing).expect("commits")
    })
}

#[test]
fn any_number_of_parts_reads_back_the_same() {
    for of in [1, 2, 3, 8] {
        let dir = TempDir::new().expect("folder");
        let store = CheckpointStore::open(dir.path(), Fence(5)).expect("opens");
        let mut written = snapshot(2, 0, 5);
        written.optimizer = (0..10_007u32).map(|i| (i * i) as u8).collect();
        let committed = commit_in_parts(&store, &written, of, None);
        assert!(same(&store.load(&committed.name, Some(&committed.blake3)).expect("loads"), &written), "{of} parts");
        let part = dir.path().join(&committed.name).join(format!("part-{:03}.safetensors", of - 1));
        assert_eq!(part.exists(), of > 1);
        assert_eq!(names(&dir), ["checkpoint_epoch_002"], "nothing is left of {of} parts");
    }
}

#[test]
fn a_part_that_does_not_come_or_is_of_another_state_is_written_by_the_leader() {
    let dir = TempDir::new().expect("folder");
    let store = CheckpointStore::open(dir.path(), Fence(5)).expect("opens");
    let (written, share) = (snapshot(2, 0, 5), Share { index: 2, of: 3 });
    // An older lease's part, and one of a state that is not the leader's.
    let older = CheckpointStore { dir: dir.path().into(), fence: Fence(4) };
    older.write_part("checkpoint_epoch_002", share, &written.optimizer).expect("writes");
    store.write_part("checkpoint_epoch_002", share, &[9; 10_000]).expect("writes");
    let committed = commit_in_parts(&store, &written, 3, Some(2));
    assert!(same(&store.load(&committed.name, Some(&committed.blake3)).expect("loads"), &written));
    assert_eq!(names(&dir), [".parts-4-checkpoint_epoch_002", "checkpoint_epoch_002"]);
    CheckpointStore::open(dir.path(), Fence(6)).expect("opens");
    assert_eq!(names(&dir), ["checkpoint_epoch_002"]);
}

#[test]
fn a_damaged_part_is_refused_and_the_previous_one_serves() {
    for damage in ["flip", "cut", "remove"] {
        let dir = TempDir::new().expect("folder");
        let store = CheckpointStore::open(dir.path(), Fence(5)).expect("opens");
        store.commit(&snapshot(1, 0, 5)).expect("commits");
        let committed = commit_in_parts(&store, &snapshot(2, 0, 5), 2, None);
        let path = dir.path().join(&committed.name).join("part-001.safetensors");
        let mut bytes = fs::read(&path).expect("reads");
        match damage {
            "flip" => *bytes.last_mut().expect("not empty") ^= 1,
            _ => bytes.truncate(bytes.len() - 1),
        }
        fs::write(&path, &bytes).expect("writes");
        if damage == "remove" {
            fs::remove_file(&path).expect("removes");
        }
        let (newest, refused) = store.newest(|_| Ok(())).expect("scans");
        assert_eq!(newest.map(|s| s.state.epoch), Some(1), "{damage}");
        assert_eq!(refused.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["checkpoint_epoch_002"], "{damage}");
    }
}

#[test]
fn what_was_given_up_is_not_put_in_place() {
    let dir = TempDir::new().expect("folder");
    let store = CheckpointStore::open(dir.path(), Fence(5)).expect("opens");
    let given_up = AtomicBool::new(true);
    let writing = Writing { share: Share::WHOLE, patience: Duration::ZERO, given_up: &given_up };
    assert_eq!(store.commit_as(&snapshot(1, 0, 5), writing).expect_err("given up").kind(), ErrorKind::Aborted);
    assert!(names(&dir).is_empty());
}
