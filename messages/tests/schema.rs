//! `deploy/schema` says what the types say. `WITHIN_UPDATE_SCHEMA=1` writes it anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use within_messages::schema::files;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/schema")
}

#[test]
fn the_published_files_are_those_of_the_types() {
    if std::env::var_os("WITHIN_UPDATE_SCHEMA").is_some() {
        fs::create_dir_all(folder()).expect("a folder");
        for (name, contents) in files() {
            fs::write(folder().join(name), contents).expect("is written");
        }
    }
    let mut expected = BTreeSet::new();
    for (name, contents) in files() {
        let found = fs::read_to_string(folder().join(&name)).unwrap_or_default();
        assert!(
            found == contents,
            "deploy/schema/{name} differs from the types: run `within schema`, or this test with WITHIN_UPDATE_SCHEMA=1"
        );
        expected.insert(name);
    }
    for entry in fs::read_dir(folder()).expect("a folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("a plain name");
        // What data must be is written by hand, and held by the tests of the data_loader.
        if name == "data" {
            continue;
        }
        assert!(expected.contains(&name), "deploy/schema/{name} is no longer generated");
    }
}

fn file(name: &str) -> Value {
    let (_, text) = files().into_iter().find(|(known, _)| known == name).expect("is generated");
    serde_json::from_str(&text).expect("is JSON")
}

/// Every `$ref` within the files leads somewhere.
#[test]
fn every_reference_leads_somewhere() {
    let all = files();
    for (name, text) in &all {
        let document: Value = serde_json::from_str(text).expect("is JSON");
        let mut references = BTreeSet::new();
        collect(&document, &mut references);
        for reference in references {
            let (target, pointer) = reference.split_once('#').expect("a fragment");
            let target = if target.is_empty() { name.as_str() } else { target.trim_start_matches("./") };
            assert!(file(target).pointer(pointer).is_some(), "{name}: {reference}");
        }
    }
}

/// Two types of one name would get `Name` and `Name2`, in an order that nobody sees.
#[test]
fn definitions_have_names_of_their_own() {
    let definitions = file("messages.schema.json");
    for name in definitions["$defs"].as_object().expect("definitions").keys() {
        assert!(!name.ends_with(|c: char| c.is_ascii_digit()), "{name}");
    }
}

fn collect(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                match value.as_str() {
                    Some(reference) if key == "$ref" => drop(found.insert(reference.to_owned())),
                    _ => collect(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        _ => {}
    }
}

/// The name of every type on the wire stands in the sources as a literal; each must be published.
#[test]
fn no_message_is_left_out() {
    let asyncapi = file("asyncapi.json");
    let published: BTreeSet<&str> = asyncapi["components"]["messages"]
        .as_object()
        .expect("messages")
        .values()
        .filter_map(|message| message["name"].as_str())
        .collect();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for entry in fs::read_dir(sources).expect("a folder") {
        let path = entry.expect("an entry").path();
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        for literal in text.split('"').skip(1).step_by(2) {
            let parts: Vec<_> = literal.split('.').collect();
            let name =
                parts.iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            if literal.starts_with("within.") && name {
                assert!(
                    published.contains(literal),
                    "{}: {literal} is not in the catalog of messages::schema",
                    path.display()
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "found {seen} names only: has the way of naming changed?");
}

#[test]
fn channels_are_the_subjects() {
    let asyncapi = file("asyncapi.json");
    let addresses: Vec<_> = asyncapi["channels"]
        .as_object()
        .expect("channels")
        .iter()
        .filter_map(|(id, channel)| {
            Some(format!("{id} {} {}", channel["address"].as_str()?, channel["x-delivery"].as_str()?))
        })
        .collect();
    expect_test::expect![[r#"
        ctl within.v1.{tenant}.ctl.{worker}.{verb} core
        dlq within.v1.{tenant}.dlq.{role}.{job} durable
        evt within.v1.{tenant}.evt.{job}.{type} durable
        feed within.v1.{tenant}.feed.{job}.{rank} core
        hb within.v1.{tenant}.hb.{role}.{worker} core
        job_cancel within.v1.{tenant}.job.cancel durable
        job_submit within.v1.{tenant}.job.submit durable
        log within.v1.{tenant}.log.{job}.{source} durable
        offer within.v1.{tenant}.offer.{worker} request
        rdzv_join within.v1.{tenant}.rdzv.{job}.join request
        svc_coordinator_cancel within.v1.{tenant}.svc.coordinator.cancel request
        svc_coordinator_claim within.v1.{tenant}.svc.coordinator.claim request
        svc_coordinator_get within.v1.{tenant}.svc.coordinator.get request
        svc_coordinator_list within.v1.{tenant}.svc.coordinator.list request
        svc_coordinator_report within.v1.{tenant}.svc.coordinator.report request
        svc_coordinator_submit within.v1.{tenant}.svc.coordinator.submit request
        svc_data_loader_feed_control within.v1.{tenant}.svc.data_loader.{worker}.feed_control core
        svc_data_loader_open_feed within.v1.{tenant}.svc.data_loader.open_feed request
        svc_tracker_run within.v1.{tenant}.svc.tracker.run request
        svc_tracker_runs within.v1.{tenant}.svc.tracker.runs request
        svc_translator_translate within.v1.{tenant}.svc.translator.translate request
        work within.v1.{tenant}.work.{role}.{job}.{task} durable"#]]
    .assert_eq(&addresses.join("\n"));
}
