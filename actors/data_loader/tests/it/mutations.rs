//! Files that were damaged at random: whatever stands in them, the answer is a dataset version or an error, never a
//! panic, and takes no more memory than files of their size do. `WITHIN_MUTATIONS` says how many of each kind,
//! `WITHIN_SEED` which.

use std::io::Write;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use frame::Manifest;
use messages::error::Code;
use messages::plan::{ColumnType, DataPlan, Task};
use parquet::arrow::ArrowWriter;

use crate::plan::{Root, column, data_plan, manifest};

/// Peak of this process, in bytes: far above what the tests beside need, far below what a file can claim.
const MOST_MEMORY_BYTES: u64 = 3 << 30;

/// SplitMix64 (Steele, Lea, Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// One to four changes: bytes set, ranges cut, copied, repeated, numbers blown up.
fn mutated(seed: &[u8], words: &[&[u8]], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let length = random.below(40).min(bytes.len() - at);
        match random.below(7) {
            0 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            1 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..at + length)),
            4 => {
                let part = bytes[at..at + length].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, part);
            }
            5 => {
                let word = words[random.below(words.len())];
                bytes.splice(at..at, word.iter().copied());
            }
            _ => {
                let extreme = [0, 1, 0x7f, 0x80, 0xff][random.below(5)];
                let end = bytes.len().min(at + 8);
                bytes[at..end].fill(extreme);
            }
        }
    }
    bytes
}

fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default() * 1024
}

fn attack(name: &str, seed: &[u8], words: &[&[u8]], change: impl Fn(&mut DataPlan)) {
    let count = setting("WITHIN_MUTATIONS", 300);
    let first = setting("WITHIN_SEED", 1);
    let (mut read, mut refused) = (0, 0);
    for case in 0..count {
        let mut random = Random(first.wrapping_mul(1_000_003).wrapping_add(case));
        let bytes = mutated(seed, words, &mut random);
        let root = Root::new(&[(name, &bytes)]);
        let mut plan = data_plan(&[name], "y");
        change(&mut plan);
        // A panic is shown behind the last case that was told.
        print!("{name} of WITHIN_SEED={first}, case {case}: ");
        match root.prepare(&plan, Task::Regression) {
            Ok(_) => {
                read += 1;
                println!("read");
            }
            Err(error) => {
                refused += 1;
                println!("refused");
                assert_ne!(error.code, Code::InternalError, "{error}");
            }
        }
    }
    let peak = peak_bytes();
    assert!(peak < MOST_MEMORY_BYTES, "{name}: a peak of {peak} bytes");
    println!("{name}: {read} read, {refused} refused");
}

fn as_is(_: &mut DataPlan) {}

fn csv() -> Vec<u8> {
    let line = |i: usize| format!("{}.5,\"a, {}\",2024-01-{:02},{}\n", i, i % 3, i % 28 + 1, i % 5);
    (String::from("x,c,t,y\n") + &(0..40).map(line).collect::<String>()).into_bytes()
}

fn batch() -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("x", Arc::new((0..40).map(|i| Some(f64::from(i))).collect::<Float64Array>())),
        ("c", Arc::new((0..40).map(|i| Some(["a", "b", "c"][i % 3])).collect::<StringArray>())),
        ("y", Arc::new((0..40).map(|i| Some(f64::from(i % 5))).collect::<Float64Array>())),
    ];
    RecordBatch::try_from_iter(columns).expect("a batch")
}

const TEXT_WORDS: [&[u8]; 8] =
    [b"\"", b"\n", b"\r\n", b",,,,", b"\xff\xfe", b"\0", b"1e999", b"99999999999999999999999999999"];

#[test]
fn csv_files() {
    attack("a.csv", &csv(), &TEXT_WORDS, as_is);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(&csv()).expect("packs");
    attack("a.csv.gz", &packed.finish().expect("packs"), &TEXT_WORDS, as_is);
    attack("a.csv.zst", &zstd::encode_all(csv().as_slice(), 3).expect("packs"), &TEXT_WORDS, as_is);
    attack("a.csv", &csv(), &TEXT_WORDS, |plan| {
        let mut date = column(ColumnType::Datetime);
        date.source.time_zone = Some("America/New_York".into());
        plan.columns.insert("t".into(), date);
    });
}

#[test]
fn json_lines() {
    let line = |i: usize| format!("{{\"x\": {i}, \"c\": \"a\\u00e9{}\", \"y\": {}}}\n", i % 3, i % 5);
    let seed = (0..40).map(line).collect::<String>().into_bytes();
    let words: [&[u8]; 6] = [b"{", b"[[[[[[[[", b"\"", b"\\ud800", b"null", b"-1e400"];
    attack("a.jsonl", &seed, &words, as_is);
}

#[test]
fn typed_files() {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch().schema(), None).expect("a writer");
    writer.write(&batch()).expect("writes");
    writer.close().expect("closes");
    let words: [&[u8]; 3] = [b"PAR1", &[0xff; 4], &[0; 8]];
    attack("a.parquet", &bytes, &words, as_is);
    let options = arrow_ipc::writer::IpcWriteOptions::default();
    for packing in [None, Some(arrow_ipc::CompressionType::ZSTD), Some(arrow_ipc::CompressionType::LZ4_FRAME)] {
        let options = options.clone().try_with_compression(packing).expect("options");
        let mut writer = arrow_ipc::writer::StreamWriter::try_new_with_options(Vec::new(), &batch().schema(), options);
        let writer = writer.as_mut().expect("a writer");
        writer.write(&batch()).expect("writes");
        writer.finish().expect("ends");
        attack("a.arrow", writer.get_ref(), &words, as_is);
    }
}

#[test]
fn image_files() {
    let mut idx = vec![0, 0, 8, 3, 0, 0, 0, 40, 0, 0, 0, 2, 0, 0, 0, 2];
    idx.extend((0..160).map(|i| i as u8));
    let count = setting("WITHIN_MUTATIONS", 300);
    for case in 0..count {
        let mut random = Random(setting("WITHIN_SEED", 1).wrapping_mul(77).wrapping_add(case));
        let bytes = mutated(&idx, &[&[0xff; 4], &[0, 0, 8, 4]], &mut random);
        let table = String::from("image,y\n") + &(0..40).map(|i| format!("{i},{}\n", i % 5)).collect::<String>();
        let root = Root::new(&[("a.csv", table.as_bytes()), ("a.idx", &bytes)]);
        let mut plan = data_plan(&["a.csv"], "y");
        let mut image = column(ColumnType::Image);
        image.images = Some("a.idx".into());
        plan.columns.insert("image".into(), image);
        if let Err(error) = root.prepare(&plan, Task::Regression) {
            assert_ne!(error.code, Code::InternalError, "case {case}: {error}");
        }
    }
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pictures");
    for name in ["color.png", "palette.png", "color.jpg", "gray.jpg"] {
        let seed = std::fs::read(folder.join(name)).expect("is there");
        let shape = within_data_loader::source::picture::Shape { channels: 3, height: 4, width: 4 };
        for case in 0..4 * count {
            let mut random = Random(setting("WITHIN_SEED", 1).wrapping_mul(99).wrapping_add(case));
            let bytes = mutated(&seed, &[b"IDAT", b"\xff\xd8", b"\xff\xda", &[0xff; 4]], &mut random);
            let pixels = within_data_loader::source::picture::pixels(&bytes, shape);
            assert!(pixels.is_err() || pixels.is_ok_and(|pixels| pixels.len() == 48), "{name}, case {case}");
        }
    }
}

#[test]
fn manifests() {
    let root = Root::new(&[("a.csv", &csv())]);
    let seed = manifest(&root.prepare(&data_plan(&["a.csv"], "y"), Task::Regression).expect("good files")).to_json();
    let words: [&[u8]; 5] = [b"\"", b"{", b"18446744073709551615", b"-1", b"null"];
    for case in 0..setting("WITHIN_MUTATIONS", 300) * 4 {
        let mut random = Random(setting("WITHIN_SEED", 1).wrapping_mul(55).wrapping_add(case));
        if let Ok(read) = Manifest::from_json(&mutated(&seed, &words, &mut random)) {
            // What is accepted can be used.
            frame::Encoder::new(&read).map_or_else(drop, drop);
            read.row_bytes();
        }
    }
}

#[test]
fn a_million_columns_and_a_field_without_end() {
    let names: String = (0..1_000_000).map(|i| format!("c{i},")).collect::<String>() + "y\n";
    let root = Root::new(&[("a.csv", names.as_bytes())]);
    let error = root.prepare(&data_plan(&["a.csv"], "y"), Task::Regression).expect_err("too many columns");
    assert_eq!(error.message, "a.csv: has 1000001 columns, expected at most 100000");

    // A field of 1 GB behind a quote, of which the reader sees 32 MB.
    let mut packed = zstd::Encoder::new(Vec::new(), 1).expect("packs");
    packed.write_all(b"x,y\n1,\"").expect("packs");
    let part = vec![b'7'; 1 << 20];
    for _ in 0..1024 {
        packed.write_all(&part).expect("packs");
    }
    let root = Root::new(&[("a.csv.zst", &packed.finish().expect("packs"))]);
    let error = root.prepare(&data_plan(&["a.csv.zst"], "y"), Task::Regression).expect_err("no end");
    assert_eq!(error.message, "a.csv.zst line 2: a record that begins here is longer than 16777216 bytes");

    let line: String = "{\"x\": \"".to_owned() + &"x".repeat(40 << 20) + "\"}\n";
    let root = Root::new(&[("a.jsonl", line.as_bytes())]);
    let error = root.prepare(&data_plan(&["a.jsonl"], "y"), Task::Regression).expect_err("no end");
    assert_eq!(error.message, "a.jsonl line 1: a record that begins here is longer than 16777216 bytes");
    assert!(peak_bytes() < MOST_MEMORY_BYTES);
}
