//! Rows of one kind in one statement. A statement that carried two rows of one key would be refused by
//! PostgreSQL, so each key is carried once, with what writing them one after the other would leave.

use std::collections::{BTreeMap, BTreeSet};

use messages::event::MetricValue;
use sqlx::sqlite::{Sqlite, SqliteConnection};
use sqlx::{QueryBuilder, Row as _};

use super::stored;
use crate::row::{MetricRow, Row};

/// Most rows of a statement.
const MOST: usize = 32;

/// Cuts rows into parts of a power of two, so that few different statements are prepared.
fn parts<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = if rows.len() >= MOST { MOST } else { 1 << rows.len().checked_ilog2()? };
        let (part, rest) = rows.split_at(size);
        rows = rest;
        Some(part)
    })
}

/// The first value of a key stands.
pub async fn params(tx: &mut SqliteConnection, run: &str, group: &[Row]) -> Result<(), sqlx::Error> {
    let mut rows = BTreeMap::new();
    for row in group {
        if let Row::Param { key, value } = row {
            rows.entry(key.as_str()).or_insert(value.as_str());
        }
    }
    let rows: Vec<_> = rows.into_iter().collect();
    for part in parts(&rows) {
        let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO params (run_id, key, value) ");
        insert.push_values(part, |mut row, (key, value)| {
            row.push_bind(run).push_bind(*key).push_bind(*value);
        });
        insert.push(" ON CONFLICT (run_id, key) DO NOTHING");
        insert.build().execute(&mut *tx).await?;
    }
    Ok(())
}

/// The last value of a key stands.
pub async fn tags(tx: &mut SqliteConnection, run: &str, group: &[Row]) -> Result<(), sqlx::Error> {
    let mut rows = BTreeMap::new();
    for row in group {
        if let Row::Tag { key, value } = row {
            rows.insert(key.as_str(), value.as_str());
        }
    }
    let rows: Vec<_> = rows.into_iter().collect();
    for part in parts(&rows) {
        let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO tags (run_id, key, value) ");
        insert.push_values(part, |mut row, (key, value)| {
            row.push_bind(run).push_bind(*key).push_bind(*value);
        });
        insert.push(" ON CONFLICT (run_id, key) DO UPDATE SET value = excluded.value");
        insert.build().execute(&mut *tx).await?;
    }
    Ok(())
}

/// The last of a kind and name stands.
pub async fn artifacts(tx: &mut SqliteConnection, run: &str, group: &[Row]) -> Result<(), sqlx::Error> {
    let mut rows = BTreeMap::new();
    for row in group {
        if let Row::Artifact { kind, name, artifact } = row {
            rows.insert((kind.as_str(), name.as_str()), artifact);
        }
    }
    let rows: Vec<_> = rows.into_iter().collect();
    for part in parts(&rows) {
        let mut insert =
            QueryBuilder::<Sqlite>::new("INSERT INTO artifacts (run_id, kind, name, uri, blake3, size_bytes) ");
        insert.push_values(part, |mut row, ((kind, name), artifact)| {
            row.push_bind(run).push_bind(*kind).push_bind(*name);
            row.push_bind(&artifact.uri).push_bind(&artifact.blake3).push_bind(stored(artifact.size_bytes));
        });
        insert.push(
            " ON CONFLICT (run_id, kind, name) DO UPDATE SET
                uri = excluded.uri, blake3 = excluded.blake3, size_bytes = excluded.size_bytes",
        );
        insert.build().execute(&mut *tx).await?;
    }
    Ok(())
}

/// A metric row with its step settled, in the order of the key (metric, step, source).
type Points<'a> = BTreeMap<(&'a str, i64, &'a str), &'a MetricRow>;

/// The last point of a metric, step and source stands, unless the stored one came under a higher fence;
/// the latest point of each metric follows.
pub async fn metrics(tx: &mut SqliteConnection, run: &str, fence: i64, group: &[Row]) -> Result<(), sqlx::Error> {
    let points = settle(tx, run, group).await?;
    let rows: Vec<_> = points.iter().collect();
    let mut latest: BTreeMap<&str, (i64, &MetricRow)> = BTreeMap::new();
    for part in parts(&rows) {
        let written = insert_points(tx, run, fence, part).await?;
        for &(&(key, step, source), &row) in part {
            let stands = latest.get(key).is_some_and(|(other, held)| (*other, held.timestamp) > (step, row.timestamp));
            if !stands && written.contains(&(key.to_owned(), step, source.to_owned())) {
                latest.insert(key, (step, row));
            }
        }
    }
    let rows: Vec<_> = latest.into_iter().collect();
    for part in parts(&rows) {
        upsert_latest(tx, run, part).await?;
    }
    Ok(())
}

/// Gives each point its step. One that names none stands after all that the run has, and only where its
/// source has not given this metric before.
async fn settle<'a>(tx: &mut SqliteConnection, run: &str, group: &'a [Row]) -> Result<Points<'a>, sqlx::Error> {
    let rows: Vec<&MetricRow> =
        group.iter().filter_map(|row| if let Row::Metric(metric) = row { Some(metric) } else { None }).collect();
    let mut points = Points::new();
    let mut spoken: BTreeSet<(String, String)> = BTreeSet::new();
    let mut last = 0;
    let open: Vec<&str> = rows.iter().filter(|row| row.step.is_none()).map(|row| row.key.as_str()).collect();
    if !open.is_empty() {
        for part in parts(&open) {
            let mut select = QueryBuilder::<Sqlite>::new("SELECT DISTINCT key, source FROM metrics WHERE run_id = ");
            select.push_bind(run).push(" AND key IN (");
            let mut keys = select.separated(", ");
            for key in part {
                keys.push_bind(*key);
            }
            select.push(")");
            for row in select.build().fetch_all(&mut *tx).await? {
                spoken.insert((row.try_get(0)?, row.try_get(1)?));
            }
        }
        last = sqlx::query("SELECT COALESCE(MAX(step), 0) FROM latest_metrics WHERE run_id = $1")
            .bind(run)
            .fetch_one(&mut *tx)
            .await?
            .try_get(0)?;
    }
    for row in rows {
        let name = (row.key.clone(), row.source.clone());
        let step = match row.step {
            Some(step) => stored(step),
            None if spoken.contains(&name) => continue,
            None => last,
        };
        last = last.max(step);
        spoken.insert(name);
        points.insert((row.key.as_str(), step, row.source.as_str()), row);
    }
    Ok(points)
}

/// Gives the points that were written: not those under a lower fence than the stored ones.
async fn insert_points(
    tx: &mut SqliteConnection,
    run: &str,
    fence: i64,
    part: &[(&(&str, i64, &str), &&MetricRow)],
) -> Result<BTreeSet<(String, i64, String)>, sqlx::Error> {
    let mut insert = QueryBuilder::<Sqlite>::new(
        "INSERT INTO metrics (run_id, key, step, source, epoch, timestamp_ms, value, value_is_null_reason, fence) ",
    );
    insert.push_values(part, |mut row, ((key, step, source), point)| {
        row.push_bind(run).push_bind(*key).push_bind(*step).push_bind(*source);
        row.push_bind(i64::from(point.epoch)).push_bind(stored(point.timestamp));
        row.push_bind(point.value.get()).push_bind(reason(&point.value)).push_bind(fence);
    });
    insert.push(
        " ON CONFLICT (run_id, key, step, source) DO UPDATE SET
            epoch = excluded.epoch, timestamp_ms = excluded.timestamp_ms, value = excluded.value,
            value_is_null_reason = excluded.value_is_null_reason, fence = excluded.fence
         WHERE excluded.fence >= metrics.fence
         RETURNING key, step, source",
    );
    let written = insert.build().fetch_all(&mut *tx).await?;
    written.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect()
}

async fn upsert_latest(
    tx: &mut SqliteConnection,
    run: &str,
    part: &[(&str, (i64, &MetricRow))],
) -> Result<(), sqlx::Error> {
    let mut insert = QueryBuilder::<Sqlite>::new(
        "INSERT INTO latest_metrics (run_id, key, step, epoch, timestamp_ms, value, value_is_null_reason) ",
    );
    insert.push_values(part, |mut row, (key, (step, point))| {
        row.push_bind(run).push_bind(*key).push_bind(*step).push_bind(i64::from(point.epoch));
        row.push_bind(stored(point.timestamp)).push_bind(point.value.get()).push_bind(reason(&point.value));
    });
    insert.push(
        " ON CONFLICT (run_id, key) DO UPDATE SET
            step = excluded.step, epoch = excluded.epoch, timestamp_ms = excluded.timestamp_ms,
            value = excluded.value, value_is_null_reason = excluded.value_is_null_reason
         WHERE (excluded.step, excluded.timestamp_ms) >= (latest_metrics.step, latest_metrics.timestamp_ms)",
    );
    insert.build().execute(tx).await.map(drop)
}

fn reason(value: &MetricValue) -> Option<&str> {
    match value {
        MetricValue::Defined(_) => None,
        MetricValue::Undefined { reason, .. } => Some(reason.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn parts_are_powers_of_two_and_cover_all() {
        for count in 0..200 {
            let rows: Vec<usize> = (0..count).collect();
            let cut: Vec<&[usize]> = parts(&rows).collect();
            assert!(cut.iter().all(|part| part.len().is_power_of_two() && part.len() <= super::MOST), "{count}");
            assert_eq!(cut.concat(), rows);
        }
    }
}
