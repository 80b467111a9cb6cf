//! One value of a text file: missing, a number, a number that cannot be used, or a text.

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
}

impl ValueReader {
    pub fn new(null_values: Vec<String>, decimal_comma: bool) -> Self {
        Self { null_values, decimal_comma }
    }

    /// An empty text is missing, and so is each of the null values.
    pub fn is_missing(&self, text: &str) -> bool {
        text.is_empty() || self.null_values.iter().any(|null| null == text)
    }

    /// Blanks around a number do not matter.
    pub fn read<'a>(&self, text: &'a str) -> Value<'a> {
        if self.is_missing(text) {
            return Value::Missing;
        }
        let blank = text.trim();
        if blank.is_empty() || self.is_missing(blank) {
            return Value::Missing;
        }
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
}

/// Whether a number can become a feature: finite, also as a 32-bit float.
pub fn usable(number: f64) -> bool {
    number.abs() <= f64::from(f32::MAX)
}

#[cfg(test)]
mod tests {
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
    }
}
