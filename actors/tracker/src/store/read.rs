//! Reading: what `svc.tracker.runs` and `svc.tracker.run` answer.

use std::collections::BTreeMap;

use messages::ArtifactRef;
use messages::event::{MetricValue, Metrics};
use messages::rpc::{GetRun, ListRuns, MetricPoint, Run, RunArtifact, RunSummary};
use sqlx::Row as _;
use sqlx::sqlite::{SqlitePool, SqliteRow};

use super::{stored, wire};
use crate::error::Error;
use crate::store::write::status_name;

/// Points of all metrics together that one answer may carry, so that it fits one message.
pub const MAX_HISTORY_POINTS: usize = 6_000;

/// Runs that one answer lists when the question names no limit, and at most.
const DEFAULT_RUNS: u32 = 100;
const MAX_RUNS: u32 = 1_000;

/// Connections that only read; the writer does not wait for them.
#[derive(Clone)]
pub struct Reader {
    pool: SqlitePool,
}

impl Reader {
    pub(super) fn new(pool: SqlitePool) -> Self {
        Self { pool }
    }

    /// Runs, newest first.
    pub async fn list(&self, question: &ListRuns) -> Result<Vec<RunSummary>, Error> {
        let limit = match question.limit {
            0 => DEFAULT_RUNS,
            limit => limit.min(MAX_RUNS),
        };
        let list = async {
            let rows = sqlx::query(
                "SELECT r.run_id, e.name, r.name, r.status, r.start_ms, r.end_ms
                 FROM runs r JOIN experiments e ON e.experiment_id = r.experiment_id
                 WHERE CAST($1 AS TEXT) IS NULL OR e.name = $1
                 ORDER BY COALESCE(r.start_ms, 0) DESC, r.run_id LIMIT $2",
            )
            .bind(question.experiment.as_deref())
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
            let mut runs = rows.iter().map(summary).collect::<Result<Vec<_>, _>>()?;
            for run in &mut runs {
                run.metrics = self.latest(&run.run).await?;
            }
            Ok(runs)
        };
        list.await.map_err(|error| Error::database("list runs", error))
    }

    /// One run; none where there is no such run.
    pub async fn get(&self, question: &GetRun) -> Result<Option<Run>, Error> {
        self.read_run(question).await.map_err(|error| Error::database("read a run", error))
    }

    async fn read_run(&self, question: &GetRun) -> Result<Option<Run>, sqlx::Error> {
        let id = question.run.as_str();
        let row = sqlx::query(
            "SELECT r.run_id, e.name, r.name, r.status, r.start_ms, r.end_ms
             FROM runs r JOIN experiments e ON e.experiment_id = r.experiment_id WHERE r.run_id = $1",
        )
        .bind(id)
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let mut summary = summary(&row)?;
        summary.metrics = self.latest(id).await?;
        let params =
            sqlx::query("SELECT key, value FROM params WHERE run_id = $1").bind(id).fetch_all(&self.pool).await?;
        let tags = sqlx::query("SELECT key, value FROM tags WHERE run_id = $1").bind(id).fetch_all(&self.pool).await?;
        let artifacts = sqlx::query(
            "SELECT kind, name, uri, blake3, size_bytes FROM artifacts WHERE run_id = $1 ORDER BY kind, name",
        )
        .bind(id)
        .fetch_all(&self.pool)
        .await?;
        let (mut history, mut history_cut) = (BTreeMap::new(), false);
        if question.history {
            let share = MAX_HISTORY_POINTS / summary.metrics.len().max(1);
            for key in summary.metrics.keys() {
                let mut points = self.points(id, key, share + 1).await?;
                history_cut |= points.len() > share;
                points.truncate(share);
                history.insert(key.clone(), points);
            }
        }
        Ok(Some(Run {
            params: pairs(&params)?,
            tags: pairs(&tags)?,
            artifacts: artifacts.iter().map(artifact).collect::<Result<_, _>>()?,
            summary,
            history,
            history_cut,
        }))
    }

    async fn latest(&self, run: &str) -> Result<Metrics, sqlx::Error> {
        let rows = sqlx::query("SELECT key, value, value_is_null_reason FROM latest_metrics WHERE run_id = $1")
            .bind(run)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, value(row, 1)?))).collect()
    }

    async fn points(&self, run: &str, key: &str, limit: usize) -> Result<Vec<MetricPoint>, sqlx::Error> {
        let rows = sqlx::query(
            "SELECT value, value_is_null_reason, step, epoch, timestamp_ms FROM metrics
             WHERE run_id = $1 AND key = $2 ORDER BY step, timestamp_ms LIMIT $3",
        )
        .bind(run)
        .bind(key)
        .bind(stored(limit as u64))
        .fetch_all(&self.pool)
        .await?;
        let point = |row: &SqliteRow| {
            Ok(MetricPoint {
                value: value(row, 0)?,
                step: row.try_get(2).map(wire)?,
                epoch: u32::try_from(row.try_get::<i64, _>(3)?).unwrap_or(u32::MAX),
                timestamp: row.try_get(4).map(wire)?,
            })
        };
        rows.iter().map(point).collect()
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A value in column `at`, its reason in the next.
fn value(row: &SqliteRow, at: usize) -> Result<MetricValue, sqlx::Error> {
    let number: Option<f64> = row.try_get(at)?;
    let reason: Option<String> = row.try_get(at + 1)?;
    Ok(number.map_or_else(|| MetricValue::undefined(reason.unwrap_or_default()), MetricValue::Defined))
}

fn summary(row: &SqliteRow) -> Result<RunSummary, sqlx::Error> {
    use messages::rpc::RunStatus::{Failed, Finished, Killed, Running};
    let status: String = row.try_get(3)?;
    let status = [Running, Finished, Failed, Killed].into_iter().find(|known| status_name(*known) == status);
    Ok(RunSummary {
        run: row.try_get(0)?,
        experiment: row.try_get(1)?,
        name: row.try_get(2)?,
        status: status.ok_or_else(|| sqlx::Error::Decode("runs.status: not a status of MLflow".into()))?,
        start_time: row.try_get::<Option<i64>, _>(4)?.map(wire),
        end_time: row.try_get::<Option<i64>, _>(5)?.map(wire),
        metrics: Metrics::new(),
    })
}

fn artifact(row: &SqliteRow) -> Result<RunArtifact, sqlx::Error> {
    Ok(RunArtifact {
        kind: row.try_get(0)?,
        name: row.try_get(1)?,
        artifact: ArtifactRef { uri: row.try_get(2)?, blake3: row.try_get(3)?, size_bytes: row.try_get(4).map(wire)? },
    })
}

fn pairs(rows: &[SqliteRow]) -> Result<BTreeMap<String, String>, sqlx::Error> {
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
