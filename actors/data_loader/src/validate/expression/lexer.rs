//! The words of an expression.

use super::Wrong;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Number(f64),
    Text(String),
    Name(String),
    /// A name in backquotes is never a word of the language.
    Quoted(String),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

impl Token {
    pub fn describe(&self) -> String {
        match self {
            Self::Number(number) => format!("the number {number}"),
            Self::Text(text) => format!("the text {}", crate::check::shown(text)),
            Self::Name(name) | Self::Quoted(name) => crate::check::shown(name),
            Self::Sign(sign) => format!("{sign:?}"),
            Self::End => "the end".into(),
        }
    }
}

/// Longer ones first.
const SIGNS: [&str; 17] = ["<=", ">=", "==", "!=", "<>", "<", ">", "=", "+", "-", "*", "/", "%", "(", ")", ",", "!"];

/// Tokens with the byte where each begins; the last is [`Token::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, Wrong> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let (token, length) = if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        } else if c.is_ascii_digit() || c == '.' {
            number(rest, at)?
        } else if matches!(c, '\'' | '"' | '`') {
            let end = rest[1..].find(c).ok_or_else(|| Wrong::new(at, format!("{c} is never closed")))?;
            let inner = rest[1..=end].to_owned();
            (if c == '`' { Token::Quoted(inner) } else { Token::Text(inner) }, end + 2)
        } else if c.is_alphabetic() || c == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '.').unwrap_or(rest.len());
            (Token::Name(rest[..end].to_owned()), end)
        } else if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            (Token::Sign(sign), sign.len())
        } else {
            return Err(Wrong::new(at, format!("{c:?} means nothing here")));
        };
        found.push((at, token));
        at += length;
    }
    found.push((text.len(), Token::End));
    Ok(found)
}

fn number(rest: &str, at: usize) -> Result<(Token, usize), Wrong> {
    let bytes = rest.as_bytes();
    let mut end = 0;
    while end < bytes.len() {
        let exponent_sign = matches!(bytes[end], b'+' | b'-') && matches!(bytes[end - 1], b'e' | b'E');
        if !(bytes[end].is_ascii_alphanumeric() || bytes[end] == b'.' || exponent_sign) {
            break;
        }
        end += 1;
    }
    match rest[..end].parse::<f64>() {
        Ok(number) if number.is_finite() => Ok((Token::Number(number), end)),
        _ => Err(Wrong::new(at, format!("{:?} is not a number", &rest[..end]))),
    }
}
