//! Back-translation: texts go through a translator behind the bus, into another language and back, once, when the
//! data are prepared. A data_loader that finds Apertium serves as a translator: texts that were translated before
//! come from a folder, by the hash of what was asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bus::{Bus, Incoming};
use futures::StreamExt;
use messages::WireError;
use messages::error::Code;
use messages::translate::{MAX_TEXTS, Translate, Translated};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::write::off_runtime;

/// Queue of those who translate.
const QUEUE: &str = "translator";
/// Most bytes of the texts of one request.
const MAX_BYTES: usize = 128 * 1024;
/// Texts longer than this stay as they are.
const MAX_TEXT_BYTES: usize = 8 * 1024;
/// Name of Apertium's program, and of its folder of translations below the home.
const PROGRAM: &str = "apertium";
const FOLDER: &str = "translations";

/// `eng-spa` as (`eng-spa`, `spa-eng`).
fn there_and_back(languages: &str) -> Result<(String, String), WireError> {
    let letters = |code: &str| (2..=8).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_lowercase());
    match languages.split_once('-') {
        Some((from, to)) if letters(from) && letters(to) => Ok((languages.to_owned(), format!("{to}-{from}"))),
        _ => Err(WireError::new(
            Code::ConfigError,
            format!("data.augmentation.text.languages: expected two codes such as eng-spa, found {languages:?}"),
        )),
    }
}

/// Translates texts there and back. What nobody can translate now fails the task.
pub async fn back_translations(
    bus: &Bus,
    texts: Vec<String>,
    languages: &str,
) -> Result<BTreeMap<String, String>, WireError> {
    let (there, back) = there_and_back(languages)?;
    let mut found = BTreeMap::new();
    for texts in batches(texts) {
        let lines: Vec<String> = texts.iter().map(|text| one_line(text)).collect();
        let foreign = ask(bus, &there, lines).await?;
        let returned = ask(bus, &back, foreign).await?;
        found.extend(texts.into_iter().zip(returned).filter(|(text, returned)| text != returned));
    }
    Ok(found)
}

/// White space is one blank: a line is a text.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Texts by what fits a request; those that are empty or too long are left out.
fn batches(texts: Vec<String>) -> Vec<Vec<String>> {
    let (mut all, mut bytes) = (vec![Vec::new()], 0);
    for text in texts.into_iter().filter(|text| !text.trim().is_empty() && text.len() <= MAX_TEXT_BYTES) {
        let last = all.last().map_or(0, Vec::len);
        if last >= MAX_TEXTS || bytes + text.len() > MAX_BYTES {
            all.push(Vec::new());
            bytes = 0;
        }
        bytes += text.len();
        if let Some(batch) = all.last_mut() {
            batch.push(text);
        }
    }
    all.retain(|batch| !batch.is_empty());
    all
}

async fn ask(bus: &Bus, languages: &str, texts: Vec<String>) -> Result<Vec<String>, WireError> {
    let (count, subject) = (texts.len(), bus.subjects().translate());
    let patience = Duration::from_millis(bus.timings().translate_timeout_ms);
    let request = Translate { languages: languages.to_owned(), texts };
    let answer: Translated = bus.request_to(&subject, request, patience).await.map_err(|error| {
        let message = format!("back_translation {languages}: {}", error.message);
        WireError { message, ..error }.with_hint(
            "back-translation needs a translator: install apertium-eng-spa on the host of a data_loader (Debian), or \
             serve svc.translator.translate; or leave back_translation out of data.augmentation.text.methods",
        )
    })?;
    if answer.texts.len() != count {
        let message = format!("a translator answered {count} texts with {}", answer.texts.len());
        return Err(WireError::new(Code::BadMessage, message));
    }
    Ok(answer.texts)
}

/// Apertium on this host.
#[derive(Debug, Clone)]
pub struct Apertium {
    program: PathBuf,
    /// Where translations are kept.
    folder: PathBuf,
    patience: Duration,
}

impl Apertium {
    /// The program on this path of folders, if it is there.
    pub fn find(path: &std::ffi::OsStr, home: &Path, patience: Duration) -> Option<Self> {
        let program = std::env::split_paths(path).map(|folder| folder.join(PROGRAM)).find(|file| file.is_file())?;
        Some(Self { program, folder: home.join(FOLDER), patience })
    }

    /// Subscribes; the result answers requests until the subscription ends, one after the other, as a translation
    /// takes a core.
    pub async fn serve(self, bus: &Bus) -> Result<impl Future<Output = ()> + Send + 'static + use<>, bus::Error> {
        let mut requests = bus.serve(&bus.subjects().translate(), Some(QUEUE)).await?;
        Ok(async move {
            while let Some(request) = requests.next().await {
                self.answer(request).await;
            }
        })
    }

    async fn answer(&self, request: Incoming) {
        let result = match request.decode::<Translate>() {
            Ok(envelope) => self.translate(envelope.data).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &result {
            tracing::warn!(%error, "a translation failed");
        }
        request.reply(result.map(|texts| Translated { texts })).await;
    }

    /// Each text, from the folder or from Apertium.
    pub async fn translate(&self, request: Translate) -> Result<Vec<String>, WireError> {
        there_and_back(&request.languages)?;
        let bad = |what: &str| WireError::new(Code::BadMessage, format!("translation refused: {what}"));
        if request.texts.len() > MAX_TEXTS {
            return Err(bad(&format!("{} texts, expected at most {MAX_TEXTS}", request.texts.len())));
        }
        if request.texts.iter().any(|text| text.contains(['\n', '\r', '\0'])) {
            return Err(bad("a text with a line break"));
        }
        let places: Vec<PathBuf> = request.texts.iter().map(|text| self.place(&request.languages, text)).collect();
        let known = places.clone();
        let mut texts: Vec<Option<String>> =
            off_runtime(move || Ok(known.iter().map(|place| std::fs::read_to_string(place).ok()).collect())).await?;
        let missing: Vec<usize> = (0..texts.len()).filter(|&at| texts[at].is_none()).collect();
        if !missing.is_empty() {
            let lines: Vec<&str> = missing.iter().map(|&at| request.texts[at].as_str()).collect();
            let translated = self.run(&request.languages, &lines).await?;
            for (at, line) in missing.into_iter().zip(translated) {
                keep(&places[at], &line);
                texts[at] = Some(line);
            }
        }
        Ok(texts.into_iter().map(Option::unwrap_or_default).collect())
    }

    fn place(&self, languages: &str, text: &str) -> PathBuf {
        let hash = blake3::hash(format!("{languages}\n{text}").as_bytes()).to_hex();
        self.folder.join(&hash[..2]).join(&hash[2..])
    }

    /// A line a text; the process is killed when its time is over.
    async fn run(&self, languages: &str, lines: &[&str]) -> Result<Vec<String>, WireError> {
        let failed = |what: String| {
            WireError::new(Code::InternalError, format!("{} {languages}: {what}", self.program.display()))
        };
        let mut child = Command::new(&self.program)
            .args(["-f", "line", "-u", languages])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| failed(e.to_string()))?;
        let mut input = lines.join("\n");
        input.push('\n');
        let stdin = child.stdin.take();
        let work = async {
            let write = async {
                if let Some(mut stdin) = stdin {
                    stdin.write_all(input.as_bytes()).await?;
                }
                Ok::<(), std::io::Error>(())
            };
            let (written, output) = tokio::join!(write, child.wait_with_output());
            let output = output?;
            // What a program says as it fails tells more than that it left a pipe unread.
            if output.status.success() {
                written?;
            }
            Ok::<_, std::io::Error>(output)
        };
        let output = tokio::time::timeout(self.patience, work)
            .await
            .map_err(|_| failed(format!("took more than {:.1} s", self.patience.as_secs_f64())))?
            .map_err(|e| failed(e.to_string()))?;
        let told = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(failed(format!("{}: {}", output.status, told.trim())));
        }
        let text = String::from_utf8(output.stdout).map_err(|_| failed("answered what is not UTF-8".into()))?;
        let answers: Vec<String> = text.lines().map(one_line).collect();
        if answers.len() != lines.len() {
            return Err(failed(format!("answered {} lines with {}", lines.len(), answers.len())));
        }
        Ok(answers)
    }
}

/// Kept for the next time, all at once or not at all; a full disk costs the time of another translation only.
fn keep(place: &Path, text: &str) {
    let Some(folder) = place.parent() else { return };
    let beside = place.with_extension(std::process::id().to_string());
    let kept = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&beside, text))
        .and_then(|()| std::fs::rename(&beside, place));
    if let Err(error) = kept {
        tracing::debug!(%error, "a translation could not be kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_two_codes() {
        assert_eq!(there_and_back("eng-spa").expect("a pair"), ("eng-spa".into(), "spa-eng".into()));
        for wrong in ["", "eng", "eng-", "-f-spa", "eng-spa -d /", "ENG-SPA", "a-b"] {
            assert!(there_and_back(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn requests_are_bounded() {
        let texts = (0..200).map(|i| format!("text {i}")).chain([String::new(), " ".into(), "x".repeat(10_000)]);
        let all = batches(texts.collect());
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 64, 8]);
        let long = batches(vec!["y".repeat(8_000); 40]);
        assert!(long.iter().all(|batch| batch.iter().map(String::len).sum::<usize>() <= MAX_BYTES));
        assert_eq!(long.concat().len(), 40);
        assert!(batches(vec![]).is_empty());
    }

    /// A program that stands for Apertium: what it answers, and how long it takes.
    fn program(folder: &Path, script: &str) -> Apertium {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.join(PROGRAM);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writes");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("is allowed");
        let found = Apertium::find(folder.as_os_str(), &folder.join("home"), Duration::from_secs(20));
        found.expect("the program is there")
    }

    fn request(texts: &[&str]) -> Translate {
        Translate { languages: "eng-spa".into(), texts: texts.iter().map(|&t| t.to_owned()).collect() }
    }

    #[tokio::test]
    async fn what_was_translated_is_not_translated_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let calls = folder.path().join("calls");
        let apertium = program(folder.path(), &format!("echo x >> {}; tr a-z A-Z", calls.display()));
        let count = || std::fs::read_to_string(&calls).unwrap_or_default().lines().count();
        assert_eq!(apertium.translate(request(&["one dog", "a cat"])).await.expect("translates"), ["ONE DOG", "A CAT"]);
        assert_eq!(apertium.translate(request(&["a cat"])).await.expect("translates"), ["A CAT"]);
        assert_eq!(count(), 1);
        assert_eq!(apertium.translate(request(&["new", "a cat"])).await.expect("translates"), ["NEW", "A CAT"]);
        assert_eq!(count(), 2);
    }

    #[tokio::test]
    async fn a_program_that_fails_or_hangs_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let message =
            |apertium: Apertium| async move { apertium.translate(request(&["one"])).await.expect_err("fails").message };
        let failing = message(program(folder.path(), "echo no such pair >&2; exit 3")).await;
        assert!(failing.ends_with("apertium eng-spa: exit status: 3: no such pair"), "{failing}");
        let silent = message(program(folder.path(), "cat > /dev/null")).await;
        assert!(silent.ends_with("answered 1 lines with 0"), "{silent}");
        let hangs =
            Apertium { patience: Duration::from_millis(50), ..program(folder.path(), "exec tail -f /dev/null") };
        let hung = message(hangs).await;
        assert!(hung.ends_with("took more than 0.1 s"), "{hung}");
        let error = program(folder.path(), "cat").translate(request(&["a\nb"])).await.expect_err("two lines");
        assert!(error.message.contains("line break"), "{error}");
    }

    #[tokio::test]
    async fn apertium_translates_where_it_is_installed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let Some(apertium) = Apertium::find(&path, folder.path(), Duration::from_secs(60)) else {
            println!("skipped: no apertium on PATH (package apertium-eng-spa)");
            return;
        };
        match apertium.translate(request(&["one dog", "a new car 🙂"])).await {
            Ok(texts) => {
                let lower: Vec<String> = texts.iter().map(|text| text.to_lowercase()).collect();
                assert_eq!(lower, ["un perro", "un coche nuevo 🙂"]);
            }
            Err(error) => println!("skipped: apertium has no eng-spa: {error}"),
        }
    }
}
