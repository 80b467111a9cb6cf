//! Which kind of spec it is, told by `kind:` or by its shape; and the answer to the kinds that are
//! known and do not run yet.

use super::draft::{Draft, Layer, LayerKind};
use super::keys::{EVALUATION_KEYS, GATES_KEYS, JOB_KEYS, Key, SWEEP_KEYS, Status, index_of};
use super::located::{Member, Node, Place, Value};
use super::mistakes::Mistakes;
use super::nearest::nearest;
use crate::plan::Kind;

const NAMES: [(&str, Kind); 5] = [
    ("job", Kind::Job),
    ("sweep", Kind::Sweep),
    ("evaluation", Kind::Evaluation),
    ("gates", Kind::Gates),
    ("experiment", Kind::Experiment),
];

fn name_of(kind: Kind) -> &'static str {
    NAMES.iter().find(|(_, known)| *known == kind).map_or("job", |(name, _)| name)
}

/// The kind; none where a mistake was reported that makes the rest meaningless.
pub(crate) fn detect(layers: &[Layer<'_>], mistakes: &mut Mistakes) -> Option<Kind> {
    let file = layers.iter().rev().find(|layer| layer.kind == LayerKind::File)?.root;
    for (marker, what) in [("apiVersion", "a Kubernetes manifest"), ("stages", "a CI pipeline")] {
        if let Some(member) = file.member(marker) {
            mistakes.add(member.key_at, marker, format!("this is {what}, not a job spec"));
            return None;
        }
    }
    for layer in layers.iter().rev() {
        if let Some(member) = layer.root.member("kind")
            && !member.node.is_null()
        {
            return explicit(member, mistakes);
        }
    }
    inferred(file, mistakes)
}

fn explicit(member: &Member, mistakes: &mut Mistakes) -> Option<Kind> {
    let text = member.node.scalar_text().unwrap_or_default().to_lowercase();
    if let Some((_, kind)) = NAMES.iter().find(|(name, _)| *name == text) {
        return Some(*kind);
    }
    let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
    let message = format!("expected one of {}, found {}", names.join(", "), member.node.describe());
    let suggestion = nearest(&text, names.iter().copied()).map(str::to_owned);
    mistakes.add_with(member.node.at, "kind", message, suggestion);
    None
}

/// By what only one kind has.
fn inferred(file: &Node, mistakes: &mut Mistakes) -> Option<Kind> {
    let mut seen: Vec<(Kind, &Member)> = Vec::new();
    for member in file.members() {
        let kind = match member.key.as_str() {
            "param_space" => Kind::Sweep,
            "validation_strategy" | "primary_metrics" => Kind::Evaluation,
            "baseline_comparisons" | "drift_detection" | "validation_datasets" => Kind::Gates,
            "metrics" => match shape_of_metrics(&member.node) {
                Some(kind) => kind,
                None => continue,
            },
            _ => continue,
        };
        if !seen.iter().any(|(known, _)| *known == kind) {
            seen.push((kind, member));
        }
    }
    let job =
        file.members().iter().find(|member| matches!(member.key.as_str(), "data" | "model" | "training" | "task"));
    match (seen.as_slice(), job) {
        ([(Kind::Sweep, _)], _) => Some(Kind::Sweep),
        ([(kind, _)], None) => Some(*kind),
        // Metrics by task are also how a job names its own.
        ([(Kind::Evaluation, member)], Some(_)) if member.key == "metrics" => Some(Kind::Job),
        ([], None) if file.member("experiment").is_some() || file.member("tracking").is_some() => {
            Some(Kind::Experiment)
        }
        ([], _) => Some(Kind::Job),
        ([(kind, member)], Some(job)) => ambiguous(&[(*kind, member), (Kind::Job, job)], mistakes),
        (several, _) => ambiguous(several, mistakes),
    }
}

fn ambiguous(seen: &[(Kind, &Member)], mistakes: &mut Mistakes) -> Option<Kind> {
    let says: Vec<_> = seen
        .iter()
        .map(|(kind, member)| {
            format!("{} (line {}) belongs to kind {}", member.key, member.key_at.line, name_of(*kind))
        })
        .collect();
    let (_, member) = seen[seen.len() - 1];
    mistakes.add(member.key_at, "kind", format!("ambiguous: {}: say which with `kind:`", says.join(", ")));
    None
}

/// Metrics as a list for each task, or as thresholds; a plain list belongs to a job.
fn shape_of_metrics(node: &Node) -> Option<Kind> {
    let members = node.members();
    if members.iter().any(|group| group.node.members().iter().any(|metric| matches!(metric.node.value, Value::Map(_))))
    {
        return Some(Kind::Gates);
    }
    (!members.is_empty()).then_some(Kind::Evaluation)
}

/// The keys that only this kind has.
pub(crate) fn own_keys(kind: Kind) -> &'static [Key] {
    match kind {
        Kind::Job | Kind::Experiment => &[],
        Kind::Sweep => SWEEP_KEYS,
        Kind::Evaluation => EVALUATION_KEYS,
        Kind::Gates => GATES_KEYS,
    }
}

/// Says of a kind that does not run yet what it asks for, key by key of its top level.
pub(crate) fn answer(kind: Kind, layers: &[Layer<'_>], draft: &mut Draft<'_>) {
    let Some(file) = layers.iter().rev().find(|layer| layer.kind == LayerKind::File) else { return };
    let own = own_keys(kind);
    let mut first = None;
    for member in file.root.members() {
        let prefix = format!("{}.", member.key);
        let rows = || own.iter().filter(|key| key.path == member.key || key.path.starts_with(&prefix));
        let metrics = kind == Kind::Evaluation && member.key == "metrics";
        if rows().next().is_none() && !metrics {
            continue;
        }
        first = first.or(Some(member.key_at));
        let what = match rows().next().map(|key| key.status) {
            Some(Status::NotYet(what)) if rows().count() == 1 => what.to_owned(),
            _ => count(member),
        };
        draft.mistakes.add(member.key_at, &member.key, format!("{}: {}: {what}", super::NOT_YET, member.key));
    }
    let explicit = file.root.member("kind").map(|member| member.node.at);
    let at = explicit.or(first).or(file.root.members().first().map(|member| member.key_at)).unwrap_or_default();
    let message =
        format!("{}: kind: {} is understood, and only kind job runs in this version", super::NOT_YET, name_of(kind));
    draft.mistakes.add(at, "kind", message);
    if kind == Kind::Sweep {
        check_parameters(file.root, draft);
    }
}

fn count(member: &Member) -> String {
    match &member.node.value {
        Value::Map(members) => format!("{} settings", members.len()),
        Value::List(items) => format!("{} entries", items.len()),
        _ => member.node.describe(),
    }
}

/// A sweep searches over keys of its jobs.
fn check_parameters(file: &Node, draft: &mut Draft<'_>) {
    let Some(space) = file.member("param_space") else { return };
    let index = index_of(Kind::Job);
    let mut canonical: Vec<(&str, &str, Place)> = Vec::new();
    for member in space.node.members() {
        let path = format!("param_space.{}", member.key);
        match index.find(&member.key) {
            None => {
                let suggestion = nearest(&member.key, JOB_KEYS.iter().map(|key| key.path)).map(str::to_owned);
                draft.mistakes.add_with(member.key_at, &path, "no key of a job", suggestion);
            }
            Some(key) => match canonical.iter().find(|(known, ..)| *known == key.path) {
                Some((_, other, at)) => {
                    let message = format!("the same setting as {other} in line {}", at.line);
                    draft.mistakes.add(member.key_at, &path, message);
                }
                None => canonical.push((key.path, &member.key, member.key_at)),
            },
        }
    }
}
