//! The JSON Schema of a job spec, generated from the table of keys: for editors, and for people who
//! look a key up. It knows names, types, ranges and defaults; what keys say together is checked by
//! [`plan`](super::plan()).

use serde_json::{Map, Value as Json, json};

use super::keys::{Choice, Fallback, Key, Range, Shape, Status, Step, index_of};
use crate::plan::Kind;

/// JSON Schema (2020-12) of a spec of kind `job`.
pub fn job_spec_schema() -> Json {
    let mut schema = group(&index_of(Kind::Job).root, "");
    let top = schema.as_object_mut().expect("invariant: a group is an object");
    top.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
    top.insert("title".into(), json!("WITHIN job spec"));
    top.insert(
        "description".into(),
        json!("A job, as YAML, JSON or MessagePack. Precedence: --set > overrides > the file > base_config. Keys may be joined with dots."),
    );
    if let Some(properties) = top.get_mut("properties").and_then(Json::as_object_mut) {
        properties.insert(
            "base_config".into(),
            json!({
                "type": "string", "description": "Path of a spec that this one completes, relative to this file."
            }),
        );
        properties.insert("overrides".into(), json!({
            "type": "object", "description": "Keys of a spec, nested or joined with dots, that take precedence over this file."
        }));
    }
    schema
}

fn group(step: &Step, path: &str) -> Json {
    let mut properties = Map::new();
    for (name, below) in step.children() {
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        properties.insert(name.to_owned(), value(below, &path));
    }
    let free = step.any().map_or(json!(false), |any| value(any, &format!("{path}.*")));
    let mut schema = json!({ "type": "object", "additionalProperties": free });
    if !properties.is_empty() {
        schema["properties"] = Json::Object(properties);
    }
    schema
}

fn value(step: &Step, path: &str) -> Json {
    let leaf = step.key.map(|key| leaf(key, path));
    match (leaf, step.is_group()) {
        (Some(leaf), true) => json!({ "anyOf": [leaf, group(step, path)] }),
        (Some(leaf), false) => leaf,
        (None, _) => group(step, path),
    }
}

fn leaf(key: &Key, path: &str) -> Json {
    if path != key.path {
        let mut schema = shape(&key.shape);
        schema["description"] = json!(format!("Another name of {}.", key.path));
        return schema;
    }
    let mut schema = shape(&key.shape);
    let mut doc = match key.status {
        Status::NotYet(what) => format!("Not yet supported: {what}."),
        Status::NoEffect(because) => format!("Accepted, no effect because {because}."),
        Status::Plan | Status::Steers => key.doc.to_owned(),
    };
    if let Some(when) = key.when {
        doc = format!("{doc} Where {} is {}.", when.key, when.values.join(" or "));
    }
    match key.default {
        Fallback::Json(text) => {
            schema["default"] = serde_json::from_str(text).expect("invariant: defaults are JSON");
        }
        Fallback::Derived(how) => doc = format!("{doc} Default: {how}."),
        Fallback::Required => doc.push_str(" Required."),
        Fallback::Absent => {}
    }
    schema["description"] = json!(doc);
    schema
}

fn shape(shape: &Shape) -> Json {
    const SCALAR: [&str; 3] = ["string", "number", "boolean"];
    let list = |item: Json| json!({ "anyOf": [item.clone(), { "type": "array", "items": item }] });
    match shape {
        Shape::Bool => json!({ "type": "boolean" }),
        Shape::Whole { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Shape::Number(range) => number(*range),
        Shape::Text | Shape::Label | Shape::ServiceUri => json!({ "type": SCALAR }),
        Shape::Character { may_be_empty } => {
            json!({ "type": "string", "minLength": u8::from(!may_be_empty), "maxLength": 3 })
        }
        Shape::Choice(choices) => choice(choices),
        Shape::Choices(choices) => list(choice(choices)),
        Shape::Texts => list(json!({ "type": SCALAR })),
        Shape::Wholes { min, max } => list(json!({ "type": "integer", "minimum": min, "maximum": max })),
        Shape::Numbers(range) => list(number(*range)),
        Shape::Path | Shape::Source => json!({ "type": "string", "minLength": 1 }),
        Shape::Sources => list(json!({ "type": "string", "minLength": 1 })),
        Shape::WebUrl => json!({ "type": "string", "pattern": "^https?://" }),
        Shape::Records(keys) => {
            let properties: Map<_, _> = keys.iter().map(|key| (key.path.to_owned(), leaf(key, key.path))).collect();
            let required: Vec<_> =
                keys.iter().filter(|key| matches!(key.default, Fallback::Required)).map(|key| key.path).collect();
            json!({ "type": "array", "items": { "anyOf": [
                { "type": "string" },
                { "type": "object", "properties": properties, "required": required, "additionalProperties": false },
            ] } })
        }
        Shape::Patterns => list(json!({ "type": "string", "pattern": "^[A-Za-z0-9_.*-]+$" })),
        Shape::Device => json!({ "type": "string", "pattern": "^(auto|cpu|cuda(:[0-9]+)?)$" }),
        Shape::Monitor => json!({ "type": "string", "pattern": "^val_" }),
        Shape::Any => json!({}),
        Shape::Document => json!({ "type": ["string", "object"] }),
    }
}

fn number(range: Range) -> Json {
    let mut schema = json!({ "type": "number" });
    if range.min.is_finite() {
        schema[if range.min_open { "exclusiveMinimum" } else { "minimum" }] = json!(range.min);
    }
    if range.max.is_finite() {
        schema[if range.max_open { "exclusiveMaximum" } else { "maximum" }] = json!(range.max);
    }
    schema
}

fn choice(choices: &[Choice]) -> Json {
    let names: Vec<_> = choices
        .iter()
        .filter(|choice| !choice.not_yet)
        .flat_map(|choice| std::iter::once(choice.name).chain(choice.aliases.iter().copied()))
        .collect();
    json!({ "enum": names })
}
