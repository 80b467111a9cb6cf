//! The bytes of every message under `tests/golden/messages`: today's reader reads what version 1 wrote,
//! and what a version that is one step ahead writes. `WITHIN_UPDATE_GOLDEN=1` writes what is missing or
//! new; a change of bytes that were released is a break of the wire, and shows in review.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use within_messages::envelope::{Encoding, Envelope, Payload, decode_any};

use crate::samples;

const ENCODINGS: [(Encoding, &str); 2] = [(Encoding::Json, "json"), (Encoding::MsgPack, "msgpack")];

/// Reads bytes and compares them with the expected value.
type Read = Box<dyn Fn(Encoding, &[u8]) -> Result<(), String>>;

/// One message with its representative value.
pub struct Sample {
    pub name: &'static str,
    encode: Box<dyn Fn(Encoding) -> Vec<u8>>,
    read: Read,
    /// Where a newer version's unknown fields may stand in the data; none: nowhere.
    extend: Option<&'static str>,
}

fn same<T: PartialEq + Debug>(found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("read as {found:?}\nexpected {expected:?}")) }
}

/// A message in its envelope.
pub fn message<T: Payload + PartialEq + Debug + Clone + 'static>(name: &'static str, data: T) -> Sample {
    let envelope = samples::envelope(name, data);
    let expected = envelope.clone();
    // A spec's own fields are checked, and the answer's stand one level down.
    let extend = match envelope.type_name.as_str() {
        "within.job.submit" => None,
        "within.reply" => Some("/data/ok"),
        _ => Some("/data"),
    };
    Sample {
        name,
        encode: Box::new(move |encoding| envelope.encode(encoding)),
        read: Box::new(move |encoding, bytes| {
            let mut found = Envelope::<T>::decode(Some(encoding.content_type()), bytes).map_err(|e| e.to_string())?;
            found.withinschema = expected.withinschema;
            same(&found, &expected)
        }),
        extend,
    }
}

/// A value that is stored or travels outside an envelope.
pub fn value<T: Serialize + DeserializeOwned + PartialEq + Debug + 'static>(name: &'static str, data: T) -> Sample {
    let bytes = ENCODINGS.map(|(encoding, _)| match encoding {
        Encoding::Json => serde_json::to_vec(&data).expect("serializes"),
        Encoding::MsgPack => rmp_serde::to_vec_named(&data).expect("packs"),
    });
    Sample {
        name,
        encode: Box::new(move |encoding| bytes[usize::from(encoding == Encoding::MsgPack)].clone()),
        read: Box::new(move |encoding, bytes| {
            let found: T = decode_any(Some(encoding.content_type()), bytes).map_err(|e| e.to_string())?;
            same(&found, &data)
        }),
        extend: Some(""),
    }
}

fn folder(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/messages").join(version)
}

/// What a version one step ahead would write: its number, and fields that nobody knows yet.
fn ahead(sample: &Sample, encoding: Encoding) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(&(sample.encode)(Encoding::Json)).expect("is JSON");
    if value.get("withinschema").is_some() {
        value["withinschema"] = json!(2);
        value["inventedlater"] = json!({ "a": [1, 2, { "b": null }] });
    } else if value.get("schema").is_some() {
        value["schema"] = json!(2);
    }
    if let Some(object) = sample.extend.and_then(|pointer| value.pointer_mut(pointer)).and_then(Value::as_object_mut) {
        object.insert("invented_later".into(), json!({ "deep": [{ "x": "y" }] }));
    }
    match encoding {
        Encoding::Json => serde_json::to_vec(&value).expect("serializes"),
        Encoding::MsgPack => rmp_serde::to_vec_named(&value).expect("packs"),
    }
}

#[test]
fn version_1_is_read_as_written() {
    let update = std::env::var_os("WITHIN_UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    let mut known = BTreeSet::new();
    for sample in samples::all() {
        for (encoding, suffix) in ENCODINGS {
            let name = format!("{}.{suffix}", sample.name);
            let path = folder("v1").join(&name);
            assert!(known.insert(name.clone()), "{name} twice");
            if update {
                fs::create_dir_all(folder("v1")).expect("a folder");
                fs::write(&path, (sample.encode)(encoding)).expect("is written");
            }
            let read = fs::read(&path).map_err(|e| e.to_string()).and_then(|bytes| (sample.read)(encoding, &bytes));
            if let Err(reason) = read {
                wrong.push(format!("{name}: {reason}"));
            }
        }
    }
    for entry in fs::read_dir(folder("v1")).expect("a folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("a plain name");
        if !known.contains(&name) {
            wrong.push(format!("{name}: no sample reads it"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn one_version_ahead_is_read_too() {
    let update = std::env::var_os("WITHIN_UPDATE_GOLDEN").is_some();
    // On disk for readers of other languages; the rest is made here.
    let kept = ["evt_completed", "worker_heartbeat", "work_train", "task_report_done", "job_record"];
    for sample in samples::all() {
        for (encoding, suffix) in ENCODINGS {
            let mut bytes = ahead(&sample, encoding);
            if kept.contains(&sample.name) {
                let path = folder("v2_ahead").join(format!("{}.{suffix}", sample.name));
                if update {
                    fs::create_dir_all(folder("v2_ahead")).expect("a folder");
                    fs::write(&path, &bytes).expect("is written");
                }
                bytes = fs::read(&path).expect("the file is there");
            }
            // A stored record shows its version to the reader, and so differs in it.
            let read = (sample.read)(encoding, &bytes);
            let differs_in_version = matches!(sample.name, "job_record" | "job_plan");
            match read {
                Ok(()) => assert!(!differs_in_version, "{}", sample.name),
                Err(reason) if differs_in_version => {
                    assert!(reason.starts_with("read as") && reason.contains("schema: 2"), "{reason}");
                }
                Err(reason) => panic!("{}.{suffix}: {reason}", sample.name),
            }
        }
    }
}

#[test]
fn every_type_has_a_sample() {
    let (_, asyncapi) =
        within_messages::schema::files().into_iter().find(|(name, _)| name == "asyncapi.json").expect("is generated");
    let asyncapi: Value = serde_json::from_str(&asyncapi).expect("is JSON");
    let sampled: BTreeSet<String> = samples::all()
        .iter()
        .filter_map(|sample| {
            let value: Value = serde_json::from_slice(&(sample.encode)(Encoding::Json)).ok()?;
            Some(value.get("type")?.as_str()?.to_owned())
        })
        .collect();
    for message in asyncapi["components"]["messages"].as_object().expect("messages").values() {
        let name = message["name"].as_str().expect("a name");
        assert!(!name.starts_with("within.") || sampled.contains(name), "{name} has no sample");
    }
}
