//! One value of a text file: missing, a number, a number that cannot be used, a code, or a text.

/// What a text is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    Missing,
    Number(f64),
    /// Written as a number, but NaN, infinite, or beyond the range of 32-bit floats that features have.
    Unusable(&'a str),
    Text(&'a str),
}

/// How texts of one column are read.
#[derive(Debug, Clone)]
pub struct ValueReader {
    null_values: Vec<String>,
    decimal_comma: bool,
    /// Whether a text that a number may begin can mean missing.
    null_numbers: bool,
}

impl ValueReader {
    pub fn new(null_values: Vec<String>, decimal_comma: bool) -> Self {
        let null_numbers = null_values.iter().any(|null| null.trim().bytes().next().is_some_and(begins_number));
        Self { null_values, decimal_comma, null_numbers }
    }

    /// An empty text is missing, and so is each of the null values; blanks around them do not matter.
    pub fn is_missing(&self, text: &str) -> bool {
        if !self.null_numbers && text.bytes().next().is_some_and(begins_number) {
            return false;
        }
        let is_null = |text: &str| text.is_empty() || self.null_values.iter().any(|null| null == text);
        if is_null(text) {
            return true;
        }
        let blank = trimmed(text);
        blank.len() < text.len() && is_null(blank)
    }

    /// Blanks around a number do not matter.
    pub fn read<'a>(&self, text: &'a str) -> Value<'a> {
        if !self.null_numbers
            && !self.decimal_comma
            && let Some(number) = plain_number(text.as_bytes())
        {
            return Value::Number(number);
        }
        if self.is_missing(text) {
            return Value::Missing;
        }
        let blank = trimmed(text);
        let parsed = if self.decimal_comma {
            if blank.contains('.') {
                return Value::Text(text);
            }
            blank.replace(',', ".").parse::<f64>()
        } else {
            blank.parse::<f64>()
        };
        match parsed {
            Ok(number) if usable(number) => Value::Number(number),
            Ok(_) => Value::Unusable(text),
            Err(_) => Value::Text(text),
        }
    }

    /// The same where nobody said what the column holds: a code that looks like a number is a text.
    pub fn infer<'a>(&self, text: &'a str) -> Value<'a> {
        match self.read(text) {
            Value::Number(_) | Value::Unusable(_) if is_code(trimmed(text).as_bytes()) => Value::Text(text),
            value => value,
        }
    }
}

/// The text without the blanks around it; nearly all have none, and begin and end with ASCII.
pub fn trimmed(text: &str) -> &str {
    match text.as_bytes() {
        [first, .., last] if first.is_ascii_graphic() && last.is_ascii_graphic() => text,
        _ => text.trim(),
    }
}

fn begins_number(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.')
}

/// A text of digits with at most one point, short enough that one division gives the nearest float (Clinger, How to Read
/// Floating Point Numbers Accurately, 1990): the quick way for most numbers of a table.
fn plain_number(text: &[u8]) -> Option<f64> {
    const EXACT_DIGITS: usize = 15;
    const POWERS: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    if digits.is_empty() || digits.len() > EXACT_DIGITS + 1 {
        return None;
    }
    let (mut mantissa, mut point) = (0u64, None);
    for (at, &byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => mantissa = mantissa * 10 + u64::from(byte - b'0'),
            b'.' if point.is_none() => point = Some(at),
            _ => return None,
        }
    }
    let count = digits.len() - usize::from(point.is_some());
    if count == 0 || count > EXACT_DIGITS {
        return None;
    }
    let value = mantissa as f64 / POWERS[point.map_or(0, |at| digits.len() - at - 1)];
    Some(if negative { -value } else { value })
}

/// Digits that name something and count nothing: with a leading zero, more than a float keeps, or a hash in
/// hexadecimal whose one letter happens to be an e.
fn is_code(text: &[u8]) -> bool {
    /// Lengths that hashes are written with.
    const HASHES: [usize; 5] = [8, 16, 32, 40, 64];
    /// Above, whole numbers have no float of their own: 2^53.
    const MAX_EXACT: u64 = 1 << 53;
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if digits.iter().all(u8::is_ascii_digit) {
        if digits.len() > 1 && digits[0] == b'0' {
            return true;
        }
        let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u64>().ok());
        return digits.len() > 15 && number.is_none_or(|number| number > MAX_EXACT);
    }
    HASHES.contains(&text.len())
        && text.iter().all(|b| b.is_ascii_digit() || matches!(b, b'e' | b'E'))
        && text[0].is_ascii_digit()
}

/// Whether a number can become a feature: finite, also as a 32-bit float.
pub fn usable(number: f64) -> bool {
    number.abs() <= f64::from(f32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_are_read_as_people_mean_them() {
        let reader = ValueReader::new(vec!["?".into(), "NA".into()], false);
        for (text, expected) in [
            ("", Value::Missing),
            ("  ", Value::Missing),
            ("?", Value::Missing),
            (" ? ", Value::Missing),
            ("NA", Value::Missing),
            ("na", Value::Text("na")),
            ("1", Value::Number(1.0)),
            (" -1.5e3 ", Value::Number(-1500.0)),
            ("+.5", Value::Number(0.5)),
            (".", Value::Text(".")),
            ("-", Value::Text("-")),
            ("-0", Value::Number(-0.0)),
            ("007", Value::Number(7.0)),
            ("NaN", Value::Unusable("NaN")),
            ("-inf", Value::Unusable("-inf")),
            ("1e999", Value::Unusable("1e999")),
            ("4e38", Value::Unusable("4e38")),
            ("3.4e38", Value::Number(3.4e38)),
            ("1,5", Value::Text("1,5")),
            ("1_000", Value::Text("1_000")),
            ("0x10", Value::Text("0x10")),
        ] {
            assert_eq!(reader.read(text), expected, "{text:?}");
        }
        let comma = ValueReader::new(vec![], true);
        assert_eq!(comma.read("1,5"), Value::Number(1.5));
        assert_eq!(comma.read("1.000,5"), Value::Text("1.000,5"));
        assert_eq!(comma.read("7"), Value::Number(7.0));
        let coded = ValueReader::new(vec!["-1".into(), "999".into()], false);
        assert_eq!(coded.read("-1"), Value::Missing);
        assert_eq!(coded.read("999"), Value::Missing);
        assert_eq!(coded.read("99"), Value::Number(99.0));
    }

    #[test]
    fn codes_are_no_numbers_unless_they_are_declared() {
        let reader = ValueReader::new(vec![], false);
        for code in [
            "007",
            "-01",
            "10000949271186029916",
            "9007199254740993",
            "123456789012345678901234567890",
            "1234e567",
            "12345e07",
            "00000000",
        ] {
            assert_eq!(reader.infer(code), Value::Text(code), "{code}");
        }
        for number in ["0", "0.5", "-0.25", "9007199254740992", "1e5", "1.5e+10", "100000000", "12.45e07"] {
            assert!(matches!(reader.infer(number), Value::Number(_)), "{number}");
        }
    }

    proptest! {
        #[test]
        fn the_quick_way_gives_the_nearest_float(text in "-?[0-9]{0,9}(\\.[0-9]{0,9})?") {
            if let Some(number) = plain_number(text.as_bytes()) {
                prop_assert_eq!(number.to_bits(), text.parse::<f64>().expect("a number").to_bits());
            }
        }
    }
}
