//! The table of keys as a tree, so that a spec is read by walking both together; and the nearest
//! valid path to one that is not in it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::{EVALUATION_KEYS, GATES_KEYS, JOB_KEYS, Key, SWEEP_KEYS};
use crate::plan::Kind;
use crate::spec::nearest::{nearest, very_near};

/// Groups that may be written elsewhere: what stands under the first stands for the same under the second.
const GROUP_ALIASES: &[(&str, &str)] = &[
    ("model.training", "training"),
    ("model.evaluation", "evaluation"),
    ("model.architecture", "model"),
    ("model.layer_initialization", "model.initialization"),
    ("split", "data.split"),
    ("target", "data.target"),
];

/// One segment of the keys' paths.
#[derive(Debug, Default)]
pub(crate) struct Step {
    children: BTreeMap<&'static str, Step>,
    any: Option<Box<Step>>,
    /// What a value that stands here means.
    pub key: Option<&'static Key>,
}

/// The keys of one kind of spec.
#[derive(Debug)]
pub(crate) struct Index {
    pub root: Step,
    /// Every way to write a key, canonical paths first.
    paths: Vec<&'static str>,
}

/// The keys that a spec of this kind may have.
pub(crate) fn index_of(kind: Kind) -> &'static Index {
    static JOB: LazyLock<Index> = LazyLock::new(|| Index::new(&[JOB_KEYS]));
    static SWEEP: LazyLock<Index> = LazyLock::new(|| Index::new(&[JOB_KEYS, SWEEP_KEYS]));
    static EVALUATION: LazyLock<Index> = LazyLock::new(|| Index::new(&[JOB_KEYS, EVALUATION_KEYS]));
    static GATES: LazyLock<Index> = LazyLock::new(|| Index::new(&[JOB_KEYS, GATES_KEYS]));
    match kind {
        Kind::Job | Kind::Experiment => &JOB,
        Kind::Sweep => &SWEEP,
        Kind::Evaluation => &EVALUATION,
        Kind::Gates => &GATES,
    }
}

impl Index {
    fn new(tables: &[&'static [Key]]) -> Self {
        let mut index = Self { root: Step::default(), paths: Vec::new() };
        let keys = || tables.iter().flat_map(|table| table.iter());
        for key in keys() {
            index.insert(key.path, key);
            index.paths.push(key.path);
        }
        for key in keys() {
            for alias in key.aliases {
                index.insert(alias, key);
                index.paths.push(alias);
            }
        }
        for key in keys() {
            for written in std::iter::once(&key.path).chain(key.aliases) {
                for (from, to) in GROUP_ALIASES {
                    let rest = written.strip_prefix(to).and_then(|rest| rest.strip_prefix('.'));
                    if let Some(rest) = rest {
                        index.root.descend(from).descend(rest).key.get_or_insert(key);
                    }
                }
            }
        }
        index
    }

    fn insert(&mut self, path: &'static str, key: &'static Key) {
        self.root.descend(path).key.get_or_insert(key);
    }

    /// The key at a path that is written with dots, canonical or not; `*` stands for itself.
    pub fn find(&self, path: &str) -> Option<&'static Key> {
        let mut step = &self.root;
        for segment in self.root.segments(path) {
            step = step.child(&segment)?.0;
        }
        step.key
    }

    /// The nearest valid path to `written`, which is unknown from its last segment on. `step` is
    /// where its parent stands.
    pub fn nearest(&self, parent: &str, step: &Step, unknown: &str) -> Option<String> {
        let join = |name: &str| if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") };
        if let Some(sibling) = nearest(unknown, step.children.keys().copied()) {
            return Some(join(sibling));
        }
        let last = unknown.rsplit('.').next().unwrap_or(unknown);
        let ends = |path: &&&str| path.rsplit('.').next() == Some(last);
        if let Some(path) = self.paths.iter().find(ends) {
            return Some((*path).to_owned());
        }
        let whole = join(unknown);
        very_near(&whole, self.paths.iter().copied())
            .or_else(|| {
                let near = very_near(last, self.paths.iter().filter_map(|path| path.rsplit('.').next()))?;
                self.paths.iter().copied().find(|path| path.rsplit('.').next() == Some(near))
            })
            .map(str::to_owned)
    }
}

impl Step {
    fn descend(&mut self, path: &'static str) -> &mut Step {
        let mut step = self;
        for segment in path.split('.') {
            step = match segment {
                "*" => step.any.get_or_insert_default(),
                _ => step.children.entry(segment).or_default(),
            };
        }
        step
    }

    /// Whether a mapping may stand here.
    pub fn is_group(&self) -> bool {
        !self.children.is_empty() || self.any.is_some()
    }

    /// The step below, and whether it was reached through a free name.
    pub fn child(&self, segment: &str) -> Option<(&Step, bool)> {
        match self.children.get(segment) {
            Some(step) => Some((step, false)),
            None => self.any.as_deref().map(|step| (step, true)),
        }
    }

    pub fn children(&self) -> impl Iterator<Item = (&'static str, &Step)> {
        self.children.iter().map(|(name, step)| (*name, step))
    }

    /// What a free name leads to.
    pub fn any(&self) -> Option<&Step> {
        self.any.as_deref()
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.children.keys().copied()
    }

    /// Cuts a path that is written with dots into segments. The name of a column or a tag may itself
    /// have dots: it reaches up to the last segment that names one of its settings, or to the end.
    pub fn segments(&self, path: &str) -> Vec<String> {
        let (mut step, mut rest, mut segments) = (Some(self), path, Vec::new());
        while let Some(here) = step {
            let first = rest.split('.').next().unwrap_or(rest);
            if let Some(below) = here.children.get(first) {
                segments.push(first.to_owned());
                step = Some(below);
                match rest.split_once('.') {
                    Some((_, tail)) => rest = tail,
                    None => return segments,
                }
                continue;
            }
            let Some(any) = &here.any else { break };
            match rest.rsplit_once('.') {
                Some((name, setting)) if any.children.contains_key(setting) => {
                    segments.extend([name.to_owned(), setting.to_owned()]);
                }
                _ => segments.push(rest.to_owned()),
            }
            return segments;
        }
        segments.extend(rest.split('.').map(str::to_owned));
        segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_keys_claim_one_path() {
        for tables in [&[JOB_KEYS][..], &[JOB_KEYS, SWEEP_KEYS], &[JOB_KEYS, EVALUATION_KEYS]] {
            let mut owner = BTreeMap::new();
            for key in tables.iter().flat_map(|table| table.iter()) {
                for path in std::iter::once(&key.path).chain(key.aliases) {
                    assert_eq!(owner.insert(*path, key.path), None, "{path}");
                }
                if let Some(when) = key.when {
                    let on = index_of(Kind::Job).find(when.key).expect("a condition names a key");
                    assert_eq!(on.path, when.key);
                }
            }
        }
    }

    #[test]
    fn a_name_may_have_dots() {
        let root = &index_of(Kind::Job).root;
        for (path, segments) in [
            ("training.epochs", vec!["training", "epochs"]),
            ("data.columns.emp.var.rate.scale", vec!["data", "columns", "emp.var.rate", "scale"]),
            ("data.columns.emp.var.rate", vec!["data", "columns", "emp.var.rate"]),
            ("tracking.tags.a.b", vec!["tracking", "tags", "a.b"]),
            ("nonsense.x.y", vec!["nonsense", "x", "y"]),
        ] {
            assert_eq!(root.segments(path), segments, "{path}");
        }
    }

    #[test]
    fn aliases_of_groups_reach_the_same_key() {
        let index = index_of(Kind::Job);
        for (written, canonical) in [
            ("model.training.optimizer.learning_rate", "training.optimizer.learning_rate"),
            ("model.training.learning_rate", "training.optimizer.learning_rate"),
            ("model.evaluation.metrics", "evaluation.metrics"),
            ("model.architecture.type", "model.type"),
            ("model.architecture.dropout", "model.dropout"),
            ("model.layer_initialization.std", "model.initialization.std"),
            ("split.test_size", "data.split.test_size"),
            ("target", "data.target.column"),
        ] {
            assert_eq!(index.find(written).map(|key| key.path), Some(canonical), "{written}");
        }
    }
}
