//! Deterministic, ads-like data: what every example runs on where there is none of one's own. The
//! same seed gives the same bytes, row by row, however many rows are asked for.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use kernels::philox::{Key, Rng, Stream};
use messages::WireError;
use messages::error::Code;
use parquet::arrow::ArrowWriter;

use crate::cli::GenerateArgs;
use crate::config::Config;
use crate::exit::{self, Failure};
use crate::watch::print_line;

const PLATFORMS: [(&str, f64); 5] =
    [("facebook", 2.0), ("google", 5.0), ("instagram", 3.5), ("linkedin", -2.0), ("tiktok", 0.5)];
const AGE_GROUPS: [(&str, f64); 4] = [("18-24", 2.0), ("25-34", 3.0), ("35-44", 0.0), ("45-49", -2.5)];
const GENDERS: [&str; 2] = ["F", "M"];
const INTERESTS: [(&str, f64); 8] = [
    ("art", 0.0),
    ("books", 1.0),
    ("food", 2.5),
    ("games", 3.0),
    ("music", 1.5),
    ("news", -1.5),
    ("sports", 0.5),
    ("travel", 2.0),
];
const WEEKDAYS: [(&str, f64); 7] =
    [("fri", 0.5), ("mon", 0.0), ("sat", 1.5), ("sun", 1.0), ("thu", 0.0), ("tue", 0.0), ("wed", 0.0)];
/// Rows written to Parquet at a time.
const ROW_GROUP: u64 = 65_536;
/// Share of rows without a quality score.
const MISSING_SHARE: f64 = 0.07;

/// One ad.
struct Row {
    ad_id: u64,
    platform: &'static str,
    age_group: &'static str,
    gender: &'static str,
    interest: &'static str,
    headline_length: i64,
    impressions: i64,
    clicks: i64,
    spend: f64,
    duration_days: i64,
    weekday: &'static str,
    ctr_history: f64,
    quality_score: Option<f64>,
    ad_score: f64,
}

/// Rounds to `digits` decimals, so that CSV and Parquet hold the same numbers.
fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

fn pick<T: Copy>(rng: &mut Rng, items: &[T]) -> T {
    items[rng.below(items.len() as u32) as usize]
}

impl Row {
    /// Row `index` of a seed. The score follows the inputs, with noise of standard deviation 4.
    fn at(seed: u64, index: u64) -> Self {
        let mut rng = Key::new(seed, Stream::Generate).rng(index, 0);
        let rng = &mut rng;
        let (platform, p) = pick(rng, &PLATFORMS);
        let (age_group, a) = pick(rng, &AGE_GROUPS);
        let gender = pick(rng, &GENDERS);
        let (interest, i) = pick(rng, &INTERESTS);
        let (weekday, w) = pick(rng, &WEEKDAYS);
        let headline_length = 15 + i64::from(rng.below(76));
        let impressions = (4.0 + 2.2 * rng.uniform() + 1.2 * rng.normal().abs()).exp().round();
        let quality = (6.0 + 1.8 * rng.normal()).clamp(0.0, 10.0);
        let ctr = (0.006 + 0.0035 * quality / 10.0 + 0.004 * rng.normal().abs()).min(0.2);
        let clicks = (impressions * ctr * (0.6 + 0.8 * rng.uniform())).round();
        let duration_days = 1 + i64::from(rng.below(30));
        let spend = clicks * (0.3 + 1.4 * rng.uniform()) + 0.4 * rng.uniform();
        let ideal = (headline_length as f64 - 45.0) / 30.0;
        let affinity = if platform == "tiktok" && age_group == "18-24" { 9.0 } else { 0.0 };
        let gaming = if interest == "games" && gender == "M" { 4.0 } else { 0.0 };
        let fatigue = -4.0 * (duration_days as f64 / 14.0 - 1.0).max(0.0).powi(2);
        let score = 30.0 + p + a + i + w + affinity + gaming + fatigue + 3.0 * quality - 7.0 * ideal * ideal
            + 260.0 * ctr
            + 2.0 * (1.0 + clicks).ln()
            + 4.0 * rng.normal();
        Self {
            ad_id: 1_000_000 + index,
            platform,
            age_group,
            gender,
            interest,
            headline_length,
            impressions: impressions as i64,
            clicks: clicks as i64,
            spend: rounded(spend, 2),
            duration_days,
            weekday,
            ctr_history: rounded(ctr, 5),
            quality_score: (rng.uniform() >= MISSING_SHARE).then(|| rounded(quality, 2)),
            ad_score: rounded(score.clamp(0.0, 100.0), 2),
        }
    }
}

const HEADER: &str = "ad_id,platform,age_group,gender,interest,headline_length,impressions,clicks,spend,\
duration_days,weekday,ctr_history,quality_score,ad_score";

/// `within generate`.
pub fn command(config: &Config, args: &GenerateArgs) -> Result<u8, Failure> {
    write(&args.file, args.rows, args.seed)?;
    let bytes = std::fs::metadata(&args.file).map(|m| m.len()).unwrap_or_default();
    if config.json {
        let line = serde_json::json!({ "event": "generated", "file": args.file, "rows": args.rows, "bytes": bytes });
        print_line(&line.to_string());
    } else {
        print_line(&format!("{}: {} rows, {bytes} bytes", args.file.display(), args.rows));
    }
    Ok(exit::DONE)
}

/// Writes the file beside its place and renames it there, so that a half-written one is never read.
pub fn write(path: &Path, rows: u64, seed: u64) -> Result<(), Failure> {
    let parquet = match path.extension().and_then(|e| e.to_str()) {
        Some("csv") => false,
        Some("parquet") => true,
        _ => {
            return Err(Failure::Usage(format!(
                "{}: expected a file name that ends in .csv or .parquet",
                path.display()
            )));
        }
    };
    let failed = |error: std::io::Error| {
        let code = if error.kind() == std::io::ErrorKind::StorageFull {
            Code::StorageFull
        } else {
            Code::ArtifactStoreUnavailable
        };
        Failure::Infrastructure(WireError::new(code, format!("{}: {error}", path.display())))
    };
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let file = File::create(&temporary).map_err(failed)?;
    let written = if parquet { write_parquet(file, rows, seed) } else { write_csv(file, rows, seed) };
    written.and_then(|()| std::fs::rename(&temporary, path)).map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        failed(error)
    })
}

fn write_csv(file: File, rows: u64, seed: u64) -> std::io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, file);
    writeln!(out, "{HEADER}")?;
    for index in 0..rows {
        let r = Row::at(seed, index);
        let quality = r.quality_score.map(|q| q.to_string()).unwrap_or_default();
        writeln!(
            out,
            "{},{},{},{},{},{},{},{},{},{},{},{},{quality},{}",
            r.ad_id,
            r.platform,
            r.age_group,
            r.gender,
            r.interest,
            r.headline_length,
            r.impressions,
            r.clicks,
            r.spend,
            r.duration_days,
            r.weekday,
            r.ctr_history,
            r.ad_score
        )?;
    }
    out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
}

fn write_parquet(file: File, rows: u64, seed: u64) -> std::io::Result<()> {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let int = |name: &str| Field::new(name, DataType::Int64, false);
    let real = |name: &str, missing| Field::new(name, DataType::Float64, missing);
    let schema = Arc::new(Schema::new(vec![
        int("ad_id"),
        text("platform"),
        text("age_group"),
        text("gender"),
        text("interest"),
        int("headline_length"),
        int("impressions"),
        int("clicks"),
        real("spend", false),
        int("duration_days"),
        text("weekday"),
        real("ctr_history", false),
        real("quality_score", true),
        real("ad_score", false),
    ]));
    let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), None).map_err(std::io::Error::other)?;
    let mut from = 0;
    while from < rows {
        let until = (from + ROW_GROUP).min(rows);
        let group: Vec<Row> = (from..until).map(|index| Row::at(seed, index)).collect();
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns(&group)).map_err(std::io::Error::other)?;
        writer.write(&batch).map_err(std::io::Error::other)?;
        from = until;
    }
    writer.into_inner().map_err(std::io::Error::other)?.sync_all()
}

fn columns(rows: &[Row]) -> Vec<ArrayRef> {
    let text =
        |get: fn(&Row) -> &'static str| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(get))) };
    let int = |get: fn(&Row) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(rows.iter().map(get))) };
    let real = |get: fn(&Row) -> Option<f64>| -> ArrayRef { Arc::new(Float64Array::from_iter(rows.iter().map(get))) };
    vec![
        int(|r| r.ad_id as i64),
        text(|r| r.platform),
        text(|r| r.age_group),
        text(|r| r.gender),
        text(|r| r.interest),
        int(|r| r.headline_length),
        int(|r| r.impressions),
        int(|r| r.clicks),
        real(|r| Some(r.spend)),
        int(|r| r.duration_days),
        text(|r| r.weekday),
        real(|r| Some(r.ctr_history)),
        real(|r| r.quality_score),
        real(|r| Some(r.ad_score)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_do_not_depend_on_how_many_are_asked_for() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (short, long) = (folder.path().join("a.csv"), folder.path().join("b.csv"));
        write(&short, 10, 7).expect("writes");
        write(&long, 30, 7).expect("writes");
        let (short, long) =
            (std::fs::read_to_string(short).expect("reads"), std::fs::read_to_string(long).expect("reads"));
        assert!(long.starts_with(&short));
        assert_eq!(long.lines().count(), 31);
    }

    #[test]
    fn another_suffix_is_refused() {
        let error = write(Path::new("x.txt"), 1, 1).expect_err("refused");
        assert!(error.to_string().contains(".csv or .parquet"), "{error}");
    }

    #[test]
    fn scores_spread_and_some_quality_is_missing() {
        let rows: Vec<Row> = (0..2_000).map(|i| Row::at(42, i)).collect();
        let mean = rows.iter().map(|r| r.ad_score).sum::<f64>() / 2_000.0;
        let variance = rows.iter().map(|r| (r.ad_score - mean).powi(2)).sum::<f64>() / 2_000.0;
        assert!((40.0..80.0).contains(&mean), "{mean}");
        assert!(variance.sqrt() > 5.0, "{variance}");
        let missing = rows.iter().filter(|r| r.quality_score.is_none()).count();
        assert!((60..240).contains(&missing), "{missing}");
    }
}
