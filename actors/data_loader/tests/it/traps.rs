//! The shared data sets' profiles name their traps without being told of them. Figures are those of pandas over the same
//! files.

use messages::plan::DataPlan;
use tokio_util::sync::CancellationToken;
use within_data_loader::validate::check;
use within_data_loader::validate::outcome::Report;

use crate::plan::data_plan;
use crate::real::data;

/// The report of some files, read by the usual options but for `change`.
fn profiled(files: &[&str], change: impl Fn(&mut DataPlan)) -> Option<Report> {
    let mut plan = data_plan(files, "none");
    plan.csv.null_values = ["", "NA", "N/A", "NaN", "nan", "null", "NULL"].map(str::to_owned).to_vec();
    change(&mut plan);
    let checked = check(&plan, None, &[data()?], 0, &CancellationToken::new()).expect("the files are read");
    assert!(checked.report.passed, "{:?}", checked.report.schema_violations);
    let html = checked.page.html();
    // Words have no distribution to draw.
    let only_words = files.iter().all(|file| file.starts_with("clickbait_headlines"));
    assert!((only_words || html.contains("<svg")) && html.ends_with("</html>\n"));
    Some(checked.report)
}

/// Count of the finding of a kind with these columns among its own.
fn count(report: &Report, kind: &str, columns: &[&str]) -> Option<u64> {
    let fits = |known: &[String]| columns.iter().all(|column| known.iter().any(|other| other.trim() == *column));
    report.findings.iter().find(|finding| finding.kind == kind && fits(&finding.columns)).map(|finding| finding.count)
}

fn check_counts(report: &Report, expected: &[(&str, &[&str], u64)]) {
    let all = || report.findings.iter().map(|f| format!("{} {:?} {}: {}", f.kind, f.columns, f.count, f.message));
    for (kind, columns, wanted) in expected {
        let found = count(report, kind, columns);
        assert_eq!(found, Some(*wanted), "{kind} {columns:?} among\n{}", all().collect::<Vec<_>>().join("\n"));
    }
}

#[test]
fn kag_conversion() {
    let Some(report) = profiled(&["kag_conversion/KAG_conversion_data.csv"], |_| ()) else { return };
    assert_eq!(report.rows, 1_143);
    check_counts(
        &report,
        &[
            ("zero_denominator", &["Clicks"], 207),
            ("order_exceptions", &["Clicks", "Approved_Conversion"], 72),
            ("order_exceptions", &["Clicks", "Total_Conversion"], 218),
            ("rows_in_blocks", &["xyz_campaign_id"], 3),
            ("nearly_collinear", &["Clicks", "Spent"], 2),
            ("concentrated", &["xyz_campaign_id", "Impressions"], 625),
        ],
    );
    let nothing = report
        .findings
        .iter()
        .find(|f| f.columns.contains(&"Approved_Conversion".to_owned()) && f.kind == "order_exceptions");
    assert!(nothing.expect("there").message.contains("in 71 of them Clicks is 0"));
    assert_eq!(count(&report, "duplicate_rows", &[]), None);
    assert_eq!(count(&report, "missing_values", &[]), None);
}

#[test]
fn adult() {
    let Some(report) = profiled(&["adult/adult.data", "adult/adult.test"], |_| ()) else { return };
    assert_eq!(report.rows, 48_842);
    check_counts(
        &report,
        &[
            ("sentinel_value", &["workclass"], 1_836 + 963),
            ("sentinel_value", &["occupation"], 1_843 + 966),
            ("sentinel_value", &["native-country"], 583 + 274),
            ("sentinel_value", &["capital-gain"], 244),
            ("surrounding_blanks", &["workclass", "outcome"], 14 * 48_842),
            ("trailing_dot", &["outcome"], 16_281),
            ("label_variants", &["outcome"], 2),
            ("duplicate_rows", &[], 29),
            ("equivalent_columns", &["education", "education-num"], 16),
            ("blanks_in_name", &["workclass", "outcome"], 14),
            ("blanks_after_delimiter", &[], 1),
        ],
    );
    let Some(train) = profiled(&["adult/adult.data"], |_| ()) else { return };
    check_counts(
        &train,
        &[
            ("sentinel_value", &["workclass"], 1_836),
            ("sentinel_value", &["occupation"], 1_843),
            ("sentinel_value", &["native-country"], 583),
            ("duplicate_rows", &[], 24),
        ],
    );
}

#[test]
fn bank_marketing() {
    let file = ["bank_marketing/bank-additional-full.csv"];
    let Some(report) = profiled(&file, |plan| plan.csv.delimiter = ";".into()) else { return };
    check_counts(
        &report,
        &[
            ("delimiter", &[], 1),
            ("sentinel_value", &["default"], 8_597),
            ("sentinel_value", &["education"], 1_731),
            ("sentinel_value", &["housing"], 990),
            ("sentinel_value", &["loan"], 990),
            ("sentinel_value", &["pdays"], 39_673),
            ("duplicate_rows", &[], 12),
        ],
    );
    let drift = report.findings.iter().find(|finding| finding.kind == "drift_by_position").expect("drift");
    assert!(drift.columns.contains(&"y".to_owned()), "{drift:?}");
    assert!(drift.examples.iter().any(|example| example.contains("6.4 %") && example.contains("30.8 %")), "{drift:?}");
}

#[test]
fn california_housing() {
    let Some(report) = profiled(&["california_housing/housing.csv"], |_| ()) else { return };
    check_counts(
        &report,
        &[
            ("missing_values", &["total_bedrooms"], 207),
            ("capped_at_maximum", &["median_house_value"], 965),
            ("capped_at_maximum", &["housing_median_age"], 1_273),
            ("capped_at_maximum", &["median_income"], 49),
            ("rare_category", &["ocean_proximity"], 5),
        ],
    );
}

#[test]
fn online_ads_daily() {
    let Some(report) = profiled(&["online_ads_daily/april_may.csv"], |_| ()) else { return };
    assert_eq!(report.rows, 10_974);
    check_counts(
        &report,
        &[
            ("sentinel_value", &["placement"], 287),
            ("duplicate_rows", &[], 2),
            ("order_exceptions", &["clicks", "post_click_conversions"], 99),
            ("date_without_year", &["month", "day"], 1),
        ],
    );
    assert!(count(&report, "crlf_line_endings", &[]).is_some());
}

#[test]
fn open_bandit_and_samples_of_criteo() {
    let Some(report) = profiled(&["open_bandit/obd_60k.csv.gz"], |_| ()) else { return };
    assert_eq!(report.rows, 60_000);
    check_counts(&report, &[("near_constant", &["click"], 60_000 - 287)]);
    let Some(criteo) = profiled(&["criteo_sample/criteo_sample.txt"], |_| ()) else { return };
    check_counts(
        &criteo,
        &[
            ("mostly_missing", &["C22"], 159),
            ("mostly_missing", &["I12"], 157),
            ("missing_values", &["I1"], 90),
            ("missing_values", &["C19"], 82),
        ],
    );
    let mixed = criteo.findings.iter().find(|finding| finding.kind == "mixed_types").expect("numbers among hashes");
    let example = mixed.examples[0].rsplit('"').nth(1).expect("a value");
    assert!(mixed.message.ends_with("among texts") && example.parse::<f64>().is_ok(), "{mixed:?}");
    let Some(avazu) = profiled(&["criteo_sample/avazu_sample.txt"], |_| ()) else { return };
    check_counts(&avazu, &[("beyond_2_53", &["id"], 100)]);
    let id = avazu.findings.iter().find(|finding| finding.kind == "beyond_2_53").expect("ids");
    assert!(id.message.contains("beyond 64 bits with a sign"), "{id:?}");
}

#[test]
fn meridian_geo() {
    let Some(report) = profiled(&["meridian_geo/geo_all_channels.csv"], |_| ()) else { return };
    check_counts(
        &report,
        &[
            ("row_index", &["column_1"], 6_240),
            ("unnamed_column", &["column_1"], 1),
            ("time_goes_back", &["time"], 39),
            ("rows_in_blocks", &["geo"], 40),
        ],
    );
    let Some(national) = profiled(&["meridian_geo/national_all_channels.csv"], |_| ()) else { return };
    assert_eq!(count(&national, "row_index", &[]), None);
    assert_eq!(count(&national, "rows_in_time_order", &["time"]), Some(156));
}

#[test]
fn nab() {
    let Some(report) = profiled(&["nab/data/realAdExchange/exchange-2_cpc_results.csv"], |_| ()) else { return };
    check_counts(&report, &[("time_gaps", &["timestamp"], 5), ("time_repeated", &["timestamp"], 1)]);
    assert_eq!(count(&report, "time_goes_back", &[]), None);
    let Some(taxi) = profiled(&["nab/data/realKnownCause/nyc_taxi.csv"], |_| ()) else { return };
    for kind in ["time_gaps", "time_repeated", "time_goes_back", "time_irregular"] {
        assert_eq!(count(&taxi, kind, &[]), None, "{kind}");
    }
    check_counts(&taxi, &[("rows_in_time_order", &["timestamp"], 10_320)]);
}

#[test]
fn clickbait_headlines() {
    let lines = |plan: &mut DataPlan| {
        plan.csv.header = false;
        plan.csv.delimiter = "\u{1f}".into();
        plan.csv.quote = String::new();
    };
    let Some(report) = profiled(&["clickbait_headlines/clickbait_data.gz"], lines) else { return };
    assert_eq!(report.rows, 15_999);
    assert!(count(&report, "blank_lines", &[]).is_some_and(|blank| blank > 100));
    check_counts(&report, &[("no_header", &[], 1)]);
    assert_eq!(count(&report, "duplicate_rows", &[]), None);
}
