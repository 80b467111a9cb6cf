//! A prepare task with a cache: what is found, what is computed, and that both give the same dataset version.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use expect_test::{Expect, expect};
use messages::ArtifactRef;
use messages::feed::Split;
use messages::plan::{CacheMode, ColumnType, DataPlan, Scale, Task};
use messages::step::CacheOutcome;
use messages::work::TaskOutput;
use within_data_loader::cache::{Step, entry};

use super::{World, csv};
use crate::plan::{column, data_plan};

fn world() -> (World, DataPlan) {
    (World::new(&[("a.csv", csv(300, 0).as_bytes())]), data_plan(&["a.csv"], "y"))
}

async fn check(world: &World, host: &str, plan: &DataPlan, expected: Expect) -> ArtifactRef {
    let (dataset, steps) = world.steps(host, plan).await;
    expected.assert_eq(&steps);
    dataset
}

#[tokio::test]
async fn a_changed_setting_runs_only_what_depends_on_it() {
    let (world, mut plan) = world();
    let first = check(
        &world,
        "one",
        &plan,
        expect![[r"
            read miss: nothing is kept of these files
            split miss: nothing is kept of these files
            fit miss: nothing is kept of these files
            shards miss: nothing is kept of these files
            prepare miss: nothing is kept of these files"]],
    )
    .await;
    assert_eq!(check(&world, "one", &plan, expect!["prepare hit"]).await, first);

    plan.preprocessing.scale = Scale::MinMax;
    let scaled = check(
        &world,
        "one",
        &plan,
        expect![[r#"
            read hit
            split hit
            fit miss: data.preprocessing.scale: "standard", now "min_max"
            shards hit
            prepare miss: data.preprocessing.scale: "standard", now "min_max""#]],
    )
    .await;
    assert_ne!(scaled, first);

    plan.split.val_size = 0.25;
    check(
        &world,
        "one",
        &plan,
        expect![[r"
            read hit
            split miss: data.split.val_size: 0.2, now 0.25
            fit miss: data.split.val_size: 0.2, now 0.25
            shards miss: data.split.val_size: 0.2, now 0.25
            prepare miss: data.split.val_size: 0.2, now 0.25"]],
    )
    .await;

    plan.dataset_version = "2023Q2".into();
    plan.shuffle_seed = 7;
    check(
        &world,
        "one",
        &plan,
        expect![[r#"
            read hit
            split hit
            fit hit
            shards hit
            prepare miss: data.dataset_version: "test", now "2023Q2""#]],
    )
    .await;

    // Back again: everything of it is still there.
    let plan_before = data_plan(&["a.csv"], "y");
    assert_eq!(check(&world, "one", &plan_before, expect!["prepare hit"]).await, first);
}

#[tokio::test]
async fn files_are_known_by_their_content() {
    let (world, plan) = world();
    let (first, _) = world.steps("one", &plan).await;
    let path = world.root.0.path().join("a.csv");
    let touched = fs::File::options().append(true).open(&path).and_then(|f| f.set_modified(SystemTime::now()));
    touched.expect("touches");
    assert_eq!(check(&world, "one", &plan, expect!["prepare hit"]).await, first, "the content is the same");

    fs::write(&path, csv(300, 1)).expect("writes");
    check(
        &world,
        "one",
        &plan,
        expect![[r"
            read miss: data.path[0] a.csv has another content
            split miss: data.path[0] a.csv has another content
            fit miss: data.path[0] a.csv has another content
            shards miss: data.path[0] a.csv has another content
            prepare miss: data.path[0] a.csv has another content"]],
    )
    .await;
    fs::write(&path, csv(300, 0)).expect("writes");
    assert_eq!(check(&world, "one", &plan, expect!["prepare hit"]).await, first);
}

#[tokio::test]
async fn a_forced_run_computes_everything_and_refreshes_what_is_kept() {
    let (world, mut plan) = world();
    let (first, _) = world.steps("one", &plan).await;
    let created = |world: &World| {
        let mut created: Vec<u64> = world.cache("one").local.list().iter().map(|entry| entry.created_at).collect();
        created.sort_unstable();
        created
    };
    let before = created(&world);
    world.now.fetch_add(1_000, Ordering::Relaxed);
    plan.cache = CacheMode::Refresh;
    let forced = check(
        &world,
        "one",
        &plan,
        expect![[r"
            read refresh: the job asked for it
            split refresh: the job asked for it
            fit refresh: the job asked for it
            shards refresh: the job asked for it
            prepare refresh: the job asked for it"]],
    )
    .await;
    assert_eq!(forced, first);
    assert_eq!(created(&world), before.iter().map(|at| at + 1_000).collect::<Vec<_>>());
    plan.cache = CacheMode::Off;
    assert_eq!(check(&world, "one", &plan, expect![""]).await, first);
    plan.cache = CacheMode::Use;
    check(&world, "one", &plan, expect!["prepare hit"]).await;
}

#[tokio::test]
async fn another_host_finds_what_this_one_has_kept() {
    let (world, mut plan) = world();
    let (first, _) = world.steps("one", &plan).await;
    assert_eq!(check(&world, "two", &plan, expect!["prepare shared_hit"]).await, first);
    assert_eq!(check(&world, "two", &plan, expect!["prepare hit"]).await, first, "now it is near");
    plan.preprocessing.scale = Scale::None;
    check(
        &world,
        "three",
        &plan,
        expect![[r"
            read shared_hit
            split shared_hit
            fit miss: nothing is kept of these files
            shards shared_hit
            prepare miss: nothing is kept of these files"]],
    )
    .await;
}

#[tokio::test]
async fn what_is_kept_ends_with_its_time() {
    let (mut world, plan) = world();
    world.limits.ttl_ms = Some(60_000);
    world.steps("one", &plan).await;
    world.now.fetch_add(60_000, Ordering::Relaxed);
    check(&world, "one", &plan, expect!["prepare hit"]).await;
    world.now.fetch_add(1, Ordering::Relaxed);
    let (_, steps) = world.steps("one", &plan).await;
    assert!(steps.contains("prepare miss: what was kept is 60 s old, which is too old"), "{steps}");
    check(&world, "one", &plan, expect!["prepare hit"]).await;
}

#[tokio::test]
async fn artifacts_that_are_gone_or_damaged_are_made_again() {
    let (world, plan) = world();
    let (first, _) = world.steps("one", &plan).await;
    let manifest = world.manifest(&first).await;
    let shard = &manifest.part(Split::Train).expect("a part").shards[0].artifact;
    let path = std::path::PathBuf::from(shard.uri.strip_prefix("file://").expect("a file"));
    let good = fs::read(&path).expect("reads");

    fs::remove_file(&path).expect("removes");
    let (again, steps) = world.steps("one", &plan).await;
    assert_eq!((again, fs::read(&path).expect("is there again")), (first.clone(), good.clone()));
    assert!(steps.contains("read hit") && steps.contains("shards miss") && steps.contains("does not exist"), "{steps}");

    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(&path, bad).expect("writes");
    let (again, steps) = world.steps("one", &plan).await;
    assert_eq!((again, fs::read(&path).expect("is whole again")), (first.clone(), good));
    assert!(steps.contains("prepare miss") && steps.contains("BLAKE3"), "{steps}");
    check(&world, "one", &plan, expect!["prepare hit"]).await;
}

#[tokio::test]
async fn a_damaged_entry_is_computed_again() {
    let (world, plan) = world();
    world.steps("one", &plan).await;
    let cache = world.cache("one");
    let spoil = |folder: &std::path::Path, key: &str| {
        let path = folder.join(&key[..2]).join(key);
        let mut bytes = fs::read(&path).expect("reads");
        bytes[3] ^= 1;
        fs::write(path, bytes).expect("writes");
    };
    for entry in cache.local.list() {
        spoil(cache.local.folder(), entry.key.as_str());
        spoil(&world.shared(), entry.key.as_str());
    }
    let (_, steps) = world.steps("one", &plan).await;
    assert_eq!(steps.matches(" miss: what was kept is damaged: ").count(), 5, "{steps}");
    check(&world, "one", &plan, expect!["prepare hit"]).await;
}

/// Without a place for it, the cache costs nothing but time.
#[tokio::test]
async fn a_cache_that_cannot_be_written_to_fails_nothing() {
    let (world, plan) = world();
    fs::write(world.home("one"), "a file").expect("writes");
    fs::write(world.shared(), "another").expect("writes");
    let output = world.prepare("one", &plan, Task::Regression).await.expect("prepared");
    let TaskOutput::Prepared { steps, .. } = output else { panic!("{output:?}") };
    assert_eq!(steps.len(), 5);
    assert!(steps.iter().all(|step| step.cache == CacheOutcome::Miss && step.size_bytes == 0), "{steps:?}");
}

/// Every kind of input, from a cold cache and from parts of a warm one: the same manifest as without a cache.
#[tokio::test]
async fn what_comes_from_the_cache_is_what_would_be_computed() {
    let words = ["shoes", "hats", "sale"];
    let lines: Vec<String> = (0..60)
        .map(|i| format!("r{i},{} {},{},{},{}", words[i % 3], words[i / 3 % 3], i % 4, i * i % 7, i % 2))
        .collect();
    let table = format!("id,text,image,n,y\n{}", lines.join("\n"));
    let mut idx = vec![0, 0, 8, 3];
    idx.extend([4u32, 2, 2].iter().flat_map(|side| side.to_be_bytes()));
    idx.extend((0..4u8).flat_map(|image| [image; 4]));
    let world = World::new(&[("a.csv", table.as_bytes()), ("i.idx", &idx)]);
    let mut plan = data_plan(&["a.csv"], "y");
    plan.id_column = Some("id".into());
    plan.columns.insert("text".into(), column(ColumnType::Text));
    let mut image = column(ColumnType::Image);
    image.images = Some("i.idx".into());
    plan.columns.insert("image".into(), image);
    let changes: [fn(&mut DataPlan); 4] = [
        |_| {},
        |plan| plan.text.min_frequency = 1,
        |plan| plan.split.random_state = 7,
        |plan| plan.preprocessing.scale = Scale::None,
    ];
    for change in changes {
        change(&mut plan);
        let run = async |mode: CacheMode| {
            let plan = DataPlan { cache: mode, ..plan.clone() };
            let output = world.prepare("one", &plan, Task::BinaryClassification).await.expect("prepared");
            let TaskOutput::Prepared { dataset, warnings, .. } = output else { panic!("{output:?}") };
            (dataset, warnings)
        };
        let cached = run(CacheMode::Use).await;
        assert_eq!(cached, run(CacheMode::Use).await);
        assert_eq!(cached, run(CacheMode::Off).await);
    }
}

/// What each step makes of a fixed table, by its version. Where this differs, the step makes something else of the same
/// input: its version in `cache::settings` must grow, or old outcomes pass for new ones. (`UPDATE_EXPECT=1` writes it.)
#[tokio::test]
async fn outcomes_are_those_of_the_version_of_the_step() {
    let (world, plan) = world();
    let output = world.prepare("one", &plan, Task::Regression).await.expect("prepared");
    let TaskOutput::Prepared { dataset, steps, .. } = output else { panic!("{output:?}") };
    let cache = world.cache("one");
    let mut lines: Vec<String> = steps
        .iter()
        .filter(|step| !matches!(step.step.as_str(), "shards" | "prepare"))
        .map(|step| {
            let path = cache.local.folder().join(&step.key[..2]).join(&step.key);
            let label = entry::label(&mut fs::File::open(path).expect("is kept")).expect("is whole");
            let version = Step::ALL.into_iter().find(|s| s.as_str() == step.step);
            let version = version.expect("a step").version();
            format!("{} {version} {}", step.step, &label.payload_blake3[..16])
        })
        .collect();
    let id = world.manifest(&dataset).await.id();
    lines.push(format!("manifest {} {}", frame::manifest::MANIFEST_VERSION, &id[..16]));
    expect![[r"
        read 1 b8a848f223a14e55
        split 1 83234655c386ee71
        fit 2 726a005d7dceb6de
        manifest 2 2dc4a823bd2f24cb"]]
    .assert_eq(&lines.join("\n"));
}
