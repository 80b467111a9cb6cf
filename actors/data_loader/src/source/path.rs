//! From a path in a plan to a file inside the data roots. A plan comes from the network: nothing outside the
//! roots may be opened, whatever `..` or symbolic links say, and an error tells nothing of what lies there.

use std::path::{Component, Path, PathBuf};

use messages::WireError;
use messages::error::Code;

use crate::nearest::did_you_mean;

/// The file that `path` names in one of the roots: as it stands if it is absolute, else below the first root
/// that has it.
pub fn resolve(path: &str, roots: &[PathBuf]) -> Result<PathBuf, WireError> {
    resolve_as(path, roots, regular_file)
}

/// The same for a folder.
pub fn resolve_folder(path: &str, roots: &[PathBuf]) -> Result<PathBuf, WireError> {
    resolve_as(path, roots, |path, real| {
        if real.is_dir() {
            return Ok(real);
        }
        Err(WireError::new(Code::DatasetNotFound, format!("{path}: is a file, expected a folder")))
    })
}

fn resolve_as(
    path: &str,
    roots: &[PathBuf],
    accept: impl Fn(&str, PathBuf) -> Result<PathBuf, WireError>,
) -> Result<PathBuf, WireError> {
    if path.is_empty() || path.contains('\0') {
        return Err(WireError::new(Code::DatasetNotFound, format!("path {path:?}: expected the name of a file")));
    }
    let roots: Vec<PathBuf> = roots.iter().filter_map(|root| root.canonicalize().ok()).collect();
    let mut inside = None;
    for root in &roots {
        let Some(candidate) = normalized(&root.join(path)) else { continue };
        match candidate.canonicalize() {
            Ok(real) if roots.iter().any(|root| real.starts_with(root)) => return accept(path, real),
            Ok(_) => return Err(forbidden(path)),
            Err(_) if roots.iter().any(|root| candidate.starts_with(root)) => {
                if leads_outside(&candidate, &roots) {
                    return Err(forbidden(path));
                }
                inside = inside.or(Some(candidate));
            }
            Err(_) => {}
        }
    }
    match inside {
        Some(candidate) => Err(not_found(path, &candidate)),
        None if roots.is_empty() => {
            Err(WireError::new(Code::DatasetNotFound, format!("{path}: this worker has no data root"))
                .with_hint("start the worker with the folder of the data as a data root"))
        }
        None => Err(forbidden(path)),
    }
}

/// Whether what exists of the path, links followed, lies outside.
fn leads_outside(candidate: &Path, roots: &[PathBuf]) -> bool {
    let real = candidate.ancestors().find_map(|ancestor| ancestor.canonicalize().ok());
    real.is_none_or(|real| !roots.iter().any(|root| real.starts_with(root)))
}

/// The path without `.` and `..`, by its text alone; none where it climbs above the file system's root.
fn normalized(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                if !out.pop() {
                    return None;
                }
            }
            other => out.push(other),
        }
    }
    Some(out)
}

fn regular_file(path: &str, real: PathBuf) -> Result<PathBuf, WireError> {
    let found = std::fs::metadata(&real);
    match found {
        Ok(metadata) if metadata.is_file() => Ok(real),
        Ok(metadata) if metadata.is_dir() => {
            Err(WireError::new(Code::DatasetNotFound, format!("{path}: is a folder, expected a file"))
                .with_hint("name the files of the table one by one in data.path"))
        }
        Ok(_) => Err(WireError::new(Code::DatasetNotFound, format!("{path}: is not a regular file"))),
        Err(error) => Err(cannot_open(path, &error)),
    }
}

/// What a user sees of a file that exists and cannot be read.
pub fn cannot_open(path: &str, error: &std::io::Error) -> WireError {
    WireError::new(Code::DatasetNotFound, format!("{path}: cannot be opened: {error}"))
}

fn forbidden(path: &str) -> WireError {
    WireError::new(Code::Forbidden, format!("{path}: lies outside the data roots"))
        .with_hint("name files inside the data roots, relative to them; links out of them are not followed")
}

fn not_found(path: &str, candidate: &Path) -> WireError {
    let folder = candidate.parent().unwrap_or(candidate);
    let wanted = candidate.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    let nearest = did_you_mean(&wanted, names.iter().map(String::as_str));
    WireError::new(Code::DatasetNotFound, format!("{path}: no such file in the data roots{nearest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_inside_the_roots_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        for path in [&root.join("sub"), &outside] {
            std::fs::create_dir_all(path).expect("creates");
        }
        for path in [root.join("sub/train.csv"), outside.join("secret.csv")] {
            std::fs::write(path, "a").expect("writes");
        }
        std::os::unix::fs::symlink(outside.join("secret.csv"), root.join("link.csv")).expect("links");
        std::os::unix::fs::symlink("sub/train.csv", root.join("inside.csv")).expect("links");
        std::os::unix::fs::symlink(&outside, root.join("door")).expect("links");
        let roots = [root.clone()];
        let absolute = root.join("sub/train.csv").to_string_lossy().into_owned();
        for good in ["sub/train.csv", "./sub/../sub/train.csv", "inside.csv", &absolute] {
            let found = resolve(good, &roots).expect(good);
            assert!(found.ends_with("sub/train.csv"), "{good}");
        }
        let secret = outside.join("secret.csv").to_string_lossy().into_owned();
        for bad in [
            "link.csv",
            "../outside/secret.csv",
            "../outside/nothing.csv",
            "door/secret.csv",
            "door/none.csv",
            "door/a/b.csv",
            &secret,
            "/etc/passwd",
            "../../../../../../../../x",
        ] {
            assert_eq!(resolve(bad, &roots).expect_err(bad).code, Code::Forbidden, "{bad}");
        }
        let missing = |path: &str| {
            let error = resolve(path, &roots).expect_err(path);
            assert_eq!(error.code, Code::DatasetNotFound);
            error.message
        };
        assert_eq!(
            missing("sub/trian.csv"),
            "sub/trian.csv: no such file in the data roots (did you mean \"train.csv\"?)"
        );
        assert_eq!(missing("sub"), "sub: is a folder, expected a file");
        assert_eq!(missing(""), "path \"\": expected the name of a file");
        assert!(resolve("a", &[]).expect_err("no root").message.contains("no data root"));
    }
}
