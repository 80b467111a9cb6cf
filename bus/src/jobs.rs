//! `WITHIN_JOB`: the truth about jobs. Every transition is a compare-and-set on the revision read.

use bytes::Bytes;
use messages::JobId;
use messages::SCHEMA_VERSION;
use messages::envelope::{CONTENT_MSGPACK, decode_any};
use messages::job::JobRecord;
use messages::subject::BUCKET_JOB;
use serde::Deserialize;

use crate::Bus;
use crate::error::{Error, ErrorKind, Result};
use crate::kv::{Bucket, KvEntry};

/// Records of jobs, by id.
#[derive(Clone)]
pub struct JobStore {
    bucket: Bucket,
}

impl Bus {
    /// The records of jobs; [`ErrorKind::NotFound`] before a coordinator has created their bucket.
    pub async fn jobs(&self) -> Result<JobStore> {
        Ok(JobStore { bucket: Bucket::open(self, BUCKET_JOB).await? })
    }
}

impl JobStore {
    /// The record and its revision.
    pub async fn get(&self, job: &JobId) -> Result<Option<(JobRecord, u64)>> {
        match self.bucket.last(job.as_str()).await? {
            Some(entry) => read(&entry),
            None => Ok(None),
        }
    }

    /// A new record; [`ErrorKind::Conflict`] when there is one.
    pub async fn create(&self, record: &JobRecord) -> Result<u64> {
        let key = record.job.as_str();
        match self.bucket.write(key, encode(record)?, 0, None).await {
            Err(error) if error.kind() == ErrorKind::Conflict => match self.bucket.last(key).await? {
                // An archived job's tombstone is no record.
                Some(KvEntry { value: None, revision, .. }) => {
                    self.bucket.write(key, encode(record)?, revision, None).await
                }
                _ => Err(error),
            },
            written => written,
        }
    }

    /// Replaces the record at `revision`; [`ErrorKind::Conflict`] when it has passed.
    pub async fn update(&self, record: &JobRecord, revision: u64) -> Result<u64> {
        self.bucket.write(record.job.as_str(), encode(record)?, revision, None).await
    }

    /// Every record. A record of a version that this process cannot read is an error: whoever decides
    /// about jobs must see all of them.
    pub async fn all(&self) -> Result<Vec<(JobRecord, u64)>> {
        let entries = self.bucket.all().await?;
        entries.iter().filter_map(|entry| read(entry).transpose()).collect()
    }
}

fn encode(record: &JobRecord) -> Result<Bytes> {
    rmp_serde::to_vec_named(record).map(Bytes::from).map_err(|error| {
        Error::new(ErrorKind::Other, format!("job {}: the record cannot be written", record.job)).because(error)
    })
}

/// What every version of a record has.
#[derive(Deserialize)]
struct Schema {
    schema: u16,
}

fn read(entry: &KvEntry) -> Result<Option<(JobRecord, u64)>> {
    let Some(value) = &entry.value else { return Ok(None) };
    let bad = |reason: String| {
        Error::new(
            ErrorKind::BadMessage,
            format!("record of job {} at revision {}: {reason}", entry.key, entry.revision),
        )
    };
    let Schema { schema } = decode_any(Some(CONTENT_MSGPACK), value).map_err(|error| bad(error.to_string()))?;
    let (min, max) = (SCHEMA_VERSION.saturating_sub(1), SCHEMA_VERSION + 1);
    if !(min..=max).contains(&schema) {
        return Err(bad(format!("schema version {schema}; this process reads {min} to {max}: run a newer one")));
    }
    let record: JobRecord = decode_any(Some(CONTENT_MSGPACK), value).map_err(|error| bad(error.to_string()))?;
    Ok(Some((record, entry.revision)))
}
