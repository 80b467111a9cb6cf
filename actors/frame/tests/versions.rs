//! The identity of a dataset version, and manifests of the version before.

use within_frame::Manifest;
use within_frame::manifest::{MANIFEST_VERSION, Source};

/// Written by version 0.1.0 of the platform, before manifests had an id, for `golden/manifest_v1.yaml`.
const V1: &[u8] = include_bytes!("golden/manifest_v1.json");

fn old() -> Manifest {
    Manifest::from_json(V1).expect("the version before is read")
}

#[test]
fn a_manifest_of_the_version_before_is_read() {
    let manifest = old();
    assert_eq!((manifest.schema, manifest.dataset_version.as_str()), (1, "2023Q1"));
    assert_eq!(manifest.lineage.settings_blake3.len(), 64, "under its old name");
    assert_eq!(manifest.sources[0].rows, 40);
    assert_eq!(manifest.parts.iter().map(|part| part.rows).sum::<u64>(), 40);
    assert!(manifest.width() > 3);
    let written = manifest.to_json();
    assert_eq!(Manifest::from_json(&written).expect("reads back"), manifest);
    assert_eq!(MANIFEST_VERSION, 2, "the golden is of the version before: a new one needs a golden of this one");
}

#[test]
fn the_id_is_of_the_content() {
    let manifest = old();
    let id = manifest.id();
    let changed = |change: &dyn Fn(&mut Manifest)| {
        let mut other = manifest.clone();
        change(&mut other);
        other.id() != id
    };
    // A label, and where things lie.
    assert!(!changed(&|m| m.dataset_version = "2024Q1".into()));
    assert!(!changed(&|m| m.parts.iter_mut().for_each(|part| part.shards[0].artifact.uri = "file:///else".into())));
    // What the tuple of a version holds: schema, statistics, splits, preprocessing, parents, code version, files.
    assert!(changed(&|m| m.columns[0].name.push('x')));
    assert!(changed(&|m| m.columns.iter_mut().filter_map(|c| c.statistics.as_mut()).for_each(|s| s.missing += 1)));
    assert!(changed(&|m| m.split.random_state += 1));
    assert!(changed(&|m| m.features.truncate(1)));
    assert!(changed(&|m| m.lineage.parents.push(m.parts[0].shards[0].artifact.clone())));
    assert!(changed(&|m| m.lineage.code_version.push('x')));
    assert!(changed(&|m| m.parts[0].shards[0].artifact.blake3.replace_range(..1, "z")));
    assert!(changed(&|m| m.sources.push(Source { test: true, ..m.sources[0].clone() })));

    let stored: serde_json::Value = serde_json::from_slice(&manifest.to_json()).expect("JSON");
    assert_eq!(stored["id"], id.as_str(), "readers of other languages find it");
    let compact = serde_json::to_vec(&stored).expect("JSON");
    assert_eq!(Manifest::from_json(&compact).expect("reads").id(), id, "however it is written");
}

/// The way to the id that ARCHITECTURE.md describes, by hand.
#[test]
fn the_id_can_be_computed_by_others() {
    let mut stored: serde_json::Value = serde_json::from_slice(&old().to_json()).expect("JSON");
    let members = stored.as_object_mut().expect("an object");
    let id = members.remove("id").expect("an id");
    members.remove("dataset_version");
    for part in members["parts"].as_array_mut().expect("parts") {
        for shard in part["shards"].as_array_mut().expect("shards") {
            shard["artifact"].as_object_mut().expect("a reference").remove("uri");
        }
    }
    // Values with sorted members, which is how this map writes itself.
    let text = serde_json::to_string(&stored).expect("JSON");
    assert_eq!(id, blake3::hash(text.as_bytes()).to_hex().as_str());
}
