//! Derived columns against pandas and scikit-learn, and that no value knows a later one.

use messages::plan::DataPlan;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::derive;
use crate::golden::{assert_near, category, data_plan, loaded, numbers, section, texts};
use crate::load::{Loaded, Values};

fn made(plan: &DataPlan, table: &mut Loaded, parts: [&[u32]; 3]) {
    derive(plan, table, parts, &CancellationToken::new()).expect("derives");
}

fn values(table: &Loaded, name: &str) -> Vec<f64> {
    let Some((_, Values::Number(numbers))) = table.column(name) else { panic!("no numbers {name:?}") };
    numbers.clone()
}

fn all(rows: usize) -> Vec<u32> {
    (0..rows as u32).collect()
}

#[test]
fn windows_lags_and_aggregates_are_those_of_pandas() {
    let golden = section("windows");
    let value = numbers(&golden["value"]);
    let table = || {
        let columns = vec![
            ("group", category(&texts(&golden["group"]))),
            ("date", category(&texts(&golden["date"]))),
            ("value", Values::Number(value.clone())),
        ];
        loaded(columns, value.len())
    };
    let all = all(value.len());
    let every = "aggregates: [mean, sum, min, max, std, count]";
    let step = "columns: value, by: group, time_column: date";
    for (prefix, settings, ending) in [
        ("rows", format!("type: rolling, {step}, {every}"), "_7"),
        ("current", format!("type: rolling, {step}, include_current: true, {every}"), "_7"),
        ("days", format!("type: rolling, {step}, unit: days, window: 10, {every}"), "_10d"),
        ("group", format!("type: aggregate, columns: value, by: group, {every}"), ""),
    ] {
        let mut table = table();
        made(&data_plan(&format!("derive: [{{ {settings} }}]"), "regression"), &mut table, [&all, &[], &[]]);
        for how in ["mean", "sum", "min", "max", "std", "count"] {
            let expected = &golden[format!("{prefix}_{how}")];
            if !expected.is_null() {
                let name = format!("value_{how}{ending}");
                assert_near(&values(&table, &name), &numbers(expected), &format!("{prefix} {name}"));
            }
        }
    }
    let mut table = table();
    made(
        &data_plan(&format!("derive: [{{ type: lag, {step}, lags: [1, 3] }}]"), "regression"),
        &mut table,
        [&all, &[], &[]],
    );
    for lag in [1, 3] {
        assert_near(&values(&table, &format!("value_lag_{lag}")), &numbers(&golden[format!("lag_{lag}")]), "lag");
    }
}

#[test]
fn products_are_those_of_scikit_learn() {
    let golden = section("polynomials");
    let columns =
        || ["a", "b", "c"].into_iter().enumerate().map(|(i, name)| (name, Values::Number(numbers(&golden["rows"][i]))));
    for case in golden["cases"].as_array().expect("cases") {
        let mut table = loaded(columns().collect(), 4);
        let settings = format!("degree: {}, interaction_only: {}", case["degree"], case["interaction_only"] == 1);
        let text = format!("derive: [{{ type: polynomial, columns: [a, b, c], {settings} }}]");
        made(&data_plan(&text, "regression"), &mut table, [&[0], &[], &[]]);
        let names = texts(&case["names"]);
        assert_eq!(table.layout.names[3..], names);
        for (index, name) in names.iter().enumerate() {
            assert_near(&values(&table, name), &numbers(&case["values"][index]), name);
        }
    }
}

#[test]
fn parts_of_dates_are_those_of_pandas() {
    let golden = section("dates");
    let seconds = texts(&golden["texts"]).iter().map(|text| frame::datetime::parse(text).expect("a date")).collect();
    let mut table = loaded(vec![("t", Values::Number(seconds))], 4);
    let parts = "year, month, day, weekday, hour, is_weekend, days_since, hour_cyclic";
    let text = format!("columns: {{ t: {{ type: datetime, date_parts: [{parts}], date_reference: 2000-01-01 }} }}");
    made(&data_plan(&text, "regression"), &mut table, [&[0], &[], &[]]);
    for name in ["year", "month", "day", "weekday", "hour", "is_weekend", "days_since", "hour_sin", "hour_cos"] {
        assert_near(&values(&table, &format!("t_{name}")), &numbers(&golden[name]), name);
    }
}

#[test]
fn a_feature_made_of_the_target_is_refused() {
    let columns = || vec![("y", Values::Number(vec![1.0, 2.0, 3.0])), ("t", Values::Number(vec![1.0, 2.0, 3.0]))];
    let refused = |text: &str| {
        let plan = data_plan(&format!("derive: [{{ {text} }}]"), "regression");
        derive(&plan, &mut loaded(columns(), 3), [&[0, 1, 2], &[], &[]], &CancellationToken::new())
            .expect_err("refused")
            .message
    };
    for text in [
        "type: ratio, name: r, numerator: y, denominator: t",
        "type: rolling, columns: y, time_column: t, include_current: true",
        "type: polynomial, columns: [t, y]",
    ] {
        assert!(refused(text).contains("is the target"), "{text}");
    }
    let plan = data_plan("derive: [{ type: lag, columns: y, time_column: t }]", "regression");
    let mut table = loaded(columns(), 3);
    made(&plan, &mut table, [&[0, 1, 2], &[], &[]]);
    assert_near(&values(&table, "y_lag_1"), &[f64::NAN, 1.0, 2.0], "earlier targets");
    assert!(refused("type: ratio, name: r, numerator: z, denominator: t").contains("no such column"));
    assert!(refused("type: rolling, columns: t, time_column: t, unit: days").contains("expected dates"));
}

const STEPS: &str = "derive:
- { type: rolling, columns: x, by: g, time_column: t, window: 4, aggregates: [mean, std, count] }
- { type: lag, columns: x, by: g, time_column: t, lags: [1, 2] }
- { type: aggregate, columns: x, by: g, aggregates: [mean, max] }
- { type: ratio, name: r, numerator: x, denominator: x_lag_1, flag: true }
- { type: cross, columns: [g, t] }";

fn table_of(rows: &[(f64, u32, u8)]) -> Loaded {
    let groups: Vec<String> = rows.iter().map(|row| format!("g{}", row.2)).collect();
    let times = rows.iter().map(|row| f64::from(row.1)).collect();
    let columns = vec![
        ("x", Values::Number(rows.iter().map(|row| row.0).collect())),
        ("t", Values::Number(times)),
        ("g", category(&groups)),
    ];
    loaded(columns, rows.len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever the later of two rows holds, windows and lags of the earlier one are the same bits.
    #[test]
    fn no_look_ahead(
        rows in prop::collection::vec((-9.0f64..9.0, 0u32..20, 0u8..3), 4..60), changed in any::<prop::sample::Index>(), to in -1e9f64..1e9,
    ) {
        let plan = data_plan(STEPS, "regression");
        let all = all(rows.len());
        let changed = changed.index(rows.len());
        let mut other = rows.clone();
        other[changed].0 = to;
        let (mut before, mut after) = (table_of(&rows), table_of(&other));
        made(&plan, &mut before, [&all, &[], &[]]);
        made(&plan, &mut after, [&all, &[], &[]]);
        for name in ["x_mean_4", "x_std_4", "x_count_4", "x_lag_1", "x_lag_2"] {
            let (a, b) = (values(&before, name), values(&after, name));
            for row in (0..rows.len()).filter(|&row| rows[row].1 <= rows[changed].1) {
                prop_assert_eq!(a[row].to_bits(), b[row].to_bits(), "{} of row {}", name, row);
            }
        }
    }

    /// Whatever val and test hold, nothing of train moves, and nothing of val by test.
    #[test]
    fn later_parts_move_nothing_of_earlier_ones(
        rows in prop::collection::vec((-9.0f64..9.0, 0u32..20, 0u8..3), 9..60), to in -1e9f64..1e9,
    ) {
        let plan = data_plan(STEPS, "regression");
        let part = |index: usize| (0..rows.len() as u32).filter(|row| *row as usize % 3 == index).collect::<Vec<u32>>();
        let (train, val, test) = (part(0), part(1), part(2));
        let parts = [train.as_slice(), val.as_slice(), test.as_slice()];
        let poisoned = |from: usize| {
            let mut other = rows.clone();
            other.iter_mut().enumerate().filter(|(row, _)| row % 3 >= from).for_each(|(_, row)| row.0 = to);
            let mut table = table_of(&other);
            let steps = derive(&plan, &mut table, parts, &CancellationToken::new()).expect("derives");
            (steps, table)
        };
        let (steps, clean) = poisoned(3);
        for from in [1, 2] {
            let (other_steps, dirty) = poisoned(from);
            prop_assert_eq!(&steps, &other_steps);
            for name in &clean.layout.names[3..] {
                let Some((_, Values::Number(a))) = clean.column(name) else { continue };
                let b = values(&dirty, name);
                for row in (0..rows.len()).filter(|row| row % 3 < from) {
                    prop_assert_eq!(a[row].to_bits(), b[row].to_bits(), "{} of row {}", name, row);
                }
            }
        }
    }
}
