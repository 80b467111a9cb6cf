//! Keys of folds, of fitted preprocessing and of derived columns: what they plan, and what they are answered.

use expect_test::{Expect, expect};
use within_messages::plan::{CategoryEncoding, DeriveStep, JobPlan};
use within_messages::rpc::SpecFormat;
use within_messages::spec::{PlanDefaults, SpecInput, plan, resolve_base};

use crate::spec::lines;

fn planned(data: &str) -> Result<JobPlan, String> {
    let text = format!("task: regression\ndata:\n  path: a.csv\n  target: y\n{data}");
    let input = SpecInput { file: Some("job.yaml"), text: &text, format: SpecFormat::Yaml };
    let tree = resolve_base(&input, &mut |_, _| Err("no files".into())).map_err(|errors| lines(&errors))?;
    plan(&tree, &[], &PlanDefaults::default()).map_err(|errors| lines(&errors))
}

fn check(data: &str, expected: Expect) {
    expected.assert_eq(&match planned(data) {
        Ok(plan) => format!("accepted\n{}", plan.warnings.join("\n")),
        Err(errors) => errors,
    });
}

/// Nothing that is the default stands in a plan, so its hash is what it was before these keys were there.
#[test]
fn a_plan_that_asks_for_nothing_new_is_as_before() {
    let bare = planned("").expect("plans");
    let spelled = planned(
        "  split: {by: exact, fold: 0, repeat: 0, gap: null, folds: null}\n  derive: []\n  storage: {downcast: none}\n  preprocessing: {outliers: none, quantiles: 1000, target_encoding: {folds: 5}}\n",
    );
    assert!(spelled.is_err(), "a fold without folds");
    let spelled = planned(
        "  split: {by: exact, repeat: 0, gap: null, folds: null}\n  derive: []\n  storage: {downcast: none}\n  preprocessing: {outliers: none, quantiles: 1000, target_encoding: {folds: 5}}\n",
    )
    .expect("plans");
    assert_eq!(bare.content_blake3(), spelled.content_blake3());
    let text = serde_json::to_string(&bare.data).expect("serializes");
    for key in ["folds", "derive", "storage", "outliers", "quantiles", "clean", "repeat"] {
        assert!(!text.contains(&format!("\"{key}\"")), "{key} in {text}");
    }
}

#[test]
fn steps_and_columns_come_into_the_plan() {
    let plan = planned(
        "  split: {strategy: stratified_group, group_column: g, n_splits: 5, fold: 4}
  derive:
  - {type: ratio, name: ctr, numerator: clicks, denominator: shows}
  - {type: rolling, columns: spend, by: campaign, time_column: day, aggregates: [avg, max]}
  - {type: poly, columns: [a, b]}
  columns:
    city: {type: category, encoding: target}
    ctr: {scale: log1p, outliers: iqr, impute: constant, impute_value: -1}
    day: {type: date, date_parts: [month, day_of_week]}
  text.clean: []
",
    )
    .expect("plans");
    assert_eq!((plan.data.split.folding.folds, plan.data.split.folding.fold), (Some(5), 4));
    let names: Vec<Vec<String>> = plan.data.derive.iter().map(DeriveStep::outputs).collect();
    assert_eq!(names, [vec!["ctr"], vec!["spend_mean_7", "spend_max_7"], vec!["a^2", "a b", "b^2"]]);
    assert_eq!(plan.data.columns["city"].fitting.encoding, Some(CategoryEncoding::Target));
    assert_eq!(plan.data.columns["ctr"].fitting.impute_value, Some(-1.0));
    let json = serde_json::to_vec(&plan).expect("serializes");
    assert_eq!(serde_json::from_slice::<JobPlan>(&json).expect("reads"), plan);
    let packed = rmp_serde::to_vec_named(&plan).expect("packs");
    assert_eq!(rmp_serde::from_slice::<JobPlan>(&packed).expect("unpacks"), plan);
}

#[test]
fn splits_that_do_not_fit() {
    check(
        "  split: {strategy: stratified_group, folds: 3, fold: 3, gap: 7d}\n",
        expect![[r#"
            job.yaml:5: data.split.group_column: missing: data.split.strategy stratified_group needs it
            job.yaml:5: data.split.fold: 3, but folds are counted from 0 to 2
            job.yaml:5: data.split.gap: only a split by time has a gap; here data.split.strategy is stratified_group
        "#]],
    );
    check(
        "  split: {strategy: time, time_column: t, by: hash, repeat: 1, gap: soon}\n",
        expect![[r#"
        job.yaml:5: data.split.by: hash, but a hash knows nothing of the other rows, and data.split.strategy is time: expected exact, or strategy random or group
        job.yaml:5: data.split.repeat: a split by time has no other draw: expected 0
        job.yaml:5: data.split.gap: expected a number of rows, or a duration such as 36h or 7d, found "soon"
    "#]],
    );
    check(
        "  split: {folds: 4, test_size: 0.3, by: hash}\n",
        expect![[r#"
        accepted
        data.split.by (job.yaml:5): without data.id_column the hash is of the row's number: a row that is put in before others moves them
        data.split.test_size (job.yaml:5): no effect because one of 4 folds is held out"#]],
    );
}

#[test]
fn steps_that_do_not_fit() {
    check(
        "  derive:\n  - {type: ratio, name: r, numerator: a, degree: 2}\n",
        expect![[r#"
        job.yaml:6: data.derive: step 1 (ratio): missing: denominator
        job.yaml:6: data.derive: step 1 (ratio): degree does not belong to it: expected name, numerator, denominator, zero, flag
    "#]],
    );
    check(
        "  derive:\n  - {type: ratoi}\n",
        expect![[r#"
        job.yaml:6: data.derive.type: expected one of ratio, rolling, lag, aggregate, cross, polynomial, date_difference, date_parts, found text "ratoi" (did you mean ratio?)
    "#]],
    );
    check(
        "  derive:\n  - {type: cross, columns: a}\n",
        expect![[r#"
        job.yaml:6: data.derive: step 1 (cross): expected at least two columns
    "#]],
    );
    check(
        "  derive:\n  - {type: lag, columns: x, time_column: t}\n  - {type: lag, columns: x, time_column: t, lags: [2, 1]}\n",
        expect![[r#"
            job.yaml:6: data.derive: step 2 (lag): makes "x_lag_1", which a step before it makes already
        "#]],
    );
    check(
        "  derive:\n  - {type: date_parts, columns: t, parts: [days_since], reference: soon}\n",
        expect![[r#"
            job.yaml:6: data.derive: step 1 (date_parts): reference "soon": expected a day such as 2024-01-01
        "#]],
    );
}

#[test]
fn columns_that_do_not_fit() {
    check(
        "  columns:\n    a: {type: category, order: [x, z]}\n    b: {type: number, date_parts: [month]}\n    c: {encoding: embedding}\n    d: {type: number, normalize: fitted}\n",
        expect![[r#"
            job.yaml:6: data.columns.a.order: only categories with encoding: ordinal have an order
            job.yaml:7: data.columns.b.date_parts: belongs to columns of type datetime; here the type is number
            job.yaml:8: data.columns.c.encoding: embedding, but model.type mlp has no embeddings for categories
            job.yaml:9: data.columns.d.normalize: belongs to columns of type image; here the type is number
        "#]],
    );
}
