//! Files of object stores and web servers beside the data roots, for the time of one preparation: a folder of the home
//! in which `s3://bucket/key` lies at `s3:/bucket/key`. As one more data root it answers for the paths of the plan as
//! they stand.

use std::path::{Path, PathBuf};

use bus::remote::is_remote;
use bus::role::RoleEnv;
use messages::WireError;
use messages::error::Code;
use messages::plan::DataPlan;
use tempfile::TempDir;

use crate::memory::FOLDER;
use crate::source::glob;

const PREFIX: &str = "mirror-";

/// What was copied; removed when this is dropped.
pub struct Mirror {
    folder: Option<TempDir>,
}

impl Mirror {
    /// Copies every URL of the plan.
    pub async fn of(env: &RoleEnv, data: &DataPlan) -> Result<Self, WireError> {
        let paths = data.path.iter().chain(&data.test_path).chain(data.joins.iter().map(|join| &join.path));
        let urls: Vec<&String> = paths.filter(|path| is_remote(path)).collect();
        if urls.is_empty() {
            return Ok(Self { folder: None });
        }
        let scratch = env.home.join(FOLDER);
        let failed = |error: std::io::Error| {
            WireError::new(Code::ArtifactStoreUnavailable, format!("{}: cannot be written: {error}", scratch.display()))
        };
        std::fs::create_dir_all(&scratch).map_err(failed)?;
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(&scratch).map_err(failed)?;
        for url in urls {
            let pattern = url.splitn(4, '/').nth(3).unwrap_or_default();
            let names = |name: &str| glob::matches_path(pattern, name);
            env.remote.mirror(url, &names, folder.path()).await.map_err(|error| error.to_wire())?;
        }
        Ok(Self { folder: Some(folder) })
    }

    /// The data roots, and what was copied.
    pub fn roots(&self, roots: &[PathBuf]) -> Vec<PathBuf> {
        let copied = self.folder.iter().map(|folder| folder.path().to_path_buf());
        roots.iter().cloned().chain(copied).collect()
    }
}

/// Removes what processes left that are gone.
pub fn sweep(home: &Path) {
    for entry in std::fs::read_dir(home.join(FOLDER)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| pid != std::process::id() && !Path::new(&format!("/proc/{pid}")).exists()) {
            std::fs::remove_dir_all(entry.path()).ok();
        }
    }
}
