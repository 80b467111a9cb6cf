//! Finding the dataset version that an argument means: a file, a job, or the first digits of an id.

use std::path::Path;
use std::time::Duration;

use bus::artifact::ArtifactStore;
use data_loader::versions::Found;
use frame::manifest::MAX_MANIFEST_BYTES;
use messages::JobId;
use messages::job::JobRecord;
use messages::work::TaskOutput;

use crate::config::Config;
use crate::exit::Failure;
use crate::server;

/// The artifact store, and the server where a job is asked for.
pub struct Place<'a> {
    config: &'a Config,
    pub artifacts: ArtifactStore,
    link: Option<server::Link>,
}

impl<'a> Place<'a> {
    pub fn open(config: &'a Config) -> Result<Self, Failure> {
        Ok(Self { config, artifacts: ArtifactStore::open(&config.artifacts)?, link: None })
    }

    /// The record of a job; none where there is no such job.
    pub async fn job(&mut self, name: &str) -> Result<Option<JobRecord>, Failure> {
        let Ok(job) = JobId::new(name) else { return Ok(None) };
        if self.link.is_none() {
            self.link = Some(server::open(self.config, "data").await?);
        }
        let Some(link) = &self.link else { return Ok(None) };
        let patience = Duration::from_millis(self.config.timings.request_timeout_ms.min(2_000));
        if link.bus.bind(patience).await.is_err() && link.server.is_some() {
            // A home where nothing ran yet.
            return Ok(None);
        }
        Ok(link.bus.jobs().await?.get(&job).await?.map(|(record, _)| record))
    }

    /// The version of a job's data; none where it was not prepared yet.
    pub async fn of_record(&self, record: &JobRecord) -> Result<Option<Found>, Failure> {
        let prepared = record.tasks.iter().find_map(|task| match &task.output {
            Some(TaskOutput::Prepared { dataset, .. }) => Some(dataset),
            _ => None,
        });
        match prepared {
            Some(dataset) => Ok(Some(Found::of(&self.artifacts, dataset).await?)),
            None => Ok(None),
        }
    }

    /// The version that `name` means.
    pub async fn version(&mut self, name: &str) -> Result<Found, Failure> {
        let path = Path::new(name);
        if path.is_file() {
            return Ok(Found::read(&read(path, MAX_MANIFEST_BYTES as u64)?)?);
        }
        let not_found = match Found::by_digits(&self.artifacts, name) {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        if let Some(record) = self.job(name).await? {
            let none = || Failure::Usage(format!("job {name} has prepared no data yet"));
            return self.of_record(&record).await?.ok_or_else(none);
        }
        Err(Failure::Usage(not_found.message))
    }

    pub async fn close(self) {
        if let Some(link) = self.link {
            link.close().await;
        }
    }
}

/// A file that is not too large.
pub fn read(path: &Path, most_bytes: u64) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| Failure::Usage(format!("{}: {error}", path.display()));
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > most_bytes {
        return Err(Failure::Usage(format!("{}: {size} bytes, expected at most {most_bytes}", path.display())));
    }
    std::fs::read(path).map_err(failed)
}

/// Writes what was asked for as a file.
pub fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}
