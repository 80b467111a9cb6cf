//! The text of a spec to a located tree. Bounded: 4 MiB of text, 64 levels, aliases that unfold to
//! a limited size. Duplicate keys are refused with both lines.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Location, Spanned, UserMessageFormatter};

use super::located::{Member, Node, Number, Place, Value, shorten};
use super::mistakes::Mistakes;
use crate::rpc::SpecFormat;

/// Largest text of a spec with all its bases, in bytes.
pub const MAX_SPEC_BYTES: usize = 4 * 1024 * 1024;
/// Deepest nesting of a spec.
pub const MAX_SPEC_DEPTH: usize = 64;
/// Most values in a spec, after aliases are unfolded.
const MAX_NODES: usize = 100_000;

/// Parses one source. Every mistake is reported; none is returned where there was one.
pub(crate) fn parse_text(source: u16, text: &str, format: SpecFormat, mistakes: &mut Mistakes) -> Option<Node> {
    if text.len() > MAX_SPEC_BYTES {
        let message = format!("too large: {} bytes, expected at most {MAX_SPEC_BYTES}", text.len());
        mistakes.add(Place { source, ..Place::default() }, "", message);
        return None;
    }
    let node = match format {
        SpecFormat::Yaml => parse_yaml(source, text, mistakes)?,
        SpecFormat::Json => super::json::parse_json(source, text, mistakes)?,
    };
    let before = mistakes.len();
    refuse_duplicates(&node, "", mistakes);
    (mistakes.len() == before).then_some(node)
}

/// A scalar or flow value, as after the `=` of `--set key=value`.
pub(crate) fn parse_value(source: u16, text: &str, key: &str, mistakes: &mut Mistakes) -> Option<Node> {
    match yaml_node(source, text) {
        Ok(mut node) => {
            forget_lines(&mut node, source);
            Some(node)
        }
        Err((_, message)) => {
            mistakes.add(Place { source, ..Place::default() }, key, message);
            None
        }
    }
}

fn forget_lines(node: &mut Node, source: u16) {
    let nowhere = Place { source, ..Place::default() };
    node.at = nowhere;
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| forget_lines(item, source)),
        Value::Map(members) => {
            for member in members {
                member.key_at = nowhere;
                forget_lines(&mut member.node, source);
            }
        }
        _ => {}
    }
}

fn parse_yaml(source: u16, text: &str, mistakes: &mut Mistakes) -> Option<Node> {
    match yaml_node(source, text) {
        Ok(node) => Some(node),
        Err((at, message)) => {
            match indented_by_tab(text, at.line) {
                Some(line) => {
                    mistakes.add(Place { source, line, column: 1 }, "", "a tab indents this line: YAML expects blanks");
                }
                None => mistakes.add(at, "", message),
            }
            None
        }
    }
}

/// The first line up to the one of the error that begins with blanks and a tab, before its text.
fn indented_by_tab(text: &str, up_to: u32) -> Option<u32> {
    let reach = if up_to == 0 { usize::MAX } else { up_to as usize + 1 };
    text.lines()
        .take(reach)
        .position(|line| line.trim_start_matches(' ').starts_with('\t') && !line.trim().is_empty())
        .map(|index| index as u32 + 1)
}

fn yaml_node(source: u16, text: &str) -> Result<Node, (Place, String)> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_SPEC_DEPTH,
            flow_nesting_limit: MAX_SPEC_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_merge_keys: 1_000,
            max_documents: 1,
            max_recorded_anchor_events: 2 * MAX_NODES,
            max_recorded_anchor_bytes: 2 * MAX_SPEC_BYTES,
            max_total_scalar_bytes: 2 * MAX_SPEC_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_NODES,
            max_replay_stack_depth: 16,
        },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        leading_zero_numbers_as_strings: true,
        strict_booleans: true,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options) {
        Ok(raw) => Ok(located(raw, source, text)),
        Err(error) => {
            let at = error.location().map_or(Place { source, ..Place::default() }, |at| place(at, source));
            let message = error.render_with_formatter(&UserMessageFormatter);
            Err((at, readable(&message)))
        }
    }
}

/// The parser's words in a user's terms: one line, without the place, which stands beside it.
fn readable(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    let plain = first.split(" at line ").next().unwrap_or(first);
    let has = |sign: &str| first.contains(sign);
    if has("Documents {") || has("ultiple documents") {
        "a second document begins here: expected one".into()
    } else if has("Depth {") || has("recursion limit") {
        format!("nested deeper than {MAX_SPEC_DEPTH} levels")
    } else if has("replay") || has("Aliases {") || has("Anchors {") || has("RecordedAnchor") {
        format!("aliases that unfold to too much: expected at most {MAX_NODES} values")
    } else if has("limits breached") {
        format!("too many values: expected at most {MAX_NODES}")
    } else {
        format!("not YAML: {}", shorten(plain, 300))
    }
}

/// Keys that stand twice in one mapping.
fn refuse_duplicates(node: &Node, path: &str, mistakes: &mut Mistakes) {
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| refuse_duplicates(item, path, mistakes)),
        Value::Map(members) => {
            let mut first = std::collections::HashMap::with_capacity(members.len());
            for member in members {
                let inner = if path.is_empty() { member.key.clone() } else { format!("{path}.{}", member.key) };
                if let Some(line) = first.insert(&member.key, member.key_at.line) {
                    let message =
                        format!("duplicate key: given in line {line} and again in line {}", member.key_at.line);
                    mistakes.add(member.key_at, &inner, message);
                }
                refuse_duplicates(&member.node, &inner, mistakes);
            }
        }
        _ => {}
    }
}

/// What serde hands over, before places are resolved.
enum Raw {
    Null,
    Bool(bool),
    Whole(i128),
    Number(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<RawKey>, Spanned<Raw>)>),
}

/// A key: any scalar, as it is spelled.
struct RawKey(String);

impl<'de> Deserialize<'de> for RawKey {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Whole(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Whole(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = access.next_entry()? {
            members.push(member);
        }
        Ok(Raw::Map(members))
    }
}

fn place(at: Location, source: u16) -> Place {
    Place { source, line: u32::try_from(at.line()).unwrap_or(0), column: u32::try_from(at.column()).unwrap_or(0) }
}

fn located(raw: Spanned<Raw>, source: u16, text: &str) -> Node {
    let at = place(raw.referenced, source);
    let number = |value: f64, whole: Option<i128>| {
        let spelling = spelling(raw.defined, text, value).unwrap_or_else(|| value.to_string());
        Value::Number(Number { spelling, value, whole })
    };
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Bool(value) => Value::Bool(value),
        Raw::Whole(value) => number(value as f64, Some(value)),
        Raw::Number(value) => {
            let whole = (value.fract() == 0.0 && value.abs() < 9e15).then_some(value as i128);
            number(value, whole)
        }
        Raw::Text(value) => Value::Text(value),
        Raw::List(items) => Value::List(items.into_iter().map(|item| located(item, source, text)).collect()),
        Raw::Map(members) => Value::Map(
            members
                .into_iter()
                .map(|(key, value)| Member {
                    key_at: place(key.referenced, source),
                    key: key.value.0,
                    node: located(value, source, text),
                })
                .collect(),
        ),
    };
    Node { at, value }
}

/// The number as it stands in the text.
fn spelling(at: Location, text: &str, value: f64) -> Option<String> {
    let start = usize::try_from(at.span().byte_offset()?).ok()?;
    let end = start.checked_add(usize::try_from(at.span().byte_len()?).ok()?)?;
    let written = text.get(start..end)?.trim();
    (written.parse() == Ok(value)).then(|| written.to_owned())
}
