//! Properties of splits: sizes, disjointness, groups, strata, time, and that val and test teach nothing.

use std::collections::{BTreeMap, BTreeSet};

use messages::feed::Split;
use messages::plan::{DataPlan, SplitStrategy, Task};
use proptest::prelude::*;
use within_data_loader::prepare::Prepared;

use crate::plan::{Root, data_plan, encoded, manifest};

fn prepare(rows: &[String], header: &str, task: Task, change: impl Fn(&mut DataPlan)) -> Prepared {
    let content = format!("{header}\n{}\n", rows.join("\n"));
    let root = Root::new(&[("a.csv", content.as_bytes())]);
    let mut plan = data_plan(&["a.csv"], "y");
    change(&mut plan);
    root.prepare(&plan, task).expect("the data are good")
}

/// Row numbers of each part.
fn ids(prepared: &Prepared) -> [Vec<u64>; 3] {
    Split::ALL.map(|split| prepared.table(split, 0..prepared.rows(split)).expect("a table").sample_ids().to_vec())
}

fn assert_covers(parts: &[Vec<u64>; 3], rows: usize) {
    let mut all: Vec<u64> = parts.concat();
    all.sort_unstable();
    assert_eq!(all, (0..rows as u64).collect::<Vec<_>>());
    assert!(parts.iter().all(|part| part.is_sorted()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn random_sizes_are_exact_and_the_seed_decides(rows in 10usize..200, test in 0.05f64..0.5, val in 0.05f64..0.5, seed in any::<u64>()) {
        let lines: Vec<String> = (0..rows).map(|i| format!("{i},{i}")).collect();
        let of = |seed| ids(&prepare(&lines, "x,y", Task::Regression, |plan| {
            (plan.split.test_size, plan.split.val_size, plan.split.random_state) = (test, val, seed);
        }));
        let parts = of(seed);
        assert_covers(&parts, rows);
        let expected_test = (rows as f64 * test - 1e-9).ceil() as usize;
        let expected_val = ((rows - expected_test) as f64 * val - 1e-9).ceil() as usize;
        prop_assert_eq!((parts[2].len(), parts[1].len()), (expected_test, expected_val));
        prop_assert_eq!(&parts, &of(seed));
        if rows > 50 {
            prop_assert_ne!(&parts[2], &of(seed.wrapping_add(1))[2]);
        }
    }

    #[test]
    fn no_group_crosses(groups in prop::collection::vec(0u8..12, 40..120), seed in any::<u64>()) {
        prop_assume!(groups.iter().collect::<BTreeSet<_>>().len() >= 4);
        let lines: Vec<String> = groups.iter().enumerate().map(|(i, g)| format!("g{g},{i},{i}")).collect();
        let prepared = prepare(&lines, "g,x,y", Task::Regression, |plan| {
            plan.split.strategy = SplitStrategy::Group;
            plan.split.group_column = Some("g".into());
            plan.split.random_state = seed;
            plan.exclude = vec!["g".into()];
        });
        let parts = ids(&prepared);
        assert_covers(&parts, groups.len());
        let sets = parts.map(|part| part.iter().map(|&i| groups[i as usize]).collect::<BTreeSet<_>>());
        prop_assert!(sets[0].is_disjoint(&sets[1]) && sets[0].is_disjoint(&sets[2]) && sets[1].is_disjoint(&sets[2]));
    }

    #[test]
    fn strata_keep_their_share(classes in prop::collection::vec(0u8..3, 60..200), seed in any::<u64>()) {
        let mut counts: BTreeMap<u8, usize> = BTreeMap::new();
        for &class in &classes {
            *counts.entry(class).or_default() += 1;
        }
        prop_assume!(counts.len() == 3 && counts.values().all(|&count| count >= 8));
        let lines: Vec<String> = classes.iter().enumerate().map(|(i, c)| format!("{i},{c}")).collect();
        let prepared = prepare(&lines, "x,y", Task::Multiclass, |plan| {
            plan.split.strategy = SplitStrategy::Stratified;
            plan.split.random_state = seed;
        });
        assert_covers(&ids(&prepared), classes.len());
        let manifest = manifest(&prepared);
        for part in &manifest.parts {
            for (class, &count) in part.class_counts.iter().enumerate() {
                let share = counts[&(class as u8)] as f64 * part.rows as f64 / classes.len() as f64;
                prop_assert!((count as f64 - share).abs() <= 2.0, "{:?} class {class}: {count} of {share}", part.split);
            }
        }
    }

    #[test]
    fn time_is_never_shuffled(times in prop::collection::vec(0u32..1000, 10..100)) {
        let lines: Vec<String> = times.iter().enumerate().map(|(i, t)| format!("{t},{i},{i}")).collect();
        let parts = ids(&prepare(&lines, "t,x,y", Task::Regression, |plan| {
            plan.split.strategy = SplitStrategy::Time;
            plan.split.time_column = Some("t".into());
            plan.exclude = vec!["t".into()];
        }));
        assert_covers(&parts, times.len());
        let at = |part: &[u64]| part.iter().map(|&i| times[i as usize]).collect::<Vec<_>>();
        let [train, val, test] = [at(&parts[0]), at(&parts[1]), at(&parts[2])];
        prop_assert!(train.iter().max() <= val.iter().min());
        prop_assert!(val.iter().max() <= test.iter().min());
    }
}

/// Rows of val and test replaced by extremes, new categories and new missing values: nothing that was fitted moves.
#[test]
fn poisoned_val_and_test_rows_change_nothing_that_is_fitted() {
    let row = |i: usize| {
        format!(
            "{},{},c{},{}",
            i * 7 % 31,
            if i.is_multiple_of(6) { "NA".into() } else { (i * i).to_string() },
            i % 4,
            i
        )
    };
    let lines: Vec<String> = (0..60).map(row).collect();
    let clean = prepare(&lines, "a,b,c,y", Task::Regression, |_| {});
    let parts = ids(&clean);
    let mut poisoned = lines.clone();
    for &i in parts[1].iter().chain(&parts[2]) {
        poisoned[i as usize] = format!("NA,{},poison{i},{}", if i % 2 == 0 { "1e30" } else { "NA" }, -1e9 - i as f64);
    }
    let dirty = prepare(&poisoned, "a,b,c,y", Task::Regression, |_| {});
    let (clean_manifest, dirty_manifest) = (manifest(&clean), manifest(&dirty));
    assert_eq!(ids(&dirty), parts);
    assert_eq!(clean_manifest.features, dirty_manifest.features);
    assert_eq!(clean_manifest.target, dirty_manifest.target);
    assert_eq!(clean_manifest.columns, dirty_manifest.columns);
    let bits = |prepared| encoded(prepared, Split::Train).features.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&clean), bits(&dirty));
}

#[test]
fn a_stratified_number_is_binned_and_said_so() {
    let lines: Vec<String> = (0..100).map(|i| format!("{i},{}", i * i)).collect();
    let prepared = prepare(&lines, "x,y", Task::Regression, |plan| plan.split.strategy = SplitStrategy::Stratified);
    assert!(
        prepared.warnings().iter().any(|warning| warning.contains("put into 10 bins")),
        "{:?}",
        prepared.warnings()
    );
    let parts = ids(&prepared);
    assert_covers(&parts, 100);
    for bin in 0..10 {
        let held = parts[2].iter().filter(|&&i| i / 10 == bin).count();
        assert_eq!(held, 2, "bin {bin}");
    }
}

#[test]
fn iso_dates_are_times() {
    let lines: Vec<String> = (0..20).map(|i| format!("2024-{:02}-01T00:00:00Z,{i},{i}", 12 - i % 12)).collect();
    let parts = ids(&prepare(&lines, "t,x,y", Task::Regression, |plan| {
        plan.split.strategy = SplitStrategy::Time;
        plan.split.time_column = Some("t".into());
        plan.exclude = vec!["t".into()];
    }));
    assert_eq!(parts[2], [0, 1, 12, 13]);
}
