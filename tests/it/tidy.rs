//! The house rules, held by reading `cargo metadata` and the files of the repository.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::root;

const MAX_FILE_LINES: usize = 800;
/// "About 70" of the house rules.
const MAX_FUNCTION_LINES: usize = 80;
/// A loop that polls is no longer than this.
const POLL_LINES: usize = 12;
const ROLES: [&str; 6] = ["coordinator", "data-loader", "trainer", "evaluator", "tracker", "notifier"];
/// Folders that are no part of the repository.
const OUTSIDE: [&str; 6] = ["target", ".tools", ".git", ".within", "__pycache__", ".pytest_cache"];
const BANNED_NAMES: [&str; 8] = ["utils", "util", "common", "helpers", "helper", "types", "misc", "lib_common"];

/// A file of the repository.
struct File {
    /// Relative to the root.
    path: String,
    text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        has_suffix(&self.path, "rs")
    }

    /// Lines with their numbers, from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

fn has_suffix(path: &str, suffix: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == suffix)
}

/// Every text file of the repository.
fn files() -> Vec<File> {
    let root = root();
    let mut folders = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("reads").flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if OUTSIDE.contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                files.push(File { path: relative(&root, &path), text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(files.len() > 100, "the repository is found");
    files
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).expect("invariant: below the root").display().to_string()
}

fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

/// Rust files where a line, its comments aside, holds one of these words.
fn holding(parts: &[&str], allowed: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for file in files().iter().filter(|file| file.is_rust() && !allowed(&file.path)) {
        for (number, line) in file.lines() {
            let held = parts.iter().filter(|part| holds(line, part));
            found.extend(held.map(|part| format!("{}:{number}: {part}", file.path)));
        }
    }
    found
}

/// Whether the line's code holds this, not as the end of a longer name.
fn holds(line: &str, part: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(part).any(|(at, _)| !code[..at].ends_with(is_name))
}

#[test]
fn every_file_says_what_it_is_for() {
    let files = files();
    let silent = files.iter().filter(|file| file.is_rust() && !file.text.starts_with("//!"));
    none("without //! at the top", &silent.map(|file| file.path.clone()).collect::<Vec<_>>());
}

#[test]
fn files_and_functions_are_short() {
    let (mut files_found, mut functions_found) = (Vec::new(), Vec::new());
    for file in files().iter().filter(|file| file.is_rust()) {
        let count = file.text.lines().count();
        if count > MAX_FILE_LINES {
            files_found.push(format!("{}: {count} lines", file.path));
        }
        for (name, line, length) in functions(&file.text) {
            if length > MAX_FUNCTION_LINES {
                functions_found.push(format!("{}:{line}: {name}: {length} lines", file.path));
            }
        }
    }
    none("files that are too long", &files_found);
    none("functions that are too long", &functions_found);
}

/// Name, line and length of each function: from `fn` to the brace that closes at its indentation, which is
/// how rustfmt leaves them.
fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = &line[..line.len() - code.len()];
        let words: Vec<&str> = code.split(' ').take_while(|word| !word.contains('(')).collect();
        let before = ["pub", "pub(crate)", "pub(super)", "async", "const", "unsafe", "extern"];
        let Some(at) = code.split(' ').position(|word| word == "fn") else { continue };
        if !words.iter().take(at).all(|word| before.contains(word) || word.starts_with('"')) {
            continue;
        }
        let name = code.split(' ').nth(at + 1).unwrap_or_default();
        let name = name.split(['(', '<']).next().unwrap_or_default().to_owned();
        let rest = &lines[index..];
        let opening = rest.iter().find(|line| line.ends_with(['{', ';', '}']));
        let closing = format!("{indent}}}");
        if opening.is_some_and(|line| line.ends_with('{'))
            && let Some(end) = rest.iter().position(|line| line.starts_with(&closing))
        {
            found.push((name, index + 1, end + 1));
        }
    }
    found
}

#[test]
fn functions_are_measured_as_they_stand() {
    let text = "impl A {\n    pub async fn long(\n        a: u8,\n    ) -> u8 {\n        if a > 1 {\n            2;\n        }\n        a\n    }\n\n    fn short(&self) -> u8 { 1 }\n}\n\ntrait B {\n    fn declared(&self);\n}\n\nconst fn last() {\n    ();\n}\n";
    assert_eq!(functions(text), [("long".to_owned(), 2, 8), ("last".to_owned(), 18, 3)]);
}

#[test]
fn names_say_what_a_file_holds() {
    let banned = |file: &&File| {
        let parts = Path::new(&file.path).components().map(|part| part.as_os_str().to_string_lossy().into_owned());
        let mut stems = parts.map(|part| part.split('.').next().unwrap_or_default().to_owned());
        stems.any(|stem| BANNED_NAMES.contains(&stem.as_str()))
    };
    none("names that say nothing", &files().iter().filter(banned).map(|file| file.path.clone()).collect::<Vec<_>>());
}

#[test]
fn unsafe_code_stays_in_kernels_and_scratch() {
    let unsafe_words = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "allow(unsafe_code)"];
    let may =
        |path: &str| path.starts_with("kernels/") || path.starts_with("actors/scratch/") || path.ends_with("tidy.rs");
    none("unsafe code outside kernels and scratch", &holding(&unsafe_words, may));
}

#[test]
fn nothing_is_left_to_do() {
    let parts = [
        "todo!(",
        "unimplemented!(",
        "dbg!(",
        concat!("#[", "ignore"),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        "XXX",
    ];
    let found = holding(&parts, |path| path.ends_with("tidy.rs"));
    none("not done", &found);
}

#[test]
fn subjects_are_built_in_one_place() {
    let parts = [concat!("format!(\"within", ".v1"), concat!("\"within", ".v1.")];
    let mut found = Vec::new();
    for file in files().iter().filter(|file| file.is_rust() && !is_test(&file.path)) {
        let code = file.lines().take_while(|(_, line)| !line.contains("#[cfg(test)]"));
        let built = code.filter(|(_, line)| parts.iter().any(|part| holds(line, part)));
        found.extend(built.map(|(number, _)| format!("{}:{number}", file.path)));
    }
    found.retain(|place| !place.starts_with("messages/src/subject.rs"));
    none("subjects built outside messages/src/subject.rs", &found);
}

/// Tests wait for conditions. What polls for one may sleep: in a loop that looks, a few lines above.
#[test]
fn tests_do_not_sleep() {
    let mut found = Vec::new();
    for file in files().iter().filter(|file| file.is_rust()) {
        let lines: Vec<&str> = file.text.lines().collect();
        let tests = || lines.iter().position(|line| line.contains("#[cfg(test)]")).unwrap_or(lines.len());
        let first = if is_test(&file.path) { 0 } else { tests() };
        let sleeping = |(_, line): &(usize, &&str)| holds(line, concat!("sleep", "("));
        for (index, _) in lines.iter().enumerate().skip(first).filter(sleeping) {
            let above = &lines[index.saturating_sub(POLL_LINES)..index];
            if !above.iter().any(|line| holds(line, "loop {") || holds(line, "while ")) {
                found.push(format!("{}:{}", file.path, index + 1));
            }
        }
    }
    none("tests that sleep", &found);
}

fn is_test(path: &str) -> bool {
    path.split('/').any(|part| part == "tests") || path.ends_with("_tests.rs")
}

#[test]
fn no_machine_is_named() {
    let mut found = Vec::new();
    for file in files() {
        for (number, line) in file.lines() {
            for place in [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")] {
                let before = line.find(place).map(|at| line[..at].chars().next_back());
                let within_a_path = |before: Option<char>| {
                    before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '}' | '_' | '-' | '~'))
                };
                if before.is_some_and(|before| !within_a_path(before)) {
                    found.push(format!("{}:{number}: {place}", file.path));
                }
            }
        }
    }
    none("paths of one machine", &found);
}

#[test]
fn the_readme_shows_the_two_commands() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("a README");
    for command in ["make run", "make test"] {
        assert!(readme.contains(command), "the README does not mention `{command}`");
    }
    for file in ["ARCHITECTURE.md", "CHANGELOG.md", "deny.toml", "rust-toolchain.toml", "Makefile", ".ci/run"] {
        assert!(root().join(file).exists(), "{file} is missing");
    }
}

/// Direct dependencies of each package of ours, by package name; the second value are those of tests.
type Dependencies = BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)>;

fn dependencies() -> Dependencies {
    let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages").iter();
    packages
        .map(|package| {
            let of = |wanted: fn(&Value) -> bool| {
                let all = package["dependencies"].as_array().into_iter().flatten();
                all.filter(|d| wanted(&d["kind"])).filter_map(|d| d["name"].as_str()).map(str::to_owned).collect()
            };
            let name = package["name"].as_str().unwrap_or_default().to_owned();
            (name, (of(|kind| kind != "dev"), of(|kind| kind == "dev")))
        })
        .collect()
}

fn package(room: &str) -> String {
    format!("within-{room}")
}

#[test]
fn the_graph_of_crates_is_the_one_that_is_drawn() {
    let all = dependencies();
    let libraries = ["messages", "bus", "kernels", "frame", "report", "scratch"].map(package);
    let mut found = Vec::new();
    for (name, (normal, tests)) in &all {
        let ours = |names: &BTreeSet<String>| -> BTreeSet<String> {
            names.iter().filter(|n| n.starts_with("within-")).cloned().collect()
        };
        let allowed: BTreeSet<String> = match name.strip_prefix("within-").unwrap_or_default() {
            "messages" | "kernels" | "scratch" => BTreeSet::new(),
            "bus" => [package("messages")].into(),
            "tests" => [package("messages"), package("bus")].into(),
            "frame" | "report" => ["messages", "bus", "kernels"].map(package).into(),
            "node" => all.keys().cloned().collect(),
            _ => libraries.clone().into(),
        };
        for other in ours(normal).union(&ours(tests)).filter(|other| !allowed.contains(*other)) {
            found.push(format!("{name} -> {other}"));
        }
    }
    none("not drawn in the architecture", &found);
    for role in ROLES {
        assert!(all.contains_key(&package(role)), "{role} is a package");
    }
    let mut outside = Vec::new();
    for (foreign, owner) in
        [("async-nats", "bus"), ("object_store", "bus"), ("cudarc", "kernels"), ("anyhow", "node"), ("clap", "node")]
    {
        let users = all.iter().filter(|(_, (normal, tests))| normal.contains(foreign) || tests.contains(foreign));
        outside
            .extend(users.filter(|(name, _)| **name != package(owner)).map(|(name, _)| format!("{name} -> {foreign}")));
    }
    none("known to one crate only", &outside);
}

/// What is no part of the workspace has a lock file of its own.
fn own_versions(path: &str) -> bool {
    path == "tests/fuzz/Cargo.toml"
}

#[test]
fn every_version_is_pinned_once() {
    let mut found = Vec::new();
    for file in files().iter().filter(|file| file.path.ends_with("/Cargo.toml")) {
        let mut section = "";
        for (number, line) in file.lines().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#')) {
            if line.starts_with('[') {
                section = line;
            } else if section.contains("dependencies")
                && !line.contains("workspace = true")
                && !own_versions(&file.path)
            {
                found.push(format!("{}:{number}: {line}", file.path));
            }
        }
        if !file.text.contains("[lints") {
            found.push(format!("{}: without lints", file.path));
        }
    }
    none("not pinned in the workspace's Cargo.toml", &found);
}
