//! What is published for others: JSON Schemas of every message, of the job spec and of the plan, the
//! table of error codes, and an AsyncAPI 3 document of subjects, operations, streams and consumers.
//! `within schema` writes the files into `deploy/schema`; a test holds them equal to the types.

mod asyncapi;
mod catalog;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::SCHEMA_VERSION;
use crate::envelope::Envelope;
use crate::error::Code;
use crate::spec::job_spec_schema;

/// File of the definitions that the other files refer to.
const DEFINITIONS_FILE: &str = "messages.schema.json";

/// Every file of `deploy/schema` with its contents.
pub fn files() -> Vec<(String, String)> {
    [
        ("asyncapi.json", asyncapi::document()),
        ("error_codes.json", error_codes()),
        ("job_spec.schema.json", job_spec_schema()),
        (DEFINITIONS_FILE, definitions()),
    ]
    .into_iter()
    .map(|(name, value)| {
        let text = serde_json::to_string_pretty(&sorted(value)).expect("invariant: JSON serializes");
        (name.to_owned(), text + "\n")
    })
    .collect()
}

/// Keys in order, whatever order the build's maps keep: the files must not depend on it.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.into_iter().collect();
            members.sort_by(|(a, _), (b, _)| a.cmp(b));
            members.into_iter().map(|(key, value)| (key, sorted(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        other => other,
    }
}

/// `$defs` of the envelope, of every payload and answer, of the record in `WITHIN_JOB` and of the plan.
fn definitions() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    generator.subschema_for::<crate::plan::JobPlan>();
    generator.subschema_for::<crate::job::JobRecord>();
    generator.subschema_for::<crate::feed::FrameHeader>();
    generator.subschema_for::<crate::timings::Timings>();
    for message in catalog::messages() {
        (message.define)(&mut generator);
        if let Some(answer) = message.answer {
            answer(&mut generator);
        }
    }
    let envelope = generator.root_schema_for::<Envelope<Value>>();
    let mut found: Map<String, Value> = generator.take_definitions(true);
    let mut envelope = envelope.to_value();
    if let Some(envelope) = envelope.as_object_mut() {
        envelope.remove("$schema");
        envelope.remove("$defs");
        envelope.insert("title".into(), json!("Envelope"));
    }
    found.retain(|name, _| !name.starts_with("Envelope"));
    found.insert("Envelope".into(), envelope);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "WITHIN messages",
        "description": "CloudEvents 1.0, structured, as JSON or as MessagePack (maps with field names). `data` is what the `type` names.",
        "x-schema-version": SCHEMA_VERSION,
        "$defs": found,
    })
}

fn error_codes() -> Value {
    let codes: Vec<_> = Code::TABLE
        .iter()
        .map(|(code, class, retry, meaning)| {
            json!({ "code": code.as_str(), "class": class.as_str(), "retry": retry, "meaning": meaning.trim() })
        })
        .collect();
    json!({
        "description": "Codes of WireError. `class` says whose problem it usually is, `retry` whether the same thing, tried again unchanged, may succeed.",
        "codes": codes,
    })
}
