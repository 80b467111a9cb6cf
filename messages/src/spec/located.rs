//! What the user wrote, as a tree in which every key and every value knows its file, line and column.

/// Where something stands. `source` is an index into the tree's sources; line and column are 1-based,
/// 0 where unknown (a spec that came as an object, `--set`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub source: u16,
    pub line: u32,
    pub column: u32,
}

/// A value and where it begins.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub at: Place,
    pub value: Value,
}

/// A value of YAML's or JSON's core types.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Member>),
}

/// A number, with its spelling for where a text is expected (`1.10` stays `1.10`).
#[derive(Debug, Clone)]
pub(crate) struct Number {
    pub spelling: String,
    pub value: f64,
    /// The exact value of a number that was written without a fraction.
    pub whole: Option<i128>,
}

/// A key and its value.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub key: String,
    pub key_at: Place,
    pub node: Node,
}

/// Equality of values, wherever they stand: an alias may repeat what the canonical key says.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        match (&self.value, &other.value) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Number(a), Value::Number(b)) => {
                a.value == b.value && (a.whole.is_none() || b.whole.is_none() || a.whole == b.whole)
            }
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::List(a), Value::List(b)) => a == b,
            (Value::Map(a), Value::Map(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.key == b.key && a.node == b.node)
            }
            _ => false,
        }
    }
}

impl Node {
    /// The members of a mapping; none for anything else.
    pub fn members(&self) -> &[Member] {
        match &self.value {
            Value::Map(members) => members,
            _ => &[],
        }
    }

    pub fn member(&self, key: &str) -> Option<&Member> {
        self.members().iter().find(|member| member.key == key)
    }

    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// A scalar's text as the user wrote it; none for null, lists and mappings.
    pub fn scalar_text(&self) -> Option<String> {
        match &self.value {
            Value::Bool(value) => Some(value.to_string()),
            Value::Number(number) => Some(number.spelling.clone()),
            Value::Text(text) => Some(text.clone()),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// For "expected …, found …".
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing (null)".into(),
            Value::Bool(value) => value.to_string(),
            Value::Number(number) => number.spelling.clone(),
            Value::Text(text) => format!("text {:?}", shorten(text, 60)),
            Value::List(items) if items.is_empty() => "an empty list".into(),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Map(members) if members.is_empty() => "an empty mapping".into(),
            Value::Map(members) => {
                format!("a mapping with the key {:?}", shorten(&members[0].key, 60))
            }
        }
    }
}

/// At most `limit` characters of `text`.
pub(crate) fn shorten(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(limit).collect();
    short.push('…');
    short
}
