//! What a model asks of its own keys and of the data: columns of words and of images, sequences, sizes that fit.

use serde_json::json;

use super::super::NOT_YET;
use super::super::draft::Draft;

const PRETRAINED: &str = "data.text.pretrained";

pub(super) fn complete(draft: &mut Draft<'_>) {
    let Some(kind) = draft.text("model.type").map(str::to_owned) else { return };
    let columns = Columns::of(draft);
    columns.check(draft, &kind);
    text(draft);
    sequence(draft, &kind);
    categories(draft, &kind);
    initialization(draft, &kind);
    let hidden: &[u32] = match kind.as_str() {
        "mlp" => &[64, 32],
        "tabular" => &[64, 64],
        _ => &[],
    };
    draft.derive("model.hidden_layers", Some(json!(hidden)));
    draft.derive("model.dropout", Some(if kind == "transformer_classifier" { 0.1 } else { 0.0 }));
    for path in ["model.hidden_layers", "model.head.hidden_layers", "model.tabular_encoder.hidden_layers"] {
        layers(draft, path);
    }
    for path in ["model.filters", "model.visual_encoder.filters"] {
        layers(draft, path);
    }
    let pretrained = draft.text(PRETRAINED).is_some();
    encoder(draft, "model", pretrained && kind == "transformer_classifier", &kind);
    encoder(draft, "model.text_encoder", pretrained, "transformer_classifier");
    normalization(draft, &kind);
}

/// Columns that are declared to hold words, and images.
struct Columns {
    text: Vec<String>,
    image: Vec<String>,
}

impl Columns {
    fn of(draft: &Draft<'_>) -> Self {
        let excluded = draft.texts("data.exclude");
        let target = draft.text("data.target.column");
        let of = |kind: &str| {
            let settings = draft.entries.iter().filter(|(_, entry)| entry.key.path == "data.columns.*.type");
            settings
                .filter(|(path, _)| draft.text(path) == Some(kind))
                .map(|(_, entry)| entry.segments[2].clone())
                .filter(|column| !excluded.contains(column) && Some(column.as_str()) != target)
                .collect::<Vec<_>>()
        };
        Self { text: of("text"), image: of("image") }
    }

    fn check(&self, draft: &mut Draft<'_>, kind: &str) {
        let (texts, images) = match kind {
            "transformer_classifier" => (1..=1, 0..=0),
            "image_classifier" => (0..=0, 1..=1),
            "ad_score" => (0..=1, 0..=1),
            _ => (0..=0, 0..=0),
        };
        for (columns, allowed, what) in [(&self.text, texts, "text"), (&self.image, images, "image")] {
            if allowed.contains(&columns.len()) {
                continue;
            }
            let expected = match (allowed.start(), allowed.end()) {
                (0, 0) => "no".to_owned(),
                (low, high) if low == high => format!("{low}"),
                (_, high) => format!("at most {high}"),
            };
            let found = if columns.is_empty() { "none".to_owned() } else { columns.join(", ") };
            let path = columns.first().map_or("model.type".to_owned(), |name| format!("data.columns.{name}.type"));
            let hint =
                if columns.is_empty() { format!(": declare data.columns.<name>.type: {what}") } else { String::new() };
            let message = format!("{kind} reads {expected} {what} column, found {found}{hint}");
            draft.blame(&path, message);
        }
        for column in &self.image {
            let path = format!("data.columns.{column}.images");
            if draft.text(&path).is_none() && !draft.is_bad(&path) {
                draft.blame(&path, "missing: an image column needs the IDX file of its images");
            }
        }
        self.branches(draft, kind);
    }

    /// Only what the model reads is prepared.
    fn branches(&self, draft: &mut Draft<'_>, kind: &str) {
        let own: Vec<String> = self.text.iter().chain(&self.image).cloned().collect();
        let off = |draft: &Draft<'_>, branch: &str| draft.text(&format!("model.{branch}.type")) == Some("none");
        let only = |draft: &mut Draft<'_>, columns: Vec<String>, reader: &str| {
            let more = draft.texts("data.include").into_iter().find(|column| !columns.contains(column));
            match more {
                Some(column) => draft.blame("data.include", format!("column {column:?} is not read by {reader}")),
                None => draft.put("data.include", json!(columns)),
            }
        };
        match kind {
            "transformer_classifier" | "image_classifier" if !own.is_empty() => only(draft, own, kind),
            "ad_score" => {
                let mut excluded = draft.texts("data.exclude");
                for (branch, columns) in [("text_encoder", &self.text), ("visual_encoder", &self.image)] {
                    if off(draft, branch) {
                        excluded.extend(columns.iter().cloned());
                    }
                }
                let left: Vec<String> = own.iter().filter(|column| !excluded.contains(column)).cloned().collect();
                draft.put("data.exclude", json!(excluded));
                if off(draft, "tabular_encoder") && left.is_empty() {
                    draft.blame("model.tabular_encoder.type", "none, and there is no other branch: expected mlp");
                } else if off(draft, "tabular_encoder") {
                    only(draft, left, "the branches that are left");
                }
            }
            _ => {}
        }
    }
}

fn text(draft: &mut Draft<'_>) {
    let pretrained = draft.text(PRETRAINED).is_some();
    draft.derive("data.text.tokenizer", Some(if pretrained { "pretrained" } else { "vocabulary" }));
    match draft.text("data.text.tokenizer") {
        Some("pretrained") if !pretrained && !draft.is_bad(PRETRAINED) => {
            draft.blame("data.text.tokenizer", format!("pretrained, but {PRETRAINED} names no folder"));
        }
        Some(other) if pretrained && other != "pretrained" => {
            let message = format!("{other}, but a pretrained encoder knows only the tokens of its own tokenizer");
            draft.blame_with("data.text.tokenizer", message, Some("pretrained".to_owned()));
        }
        _ => {}
    }
    if pretrained {
        for path in ["data.text.vocab_size", "data.text.min_frequency"] {
            if draft.is_written(path) {
                draft.warn(path, "no effect because the tokenizer is pretrained");
            }
        }
    }
}

fn sequence(draft: &mut Draft<'_>, kind: &str) {
    let group = "data.sequence.group_column";
    if kind == "lstm_sequence" && draft.text(group).is_none() && !draft.is_bad(group) {
        draft.blame(
            group,
            "missing: model.type lstm_sequence reads sequences: expected the column that rows of one sample share",
        );
    }
}

fn categories(draft: &mut Draft<'_>, kind: &str) {
    let path = "data.preprocessing.categories";
    let embeds = matches!(kind, "tabular" | "ad_score");
    draft.derive(path, Some(if embeds { "embedding" } else { "one_hot" }));
    if !embeds && draft.text(path) == Some("embedding") {
        let message = format!("embedding, but model.type {kind} has no embeddings for categories");
        draft.blame_with(path, message, Some("one_hot".to_owned()));
    }
}

fn initialization(draft: &mut Draft<'_>, kind: &str) {
    let rectifies = draft.text("model.activation").is_none_or(|name| !matches!(name, "sigmoid" | "tanh"));
    let initial = match (kind, rectifies) {
        ("mlp", true) => "kaiming_uniform",
        ("mlp", false) => "xavier_uniform",
        _ => "standard",
    };
    draft.derive("model.initialization.type", Some(initial));
}

fn layers(draft: &mut Draft<'_>, path: &str) {
    let layers = draft.value(path).and_then(|value| value.as_array()).map(Vec::len);
    if let Some(layers) = layers.filter(|layers| *layers > 64) {
        draft.blame(path, format!("expected at most 64 layers, found {layers}"));
    }
}

/// Sizes of a text encoder or of an LSTM; those of a pretrained encoder are not ours to say.
fn encoder(draft: &mut Draft<'_>, at: &str, pretrained: bool, kind: &str) {
    let path = |name: &str| format!("{at}.{name}");
    let pooling = match kind {
        "lstm_sequence" => "last",
        "transformer_classifier" if pretrained => "cls",
        _ => "mean",
    };
    draft.derive(&path("pooling"), Some(pooling));
    if kind == "image_classifier" && matches!(draft.text(&path("pooling")), Some("cls" | "last")) {
        draft.blame(&path("pooling"), "pixels are pooled by mean or max");
    }
    if pretrained {
        for name in ["hidden_size", "num_layers", "num_heads", "intermediate_size"] {
            draft.derive(&path(name), Some(json!(null)));
        }
        return;
    }
    draft.derive(&path("hidden_size"), Some(128));
    draft.derive(&path("num_layers"), Some(2));
    draft.derive(&path("num_heads"), Some(4));
    if kind == "lstm_sequence" && draft.whole(&path("num_layers")) == Some(0) {
        draft.blame(&path("num_layers"), "expected at least one layer of an LSTM");
    }
    let (hidden, heads) = (draft.whole(&path("hidden_size")), draft.whole(&path("num_heads")));
    if let (Some(hidden), Some(heads)) = (hidden, heads)
        && kind != "lstm_sequence"
    {
        draft.derive(&path("intermediate_size"), Some(4 * hidden));
        if hidden % heads != 0 {
            let blamed = if draft.is_written(&path("num_heads")) { "num_heads" } else { "hidden_size" };
            draft.blame(&path(blamed), format!("{heads} heads cannot share a hidden_size of {hidden}"));
        }
    }
}

fn normalization(draft: &mut Draft<'_>, kind: &str) {
    let (path, fits) = match kind {
        "mlp" => ("model.normalization", "layer_norm"),
        "image_classifier" => ("model.normalization", "batch_norm"),
        "ad_score" => ("model.visual_encoder.normalization", "batch_norm"),
        _ => return,
    };
    let Some(chosen) = draft.text(path).map(str::to_owned) else { return };
    if chosen != "none" && chosen != fits {
        draft.blame(path, format!("{NOT_YET}: {path}: {chosen} (this version: none, {fits})"));
    }
}
