//! Patterns of file names: `*`, `?` and `[a-z]` within a name, `**` for any folders between. What is found is told in
//! the order of the names, and lies inside the data roots. Folders named `key=value` are columns.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use messages::WireError;
use messages::error::Code;

use super::MAX_FILES;
use super::path::resolve;

/// Most names that a pattern looks at.
const MAX_VISITED: usize = 1_000_000;
/// Deepest folder that `**` looks into.
const MAX_DEPTH: usize = 32;
/// What Hive names a folder of missing values.
const MISSING: &str = "__HIVE_DEFAULT_PARTITION__";

/// The files that `path` names, each with its name as a plan would write it: one, or all that a pattern finds.
pub fn find(path: &str, roots: &[PathBuf]) -> Result<Vec<(String, PathBuf)>, WireError> {
    let found = resolve(path, roots);
    if !is_pattern(path) || found.is_ok() {
        return found.map(|real| vec![(path.to_owned(), real)]);
    }
    let absolute = path.starts_with('/');
    for root in roots {
        let relative = if absolute {
            let Some(relative) = root.to_str().and_then(|root| path.strip_prefix(root)) else { continue };
            relative
        } else {
            path
        };
        let parts: Vec<&str> = relative.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if parts.contains(&"..") {
            return Err(WireError::new(Code::Forbidden, format!("{path}: leaves the data roots")));
        }
        let mut walk = Walk { found: BTreeSet::new(), visited: 0, pattern: path };
        walk.folder(root, "", &parts, 0)?;
        if walk.found.is_empty() {
            continue;
        }
        let mut files = Vec::with_capacity(walk.found.len());
        for name in walk.found {
            // `s3:/bucket` is the folder in which files of `s3://bucket` are mirrored.
            let name = match path.split_once("://") {
                Some((scheme, _)) => name.replacen(&format!("{scheme}:/"), &format!("{scheme}://"), 1),
                None if absolute => root.join(&name).display().to_string(),
                None => name,
            };
            let real = resolve(&name, roots)?;
            files.push((name, real));
        }
        return Ok(files);
    }
    Err(WireError::new(Code::DatasetNotFound, format!("{path}: no file in the data roots has a name of this pattern"))
        .with_hint("`*` stands for a part of one name, `**` for any folders between; names that begin with . or _ are passed over"))
}

pub fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

struct Walk<'a> {
    found: BTreeSet<String>,
    visited: usize,
    pattern: &'a str,
}

impl Walk<'_> {
    /// Looks for what is left of the pattern in a folder, whose name below the root is `below`.
    fn folder(&mut self, folder: &Path, below: &str, parts: &[&str], depth: usize) -> Result<(), WireError> {
        let Some((part, rest)) = parts.split_first() else { return Ok(()) };
        let join = |name: &str| if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        if *part == "**" {
            self.folder(folder, below, rest, depth)?;
        } else if !is_pattern(part) {
            return self.entry(&folder.join(part), join(part), rest, depth);
        }
        if depth > MAX_DEPTH {
            return Ok(());
        }
        for name in self.names(folder)? {
            let path = folder.join(&name);
            if *part == "**" {
                // Links are not followed here: they may lead in circles.
                if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                    self.folder(&path, &join(&name), parts, depth + 1)?;
                }
            } else if matches(part, &name) {
                self.entry(&path, join(&name), rest, depth)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: String, rest: &[&str], depth: usize) -> Result<(), WireError> {
        if !rest.is_empty() {
            return if path.is_dir() { self.folder(path, &name, rest, depth + 1) } else { Ok(()) };
        }
        if path.is_file() {
            self.found.insert(name);
            if self.found.len() > MAX_FILES {
                let message = format!("{}: finds more than {MAX_FILES} files", self.pattern);
                return Err(WireError::new(Code::TooLarge, message));
            }
        }
        Ok(())
    }

    /// Names of a folder, but those of marks and of files that are still written.
    fn names(&mut self, folder: &Path) -> Result<Vec<String>, WireError> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            self.visited += 1;
            if self.visited > MAX_VISITED {
                let message = format!("{}: looks at more than {MAX_VISITED} names", self.pattern);
                return Err(WireError::new(Code::TooLarge, message).with_hint("name the folders more closely"));
            }
            if let Ok(name) = entry.file_name().into_string()
                && !name.starts_with(['.', '_'])
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// Whether a path, of names between `/`, is one of the pattern's.
pub fn matches_path(pattern: &str, path: &str) -> bool {
    fn parts(pattern: &[&str], names: &[&str]) -> bool {
        let Some((part, rest)) = pattern.split_first() else { return names.is_empty() };
        let below = names.split_first().map(|(name, below)| (*name, below));
        let hidden = |name: &str| name.starts_with(['.', '_']);
        if *part == "**" {
            return parts(rest, names) || below.is_some_and(|(name, below)| !hidden(name) && parts(pattern, below));
        }
        below.is_some_and(|(name, below)| {
            !(is_pattern(part) && hidden(name)) && matches(part, name) && parts(rest, below)
        })
    }
    parts(&pattern.split('/').collect::<Vec<_>>(), &path.split('/').collect::<Vec<_>>())
}

/// Whether a name is one of the pattern's.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // Where to go on if the last `*` takes one more.
    let (mut p, mut n, mut again) = (0, 0, None);
    while n < name.len() {
        let next = pattern.get(p).and_then(|&c| match c {
            '*' => None,
            '?' => Some(p + 1),
            '[' => {
                let (inside, next) = class(&pattern, p, name[n]).unwrap_or((name[n] == '[', p + 1));
                inside.then_some(next)
            }
            c => (c == name[n]).then_some(p + 1),
        });
        if pattern.get(p) == Some(&'*') {
            again = Some((p, n));
            p += 1;
        } else if let Some(next) = next {
            (p, n) = (next, n + 1);
        } else if let Some((star, taken)) = again {
            again = Some((star, taken + 1));
            (p, n) = (star + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Of `[abc]`, `[a-z]`, `[!a]` at `at`: whether the character is in it, and where the pattern goes on. None where no
/// class ends.
fn class(pattern: &[char], at: usize, character: char) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(at + 1), Some('!' | '^'));
    let first = at + 1 + usize::from(negated);
    // A bracket that comes first is itself.
    let end = (first + 1..pattern.len()).find(|&i| pattern[i] == ']')?;
    let (mut i, mut inside) = (first, false);
    while i < end {
        if i + 2 < end && pattern[i + 1] == '-' {
            inside |= (pattern[i]..=pattern[i + 2]).contains(&character);
            i += 3;
        } else {
            inside |= pattern[i] == character;
            i += 1;
        }
    }
    Some((inside != negated, end + 1))
}

/// The columns that the folders of a path name, as Hive and Spark write them: `year=2024/month=5/…`.
pub fn partitions(path: &str) -> Vec<(String, Option<String>)> {
    let Some((folders, _)) = path.rsplit_once('/') else { return Vec::new() };
    let named = folders.split('/').filter_map(|folder| {
        let (name, value) = folder.split_once('=')?;
        let value = (value != MISSING).then(|| decoded(value));
        (!name.is_empty()).then(|| (decoded(name), value))
    });
    named.collect()
}

/// `%2F` as `/`.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let code = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok()))
            .flatten();
        out.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_patterns_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("*.csv", "a.csv", true),
            ("*.csv", ".csv", true),
            ("*.csv", "a.csv.gz", false),
            ("part-?.pq", "part-7.pq", true),
            ("part-?.pq", "part-17.pq", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("[0-9]*", "2024", true),
            ("[!0-9]*", "2024", false),
            ("[!0-9]*", "x", true),
            ("[]]", "]", true),
            ("[a", "[a", true),
            ("*", "", true),
            ("é?", "éé", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn paths_match_name_by_name() {
        for (pattern, path, expected) in [
            ("ads/year=*/*.csv", "ads/year=2024/a.csv", true),
            ("ads/year=*/*.csv", "ads/year=2024/x/a.csv", false),
            ("ads/**/*.csv", "ads/a.csv", true),
            ("ads/**/*.csv", "ads/x/y/a.csv", true),
            ("ads/**/*.csv", "ads/_tmp/a.csv", false),
            ("ads/*", "ads/_done", false),
            ("ads/_done", "ads/_done", true),
        ] {
            assert_eq!(matches_path(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn files_are_found_in_order_and_inside_the_roots() {
        let folder = tempfile::tempdir().expect("a folder");
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        for name in
            ["ads/year=2023/b.csv", "ads/year=2023/a.csv", "ads/year=2024/a.csv", "ads/year=2024/_done", "ads/x.txt"]
        {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("creates");
            std::fs::write(path, "x").expect("writes");
        }
        std::fs::create_dir_all(&outside).expect("creates");
        std::fs::write(outside.join("secret.csv"), "x").expect("writes");
        let roots = [folder.path().join("none"), root.clone()];
        let names =
            |path: &str| -> Vec<String> { find(path, &roots).expect(path).into_iter().map(|(name, _)| name).collect() };
        let all = ["ads/year=2023/a.csv", "ads/year=2023/b.csv", "ads/year=2024/a.csv"];
        assert_eq!(names("ads/year=*/*.csv"), all);
        assert_eq!(names("./ads/**/*.csv"), all);
        assert_eq!(names("ads/year=2024/*"), all[2..]);
        assert_eq!(names("ads/x.txt"), ["ads/x.txt"]);
        let absolute = root.join("ads/year=2023/*.csv").display().to_string();
        assert_eq!(names(&absolute).len(), 2);
        std::os::unix::fs::symlink(&outside, root.join("door")).expect("links");
        assert_eq!(find("door/*.csv", &roots).expect_err("outside").code, Code::Forbidden);
        assert_eq!(find("ads/*/../../*.csv", &roots).expect_err("outside").code, Code::Forbidden);
        assert_eq!(find("ads/z*.csv", &roots).expect_err("none").code, Code::DatasetNotFound);
    }

    #[test]
    fn folders_name_columns() {
        let named = partitions("s3://b/ads/year=2024/site=a%2Fb%3D/x=/part.parquet");
        let expected = [("year", Some("2024")), ("site", Some("a/b=")), ("x", Some(""))];
        assert_eq!(named, expected.map(|(name, value)| (name.to_owned(), value.map(str::to_owned))));
        assert_eq!(partitions("a/k=__HIVE_DEFAULT_PARTITION__/f"), [("k".to_owned(), None)]);
        assert_eq!(partitions("k=v.csv"), []);
    }
}
