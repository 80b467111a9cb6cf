//! The examination of data quality: planted mistakes are found, by sample id; val, test and the order of rows move
//! nothing that is fitted; corrections change train alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::PathBuf;

use kernels::philox::{Key, Stream};
use messages::feed::Split;
use messages::plan::{ColumnType, DataPlan, QualityCheck, Task};
use tokio_util::sync::CancellationToken;
use within_data_loader::check::Violations;
use within_data_loader::check::target;
use within_data_loader::load::{Values, load};
use within_data_loader::prepare::Prepared;
use within_data_loader::quality::report::{Report, SampleId};
use within_data_loader::quality::{Inputs, examine};
use within_data_loader::source::files;
use within_data_loader::split::Parts;

use crate::plan::{Root, column, data_plan, encoded};

fn report(prepared: &Prepared) -> &Report {
    &prepared.quality().expect("a report").report
}

fn with(plan: &mut DataPlan, checks: &[QualityCheck]) {
    plan.quality.enabled = true;
    plan.quality.checks = checks.to_vec();
    plan.quality.trees = 40;
}

/// Rows `id,a,b,c,y`: the class follows from a and b; some labels are flipped.
fn table(rows: u32, flipped: &BTreeSet<u32>) -> Vec<String> {
    let mut rng = Key::new(11, Stream::Generate).rng(0, 0);
    let mut line = |row: u32| {
        let (a, b) = (rng.normal(), rng.normal());
        let class = (a + 0.5 * b > 0.0) != flipped.contains(&row);
        let c = ["red", "green", "blue"][rng.below(3) as usize];
        format!("r{row},{a:.4},{b:.4},{c},{}", if class { "yes" } else { "no" })
    };
    (0..rows).map(&mut line).collect()
}

fn csv(header: &str, rows: &[String]) -> String {
    format!("{header}\n{}\n", rows.join("\n"))
}

fn id(text: &str) -> SampleId {
    let hash = blake3::hash(text.as_bytes());
    SampleId(u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 bytes")))
}

const HEADER: &str = "id,a,b,c,y";

/// Train and val from one file, test from another.
fn split_table(test: &[String], change: impl Fn(&mut DataPlan)) -> Prepared {
    let flipped: BTreeSet<u32> = (0..600).filter(|row| row % 12 == 5).collect();
    let train = csv(HEADER, &table(600, &flipped));
    let root = Root::new(&[("train.csv", train.as_bytes()), ("test.csv", csv(HEADER, test).as_bytes())]);
    let mut plan = data_plan(&["train.csv"], "y");
    plan.test_path = vec!["test.csv".into()];
    plan.id_column = Some("id".into());
    with(&mut plan, &QualityCheck::ALL);
    change(&mut plan);
    root.prepare(&plan, Task::BinaryClassification).expect("the data are good")
}

fn test_rows(row: impl Fn(u32) -> String) -> Vec<String> {
    (0..50).map(|n| format!("t{n},{}", row(n))).collect()
}

/// What a report says of train.
fn of_train(report: &Report) -> impl PartialEq + std::fmt::Debug + use<> {
    let bounds: Vec<_> = report
        .detected_outliers
        .iter()
        .filter(|outliers| outliers.found.train > 0)
        .map(|outliers| {
            (outliers.column.clone(), outliers.center, outliers.spread, outliers.lower, outliers.found.train)
        })
        .collect();
    let anomalies = report.anomalies.as_ref().expect("examined");
    let anomalous: Vec<_> =
        anomalies.listed.iter().filter(|a| a.part == Split::Train).map(|a| (a.sample_id, a.score.to_bits())).collect();
    let mislabels: Vec<_> = report.potential_mislabels.iter().filter(|m| m.part == Split::Train).cloned().collect();
    let labels = report.label_distribution.as_ref().expect("examined");
    let thresholds: Vec<_> = labels.classes.iter().map(|class| class.threshold).collect();
    let joint = labels.joint.clone();
    let scores = report.single_column_scores.clone();
    (bounds, anomalies.offset, anomalous, mislabels, thresholds, joint, scores, report.corrections_applied.clone())
}

#[test]
fn a_poisoned_test_part_changes_nothing_that_is_fitted() {
    let change = |plan: &mut DataPlan| {
        plan.quality.correct = true;
        plan.quality.confidence_threshold = 0.9;
    };
    let clean = split_table(&test_rows(|n| format!("{}.5,0.1,red,no", n % 3)), change);
    let poisoned = split_table(&test_rows(|n| format!("{n}e9,-1e12,aubergine{n},yes")), change);
    assert!(report(&clean).totals.corrections_applied > 10);
    assert_eq!(of_train(report(&clean)), of_train(report(&poisoned)));
    assert_eq!(encoded(&clean, Split::Train), encoded(&poisoned, Split::Train));
    assert_eq!(encoded(&clean, Split::Val), encoded(&poisoned, Split::Val));
    // What was poisoned is seen.
    assert_eq!(report(&poisoned).anomalies.as_ref().expect("examined").found.test, 50);
    let outliers = report(&poisoned).detected_outliers.iter().find(|o| o.column == "a").expect("outliers");
    assert!(outliers.found.test >= 49 && outliers.parts[0] == Split::Test);
}

/// Examines rows with the parts given by sample id, whatever their order in the file.
fn examined(rows: &[String], part_of: &BTreeMap<String, Split>) -> Report {
    let root = Root::new(&[("a.csv", csv(HEADER, rows).as_bytes())]);
    let mut plan = data_plan(&["a.csv"], "y");
    plan.id_column = Some("id".into());
    with(&mut plan, &QualityCheck::ALL);
    let files = files(&plan, &root.roots()).expect("a file");
    let cancelled = CancellationToken::new();
    let loaded = load(&plan, Task::BinaryClassification, &files, &root.roots(), usize::MAX, &cancelled).expect("loads");
    let mut violations = Violations::default();
    let target = target::read(&plan.target, Task::BinaryClassification, &loaded, &mut violations).expect("a target");
    let mut parts = Parts::default();
    for (row, line) in rows.iter().enumerate() {
        let id = line.split(',').next().expect("an id");
        match part_of[id] {
            Split::Train => parts.train.push(row as u32),
            Split::Val => parts.val.push(row as u32),
            Split::Test => parts.test.push(row as u32),
        }
    }
    let ids = loaded.columns.iter().find_map(|values| if let Values::Id(ids) = values { Some(ids) } else { None });
    let inputs = Inputs {
        data: &plan,
        task: Task::BinaryClassification,
        loaded: &loaded,
        target: &target,
        parts: &parts,
        ids: ids.expect("ids"),
    };
    examine(&inputs, &cancelled, &mut Vec::new()).expect("examined").0.report
}

#[test]
fn the_order_of_rows_plays_no_part() {
    let mut rows = table(300, &(0..300).filter(|row| row % 10 == 3).collect());
    rows[7] = rows[8].replacen("r8", "r7", 1);
    let part = |row: usize| [Split::Train, Split::Train, Split::Val, Split::Train, Split::Test][row % 5];
    let part_of: BTreeMap<String, Split> = (0..300).map(|row| (format!("r{row}"), part(row))).collect();
    let before = examined(&rows, &part_of);
    Key::new(5, Stream::Shuffle).rng(0, 0).shuffle(&mut rows);
    let after = examined(&rows, &part_of);
    assert!(before.totals.potential_mislabels > 20 && before.totals.exact_duplicates == 1);
    assert_eq!(before, after);
}

#[test]
fn corrections_change_train_alone_and_are_recorded() {
    let test =
        test_rows(|n| format!("{}.0,0.0,red,{}", if n % 2 == 0 { 3 } else { -3 }, if n < 10 { "no" } else { "yes" }));
    let plain = split_table(&test, |_| ());
    let corrected = split_table(&test, |plan| {
        plan.quality.correct = true;
        plan.quality.confidence_threshold = 0.85;
    });
    assert!(plain.quality().expect("a report").corrections.is_empty());
    let corrections = &corrected.quality().expect("a report").corrections;
    assert_eq!(report(&corrected).totals.corrections_applied, corrections.len() as u64);
    let flipped: BTreeSet<SampleId> = (0..600).filter(|row| row % 12 == 5).map(|row| id(&format!("r{row}"))).collect();
    let right = corrections.iter().filter(|correction| flipped.contains(&correction.sample_id)).count();
    assert!(right > 15 && right * 10 >= corrections.len() * 8, "{right} of {}", corrections.len());
    for split in [Split::Val, Split::Test] {
        assert_eq!(encoded(&plain, split).targets, encoded(&corrected, split).targets);
    }
    let (before, after) = (encoded(&plain, Split::Train), encoded(&corrected, Split::Train));
    let by_id: BTreeMap<u64, _> = corrections.iter().map(|correction| (correction.sample_id.0, correction)).collect();
    for ((id, old), new) in before.sample_ids.iter().zip(&before.targets).zip(&after.targets) {
        match by_id.get(id) {
            Some(correction) => {
                let text = |class: f32| if class == 1.0 { "yes" } else { "no" };
                assert_eq!((text(*old), text(*new)), (&*correction.original_value, &*correction.corrected_value));
                assert!(correction.part == Split::Train && correction.confidence > 0.85);
            }
            None => assert_eq!(old, new),
        }
    }
    let said = format!("quality: {} labels were corrected", corrections.len());
    assert!(corrected.warnings().contains(&said), "{:?}", corrected.warnings());
    // Where they are asked for, labels of test are corrected too.
    let all = split_table(&test, |plan| {
        plan.quality.correct = true;
        plan.quality.correct_parts = vec![Split::Train, Split::Test];
        plan.quality.confidence_threshold = 0.85;
    });
    assert_ne!(encoded(&all, Split::Test).targets, encoded(&plain, Split::Test).targets);
}

#[test]
fn doubled_rows_leaks_and_conflicts_are_told_by_sample_id() {
    let mut rows: Vec<String> =
        (0..60).map(|n| format!("r{n},{n},\"the ad number {n} says something of its own\",{}", n % 2)).collect();
    rows[3] = "r3,2,\"the ad number 2 says something of its own\",1".into();
    let test = [
        "t0,2,\"the ad number 2 says something of its own\",0",
        "t1,99,\"The  ad number 31 says something of its OWN\",0",
        "t2,98,\"entirely different words stand here, nothing else\",1",
        "t3,97,\"entirely different words stand here, nothing more\",1",
    ];
    let header = "id,n,text,y";
    let root = Root::new(&[
        ("a.csv", csv(header, &rows).as_bytes()),
        ("b.csv", csv(header, &test.map(str::to_owned)).as_bytes()),
    ]);
    let mut plan = data_plan(&["a.csv"], "y");
    plan.test_path = vec!["b.csv".into()];
    plan.id_column = Some("id".into());
    plan.columns.insert("text".into(), column(ColumnType::Text));
    with(&mut plan, &[QualityCheck::Duplicates]);
    let prepared = root.prepare(&plan, Task::BinaryClassification).expect("the data are good");
    let found = report(&prepared);
    let [group] = &found.duplicates.exact[..] else { panic!("{:?}", found.duplicates.exact) };
    assert_eq!(group.sample_ids.iter().copied().collect::<BTreeSet<_>>(), ["r2", "r3", "t0"].map(id).into());
    assert!(group.leak && group.conflict && group.rows.test == 1);
    assert_eq!((found.totals.exact_duplicates, found.totals.conflicts), (2, 1));
    assert!(found.totals.leaked_rows >= 1 && found.totals.leaked_rows <= 2);
    let near: BTreeSet<(SampleId, SampleId)> = found
        .duplicates
        .near
        .iter()
        .map(|pair| (pair.sample_ids[0].min(pair.sample_ids[1]), pair.sample_ids[0].max(pair.sample_ids[1])))
        .collect();
    let pair = |a: &str, b: &str| (id(a).min(id(b)), id(a).max(id(b)));
    assert!(near.contains(&pair("t2", "t3")), "{near:?}");
    // Another case and other blanks make no other text.
    let same = found.duplicates.near.iter().find(|pair| pair.sample_ids.contains(&id("t1"))).expect("found");
    assert!(same.similarity == 1.0 && same.leak);
    assert!(
        prepared.warnings().iter().any(|warning| warning.contains("nearly the same texts stand in different parts"))
    );
}

#[test]
fn a_column_that_gives_the_target_away_is_a_suspect() {
    let rows: Vec<String> = (0..400)
        .map(|n| {
            let y = (n * 7919 % 1000) as f64 / 10.0;
            format!("{},{},{},{y}", n * 31 % 17, y * 3.0 - 5.0, if n % 2 == 0 { "x" } else { "z" })
        })
        .collect();
    let root = Root::new(&[("a.csv", csv("n,twin,c,y", &rows).as_bytes())]);
    let mut plan = data_plan(&["a.csv"], "y");
    with(&mut plan, &[QualityCheck::Leakage, QualityCheck::Mislabels]);
    let prepared = root.prepare(&plan, Task::Regression).expect("the data are good");
    let found = report(&prepared);
    let suspects: Vec<_> = found.leakage_suspects.iter().map(|suspect| suspect.column.as_str()).collect();
    assert_eq!(suspects, ["twin"]);
    assert_eq!(found.single_column_scores.len(), 3);
    assert!(
        prepared.warnings().iter().any(|w| w.starts_with("quality: column \"twin\" alone predicts the target (R2"))
    );
}

#[test]
fn targets_of_a_regression_that_stand_out_are_reported_and_lists_are_bounded() {
    let rows: Vec<String> = (0..500)
        .map(|n| {
            let noise = f64::from(n * 37 % 11) / 10.0;
            let y = f64::from(n % 50) + noise + if n % 100 == 42 { 500.0 } else { 0.0 };
            format!("{},{y}", n % 50)
        })
        .collect();
    let root = Root::new(&[("a.csv", csv("x,y", &rows).as_bytes())]);
    let mut plan = data_plan(&["a.csv"], "y");
    with(&mut plan, &QualityCheck::ALL);
    plan.quality.max_listed = 3;
    let prepared = root.prepare(&plan, Task::Regression).expect("the data are good");
    let found = report(&prepared);
    assert!(found.totals.suspicious_targets >= 5 && found.suspicious_targets.len() == 3);
    assert!(
        found.suspicious_targets.iter().all(|target| target.sample_id.0 % 100 == 42),
        "{:?}",
        found.suspicious_targets
    );
    assert!(found.potential_mislabels.is_empty() && found.label_distribution.is_none());
    assert!(found.detected_outliers.iter().all(|outliers| outliers.sample_ids.len() <= 3));
    assert!(found.duplicates.exact.len() <= 3 && found.totals.exact_duplicates > 100);
    let html = within_data_loader::quality::page::page(found, "<one>").html();
    assert!(html.contains("&lt;one&gt;") && html.contains("targets that stand out"));
    let json = serde_json::to_string(found).expect("serializes");
    let back: Report = serde_json::from_str(&json).expect("reads back");
    assert_eq!(&back, found);
    for key in ["detected_outliers", "potential_mislabels", "corrections_applied", "sample_id"] {
        assert!(json.contains(key), "{key}");
    }
}

#[test]
fn what_cannot_be_examined_says_why() {
    let rows: Vec<String> = (0..12).map(|n| format!("some words number {n},{}", n % 2)).collect();
    let root = Root::new(&[("a.csv", csv("t,y", &rows).as_bytes())]);
    let mut plan = data_plan(&["a.csv"], "y");
    plan.columns.insert("t".into(), column(ColumnType::Text));
    with(&mut plan, &[QualityCheck::Mislabels]);
    let prepared = root.prepare(&plan, Task::BinaryClassification).expect("the data are good");
    let reason = &report(&prepared).not_run[0].reason;
    assert_eq!(reason, "7 rows of train, at least two in each of 5 folds are needed");
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let error = within_data_loader::prepare::prepare(&plan, Task::BinaryClassification, &root.roots(), &cancelled);
    assert_eq!(error.expect_err("cancelled").code, messages::error::Code::Cancelled);
}

fn data() -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data");
    let folder = PathBuf::from(std::env::var("WITHIN_DATA").unwrap_or_else(|_| default.to_owned()));
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: no data sets at {}; set WITHIN_DATA", folder.display());
    None
}

/// All rows with `WITHIN_ACCEPT=1`, else a part of them.
fn some_of(mut rows: Vec<String>, quick: usize) -> Vec<String> {
    if !std::env::var("WITHIN_ACCEPT").is_ok_and(|value| value == "1") {
        Key::new(1, Stream::Sample).rng(0, 0).shuffle(&mut rows);
        rows.truncate(quick);
    }
    rows
}

/// Flips the label at the end of some rows; answers which.
fn flip(rows: &mut [String], share: f64, labels: [&str; 2]) -> BTreeSet<u64> {
    let mut rng = Key::new(3, Stream::Generate).rng(0, 0);
    let mut flipped = BTreeSet::new();
    for (row, line) in rows.iter_mut().enumerate() {
        if rng.uniform() < share {
            let (rest, label) = line.rsplit_once(',').expect("a label");
            let other = if label.trim() == labels[0] { labels[1] } else { labels[0] };
            *line = format!("{rest},{other}");
            flipped.insert(row as u64);
        }
    }
    flipped
}

/// Average precision of the ranking of train; rows that are not listed count as never found.
fn average_precision(prepared: &Prepared, flipped: &BTreeSet<u64>) -> f64 {
    let train: BTreeSet<u64> = encoded(prepared, Split::Train).sample_ids.into_iter().collect();
    let wrong = train.intersection(flipped).count() as f64;
    let (mut hits, mut sum) = (0.0, 0.0);
    let listed = report(prepared).potential_mislabels.iter().filter(|mislabel| mislabel.part == Split::Train);
    for (place, mislabel) in listed.enumerate() {
        if flipped.contains(&mislabel.sample_id.0) {
            hits += 1.0;
            sum += hits / (place + 1) as f64;
        }
    }
    sum / wrong
}

fn rank_noise(name: &str, content: &str, plan: &DataPlan, flipped: &BTreeSet<u64>, least: f64) {
    let root = Root::new(&[("noisy.csv", content.as_bytes())]);
    let began = std::time::Instant::now();
    let prepared = root.prepare(plan, Task::BinaryClassification).expect("the data are good");
    let took = began.elapsed().as_secs_f64();
    let reached = average_precision(&prepared, flipped);
    let noise = report(&prepared).label_distribution.as_ref().expect("examined").noise;
    println!("{name}: average precision {reached:.3}, noise estimated {noise:.3}, prepared in {took:.1} s");
    assert!(reached >= least, "{name}: {reached}, expected at least {least}");
}

#[test]
fn injected_noise_is_ranked_first_on_adult() {
    let Some(folder) = data() else { return };
    let text = std::fs::read_to_string(folder.join("adult/adult.data")).expect("reads");
    let mut lines = text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned);
    let header = lines.next().expect("a header");
    let clean = some_of(lines.collect(), 6000);
    for (share, least) in [(0.05, 0.35), (0.15, 0.6)] {
        let mut rows = clean.clone();
        let flipped = flip(&mut rows, share, ["<=50K", ">50K"]);
        let mut plan = data_plan(&["noisy.csv"], "outcome");
        plan.csv.trim = true;
        plan.csv.null_values = vec!["?".into()];
        plan.exclude = vec!["fnlwgt".into()];
        with(&mut plan, &[QualityCheck::Mislabels]);
        plan.quality.max_listed = 1_000_000;
        plan.quality.trees = 100;
        rank_noise(&format!("adult, {share}"), &csv(&header, &rows), &plan, &flipped, least);
    }
}

#[test]
fn injected_noise_is_ranked_first_on_clickbait_headlines() {
    let Some(folder) = data() else { return };
    let mut rows = Vec::new();
    for (file, label) in [("clickbait_data.gz", "1"), ("non_clickbait_data.gz", "0")] {
        let bytes = std::fs::read(folder.join("clickbait_headlines").join(file)).expect("reads");
        let mut text = String::new();
        flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text).expect("unpacks");
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let mut row = String::new();
            write!(row, "\"{}\",{label}", line.trim().replace('"', "\"\"")).expect("a string takes all");
            rows.push(row);
        }
    }
    let clean = some_of(rows, 6000);
    for (share, least) in [(0.05, 0.6), (0.15, 0.6)] {
        let mut rows = clean.clone();
        let flipped = flip(&mut rows, share, ["0", "1"]);
        let mut plan = data_plan(&["noisy.csv"], "clickbait");
        plan.columns.insert("headline".into(), column(ColumnType::Text));
        with(&mut plan, &[QualityCheck::Mislabels]);
        plan.quality.max_listed = 1_000_000;
        rank_noise(&format!("clickbait_headlines, {share}"), &csv("headline,clickbait", &rows), &plan, &flipped, least);
    }
}

#[test]
fn leaks_of_real_tables_are_suspects() {
    let Some(folder) = data() else { return };
    let suspects = |plan: &DataPlan, task| {
        let cancelled = CancellationToken::new();
        let prepared = within_data_loader::prepare::prepare(plan, task, std::slice::from_ref(&folder), &cancelled);
        let prepared = prepared.expect("the data are good");
        let suspects = &report(&prepared).leakage_suspects;
        suspects.iter().map(|suspect| suspect.column.clone()).collect::<Vec<_>>()
    };
    let mut bank = data_plan(&["bank_marketing/bank-additional-full.csv"], "y");
    bank.csv.delimiter = ";".into();
    with(&mut bank, &[QualityCheck::Leakage]);
    assert_eq!(suspects(&bank, Task::BinaryClassification), ["duration"]);
    let mut kag = data_plan(&["kag_conversion/KAG_conversion_data.csv"], "Approved_Conversion");
    kag.target.threshold = Some(0.0);
    with(&mut kag, &[QualityCheck::Leakage]);
    // It predicts weakly, as every column of this table; but of all conversions the approved ones are a part.
    assert_eq!(suspects(&kag, Task::BinaryClassification), ["Total_Conversion"]);
    kag.quality.leakage_auc = 0.68;
    assert_eq!(suspects(&kag, Task::BinaryClassification), ["Total_Conversion"]);
    kag.target.threshold = None;
    assert_eq!(suspects(&kag, Task::Regression), ["Total_Conversion"]);
    kag.target.column = "Total_Conversion".into();
    assert_eq!(suspects(&kag, Task::Regression), ["Approved_Conversion"]);
    let mut adult = data_plan(&["adult/adult.data"], "outcome");
    adult.csv.trim = true;
    with(&mut adult, &[QualityCheck::Leakage]);
    assert!(suspects(&adult, Task::BinaryClassification).is_empty());
    // Displays make room for clicks, and clicks for conversions: they bound them, and are no suspects.
    for (path, target) in [
        ("online_ads_daily/april_may.csv", "clicks"),
        ("online_ads_daily/april_may.csv", "post_click_conversions"),
        ("meridian_geo/geo_all_channels.csv", "conversions"),
        ("california_housing/housing.csv", "median_house_value"),
        ("multimodal_ads/ads.csv", "score"),
    ] {
        let mut plan = data_plan(&[path], target);
        with(&mut plan, &[QualityCheck::Leakage]);
        assert_eq!(suspects(&plan, Task::Regression), [""; 0], "{path}: {target}");
    }
}
