//! Files of object stores and web servers beside the data roots, for the time of one preparation: a folder of the home
//! in which `s3://bucket/key` lies at `s3:/bucket/key`. As one more data root it answers for the paths of the plan as
//! they stand.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use bus::remote::is_remote;
use bus::role::RoleEnv;
use messages::WireError;
use messages::error::Code;
use messages::plan::{ColumnPlan, ColumnType, DataPlan, JobPlan};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::check::Violations;
use crate::check::value::ValueReader;
use crate::load::alive;
use crate::memory::FOLDER;
use crate::source::path::resolve;
use crate::source::{self, Joins, Reader, Want, glob};
use crate::write::off_runtime;

const PREFIX: &str = "mirror-";

/// What was copied; removed when this is dropped.
pub struct Mirror {
    folder: Option<TempDir>,
}

impl Mirror {
    /// Copies every URL of the plan, and then the pictures that its tables name.
    pub async fn of(env: &RoleEnv, plan: &Arc<JobPlan>, cancelled: &CancellationToken) -> Result<Self, WireError> {
        let data = &plan.data;
        let paths = data.path.iter().chain(&data.test_path).chain(data.joins.iter().map(|join| &join.path));
        let images = data.columns.values().filter_map(|column| column.images.as_ref());
        let schema = data.validation.schema.iter();
        let urls: Vec<&String> = paths.chain(images).chain(schema).filter(|path| is_remote(path)).collect();
        // A table of the data roots may name pictures that lie elsewhere.
        let pictures = env.remote.is_allowed_any() && data.columns.values().any(is_of_files);
        if urls.is_empty() && !pictures {
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
        let mirror = Self { folder: Some(folder) };
        if let Some(folder) = mirror.folder.as_ref().filter(|_| pictures) {
            let (of, roots, token) = (Arc::clone(plan), mirror.roots(&env.data_roots), cancelled.clone());
            let named = off_runtime(move || named_pictures(&of.data, &roots, &token)).await?;
            env.remote.mirror_each(&named, folder.path()).await.map_err(|error| error.to_wire())?;
        }
        Ok(mirror)
    }

    /// The data roots, and what was copied.
    pub fn roots(&self, roots: &[PathBuf]) -> Vec<PathBuf> {
        let copied = self.folder.iter().map(|folder| folder.path().to_path_buf());
        roots.iter().cloned().chain(copied).collect()
    }
}

/// Whether a column names the files of its pictures.
fn is_of_files(column: &ColumnPlan) -> bool {
    column.r#type == ColumnType::Image && column.images.is_none()
}

/// URLs of the pictures that tables name: those that stand there, and those of files beside a table that was copied. What
/// is wrong with the tables is said when they are read for good.
fn named_pictures(
    data: &DataPlan,
    roots: &[PathBuf],
    cancelled: &CancellationToken,
) -> Result<BTreeSet<String>, WireError> {
    let (mut violations, mut found) = (Violations::default(), BTreeSet::new());
    let values = ValueReader::new(data.csv.null_values.clone(), data.csv.decimal == ",");
    let joins = Arc::new(Joins::read(data, roots, &mut violations)?);
    for file in source::files(data, roots)? {
        let Some(mut reader) = Reader::open(&file, &data.csv, &joins, &mut violations)? else { continue };
        let names = reader.columns().iter().enumerate();
        let pictures = names.filter(|(_, name)| data.columns.get(*name).is_some_and(is_of_files));
        let wanted: Vec<_> = pictures.map(|(index, _)| (index, Want::Bytes)).collect();
        if wanted.is_empty() {
            continue;
        }
        reader.want(&wanted)?;
        let beside = file.path.rsplit_once('/').map(|(folder, _)| folder).filter(|_| is_remote(&file.path));
        while let Some(chunk) = reader.next_chunk(&mut violations)? {
            alive(cancelled)?;
            let texts = chunk.columns.iter().filter_map(|column| column.as_string_opt::<i32>());
            for text in texts.flat_map(|texts| texts.iter().flatten()).filter(|text| !values.is_missing(text)) {
                if is_remote(text) {
                    found.insert(text.to_owned());
                } else if let Some(folder) = beside.filter(|_| is_name(text) && resolve(text, roots).is_err()) {
                    found.insert(format!("{folder}/{text}"));
                }
            }
        }
    }
    Ok(found)
}

/// Whether a path leads to a file below the folder that it is looked for in.
fn is_name(path: &str) -> bool {
    path.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'))
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
