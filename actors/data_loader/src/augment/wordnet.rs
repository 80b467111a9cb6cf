//! Synonyms of words: from the dictionary files of WordNet 3 (wndb(5WN)), or from a file with lines
//! `word<TAB>synonym,synonym`. Only what was asked for is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use messages::WireError;
use messages::error::Code;

/// Where a Linux distribution puts the dictionary (package wordnet-base).
pub const SYSTEM_FOLDER: &str = "/usr/share/wordnet";
/// Parts of speech, by which the files are named.
const PARTS: [&str; 4] = ["noun", "verb", "adj", "adv"];
/// Senses of a word whose synonyms are taken, in each part of speech: the files list the usual ones first.
const SENSES: usize = 2;
/// Largest file that is read.
const MAX_BYTES: u64 = 256 << 20;
/// Most synonyms of a word.
const MAX_SYNONYMS: usize = 32;
/// Words that hold a sentence together; what WordNet has for them is other (`a`: angstrom, `in`: indium).
const STOP_WORDS: [&str; 56] = [
    "a", "about", "all", "am", "an", "and", "are", "as", "at", "be", "been", "but", "by", "can", "did", "do", "does",
    "for", "from", "had", "has", "have", "he", "her", "his", "how", "i", "if", "in", "is", "it", "its", "me", "my",
    "no", "not", "of", "on", "or", "our", "she", "so", "than", "that", "the", "their", "they", "this", "to", "was",
    "we", "who", "will", "with", "you", "your",
];

/// Synonyms by word.
pub type Synonyms = BTreeMap<String, Vec<String>>;

fn failed(path: &Path, what: impl std::fmt::Display) -> WireError {
    WireError::new(Code::DatasetValidationError, format!("{}: {what}", path.display()))
}

/// Synonyms of these lower-case words from a file, or from a folder with WordNet's dictionary.
pub fn read(path: &Path, wanted: &BTreeSet<String>) -> Result<Synonyms, WireError> {
    if path.is_dir() { wordnet(path, wanted) } else { word_list(path, wanted) }
}

fn text(path: &Path) -> Result<String, WireError> {
    let file = fs::File::open(path).map_err(|e| failed(path, format!("cannot be read: {e}")))?;
    let mut text = String::new();
    let read = file.take(MAX_BYTES + 1).read_to_string(&mut text);
    match read {
        Ok(bytes) if bytes as u64 > MAX_BYTES => Err(failed(path, format!("has more than {MAX_BYTES} bytes"))),
        Ok(_) => Ok(text),
        Err(e) => Err(failed(path, format!("cannot be read: {e}"))),
    }
}

/// Lines `word<TAB>synonym,synonym`; empty ones, and those that begin with #, are passed over.
fn word_list(path: &Path, wanted: &BTreeSet<String>) -> Result<Synonyms, WireError> {
    let file = fs::File::open(path).map_err(|e| failed(path, format!("cannot be read: {e}")))?;
    let mut found = Synonyms::new();
    for (index, line) in BufReader::new(file.take(MAX_BYTES)).lines().enumerate() {
        let line = line.map_err(|e| failed(path, format!("line {}: {e}", index + 1)))?;
        let line = line.strip_prefix('\u{feff}').unwrap_or(&line).trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((word, list)) = line.split_once('\t') else {
            let message = format!("line {}: expected `word<TAB>synonym,synonym`, found {line:?}", index + 1);
            return Err(failed(path, message));
        };
        let word = word.trim().to_lowercase();
        if wanted.contains(&word) {
            let synonyms = list.split(',').map(|synonym| synonym.trim().to_owned());
            add(found.entry(word.clone()).or_default(), synonyms, &word);
        }
    }
    found.retain(|_, synonyms| !synonyms.is_empty());
    Ok(found)
}

fn add(list: &mut Vec<String>, more: impl Iterator<Item = String>, word: &str) {
    for synonym in more {
        let fits = !synonym.is_empty() && synonym.to_lowercase() != word && list.len() < MAX_SYNONYMS;
        if fits && !list.contains(&synonym) {
            list.push(synonym);
        }
    }
}

fn wordnet(folder: &Path, wanted: &BTreeSet<String>) -> Result<Synonyms, WireError> {
    let mut found = Synonyms::new();
    for part in PARTS {
        let (index, data) = (folder.join(format!("index.{part}")), folder.join(format!("data.{part}")));
        let index_text = text(&index)?;
        let data_text = text(&data)?;
        for line in index_text.lines().filter(|line| !line.starts_with(' ')) {
            let lemma = line.split(' ').next().unwrap_or_default();
            if !wanted.contains(lemma) || STOP_WORDS.contains(&lemma) {
                continue;
            }
            let offsets =
                offsets(line).ok_or_else(|| failed(&index, format!("{lemma}: not a line of WordNet's index")))?;
            let list = found.entry(lemma.to_owned()).or_default();
            for offset in offsets.into_iter().take(SENSES) {
                let words = synset(&data_text, offset)
                    .ok_or_else(|| failed(&data, format!("no synset at byte {offset} ({lemma})")))?;
                add(list, words.into_iter(), lemma);
            }
        }
    }
    found.retain(|_, synonyms| !synonyms.is_empty());
    Ok(found)
}

/// `lemma pos synset_cnt p_cnt [symbol…] sense_cnt tagsense_cnt offset…`: the offsets.
fn offsets(line: &str) -> Option<Vec<usize>> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let senses: usize = fields.get(2)?.parse().ok()?;
    let pointers: usize = fields.get(3)?.parse().ok()?;
    let first = pointers.checked_add(6)?;
    let offsets = fields.get(first..first.checked_add(senses)?)?;
    offsets.iter().map(|offset| offset.parse().ok()).collect()
}

/// `offset lex_filenum ss_type w_cnt word lex_id [word lex_id…] …`: the words of the synset at this byte.
fn synset(data: &str, offset: usize) -> Option<Vec<String>> {
    let line = data.get(offset..)?.lines().next()?;
    let mut fields = line.split(' ');
    if fields.next()?.parse() != Ok(offset) {
        return None;
    }
    let count = usize::from_str_radix(fields.nth(2)?, 16).ok()?;
    let words: Vec<&str> = fields.step_by(2).take(count).collect();
    (words.len() == count).then(|| words.into_iter().map(plain).collect())
}

/// Without the marker of an adjective's position, with blanks.
fn plain(word: &str) -> String {
    word.split('(').next().unwrap_or(word).replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    /// Two synsets in the format of the files: the license's lines first, then lines at their own offset.
    fn dictionary() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for part in PARTS {
            let license = "  1 This software and database is being provided to you.  \n";
            let (mut data, mut index) = (license.to_owned(), license.to_owned());
            if part == "adj" {
                let first = data.len();
                data += &format!("{first:08} 00 a 03 large 0 big 0 great(p) 1 001 ! 00001 a 0101 | above average  \n");
                let second = data.len();
                data += &format!("{second:08} 00 s 02 big 0 grown_up 0 000 | grown  \n");
                index += &format!("big a 2 1 ! 2 1 {first:08} {second:08}  \nlarge a 1 0 1 1 {first:08}  \n");
            }
            fs::write(folder.path().join(format!("data.{part}")), data).expect("writes");
            fs::write(folder.path().join(format!("index.{part}")), index).expect("writes");
        }
        folder
    }

    #[test]
    fn the_dictionary_is_read() {
        let folder = dictionary();
        let found = read(folder.path(), &wanted(&["big", "large", "absent", "in"])).expect("reads");
        assert_eq!(found["big"], ["large", "great", "grown up"]);
        assert_eq!(found["large"], ["big", "great"]);
        assert_eq!(found.len(), 2);
        fs::write(folder.path().join("index.adj"), "big a 1 0 1 1 00000007  \n").expect("writes");
        let error = read(folder.path(), &wanted(&["big"])).expect_err("no synset there");
        assert!(error.message.ends_with("data.adj: no synset at byte 7 (big)"), "{error}");
        fs::write(folder.path().join("index.adj"), "big a many\n").expect("writes");
        let error = read(folder.path(), &wanted(&["big"])).expect_err("not an index");
        assert!(error.message.ends_with("index.adj: big: not a line of WordNet's index"), "{error}");
    }

    #[test]
    fn wordnet_itself_is_read_where_it_is_installed() {
        let folder = Path::new(SYSTEM_FOLDER);
        if !folder.join("data.noun").exists() {
            println!("skipped: no {SYSTEM_FOLDER} (package wordnet-base)");
            return;
        }
        let found = read(folder, &wanted(&["car", "buy", "quickly", "in", "xyzzy"])).expect("reads");
        assert!(found["car"].starts_with(&["auto".into(), "automobile".into(), "machine".into()]), "{found:?}");
        assert!(found["buy"].contains(&"purchase".to_owned()), "{found:?}");
        assert!(found["quickly"].contains(&"rapidly".to_owned()), "{found:?}");
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn a_list_of_words_is_read_and_its_mistakes_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("words.tsv");
        fs::write(&path, "# ours\n\nBig\tlarge, great,big\nold\tancient\n").expect("writes");
        let found = read(&path, &wanted(&["big", "new"])).expect("reads");
        assert_eq!(found, Synonyms::from([("big".to_owned(), vec!["large".to_owned(), "great".to_owned()])]));
        fs::write(&path, "big\tlarge\nold ancient\n").expect("writes");
        let error = read(&path, &wanted(&["big"])).expect_err("no tab");
        assert!(error.message.contains("line 2: expected `word<TAB>synonym,synonym`"), "{error}");
    }
}
