//! What follows from one key for another: derived defaults, and checks across keys.

pub(crate) mod augmentation;
mod features;
mod model;
mod quality;
mod source;

use serde_json::json;

use super::draft::Draft;
use super::keys::{Index, index_of};
use super::metric_names::{METRICS, MetricName};
use super::nearest::nearest;
use crate::plan::{Kind, Mode, Task};

/// Fills in what follows from other keys, checks what keys say together.
pub(crate) fn complete(draft: &mut Draft<'_>, name: &str) {
    let task = task_of(draft);
    names(draft, name);
    seeds(draft);
    source::complete(draft);
    csv(draft);
    columns(draft);
    order_of_batches(draft);
    model::complete(draft);
    features::complete(draft);
    augmentation::complete(draft);
    optimization(draft);
    scheduler(draft);
    if let Some(task) = task {
        target_and_loss(draft, task);
        metrics(draft, task);
    }
    early_stopping(draft);
    quality::complete(draft, task);
    for section in ["training.early_stopping", "training.checkpoint"] {
        monitor(draft, section, task);
    }
    tracking(draft);
    resources(draft);
}

fn task_of(draft: &Draft<'_>) -> Option<Task> {
    match draft.text("task")? {
        "regression" => Some(Task::Regression),
        "binary_classification" => Some(Task::BinaryClassification),
        "multiclass" => Some(Task::Multiclass),
        _ => None,
    }
}

fn names(draft: &mut Draft<'_>, name: &str) {
    draft.derive("name", Some(name));
    let name = draft.text("name").unwrap_or(name).to_owned();
    if name.chars().count() > 200 || name.chars().any(char::is_control) {
        draft.blame("name", "expected at most 200 characters, none of them a control character");
    }
    draft.derive("tracking.experiment", Some(name));
}

fn seeds(draft: &mut Draft<'_>) {
    let seed = draft.whole("seed");
    for path in ["data.shuffle_seed", "model.initialization_seed", "model.dropout_seed"] {
        draft.derive(path, seed);
    }
}

fn csv(draft: &mut Draft<'_>) {
    let signs = ["data.csv.delimiter", "data.csv.quote", "data.csv.comment", "data.csv.decimal"];
    for (index, path) in signs.iter().enumerate() {
        let Some(sign) = draft.text(path).filter(|sign| !sign.is_empty()).map(str::to_owned) else { continue };
        for other in &signs[..index] {
            if draft.text(other) == Some(&sign) {
                let blamed = if draft.is_written(path) { path } else { other };
                let also = if blamed == path { other } else { path };
                draft.blame(blamed, format!("{sign:?} is also {also}: expected another character"));
                break;
            }
        }
    }
    let binary = draft.text("data.format").filter(|format| matches!(*format, "parquet" | "arrow")).map(str::to_owned);
    if let Some(format) = binary {
        let written: Vec<_> = draft.entries.keys().filter(|path| path.starts_with("data.csv.")).cloned().collect();
        for path in written {
            draft.warn(&path, &format!("no effect because data.format is {format}"));
        }
    }
}

/// Columns that have a role of their own are no features.
fn columns(draft: &mut Draft<'_>) {
    let (include, exclude) = (draft.texts("data.include"), draft.texts("data.exclude"));
    let target = draft.text("data.target.column").map(str::to_owned);
    let mut roles: Vec<(&str, String)> = Vec::new();
    let named = [
        "data.target.column",
        "data.id_column",
        "data.weight_column",
        "data.sequence.group_column",
        "data.sequence.order_column",
    ];
    for path in named {
        let Some(column) = draft.text(path).map(str::to_owned) else { continue };
        if let Some((other, _)) = roles.iter().find(|(_, known)| *known == column) {
            draft.blame(path, format!("column {column:?} is already {other}"));
        }
        if include.contains(&column) {
            draft.blame("data.include", format!("column {column:?} is {path}, so it cannot be a feature"));
        }
        roles.push((path, column));
    }
    if let Some(target) = target.filter(|target| exclude.contains(target)) {
        draft.blame(
            "data.exclude",
            format!("column {target:?} is data.target.column: it is never a feature, and must be read"),
        );
    }
    for column in include.iter().filter(|column| exclude.contains(column)) {
        draft.blame("data.exclude", format!("column {column:?} stands in data.include too: expected one of both"));
    }
    let settings: Vec<_> = draft
        .entries
        .iter()
        .filter(|(_, entry)| entry.segments.len() == 4 && entry.segments[1] == "columns")
        .map(|(path, entry)| (path.clone(), entry.segments[2].clone()))
        .collect();
    for (path, column) in settings {
        if exclude.contains(&column) {
            draft.warn(&path, "no effect because the column is excluded");
        }
    }
}

fn order_of_batches(draft: &mut Draft<'_>) {
    let Some(order) = draft.text("training.batch_order").map(str::to_owned) else { return };
    let shuffles = draft.flag("data.shuffle");
    let written = draft.is_written("data.shuffle");
    match (order.as_str(), shuffles) {
        ("sequential", Some(true)) if written => {
            let message =
                "beside shuffle: true: batches follow an order that data.shuffle_seed fixes, the same in every run";
            draft.warn("training.batch_order", message);
        }
        ("sequential", Some(true)) => draft.put("data.shuffle", false),
        ("shuffled", Some(false)) if written => {
            let other = draft.as_written("data.shuffle");
            draft.blame("training.batch_order", format!("shuffled, but {other} is false: expected one of both"));
        }
        _ => {}
    }
}

fn optimization(draft: &mut Draft<'_>) {
    let decay =
        draft.text("training.optimizer.type").map(|name| if matches!(name, "adamw" | "lamb") { 0.01 } else { 0.0 });
    draft.derive("training.optimizer.weight_decay", decay);
    if let (Some(batch), Some(shards)) = (draft.whole("training.batch_size"), draft.whole("training.logical_shards"))
        && batch < shards
        && (draft.is_written("training.batch_size") || draft.is_written("training.logical_shards"))
    {
        let path =
            if draft.is_written("training.logical_shards") { "training.logical_shards" } else { "training.batch_size" };
        draft.warn(path, &format!("a batch of {batch} rows leaves some of the {shards} logical shards empty"));
    }
}

fn scheduler(draft: &mut Draft<'_>) {
    let epochs = draft.whole("training.epochs");
    draft.derive("training.scheduler.T_max", epochs);
    let rate = draft.number("training.optimizer.learning_rate");
    draft.derive("training.scheduler.max_lr", rate);
    if draft.text("training.scheduler.type") == Some("warmup_cosine") {
        // This schedule begins at 0; the plan says what happens.
        draft.put("training.scheduler.start_factor", 0.0);
    }
    let Some(rate) = rate else { return };
    for path in ["training.scheduler.eta_min", "training.scheduler.min_lr"] {
        if let Some(lowest) = draft.number(path).filter(|lowest| *lowest > rate)
            && draft.is_written(path)
        {
            draft.blame(path, format!("{lowest} is above the learning rate {rate}: expected less"));
        }
    }
}

fn target_and_loss(draft: &mut Draft<'_>, task: Task) {
    let (default, fitting): (&str, &[&str]) = match task {
        Task::Regression => ("mse", &["mse", "mae", "huber"]),
        Task::BinaryClassification => ("bce_with_logits", &["bce_with_logits"]),
        Task::Multiclass => ("cross_entropy", &["cross_entropy"]),
    };
    draft.derive("training.loss", Some(default));
    if let Some(loss) = draft.text("training.loss").filter(|loss| !fitting.contains(loss)).map(str::to_owned) {
        let message = format!("{loss} does not fit task {}: expected {}", task.as_str(), fitting.join(", "));
        draft.blame_with("training.loss", message, Some(default.to_owned()));
    }
    if draft.is_written("training.huber_delta") && draft.text("training.loss") != Some("huber") {
        draft.warn("training.huber_delta", "no effect because training.loss is not huber");
    }
    let positive = draft.text("data.target.positive").is_some_and(|text| !text.is_empty());
    if positive && draft.number("data.target.threshold").is_some() {
        draft.blame("data.target.threshold", "beside data.target.positive: expected one of both");
    }
}

fn metrics(draft: &mut Draft<'_>, task: Task) {
    let all = "evaluation.metrics";
    let of_task = format!("evaluation.metrics.{}", task.as_str());
    // The list for the task counts where it is written above the plain one.
    let path = match (draft.layer(all), draft.layer(&of_task)) {
        (Some(plain), Some(own)) if own < plain => all.to_owned(),
        (_, Some(_)) => of_task,
        _ => all.to_owned(),
    };
    let mut chosen: Vec<String> = Vec::new();
    for name in draft.texts(&path) {
        if name == "loss" || (name == "confusion_matrix" && task != Task::Regression) {
            draft.warn(&path, &format!("{name} is part of every report, listed or not"));
        } else if let Some(metric) = metric_of(draft, &path, &name, task)
            && !chosen.iter().any(|known| known == metric.name)
        {
            chosen.push(metric.name.to_owned());
        }
    }
    if chosen.is_empty() {
        chosen = MetricName::defaults(task).iter().map(|name| (*name).to_owned()).collect();
    }
    if path != all
        && let Some(entry) = draft.entries.remove(&path)
    {
        draft.entries.insert(all.to_owned(), entry);
    }
    let default = MetricName::default_primary(task);
    let default = if chosen.iter().any(|name| name == default) { default.to_owned() } else { chosen[0].clone() };
    let primary = "evaluation.primary_metric";
    match draft.text(primary).map(str::to_owned) {
        Some(name) => {
            if let Some(metric) = metric_of(draft, primary, &name, task) {
                if !draft.is_bad(all) && !chosen.iter().any(|known| known == metric.name) {
                    draft.blame(
                        primary,
                        format!("{} is not in evaluation.metrics: expected one of {}", metric.name, chosen.join(", ")),
                    );
                }
                draft.put(primary, metric.name);
            }
        }
        None => draft.derive(primary, Some(default)),
    }
    draft.put(all, json!(chosen));
}

fn metric_of(draft: &mut Draft<'_>, path: &str, name: &str, task: Task) -> Option<&'static MetricName> {
    let fitting = || METRICS.iter().filter(move |metric| metric.fits(task)).map(|metric| metric.name);
    match MetricName::find(name) {
        Some(metric) if metric.fits(task) => Some(metric),
        Some(metric) => {
            let message = format!(
                "{} does not fit task {}: expected some of {}",
                metric.name,
                task.as_str(),
                fitting().collect::<Vec<_>>().join(", ")
            );
            let variant = format!("{}_macro", metric.name);
            let suggestion = fitting().find(|known| *known == variant).map(str::to_owned);
            draft.blame_with(path, message, suggestion);
            None
        }
        None => {
            let suggestion = nearest(name, MetricName::names_of(task)).map(str::to_owned);
            let message =
                format!("unknown metric {name:?}: expected some of {}", fitting().collect::<Vec<_>>().join(", "));
            draft.blame_with(path, message, suggestion);
            None
        }
    }
}

/// Early stopping is on where anything is said about it, unless it is said to be off.
fn early_stopping(draft: &mut Draft<'_>) {
    let prefix = "training.early_stopping.";
    let enabled = draft.flag("training.early_stopping.enabled");
    let said = draft.entries.keys().any(|path| path.starts_with(prefix) && !path.ends_with(".enabled"));
    draft.put("training.early_stopping.enabled", enabled.unwrap_or(said));
}

/// The value that stopping or keeping is judged by must fit the task and be better in the stated
/// direction; it is computed on val whether or not evaluation.metrics lists it.
fn monitor(draft: &mut Draft<'_>, section: &str, task: Option<Task>) {
    let name = if section.ends_with("checkpoint") { "metric_name" } else { "monitor" };
    let (path, mode_path) = (format!("{section}.{name}"), format!("{section}.mode"));
    let Some(monitored) = draft.text(&path).map(str::to_owned) else { return };
    let metric = monitored.strip_prefix("val_").unwrap_or(&monitored).to_owned();
    let better = if metric == "loss" {
        Mode::Min
    } else {
        let Some(task) = task else { return };
        let Some(metric) = metric_of(draft, &path, &metric, task) else { return };
        draft.put(&path, format!("val_{}", metric.name));
        metric.better
    };
    let word = match better {
        Mode::Min => "min",
        Mode::Max => "max",
    };
    draft.derive(&mode_path, Some(word));
    if draft.text(&mode_path).is_some_and(|mode| mode != word) {
        let side = if word == "min" { "less" } else { "more" };
        draft.blame_with(
            &mode_path,
            format!("of {monitored}, {side} is better: expected {word}"),
            Some(word.to_owned()),
        );
    }
}

fn tracking(draft: &mut Draft<'_>) {
    let tags: Vec<_> = draft
        .entries
        .iter()
        .filter(|(_, entry)| entry.key.path == "tracking.tags.*")
        .map(|(path, entry)| (path.clone(), entry.segments[2].len()))
        .collect();
    if tags.len() > 100 {
        draft.blame("tracking.tags", format!("expected at most 100 tags, found {}", tags.len()));
    }
    for (path, name_bytes) in tags {
        let value_bytes = draft.text(&path).map_or(0, str::len);
        if name_bytes == 0 || name_bytes > 250 || value_bytes > 8000 {
            draft.blame(&path, "expected a name of 1 to 250 bytes and a value of at most 8000 bytes");
        }
    }
    let index = index_of(Kind::Job);
    let patterns: Vec<_> = draft.texts("tracking.parameters").iter().map(|pattern| canonical(index, pattern)).collect();
    for pattern in &patterns {
        if !super::keys::JOB_KEYS.iter().any(|key| matches(pattern, key.path)) {
            let suggestion = nearest(pattern, super::keys::JOB_KEYS.iter().map(|key| key.path)).map(str::to_owned);
            draft.blame_with("tracking.parameters", format!("{pattern:?} matches no key"), suggestion);
        }
    }
    draft.put("tracking.parameters", json!(patterns));
}

/// An alias in a pattern without a `*` becomes the key's path.
fn canonical(index: &Index, pattern: &str) -> String {
    index.find(pattern).filter(|_| !pattern.contains('*')).map_or(pattern, |key| key.path).to_owned()
}

/// `*` stands for any run of characters.
fn matches(pattern: &str, path: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = path.strip_prefix(first) else { return false };
    let mut open = false;
    for part in parts {
        open = true;
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty() || (open && pattern.ends_with('*'))
}

fn resources(draft: &mut Draft<'_>) {
    let world = draft.whole("resources.world_size");
    draft.derive("resources.max_world_size", world);
    let (Some(world), Some(min), Some(max), Some(shards)) = (
        world,
        draft.whole("resources.min_world_size"),
        draft.whole("resources.max_world_size"),
        draft.whole("training.logical_shards"),
    ) else {
        return;
    };
    if world > shards {
        let what = format!("{world} ranks cannot share {shards} logical shards: expected at most {shards}");
        draft.blame("resources.world_size", what);
    } else if max > shards {
        let what = format!("{max} ranks cannot share {shards} logical shards: expected at most {shards}");
        draft.blame("resources.max_world_size", what);
    } else if max < world {
        let what = format!("{max} is below resources.world_size ({world}): expected at least {world}");
        draft.blame("resources.max_world_size", what);
    } else if min > world {
        let what = format!("{min} is above resources.world_size ({world}): expected at most {world}");
        draft.blame("resources.min_world_size", what);
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, path, expected) in [
            ("model.*", "model.type", true),
            ("training.optimizer.*", "training.optimizer.learning_rate", true),
            ("training.epochs", "training.epochs", true),
            ("training.epoch", "training.epochs", false),
            ("*.type", "model.type", true),
            ("*", "seed", true),
            ("mdel.*", "model.type", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern}");
        }
    }
}
