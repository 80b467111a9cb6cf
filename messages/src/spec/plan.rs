//! From a spec tree to a plan: layers, entries, values, checks, and at last the plan itself.

use serde_json::{Map, Value as Json, json};

use super::draft::{Draft, Layer, LayerKind};
use super::flatten::flatten;
use super::keys::{Fallback, JOB_KEYS, Status};
use super::located::{Member, Node, Place, Value};
use super::mistakes::Mistakes;
use super::parse::parse_value;
use super::tree::SpecTree;
use super::{PlanDefaults, SpecError, checks, kinds};
use crate::SCHEMA_VERSION;
use crate::plan::{JobPlan, Kind};

/// Most `--set`s of a submission.
const MAX_SETS: usize = 1000;

/// Plans a spec, or answers all its mistakes. `set` are `key=value` with a YAML scalar or flow value.
pub fn plan(tree: &SpecTree, set: &[String], defaults: &PlanDefaults<'_>) -> Result<JobPlan, Vec<SpecError>> {
    let mut mistakes = Mistakes::new(tree.files.clone());
    let sets = read_sets(set, &mut mistakes);
    let layers = layers_of(tree, &sets, &mut mistakes);
    let Some(kind) = kinds::detect(&layers, &mut mistakes) else { return Err(mistakes.into_errors()) };
    let roots: Vec<_> = layers.iter().map(|layer| layer.root).collect();
    let entries = flatten(&roots, kind, &mut mistakes);
    let mut draft = Draft::new(entries, layers.clone(), mistakes);
    draft.read();
    let own = kinds::own_keys(kind);
    draft.answer_statuses(|key| own.iter().any(|row| row.path == key.path));
    if kind != Kind::Job {
        kinds::answer(kind, &layers, &mut draft);
        return Err(draft.mistakes.into_errors());
    }
    draft.fill_defaults();
    draft.check_conditions();
    checks::complete(&mut draft, default_name(tree, defaults));
    if draft.mistakes.len() > 0 {
        return Err(draft.mistakes.into_errors());
    }
    assemble(draft)
}

fn default_name<'a>(tree: &'a SpecTree, defaults: &PlanDefaults<'a>) -> &'a str {
    let stem = || {
        let name = tree.file()?.rsplit(['/', '\\']).next()?;
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        (!stem.is_empty()).then_some(stem)
    };
    stem().or(defaults.name).unwrap_or("job")
}

/// Each `--set` as a tree of one key.
fn read_sets(set: &[String], mistakes: &mut Mistakes) -> Vec<Node> {
    let mut roots = Vec::new();
    for text in set.iter().take(MAX_SETS) {
        let source = mistakes.source(Some("--set".into()));
        let at = Place { source, ..Place::default() };
        let Some((key, value)) = text.split_once('=').filter(|(key, _)| !key.trim().is_empty()) else {
            mistakes.add(at, text, "expected key=value, such as training.epochs=3");
            continue;
        };
        let key = key.trim();
        if let Some(node) = parse_value(source, value, key, mistakes) {
            let member = Member { key: key.to_owned(), key_at: at, node };
            roots.push(Node { at, value: Value::Map(vec![member]) });
        }
    }
    if set.len() > MAX_SETS {
        mistakes.add(Place::default(), "--set", format!("expected at most {MAX_SETS}, found {}", set.len()));
    }
    roots
}

/// Lowest precedence first: the farthest base, its overrides, …, the file, its overrides, the sets.
fn layers_of<'a>(tree: &'a SpecTree, sets: &'a [Node], mistakes: &mut Mistakes) -> Vec<Layer<'a>> {
    let mut layers = Vec::new();
    for (index, root) in tree.roots.iter().enumerate().rev() {
        let kind = if index == 0 { LayerKind::File } else { LayerKind::BaseConfig };
        layers.push(Layer { kind, root });
        let Some(overrides) = root.member("overrides") else { continue };
        match overrides.node.value {
            Value::Map(_) => {
                let kind = if index == 0 { LayerKind::Override } else { LayerKind::BaseConfig };
                for special in ["base_config", "overrides", "kind"] {
                    if let Some(member) = overrides.node.member(special) {
                        mistakes.add(member.key_at, &format!("overrides.{special}"), "cannot be overridden");
                    }
                }
                layers.push(Layer { kind, root: &overrides.node });
            }
            Value::Null => {}
            _ => {
                let message = format!("expected a mapping of keys, found {}", overrides.node.describe());
                mistakes.add(overrides.node.at, "overrides", message);
            }
        }
    }
    layers.extend(sets.iter().map(|root| Layer { kind: LayerKind::Set, root }));
    layers
}

/// The values as the plan that they describe.
fn assemble(mut draft: Draft<'_>) -> Result<JobPlan, Vec<SpecError>> {
    let mut root = json!({
        "schema": SCHEMA_VERSION, "kind": "job", "origins": {}, "warnings": [],
        "data": { "columns": {} }, "tracking": { "tags": {} },
    });
    for key in JOB_KEYS.iter().filter(|key| matches!(key.status, Status::Plan) && !key.path.contains('*')) {
        if let Some(value) = draft.values.get(key.path) {
            let segments: Vec<_> = key.path.split('.').collect();
            insert(&mut root, &segments, value.clone());
        }
    }
    for (path, entry) in draft.entries.iter().filter(|(_, entry)| entry.key.path.contains('*')) {
        let segments: Vec<_> = entry.segments.iter().map(String::as_str).collect();
        if entry.key.path.starts_with("data.columns.*.") {
            for key in JOB_KEYS.iter().filter(|key| key.path.starts_with("data.columns.*.")) {
                let setting = [&segments[..3], &[key.name()]].concat();
                let default = match key.default {
                    Fallback::Json(text) => serde_json::from_str(text).expect("invariant: defaults are JSON"),
                    _ => Json::Null,
                };
                insert_once(&mut root, &setting, default);
            }
        }
        insert(&mut root, &segments, draft.values.get(path).cloned().unwrap_or_default());
    }
    if draft.flag("training.early_stopping.enabled") != Some(true) {
        insert(&mut root, &["training", "early_stopping"], Json::Null);
    }
    if !checks::augmentation::is_on(&draft) {
        insert(&mut root, &["data", "augmentation"], Json::Null);
    }
    let mut plan: JobPlan = match serde_json::from_value(root) {
        Ok(plan) => plan,
        Err(error) => {
            // A row of the table that does not say what the plan's field says: a bug, shown as one.
            draft.mistakes.add(
                Place::default(),
                "",
                format!("this program's table of keys is wrong, please report it: {error}"),
            );
            return Err(draft.mistakes.into_errors());
        }
    };
    record_origins(&mut plan, &draft);
    plan.warnings = draft.warnings;
    Ok(plan)
}

/// The origin of every value that the plan has.
fn record_origins(plan: &mut JobPlan, draft: &Draft<'_>) {
    let whole = serde_json::to_value(&*plan).expect("invariant: a plan serializes");
    let mut paths = Vec::new();
    for (key, value) in whole.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "schema" | "kind" | "origins" | "warnings") {
            leaves(key, value, &mut paths);
        }
    }
    for path in paths {
        let told_by = match path.as_str() {
            // These are not written under their own name.
            "training.early_stopping" => "training.early_stopping.enabled",
            "data.shuffle" if !draft.is_written("data.shuffle") => "training.batch_order",
            own => own,
        };
        plan.origins.insert(path.clone(), draft.origin(told_by));
    }
}

fn leaves(path: &str, value: &Json, found: &mut Vec<String>) {
    match value {
        Json::Object(members) => {
            for (key, value) in members {
                leaves(&format!("{path}.{key}"), value, found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

fn insert(root: &mut Json, segments: &[&str], value: Json) {
    if let Some(slot) = slot(root, segments) {
        *slot = value;
    }
}

fn insert_once(root: &mut Json, segments: &[&str], value: Json) {
    if let Some(slot) = slot(root, segments)
        && slot.is_null()
    {
        *slot = value;
    }
}

/// The place of a path, made where it was not.
fn slot<'a>(root: &'a mut Json, segments: &[&str]) -> Option<&'a mut Json> {
    let mut here = root;
    for segment in segments {
        if here.is_null() {
            *here = Json::Object(Map::new());
        }
        here = here.as_object_mut()?.entry(*segment).or_insert(Json::Null);
    }
    Some(here)
}
