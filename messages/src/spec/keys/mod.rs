//! The keys of a spec: one table that the validator, the nearest-name search, the builder and the
//! published JSON Schema share. A row says what a key may hold, its default, its other names and
//! what becomes of it.

mod augmentation;
mod cache;
mod features;
mod index;
mod job;
mod kinds;
mod model;
mod quality;
mod source;
mod validation;

pub(crate) use index::{Index, Step, index_of};
pub(crate) use kinds::{EVALUATION_KEYS, GATES_KEYS, SWEEP_KEYS};

/// Every key of a job.
pub(crate) static JOB_KEYS: &[Key] = &joined::<{ count(TABLES) }>(TABLES);

/// The table in its parts.
const TABLES: &[&[Key]] = &[
    job::KEYS,
    features::KEYS,
    quality::KEYS,
    model::KEYS,
    source::KEYS,
    augmentation::KEYS,
    cache::KEYS,
    validation::KEYS,
];

const fn count(tables: &[&[Key]]) -> usize {
    let (mut keys, mut at) = (0, 0);
    while at < tables.len() {
        keys += tables[at].len();
        at += 1;
    }
    keys
}

const fn joined<const N: usize>(tables: &[&[Key]]) -> [Key; N] {
    let (mut out, mut at, mut table, mut row) = ([tables[0][0]; N], 0, 0, 0);
    while at < N {
        if row == tables[table].len() {
            (table, row) = (table + 1, 0);
        } else {
            out[at] = tables[table][row];
            (at, row) = (at + 1, row + 1);
        }
    }
    out
}

/// One key. A `*` segment of its path stands for any name (of a column, a tag, a parameter).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    pub path: &'static str,
    pub shape: Shape,
    pub default: Fallback,
    /// Other full paths that mean the same.
    pub aliases: &'static [&'static str],
    pub doc: &'static str,
    pub status: Status,
    /// The key has a meaning only where another one has one of these values.
    pub when: Option<When>,
}

/// What stands where the user wrote nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fallback {
    /// A value, as JSON.
    Json(&'static str),
    /// Follows from other keys; the text says how.
    Derived(&'static str),
    /// There is none: the user must write the key.
    Required,
    /// Nothing; `null` may be written.
    Absent,
}

/// What becomes of a key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Status {
    /// A field of the plan, of the same path.
    Plan,
    /// Read by the builder, not itself a field of the plan.
    Steers,
    /// Accepted, with a warning that says why it has no effect.
    NoEffect(&'static str),
    /// Known, and refused with "not yet supported".
    NotYet(&'static str),
}

/// Condition of a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct When {
    pub key: &'static str,
    pub values: &'static [&'static str],
}

/// One of a set of names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice {
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    pub not_yet: bool,
}

/// Bounds of a number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub min: f64,
    pub max: f64,
    /// Whether the bound itself is out.
    pub min_open: bool,
    pub max_open: bool,
}

/// What a key may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    Bool,
    Whole {
        min: i64,
        max: i64,
    },
    Number(Range),
    /// Not empty.
    Text,
    /// May be empty.
    Label,
    /// One ASCII character; or none, where that is a choice.
    Character {
        may_be_empty: bool,
    },
    Choice(&'static [Choice]),
    /// A list of them; one of them alone will do.
    Choices(&'static [Choice]),
    /// A text or a list of texts; which may be empty.
    Texts,
    /// A list of whole numbers.
    Wholes {
        min: i64,
        max: i64,
    },
    /// A list of numbers.
    Numbers(Range),
    /// A local file or folder.
    Path,
    /// A local file or the URL of one that is only read; patterns of files.
    Source,
    /// One of them or a list.
    Sources,
    /// `http(s)://`, without credentials.
    WebUrl,
    /// Of a tracking server or store, without credentials; never `mysql://`.
    ServiceUri,
    /// A list of mappings with these keys (a single text stands for its first key).
    Records(&'static [Key]),
    /// Patterns of plan paths.
    Patterns,
    /// `auto`, `cpu`, `cuda`, `cuda:N`.
    Device,
    /// `validation loss` or the validation value of a metric.
    Monitor,
    Any,
    /// A text, or a mapping, which becomes the JSON text of it.
    Document,
}

impl Key {
    pub const fn alias(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    pub const fn when(mut self, key: &'static str, values: &'static [&'static str]) -> Self {
        self.when = Some(When { key, values });
        self
    }

    pub const fn steers(mut self) -> Self {
        self.status = Status::Steers;
        self
    }

    /// The last segment of the path.
    pub fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }
}

const fn key(path: &'static str, shape: Shape, default: Fallback, doc: &'static str) -> Key {
    Key { path, shape, default, aliases: &[], doc, status: Status::Plan, when: None }
}

const fn no_effect(path: &'static str, shape: Shape, because: &'static str) -> Key {
    Key {
        path,
        shape,
        default: Fallback::Absent,
        aliases: &[],
        doc: because,
        status: Status::NoEffect(because),
        when: None,
    }
}

const fn not_yet(path: &'static str, shape: Shape, what: &'static str) -> Key {
    Key { path, shape, default: Fallback::Absent, aliases: &[], doc: what, status: Status::NotYet(what), when: None }
}

const fn name(name: &'static str) -> Choice {
    Choice { name, aliases: &[], not_yet: false }
}

const fn also(name: &'static str, aliases: &'static [&'static str]) -> Choice {
    Choice { name, aliases, not_yet: false }
}

const fn later(name: &'static str, aliases: &'static [&'static str]) -> Choice {
    Choice { name, aliases, not_yet: true }
}

const fn json(text: &'static str) -> Fallback {
    Fallback::Json(text)
}

const fn whole(min: i64, max: i64) -> Shape {
    Shape::Whole { min, max }
}

/// Seeds: what a JSON number carries exactly.
const SEED: Shape = whole(0, (1 << 53) - 1);
/// `min..=max`.
const fn closed(min: f64, max: f64) -> Shape {
    Shape::Number(Range { min, max, min_open: false, max_open: false })
}
/// Above `min`, up to `max`.
const fn above(min: f64, max: f64) -> Shape {
    Shape::Number(Range { min, max, min_open: true, max_open: false })
}
/// From `min`, below `max`.
const fn below(min: f64, max: f64) -> Shape {
    Shape::Number(Range { min, max, min_open: false, max_open: true })
}
/// Strictly between.
const fn between(min: f64, max: f64) -> Shape {
    Shape::Number(Range { min, max, min_open: true, max_open: true })
}
const POSITIVE: Shape = above(0.0, f64::INFINITY);
const NOT_NEGATIVE: Shape = closed(0.0, f64::INFINITY);
const ANY_NUMBER: Shape = closed(f64::NEG_INFINITY, f64::INFINITY);
