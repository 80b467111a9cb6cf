//! From source files to a model as a graph: what each thing is, by its hash, and what it was made of.

use std::collections::BTreeMap;

use bus::artifact::ArtifactStore;
use frame::manifest::ARTIFACT_NAME;
use messages::event::ModelRef;
use messages::{ArtifactRef, WireError};
use serde::Serialize;

use super::Found;

/// Versions behind versions that are followed.
const MOST_DEPTH: usize = 8;

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Source,
    /// What a version was derived from beside its files: rows in quarantine, corrections.
    Derived,
    Dataset,
    Model,
    Report,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Derived => "derived",
            Self::Dataset => "dataset",
            Self::Model => "model",
            Self::Report => "report",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Kind and content hash: equal nodes are one.
    pub id: String,
    pub kind: Kind,
    pub label: String,
    /// BLAKE3 of its content.
    pub blake3: String,
    pub detail: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Edge {
    pub from: String,
    pub to: String,
    /// `prepare`, `train`, `evaluate`, `derive`.
    pub by: String,
}

/// Nodes in the order of their kinds, edges from what was before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Graph {
    /// The job, where the graph is of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    pub nodes: Vec<Node>,
    pub edges: Vec<Edge>,
}

impl Graph {
    fn add(&mut self, kind: Kind, label: &str, blake3: &str, detail: BTreeMap<String, String>) -> String {
        // Two files of the same content are two files.
        let id = match kind {
            Kind::Source => format!("source:{blake3}:{label}"),
            _ => format!("{}:{blake3}", kind.as_str()),
        };
        if !self.nodes.iter().any(|node| node.id == id) {
            self.nodes.push(Node { id: id.clone(), kind, label: label.to_owned(), blake3: blake3.to_owned(), detail });
        }
        id
    }

    fn join(&mut self, from: &str, to: &str, by: &str) {
        let edge = Edge { from: from.to_owned(), to: to.to_owned(), by: by.to_owned() };
        if !self.edges.contains(&edge) {
            self.edges.push(edge);
        }
    }

    /// A version with all that is behind it. Answers its node.
    pub async fn add_version(&mut self, artifacts: &ArtifactStore, version: &Found) -> Result<String, WireError> {
        let mut waiting = vec![(version.clone(), None::<String>, 0)];
        let mut first = None;
        while let Some((version, child, depth)) = waiting.pop() {
            let node = self.add_dataset(&version);
            if let Some(child) = &child {
                self.join(&node, child, "derive");
            }
            first.get_or_insert_with(|| node.clone());
            for parent in &version.manifest.lineage.parents {
                let name = parent.uri.rsplit('/').next().unwrap_or_default();
                if name == ARTIFACT_NAME && depth < MOST_DEPTH {
                    waiting.push((Found::of(artifacts, parent).await?, Some(node.clone()), depth + 1));
                } else {
                    let detail = BTreeMap::from([("size_bytes".to_owned(), parent.size_bytes.to_string())]);
                    let from = self.add(Kind::Derived, name, &parent.blake3, detail);
                    self.join(&from, &node, "derive");
                }
            }
        }
        self.nodes.sort_by_key(|node| node.kind);
        Ok(first.unwrap_or_default())
    }

    fn add_dataset(&mut self, version: &Found) -> String {
        let manifest = &version.manifest;
        let rows: u64 = manifest.parts.iter().map(|part| part.rows).sum();
        let detail = BTreeMap::from([
            ("id".to_owned(), manifest.id()),
            ("code_version".to_owned(), manifest.lineage.code_version.clone()),
            ("settings_blake3".to_owned(), manifest.lineage.settings_blake3.clone()),
            ("rows".to_owned(), rows.to_string()),
        ]);
        let label = if manifest.dataset_version.is_empty() { "dataset version" } else { &manifest.dataset_version };
        let node = self.add(Kind::Dataset, label, &version.blake3, detail);
        for source in &manifest.sources {
            let detail = BTreeMap::from([
                ("size_bytes".to_owned(), source.size_bytes.to_string()),
                ("rows".to_owned(), source.rows.to_string()),
                ("official_test".to_owned(), source.test.to_string()),
            ]);
            let from = self.add(Kind::Source, &source.path, &source.blake3, detail);
            self.join(&from, &node, "prepare");
        }
        if let Some(pretrained) = &manifest.pretrained {
            let from = self.add(Kind::Source, &pretrained.path, &pretrained.weights.blake3, BTreeMap::new());
            self.join(&from, &node, "prepare");
        }
        node
    }

    /// A model that was trained on the version of this node.
    pub fn add_model(&mut self, dataset: &str, model: &ModelRef) -> String {
        let detail = BTreeMap::from([
            ("parameters_blake3".to_owned(), model.blake3.clone()),
            ("size_bytes".to_owned(), model.size_bytes.to_string()),
        ]);
        let node = self.add(Kind::Model, "model", &model.file_blake3, detail);
        self.join(dataset, &node, "train");
        node
    }

    /// What was found of the model on the version.
    pub fn add_report(&mut self, dataset: &str, model: &str, report: &ArtifactRef) {
        let node = self.add(Kind::Report, "report", &report.blake3, BTreeMap::new());
        self.join(dataset, &node, "evaluate");
        self.join(model, &node, "evaluate");
    }

    /// The graph in the language of Graphviz.
    pub fn dot(&self) -> String {
        let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let mut lines = vec!["digraph lineage {".to_owned(), "  rankdir=LR;".into(), "  node [shape=box];".into()];
        for node in &self.nodes {
            let label =
                format!("{}\n{}\n{}", node.kind.as_str(), node.label, &node.blake3[..node.blake3.len().min(12)]);
            // A line break is a letter of the language.
            lines.push(format!("  {} [label={}];", quoted(&node.id), quoted(&label).replace('\n', "\\n")));
        }
        for edge in &self.edges {
            lines.push(format!("  {} -> {} [label={}];", quoted(&edge.from), quoted(&edge.to), quoted(&edge.by)));
        }
        lines.push("}\n".into());
        lines.join("\n")
    }
}
