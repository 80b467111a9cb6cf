//! Augmentation as a trainer sees it, over a real server: the same rows wherever a batch is cut and whoever serves
//! it; windows of a large part; rows that are mixed and rows that are made up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bus::role::{Identity, RoleEnv};
use frame::Encoded;
use frame::manifest::Manifest;
use futures::StreamExt;
use kernels::nn::PixelValues;
use messages::WorkerId;
use messages::error::Code;
use messages::feed::{OpenFeed, Split};
use messages::plan::{ColumnType, DataPlan, FeatureMethod, Task, TextMethod};
use messages::rpc::ReportBody;
use messages::translate::{Translate, Translated};
use ractor::{Actor, ActorCell};
use within_data_loader::augment::gathered::Gathered;

use crate::methods::augmentation;
use crate::network::{LONG, Supervisor, World, next_frame, table};
use crate::plan::{Root, column, data_plan, encoded, manifest};

/// Ads with words, an image and a number each.
fn ads(rows: usize) -> (String, Vec<u8>) {
    let words = ["big", "red", "shoes", "buy", "now", "sale", "🙂", "שלום"];
    let mut lines = vec!["id,text,image,x,y".to_owned()];
    for row in 0..rows {
        let text: Vec<&str> = (0..2 + row % 5).map(|i| words[(row * 7 + i * 3) % words.len()]).collect();
        lines.push(format!("r{row},{},{},{},{}", text.join(" "), row % 20, row * 13 % 101, row % 3));
    }
    let mut idx = vec![0, 0, 8, 4];
    idx.extend([20u32, 3, 6, 5].iter().flat_map(|side| side.to_be_bytes()));
    idx.extend((0..20 * 90).map(|i| (i * 31 % 251) as u8));
    (lines.join("\n") + "\n", idx)
}

const SYNONYMS: &str = "big\tlarge,great\nbuy\tpurchase\nsale\tbargain\n";

fn ads_plan() -> DataPlan {
    let mut plan = data_plan(&["a.csv"], "y");
    plan.id_column = Some("id".into());
    plan.columns.insert("text".into(), column(ColumnType::Text));
    let mut image = column(ColumnType::Image);
    image.images = Some("a.idx".into());
    plan.columns.insert("image".into(), image);
    plan.text.max_length = 8;
    plan.text.min_frequency = 1;
    let mut augmentation = augmentation(0.5);
    (augmentation.text_augmentation, augmentation.visual_augmentation) = (true, true);
    augmentation.features.methods = vec![FeatureMethod::Perturbation];
    plan.augmentation = Some(augmentation);
    plan
}

/// Another data_loader on the same server.
async fn another(world: &World, name: &str) -> (ActorCell, RoleEnv) {
    let identity = Identity { worker: WorkerId::new(name).expect("an id"), ..(*world.env.identity).clone() };
    let env = RoleEnv { identity: Arc::new(identity), ..world.env.clone() };
    let (supervisor, _) = Actor::spawn(None, Supervisor, ()).await.expect("a supervisor");
    (within_data_loader::start(env.clone(), World::config(), supervisor.get_cell()).await.expect("starts"), env)
}

/// One sample of a frame, without its place.
type Sample = (Vec<u32>, Vec<u32>, Vec<u8>, u32);

fn samples(rows: &Encoded) -> Vec<(u64, Sample)> {
    let tokens = rows.inputs.tokens.clone().unwrap_or_default();
    let (size, pixels) = match &rows.inputs.images {
        Some(images) => match &images.pixels {
            PixelValues::Bytes(bytes) => (bytes.len() / rows.rows.max(1), bytes.clone()),
            PixelValues::Floats(_) => panic!("bytes"),
        },
        None => (0, Vec::new()),
    };
    let of = |row: usize| {
        let features = rows.features[row * rows.width..][..rows.width].iter().map(|value| value.to_bits()).collect();
        let words = if tokens.rows() > 0 { tokens.row(row).to_vec() } else { Vec::new() };
        (words, features, pixels[row * size..][..size].to_vec(), rows.targets[row].to_bits())
    };
    (0..rows.rows).map(|row| (rows.sample_ids[row], of(row))).collect()
}

/// What a world of ranks gets of one epoch, batch by batch, each rank's rows behind those of the one before.
async fn epoch(world: &World, open: &OpenFeed, ranks: u32, tag: &str) -> (Vec<(u64, Sample)>, BTreeSet<String>) {
    let (mut batches, mut workers) = (BTreeMap::<(u64, u32), Vec<_>>::new(), BTreeSet::new());
    for rank in 0..ranks {
        let subject = world.env.bus.subjects().feed(&open.job, rank);
        let open = OpenFeed {
            feed: format!("{tag}-{rank}"),
            rank,
            world_size: ranks,
            deliver_subject: subject,
            end_epoch: open.epoch + 1,
            credits: 100_000,
            ..open.clone()
        };
        let (mut frames, opened) = world.open(&open).await;
        workers.insert(opened.worker.to_string());
        loop {
            let (header, rows) = next_frame(&mut frames).await;
            assert_eq!(header.error, None);
            batches.entry((header.batch, rank)).or_default().extend(samples(&rows));
            if header.end_of_epoch {
                break;
            }
        }
    }
    (batches.into_values().flatten().collect(), workers)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_the_same_wherever_a_batch_is_cut_and_whoever_serves_it() {
    let (csv, idx) = ads(600);
    let files = [("a.csv", csv.as_bytes()), ("a.idx", idx.as_slice()), ("words.tsv", SYNONYMS.as_bytes())];
    let mut world = World::start(&files).await;
    let plan = ads_plan();
    let dataset = world.prepared(&plan, Task::Regression).await;
    let augmented = OpenFeed { augmentation: plan.augmentation.clone(), ..world.feed("f", &dataset) };
    let (alone, _) = epoch(&world, &augmented, 1, "alone").await;
    let (plain, _) = epoch(&world, &world.feed("f", &dataset), 1, "plain").await;

    let changed = alone.iter().zip(&plain).filter(|(a, b)| a.1 != b.1).count();
    assert_eq!(alone.iter().map(|row| row.0).collect::<Vec<_>>(), plain.iter().map(|row| row.0).collect::<Vec<_>>());
    assert!(changed > 370 && alone.len() == 384, "{changed} of {}", alone.len());
    assert!(alone.iter().zip(&plain).all(|(a, b)| a.1.3 == b.1.3), "targets stay");
    let differ =
        |part: fn(&Sample) -> &[u32]| alone.iter().zip(&plain).filter(|(a, b)| part(&a.1) != part(&b.1)).count();
    let (texts, numbers) = (differ(|sample| &sample.0), differ(|sample| &sample.1));
    assert!((90..220).contains(&texts) && (150..230).contains(&numbers), "{texts} texts, {numbers} rows of numbers");

    let (second, third) = (another(&world, "w2").await, another(&world, "w3").await);
    let (four, workers) = epoch(&world, &augmented, 4, "four").await;
    assert_eq!(four, alone, "4 ranks");
    let mut served = workers;
    let by_id: BTreeMap<u64, Sample> = alone.iter().cloned().collect();
    for (number, batch) in [7, 64, 100, 384].into_iter().enumerate() {
        let open = OpenFeed { global_batch_size: batch, max_frame_bytes: 9_000, ..augmented.clone() };
        let (rows, workers) = epoch(&world, &open, 1, &format!("b{number}")).await;
        served.extend(workers);
        assert_eq!(rows.into_iter().collect::<BTreeMap<_, _>>(), by_id, "batches of {batch}");
    }
    assert!(served.len() > 1, "all was served by {served:?}");
    // Another epoch changes other things, in another order.
    let (next, _) = epoch(&world, &OpenFeed { epoch: 1, end_epoch: 2, ..augmented.clone() }, 1, "next").await;
    assert_ne!(next.iter().cloned().collect::<BTreeMap<_, _>>(), by_id);
    drop((second, third));

    let val = OpenFeed { split: Split::Val, ..augmented.clone() };
    let error = world.env.bus.request(OpenFeed { feed: "val".into(), ..val }, None, LONG).await.expect_err("refused");
    assert_eq!(
        (error.code, error.message.as_str()),
        (Code::BadMessage, "augmentation is of the train part only, not of val")
    );
    let plain_plan = DataPlan { augmentation: None, ..plan };
    let bare = world.prepared(&plain_plan, Task::Regression).await;
    let open = OpenFeed { feed: "bare".into(), dataset: bare, ..augmented };
    let error = world.env.bus.request(open, None, LONG).await.expect_err("refused");
    assert!(error.message.contains("prepared without the spreads of its features"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_larger_than_its_window_is_fed_in_windows_and_any_loader_goes_on() {
    let mut world = World::start(&[("a.csv", table(240_000).as_bytes())]).await;
    let dataset = world.prepared(&data_plan(&["a.csv"], "y"), Task::Regression).await;
    let rows = 153_600;
    let open = OpenFeed { global_batch_size: 10_000, shuffle_window_mb: 1, ..world.feed("f", &dataset) };
    let ids = |rows: &[(u64, Sample)]| rows.iter().map(|row| row.0).collect::<Vec<_>>();
    let (alone, _) = epoch(&world, &open, 1, "alone").await;
    let mut sorted = ids(&alone);
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!((alone.len(), sorted.len()), (rows, rows), "each row once");
    let whole = OpenFeed { shuffle_window_mb: 1_000, ..open.clone() };
    assert_ne!(ids(&epoch(&world, &whole, 1, "whole").await.0), ids(&alone), "another order than in one window");

    let others = [another(&world, "w2").await, another(&world, "w3").await];
    let (four, _) = epoch(&world, &open, 4, "four").await;
    assert_eq!(four, alone, "4 ranks, 3 data_loaders");

    // A data_loader dies in the middle of the epoch; another goes on at the next batch.
    let begun = OpenFeed { feed: "begun".into(), credits: 6, ..open.clone() };
    let (mut frames, opened) = world.open(&begun).await;
    let mut seen = Vec::new();
    for _ in 0..6 {
        let (header, rows) = next_frame(&mut frames).await;
        assert_eq!(header.error, None);
        seen.extend(samples(&rows));
    }
    let victim = others.iter().find(|(_, env)| env.identity.worker == opened.worker).map(|(cell, _)| cell);
    victim.unwrap_or(&world.loader).kill_and_wait(None).await.expect("is killed");
    let rest = OpenFeed { batch: 6, ..open };
    let (rest, workers) = epoch(&world, &rest, 1, "rest").await;
    assert!(!workers.contains(opened.worker.as_str()));
    seen.extend(rest);
    assert_eq!(ids(&seen), ids(&alone));
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_rows_keep_their_ids_and_mix_their_targets() {
    let mut world = World::start(&[("a.csv", table(240_000).as_bytes())]).await;
    let mut plan = data_plan(&["a.csv"], "y");
    let mut mixing = augmentation(0.5);
    mixing.features.methods = vec![FeatureMethod::Mixup];
    plan.augmentation = Some(mixing.clone());
    let dataset = world.prepared(&plan, Task::Regression).await;
    for (tag, window) in [("whole", 1_000), ("windows", 1)] {
        let open = OpenFeed { global_batch_size: 50_000, shuffle_window_mb: window, ..world.feed("f", &dataset) };
        let (plain, _) = epoch(&world, &open, 1, &format!("{tag}-plain")).await;
        let open = OpenFeed { augmentation: Some(mixing.clone()), ..open };
        let (mixed, _) = epoch(&world, &open, 1, &format!("{tag}-mixed")).await;
        let (four, _) = epoch(&world, &open, 4, &format!("{tag}-four")).await;
        assert!(four == mixed, "4 ranks, {tag}");
        let same_ids = plain.iter().zip(&mixed).all(|(a, b)| a.0 == b.0);
        let changed = plain.iter().zip(&mixed).filter(|(a, b)| a.1 != b.1).count() as f64 / plain.len() as f64;
        assert!(same_ids && (0.47..0.5).contains(&changed), "{tag}: {changed}");
        let target = |row: &(u64, Sample)| f64::from(f32::from_bits(row.1.3));
        let mean = |rows: &[(u64, Sample)]| rows.iter().map(target).sum::<f64>() / rows.len() as f64;
        assert!((mean(&mixed) / mean(&plain) - 1.0).abs() < 0.01, "{tag}: the mean of the targets stays");
    }
}

/// A table of three classes, of which two are rare.
fn rare() -> String {
    let mut lines = vec!["id,a,b,c,y".to_owned()];
    for row in 0..400 {
        let class = if row % 20 == 0 {
            "rare"
        } else if row % 7 == 0 {
            "some"
        } else {
            "most"
        };
        let b = if row % 11 == 0 { "NA".to_owned() } else { format!("{}", (row * 29) % 50) };
        lines.push(format!("r{row},{},{b},c{},{class}", row * 7 % 97, row % 3));
    }
    lines.join("\n") + "\n"
}

#[test]
fn rare_classes_get_rows_between_their_neighbors() {
    let root = Root::new(&[("a.csv", rare().as_bytes())]);
    let mut plan = data_plan(&["a.csv"], "y");
    plan.id_column = Some("id".into());
    let plain = root.prepare(&plan, Task::Multiclass).expect("prepares");
    let mut smote = augmentation(0.0);
    smote.smote.ratio = Some(0.5);
    plan.augmentation = Some(smote);
    let prepared = root.prepare(&plan, Task::Multiclass).expect("prepares");
    let (before, after) = (manifest(&plain), manifest(&prepared));
    let classes = |manifest: &Manifest| manifest.part(Split::Train).expect("a part").class_counts.clone();
    let (old, new) = (classes(&before), classes(&after));
    let largest = old.iter().max().copied().unwrap_or(0);
    for (old, new) in old.iter().zip(&new) {
        assert_eq!(*new, (*old).max(largest / 2), "{old:?}");
    }
    // Nothing that was fitted knows of them, and val and test have none.
    assert_eq!((&before.features, &before.columns, &before.target), (&after.features, &after.columns, &after.target));
    for split in [Split::Val, Split::Test] {
        assert_eq!(encoded(&plain, split), encoded(&prepared, split));
    }
    let synthetic = after.synthetic.expect("a record");
    let made = (new.iter().sum::<u64>() - old.iter().sum::<u64>()) as usize;
    assert_eq!((synthetic.rows as usize, synthetic.method.as_str()), (made, "smote"));
    let records = &prepared.gathered().synthetic;
    assert_eq!(records.len(), made);
    let rows = encoded(&prepared, Split::Train);
    let place = |id: u64| rows.sample_ids.iter().position(|&other| other == id).expect("a row");
    assert_eq!(rows.sample_ids.iter().collect::<BTreeSet<_>>().len(), rows.rows, "ids are unique");
    let a = after.feature_names.iter().position(|name| name == "a").expect("a feature");
    for record in records {
        let (own, base, other) = (place(record.sample_id), place(record.base), place(record.neighbor));
        assert_eq!((rows.targets[own], rows.targets[base]), (rows.targets[other], rows.targets[other]));
        let at = |row: usize| f64::from(rows.features[row * rows.width + a]);
        assert!((at(own) - (at(base) + record.share * (at(other) - at(base)))).abs() < 1e-5);
    }
    let again = root.prepare(&plan, Task::Multiclass).expect("prepares");
    assert_eq!(again.gathered(), prepared.gathered());
    assert_eq!(Gathered::from_json(&prepared.gathered().to_json()).expect("reads back"), *prepared.gathered());
}

#[test]
fn a_class_of_one_row_and_missing_synonyms_are_refused() {
    let lines: Vec<String> = (0..60).map(|row| format!("{row},{}", if row == 1 { "one" } else { "many" })).collect();
    let root = Root::new(&[("a.csv", format!("x,y\n{}\n", lines.join("\n")).as_bytes())]);
    let mut plan = data_plan(&["a.csv"], "y");
    let mut smote = augmentation(0.0);
    smote.smote.ratio = Some(1.0);
    plan.augmentation = Some(smote);
    for seed in 0..20 {
        plan.split.random_state = seed;
        // Where the row is in val or test, train has one class only, which is another mistake.
        let error = root.prepare(&plan, Task::BinaryClassification).expect_err("one row of a class");
        if error.message.contains("SMOTE") {
            assert!(
                error.message.ends_with("class \"one\" has 1 row in train, and SMOTE needs two of a class"),
                "{error}"
            );
        }
    }
    let (csv, idx) = ads(50);
    let root = Root::new(&[("a.csv", csv.as_bytes()), ("a.idx", &idx)]);
    let error = root.prepare(&ads_plan(), Task::Regression).expect_err("no synonyms");
    assert!(error.message.contains("words.tsv"), "{error}");
}

/// Ads whose texts are changed by back-translation alone.
fn back_translated() -> DataPlan {
    let mut plan = ads_plan();
    if let Some(augmentation) = &mut plan.augmentation {
        augmentation.visual_augmentation = false;
        augmentation.features.methods.clear();
        augmentation.text.methods = vec![TextMethod::BackTranslation];
        augmentation.text.prob = 1.0;
    }
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_go_through_a_translator_and_without_one_the_task_says_so() {
    let (csv, idx) = ads(60);
    let mut world = World::start(&[("a.csv", csv.as_bytes()), ("a.idx", idx.as_slice())]).await;
    let plan = back_translated();
    world.submit(&plan, Task::Regression).await;
    let ReportBody::Failed { error } = world.report().await else { panic!("nobody translates") };
    assert!(error.message.starts_with("back_translation eng-spa: "), "{error}");
    assert!(error.hint.as_deref().is_some_and(|hint| hint.contains("apertium-eng-spa")), "{error:?}");

    let bus = world.env.bus.clone();
    let mut requests = bus.serve(&bus.subjects().translate(), Some("translator")).await.expect("serves");
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let asked = request.decode::<Translate>().expect("a request").data;
            let change = |text: &String| match asked.languages.as_str() {
                "eng-spa" => text.to_uppercase(),
                "spa-eng" => format!("{} indeed", text.to_lowercase()),
                other => panic!("languages {other}"),
            };
            request.reply(Ok(Translated { texts: asked.texts.iter().map(change).collect() })).await;
        }
    });
    let dataset = world.prepared(&plan, Task::Regression).await;
    let artifacts = &world.env.artifacts;
    let manifest = Manifest::from_json(&artifacts.get(&dataset).await.expect("stored")).expect("a manifest");
    let gathered = artifacts.get(&manifest.augmentation.expect("gathered")).await.expect("stored");
    let translations = Gathered::from_json(&gathered).expect("reads").translations;
    assert!(translations.len() > 5, "{translations:?}");
    assert!(translations.iter().all(|(text, back)| *back == format!("{} indeed", text.to_lowercase())));
    let open = world.feed("f", &dataset);
    let (plain, _) = epoch(&world, &open, 1, "plain").await;
    let open = OpenFeed { augmentation: plan.augmentation.clone(), ..open };
    let (back, _) = epoch(&world, &open, 1, "back").await;
    for (plain, back) in plain.iter().zip(&back) {
        let (old, new) = (&plain.1.0, &back.1.0);
        assert!(
            new.len() == (old.len() + 1).min(8) && new[..old.len().min(7)] == old[..old.len().min(7)],
            "{old:?} {new:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_loader_with_apertium_translates_itself() {
    let (csv, idx) = ads(20);
    let files = [("a.csv", csv.as_bytes()), ("a.idx", idx.as_slice())];
    let mut world =
        World::start_with(&files, bus::remote::Remote::default(), within_data_loader::Config::default()).await;
    let request = Translate { languages: "eng-spa".into(), texts: vec!["a new car".into()] };
    let subject = world.env.bus.subjects().translate();
    let answer: Result<Translated, _> = world.env.bus.request_to(&subject, request, LONG).await;
    if let Err(error) = answer {
        println!("skipped: no apertium with eng-spa on PATH (package apertium-eng-spa): {error}");
        return;
    }
    let dataset = world.prepared(&back_translated(), Task::Regression).await;
    let artifacts = &world.env.artifacts;
    let manifest = Manifest::from_json(&artifacts.get(&dataset).await.expect("stored")).expect("a manifest");
    assert!(manifest.augmentation.is_some());
    assert!(world.env.home.join("translations").read_dir().is_ok_and(|mut kept| kept.next().is_some()));
}
