//! The keys of how files are read beside the plain CSV options: encodings, dates, images, joined tables.

use super::Fallback::{Absent, Required};
use super::Shape::{Label, Records, Source, Text, Texts};
use super::{Key, Shape, also, json, key};

const JOIN: &[Key] = &[
    key("path", Source, Required, "The other table: one file below a data root, or an allowed URL."),
    key("on", Texts, Required, "Columns of both tables that name a row of the other one."),
    key(
        "how",
        Shape::Choice(&[also("left", &["left_outer"]), also("inner", &[])]),
        json(r#""left""#),
        "Whether a row without a partner stays (left) or is left out (inner).",
    ),
    key("prefix", Label, json(r#""""#), "In front of the names of the other table's columns."),
];

/// See `messages/src/plan/source.rs`.
pub(super) const KEYS: &[Key] = &[
    key(
        "data.csv.encoding",
        Shape::Choice(&[
            also("utf-8", &["utf8", "utf-8-sig"]),
            also("windows-1252", &["cp1252", "latin-1", "latin1", "iso-8859-1"]),
            also("utf-16", &["utf16"]),
            also("utf-16le", &["utf16le", "utf-16-le"]),
            also("utf-16be", &["utf16be", "utf-16-be"]),
        ]),
        json(r#""utf-8""#),
        "How bytes become characters. A byte order mark is read past.",
    )
    .alias(&["data.encoding"]),
    key(
        "data.columns.*.date_format",
        Text,
        Absent,
        "Of a datetime column: how its texts stand, such as %d.%m.%Y %H:%M (strftime); without it ISO 8601 is read.",
    )
    .alias(&["data.columns.*.format"]),
    key(
        "data.columns.*.time_zone",
        Text,
        Absent,
        "Of a datetime column: the IANA zone of texts that name none, such as Europe/Berlin; without it UTC.",
    ),
    key(
        "data.columns.*.size",
        Shape::Wholes { min: 1, max: 4096 },
        Absent,
        "Of an image column of files or bytes: [height, width] that each image is resized to.",
    ),
    key(
        "data.columns.*.channels",
        Shape::Whole { min: 1, max: 3 },
        json("3"),
        "Of an image column of files or bytes: 3 for color, 1 for gray.",
    ),
    key(
        "data.joins",
        Records(JOIN),
        json("[]"),
        "Tables whose columns stand beside those of the rows with the same key.",
    ),
];
