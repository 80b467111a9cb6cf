//! JSON in which every value knows its line: a mistake in a schema file is shown where it stands.

use crate::validate::schema::Mistake;

/// Largest schema file, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// Deepest nesting.
const MAX_DEPTH: usize = 32;

/// A value and the line that it begins in, from 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub line: u32,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order they were written; no name stands twice.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// For "expected …, found …".
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "null".into(),
            Value::Bool(value) => value.to_string(),
            Value::Number(value) => value.to_string(),
            Value::Text(text) => crate::check::shown(text),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Map(members) => format!("an object of {}", members.len()),
        }
    }

    pub fn member(&self, name: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(members) => members.iter().find(|(key, _)| key == name).map(|(_, node)| node),
            _ => None,
        }
    }
}

/// Reads one JSON value and nothing behind it.
pub fn parse(text: &str) -> Result<Node, Mistake> {
    let mut parser = Parser { text, at: 0, line: 1 };
    if text.len() > MAX_BYTES {
        return Err(parser.mistake(format!("{} bytes, expected at most {MAX_BYTES}", text.len())));
    }
    let node = parser.value(0)?;
    parser.blanks();
    if parser.at < text.len() {
        return Err(parser.mistake("expected nothing more after the value"));
    }
    Ok(node)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

impl Parser<'_> {
    fn mistake(&self, message: impl Into<String>) -> Mistake {
        Mistake { line: self.line, key: String::new(), message: format!("not JSON: {}", message.into()) }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while let Some(byte @ (b' ' | b'\t' | b'\r' | b'\n')) = self.peek() {
            self.line += u32::from(byte == b'\n');
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        self.blanks();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, depth: usize) -> Result<Node, Mistake> {
        self.blanks();
        if depth > MAX_DEPTH {
            return Err(self.mistake(format!("nested deeper than {MAX_DEPTH}")));
        }
        let line = self.line;
        let value = match self.peek() {
            None => return Err(self.mistake("expected a value, found the end")),
            Some(b'{') => self.map(depth)?,
            Some(b'[') => self.list(depth)?,
            Some(b'"') => Value::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(_) => self.word()?,
        };
        Ok(Node { line, value })
    }

    fn word(&mut self) -> Result<Value, Mistake> {
        for (word, value) in [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)] {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        let found = self.text[self.at..].chars().next().unwrap_or_default();
        Err(self.mistake(format!("expected a value, found {found:?}")))
    }

    fn number(&mut self) -> Result<Value, Mistake> {
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !matches!(c, '-' | '+' | '.' | 'e' | 'E' | '0'..='9')).unwrap_or(rest.len());
        let written = &rest[..end];
        let digits = written.trim_start_matches('-');
        let leading_zero = digits.len() > 1 && digits.starts_with('0') && !digits[1..].starts_with(['.', 'e', 'E']);
        let bare_point = digits.ends_with('.') || digits.contains(".e") || digits.contains(".E");
        let legal = digits.starts_with(|c: char| c.is_ascii_digit()) && !leading_zero && !bare_point;
        match written.parse::<f64>() {
            Ok(number) if legal && number.is_finite() => {
                self.at += end;
                Ok(Value::Number(number))
            }
            _ => Err(self.mistake(format!("expected a number, found {}", crate::check::shown(written)))),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, Mistake> {
        self.at += 1;
        let mut items = Vec::new();
        if self.take(b']') {
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.take(b']') {
                return Ok(Value::List(items));
            }
            if !self.take(b',') {
                return Err(self.mistake("expected , or ] in a list"));
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, Mistake> {
        self.at += 1;
        let mut members: Vec<(String, Node)> = Vec::new();
        if self.take(b'}') {
            return Ok(Value::Map(members));
        }
        let mut names = std::collections::HashSet::new();
        loop {
            self.blanks();
            if self.peek() != Some(b'"') {
                return Err(self.mistake("expected a name in quotes"));
            }
            let name = self.string()?;
            if !names.insert(name.clone()) {
                return Err(self.mistake(format!("{} stands twice in one object", crate::check::shown(&name))));
            }
            if !self.take(b':') {
                return Err(self.mistake(format!("expected : after {}", crate::check::shown(&name))));
            }
            members.push((name, self.value(depth + 1)?));
            if self.take(b'}') {
                return Ok(Value::Map(members));
            }
            if !self.take(b',') {
                return Err(self.mistake("expected , or } in an object"));
            }
        }
    }

    fn string(&mut self) -> Result<String, Mistake> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let Some(c) = self.text[self.at..].chars().next() else {
                return Err(self.mistake("a text without its closing quote"));
            };
            self.at += c.len_utf8();
            match c {
                '"' => return Ok(out),
                '\\' => out.push(self.escaped()?),
                c if (c as u32) < 0x20 => {
                    return Err(self.mistake("a line break or control character in a text: write \\n or \\u0000"));
                }
                c => out.push(c),
            }
        }
    }

    fn escaped(&mut self) -> Result<char, Mistake> {
        let byte = self.peek();
        self.at += usize::from(byte.is_some_and(|byte| byte.is_ascii()));
        Ok(match byte {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let first = self.four_digits()?;
                let pair = (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with("\\u");
                let code = if pair {
                    self.at += 2;
                    match self.four_digits()? {
                        second @ 0xdc00..0xe000 => 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00),
                        _ => first,
                    }
                } else {
                    first
                };
                char::from_u32(code).ok_or_else(|| self.mistake("half of a surrogate pair"))?
            }
            _ => return Err(self.mistake("an unknown escape in a text")),
        })
    }

    fn four_digits(&mut self) -> Result<u32, Mistake> {
        let digits = self.text.get(self.at..self.at + 4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        self.at += 4 * usize::from(code.is_some());
        code.ok_or_else(|| self.mistake("expected four hexadecimal digits after \\u"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(node: &Node) -> serde_json::Value {
        match &node.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(value) => (*value).into(),
            Value::Text(text) => text.as_str().into(),
            Value::List(items) => items.iter().map(plain).collect(),
            Value::Map(members) => members.iter().map(|(name, node)| (name.clone(), plain(node))).collect(),
        }
    }

    #[test]
    fn values_are_those_of_json_and_know_their_lines() {
        let text = "{\n \"a\": [1, -2.5e3, true],\n \"ü\": {\"b\": \"\\u00e9\\ud83d\\ude00\\n\"},\n \"c\": null}";
        let node = parse(text).expect("JSON");
        let expected = serde_json::json!({"a": [1.0, -2500.0, true], "ü": {"b": "é😀\n"}, "c": null});
        assert_eq!(plain(&node), expected);
        assert_eq!(node.member("c").expect("c").line, 4);
    }

    #[test]
    fn what_is_no_json_is_told_by_line() {
        for (text, expected) in [
            ("", "line 1: not JSON: expected a value, found the end"),
            ("{\n\"a\": 1,\n\"a\": 2}", "line 3: not JSON: \"a\" stands twice in one object"),
            ("[1,\n2", "line 2: not JSON: expected , or ] in a list"),
            ("{'a': 1}", "line 1: not JSON: expected a name in quotes"),
            ("[01]", "line 1: not JSON: expected a number, found \"01\""),
            ("\"a\nb\"", "line 1: not JSON: a line break or control character in a text: write \\n or \\u0000"),
            ("\"\\ud800\"", "line 1: not JSON: half of a surrogate pair"),
            ("nul", "line 1: not JSON: expected a value, found 'n'"),
            ("1 2", "line 1: not JSON: expected nothing more after the value"),
        ] {
            assert_eq!(parse(text).expect_err(text).to_string(), expected);
        }
        assert!(parse(&"[".repeat(100_000)).expect_err("deep").to_string().contains("nested deeper"));
    }

    proptest! {
        #[test]
        fn it_reads_what_another_reader_reads(text in r#"[\[\]{}:,"a-c0-9.eE\-+ \\nu]{0,40}"#) {
            if let Ok(node) = parse(&text) {
                let expected: Result<serde_json::Value, _> = serde_json::from_str(&text);
                prop_assert!(expected.is_ok(), "{text:?} is read here only");
                let _ = plain(&node);
            }
        }

        #[test]
        fn any_text_ends_with_an_answer(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
