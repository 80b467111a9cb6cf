//! Writing: batches of row sets, each all or nothing, the stream's position moved in the same transaction.

use std::collections::HashMap;

use messages::rpc::RunStatus;
use messages::{ArtifactRef, UnixMs};
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Row as _};

use super::{batch, stored, wire};
use crate::error::{Error, ErrorKind};
use crate::row::{Guard, Row, RowSet};

/// What became of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Row sets written.
    pub written: usize,
    /// Row sets of a lower fence than their task has been seen with: not written.
    pub refused: usize,
}

/// The one connection that writes.
pub struct Writer {
    connection: SqliteConnection,
    /// Lease token of this writer, once it has taken over.
    token: i64,
    /// What this writer has committed; no other writes while its token stands.
    known: Known,
}

/// Runs and fences that need not be written again.
#[derive(Default)]
struct Known {
    /// The highest fence of each task, by run.
    runs: HashMap<String, HashMap<String, i64>>,
}

impl Known {
    /// Runs remembered; beyond, all are forgotten and learned again.
    const MOST: usize = 4_096;

    fn has_run(&self, run: &str) -> bool {
        self.runs.contains_key(run)
    }

    fn fence(&self, run: &str, task: &str) -> Option<i64> {
        self.runs.get(run)?.get(task).copied()
    }

    /// A run that stands, and the fence of a task of it, if rows came under one.
    fn add(&mut self, run: &str, guard: Option<&Guard>) {
        let tasks = self.runs.entry(run.to_owned()).or_default();
        if let Some(guard) = guard {
            tasks.insert(guard.task.clone(), stored(guard.fence.0));
        }
    }

    /// After the transaction that wrote `fresh`.
    fn learn(&mut self, fresh: Known) {
        if self.runs.len() + fresh.runs.len() > Self::MOST {
            self.runs.clear();
        }
        for (run, tasks) in fresh.runs {
            self.runs.entry(run).or_default().extend(tasks);
        }
    }
}

impl Writer {
    pub(super) fn new(connection: SqliteConnection) -> Self {
        Self { connection, token: 0, known: Known::default() }
    }

    /// Becomes the writer of the projection of `stream`, under the token of a lease just acquired: a
    /// writer before, even one that only slept, can write no more. Gives the position, the last
    /// sequence whose rows are written.
    pub async fn take_over(&mut self, stream: &str, token: u64) -> Result<u64, Error> {
        self.token = stored(token);
        self.known = Known::default();
        let failed = |error| Error::database("take over the projection", error);
        let row = sqlx::query(
            "INSERT INTO projection (stream, position, writer_token) VALUES ($1, 0, $2)
             ON CONFLICT (stream) DO UPDATE SET writer_token = excluded.writer_token
             RETURNING position",
        )
        .bind(stream)
        .bind(self.token)
        .fetch_one(&mut self.connection)
        .await
        .map_err(failed)?;
        row.try_get(0).map(wire).map_err(failed)
    }

    /// Writes the rows of the events in `(from, to]` and moves the position. Both or neither.
    ///
    /// # Errors
    /// `Fenced` where the position is not `from` or another writer has taken over: nothing is written.
    pub async fn apply(&mut self, stream: &str, from: u64, to: u64, sets: &[RowSet]) -> Result<Applied, Error> {
        let failed = |error| Error::database("write events", error);
        let mut tx = self.connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let moved = sqlx::query(
            "UPDATE projection SET position = $1 WHERE stream = $2 AND position = $3 AND writer_token = $4",
        )
        .bind(stored(to))
        .bind(stream)
        .bind(stored(from))
        .bind(self.token)
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        if moved.rows_affected() == 0 {
            return Err(fenced(stream));
        }
        let mut fresh = Known::default();
        let applied = write_sets(&mut tx, &self.known, &mut fresh, sets).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        self.known.learn(fresh);
        Ok(applied)
    }

    /// Moves the position back to the beginning: the stream is another one than was projected.
    pub async fn restart(&mut self, stream: &str) -> Result<(), Error> {
        let done = sqlx::query("UPDATE projection SET position = 0 WHERE stream = $1 AND writer_token = $2")
            .bind(stream)
            .bind(self.token)
            .execute(&mut self.connection)
            .await
            .map_err(|error| Error::database("restart the projection", error))?;
        if done.rows_affected() == 0 { Err(fenced(stream)) } else { Ok(()) }
    }

    /// Writes the rows of a record task, synced to the disk before it returns: they are no part of the
    /// stream, so nothing would bring them back. False if the task's fence has passed.
    ///
    /// # Errors
    /// `Fenced` where another writer has taken over.
    pub async fn record(&mut self, stream: &str, set: &RowSet) -> Result<bool, Error> {
        let failed = |error| Error::database("record a run", error);
        sqlx::raw_sql("PRAGMA synchronous = FULL").execute(&mut self.connection).await.map_err(failed)?;
        let recorded = self.record_synced(stream, set).await;
        sqlx::raw_sql("PRAGMA synchronous = NORMAL").execute(&mut self.connection).await.map_err(failed)?;
        recorded
    }

    async fn record_synced(&mut self, stream: &str, set: &RowSet) -> Result<bool, Error> {
        let failed = |error| Error::database("record a run", error);
        let mut tx = self.connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let writer = sqlx::query("SELECT 1 FROM projection WHERE stream = $1 AND writer_token = $2")
            .bind(stream)
            .bind(self.token)
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed)?;
        if writer.is_none() {
            return Err(fenced(stream));
        }
        let mut fresh = Known::default();
        let sets = std::slice::from_ref(set);
        let applied = write_sets(&mut tx, &self.known, &mut fresh, sets).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        self.known.learn(fresh);
        Ok(applied.refused == 0)
    }

    /// Closes the file; what was committed is kept in any case.
    pub async fn close(self) -> Result<(), Error> {
        self.connection.close().await.map_err(|error| Error::database("close", error))
    }
}

fn fenced(stream: &str) -> Error {
    Error::new(ErrorKind::Fenced, format!("another tracker writes the projection of {stream}"))
}

/// Writes sets; what is `known` is not written again, what is learned goes to `fresh`.
async fn write_sets(
    tx: &mut SqliteConnection,
    known: &Known,
    fresh: &mut Known,
    sets: &[RowSet],
) -> Result<Applied, sqlx::Error> {
    let mut applied = Applied::default();
    for set in sets {
        if !known.has_run(&set.run) && !fresh.has_run(&set.run) {
            ensure_run(tx, &set.run).await?;
        }
        fresh.add(&set.run, None);
        if let Some(guard) = &set.guard {
            let fence = stored(guard.fence.0);
            let raised = fresh.fence(&set.run, &guard.task).or(known.fence(&set.run, &guard.task));
            if raised != Some(fence) && !raise_fence(tx, &set.run, guard).await? {
                applied.refused += 1;
                continue;
            }
            fresh.add(&set.run, Some(guard));
        }
        let fence = set.guard.as_ref().map_or(0, |guard| stored(guard.fence.0));
        write_rows(tx, &set.run, fence, &set.rows).await?;
        applied.written += 1;
    }
    Ok(applied)
}

/// Writes the rows of a set; neighbors of one kind in one statement, as each statement is a round trip to
/// the thread of the database.
async fn write_rows(tx: &mut SqliteConnection, run: &str, fence: i64, rows: &[Row]) -> Result<(), sqlx::Error> {
    for group in rows.chunk_by(|left, right| std::mem::discriminant(left) == std::mem::discriminant(right)) {
        match &group[0] {
            Row::Param { .. } => batch::params(tx, run, group).await?,
            Row::Tag { .. } => batch::tags(tx, run, group).await?,
            Row::Metric(_) => batch::metrics(tx, run, fence, group).await?,
            Row::Artifact { .. } => batch::artifacts(tx, run, group).await?,
            Row::Run { .. } | Row::End { .. } => {
                for row in group {
                    write_run_row(tx, run, row).await?;
                }
            }
        }
    }
    Ok(())
}

async fn write_run_row(tx: &mut SqliteConnection, run: &str, row: &Row) -> Result<(), sqlx::Error> {
    match row {
        Row::Run { experiment, name, start, plan } => {
            write_run(tx, run, experiment.as_deref(), name.as_deref(), *start, plan.as_ref()).await
        }
        Row::End { status, at } => end_run(tx, run, *status, *at).await,
        Row::Param { .. } | Row::Tag { .. } | Row::Metric(_) | Row::Artifact { .. } => Ok(()),
    }
}

async fn ensure_run(tx: &mut SqliteConnection, run: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO runs (run_id, experiment_id, name, status) VALUES ($1, 0, $1, 'RUNNING')
         ON CONFLICT (run_id) DO NOTHING",
    )
    .bind(run)
    .execute(tx)
    .await
    .map(drop)
}

/// Notes the fence of the run's task; false if a higher one is noted.
async fn raise_fence(tx: &mut SqliteConnection, run: &str, guard: &Guard) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "INSERT INTO fences (run_id, task, fence) VALUES ($1, $2, $3)
         ON CONFLICT (run_id, task) DO UPDATE SET fence = excluded.fence WHERE excluded.fence >= fences.fence",
    )
    .bind(run)
    .bind(&guard.task)
    .bind(stored(guard.fence.0))
    .execute(tx)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// The experiment's number, new for a new name. The writer is the only one, so counting up is safe.
async fn experiment_id(tx: &mut SqliteConnection, name: &str) -> Result<i64, sqlx::Error> {
    let found = sqlx::query("SELECT experiment_id FROM experiments WHERE name = $1")
        .bind(name)
        .fetch_optional(&mut *tx)
        .await?;
    if let Some(row) = found {
        return row.try_get(0);
    }
    sqlx::query(
        "INSERT INTO experiments (experiment_id, name, created_ms)
         SELECT MAX(experiment_id) + 1, $1, 0 FROM experiments RETURNING experiment_id",
    )
    .bind(name)
    .fetch_one(tx)
    .await?
    .try_get(0)
}

async fn write_run(
    tx: &mut SqliteConnection,
    run: &str,
    experiment: Option<&str>,
    name: Option<&str>,
    start: Option<UnixMs>,
    plan: Option<&ArtifactRef>,
) -> Result<(), sqlx::Error> {
    let experiment = match experiment {
        Some(experiment) => Some(experiment_id(tx, experiment).await?),
        None => None,
    };
    if let (Some(at), Some(id)) = (start, experiment) {
        sqlx::query("UPDATE experiments SET created_ms = $1 WHERE experiment_id = $2 AND created_ms = 0")
            .bind(stored(at))
            .bind(id)
            .execute(&mut *tx)
            .await?;
    }
    sqlx::query(
        "UPDATE runs SET
            experiment_id = COALESCE($2, experiment_id), name = COALESCE($3, name),
            start_ms = COALESCE($4, start_ms), plan_uri = COALESCE($5, plan_uri),
            plan_blake3 = COALESCE($6, plan_blake3)
         WHERE run_id = $1",
    )
    .bind(run)
    .bind(experiment)
    .bind(name)
    .bind(start.map(stored))
    .bind(plan.map(|plan| plan.uri.as_str()))
    .bind(plan.map(|plan| plan.blake3.as_str()))
    .execute(tx)
    .await
    .map(drop)
}

pub(super) fn status_name(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Running => "RUNNING",
        RunStatus::Finished => "FINISHED",
        RunStatus::Failed => "FAILED",
        RunStatus::Killed => "KILLED",
    }
}

async fn end_run(tx: &mut SqliteConnection, run: &str, status: RunStatus, at: UnixMs) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE runs SET status = $2, end_ms = $3 WHERE run_id = $1 AND status = 'RUNNING'")
        .bind(run)
        .bind(status_name(status))
        .bind(stored(at))
        .execute(tx)
        .await
        .map(drop)
}
