//! Opening the database file: journal, locks, and migrations with a check on newer versions.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, Row as _};

use super::{Reader, Writer};
use crate::database::Database;
use crate::error::{Error, ErrorKind};

/// The migrations in order; a database of version `n` has the first `n`.
const MIGRATIONS: &[&str] = &[include_str!("../../migrations/0001_runs.sql")];

/// Version of the tables that this program writes.
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// Between two tries of a file that is busy.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// Connections of the readers.
const READERS: u32 = 2;

/// Opens or creates the database and brings its tables to [`SCHEMA_VERSION`]. Waits at most
/// `busy_timeout` for another process that holds the file.
///
/// # Errors
/// `Locked` (another process), `TooNew` (written by a newer version), `Full`, `Database`.
pub async fn open(database: &Database, busy_timeout: Duration) -> Result<(Writer, Reader), Error> {
    let file = &database.file;
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)
            .map_err(|error| Error::new(ErrorKind::Database, format!("create folder {}: {error}", folder.display())))?;
    }
    let at = |what: &str| format!("{what} {}", file.display());
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .foreign_keys(true)
        .busy_timeout(busy_timeout)
        .journal_mode(SqliteJournalMode::Wal)
        // A projection that lost its last transactions reads them again; record tasks sync in full.
        .synchronous(SqliteSynchronous::Normal);
    let mut connection = connect(&options, busy_timeout).await.map_err(|error| Error::database(&at("open"), error))?;
    migrate(&mut connection, file).await?;
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(busy_timeout)
        .connect_lazy_with(options.create_if_missing(false));
    Ok((Writer::new(connection), Reader::new(readers)))
}

/// Connects. SQLite refuses at once, whatever its busy timeout, when two processes switch a new file to
/// the write-ahead log at the same moment; so the waiting is done here.
async fn connect(options: &SqliteConnectOptions, patience: Duration) -> Result<SqliteConnection, sqlx::Error> {
    let until = tokio::time::Instant::now() + patience;
    loop {
        match SqliteConnection::connect_with(options).await {
            Err(error) if is_busy(&error) && tokio::time::Instant::now() < until => {
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            connected => return connected,
        }
    }
}

fn is_busy(error: &sqlx::Error) -> bool {
    // SQLITE_BUSY, with whatever extended code in its upper bits.
    let code = error.as_database_error().and_then(|e| e.code()?.parse::<u32>().ok());
    code.is_some_and(|code| code & 0xff == 5)
}

async fn migrate(connection: &mut SqliteConnection, file: &Path) -> Result<(), Error> {
    let at = |what: &str| format!("{what} {}", file.display());
    let failed = |error| Error::database(&at("migrate"), error);
    // Immediate: two processes that start together migrate one after the other.
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.map_err(|error| Error::database(&at("lock"), error))?;
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL PRIMARY KEY, applied_by TEXT NOT NULL)",
    )
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    let found: i64 = sqlx::query("SELECT COALESCE(MAX(version), 0) FROM schema_version")
        .fetch_one(&mut *tx)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(failed)?;
    if found > SCHEMA_VERSION {
        return Err(Error::new(
            ErrorKind::TooNew,
            format!(
                "{} has tables of version {found}; this program knows versions up to {SCHEMA_VERSION}",
                file.display()
            ),
        ));
    }
    let known = usize::try_from(found).unwrap_or(0);
    for (index, migration) in MIGRATIONS.iter().copied().enumerate().skip(known) {
        sqlx::raw_sql(migration).execute(&mut *tx).await.map_err(failed)?;
        sqlx::query("INSERT INTO schema_version (version, applied_by) VALUES ($1, $2)")
            .bind(index as i64 + 1)
            .bind(env!("CARGO_PKG_VERSION"))
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
    }
    tx.commit().await.map_err(failed)
}
