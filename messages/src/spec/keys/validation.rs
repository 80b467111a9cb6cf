//! The keys of the validation of data.

use super::{Fallback::Absent, Key, Shape, json, key, name};

/// The keys below `data.validation`.
pub(super) const KEYS: &[Key] = &[
    key(
        "data.validation.schema",
        Shape::Document,
        Absent,
        "What the data must be: the name of a schema that comes with the program (ad_performance, account_health, \
         industry_benchmark, annotated_ads), the path of a JSON file below a data root, or the schema itself.",
    )
    .alias(&["data.validation", "data.schema"]),
    key(
        "data.validation.on_violation",
        Shape::Choice(&[name("by_rule"), name("fail"), name("quarantine"), name("warn")]),
        json(r#""by_rule""#),
        "by_rule: what each rule says. fail: the job fails. quarantine: rows that break a rule are left out and kept \
         beside. warn: it is told.",
    ),
];
