//! The keys of a job that say how it uses the step cache.

use super::{Key, Shape, also, json, key, name};

pub(super) const KEYS: &[Key] = &[key(
    "data.cache",
    Shape::Choice(&[name("use"), also("refresh", &["force"]), also("off", &["none"])]),
    json(r#""use""#),
    "use: what was prepared before from the same files and settings is taken again; refresh: all of it is computed anew and kept in its place (`within run --force`); off: nothing is looked up or kept.",
)];
