//! Numbers as people read them.

/// Four significant digits at most, thousands apart, an exponent where the number is very large or very small.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() { "none".to_owned() } else { value.to_string() };
    }
    let size = value.abs();
    if value == 0.0 {
        return "0".to_owned();
    }
    if !(1e-4..1e15).contains(&size) {
        return trimmed(&format!("{value:.3e}"));
    }
    if value.fract() == 0.0 || size >= 1000.0 {
        return thousands(&format!("{value:.0}"));
    }
    let before_point = size.log10().floor() as i32 + 1;
    let digits = (4 - before_point).max(0) as usize;
    trimmed(&format!("{value:.digits$}"))
}

/// A share as percent: `0.125` is `12.5 %`.
pub fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.0005 {
        "< 0.1 %".to_owned()
    } else {
        format!("{} %", trimmed(&format!("{:.1}", share * 100.0)))
    }
}

/// Without zeros at the end of the fraction; an exponent stays.
fn trimmed(text: &str) -> String {
    let (number, exponent) = text.split_once('e').map_or((text, None), |(number, exponent)| (number, Some(exponent)));
    let number = if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number };
    exponent.map_or_else(|| number.to_owned(), |exponent| format!("{number}e{exponent}"))
}

fn thousands(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |rest| ("-", rest));
    let mut out = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, expected) in [
            (0.0, "0"),
            (-3.0, "-3"),
            (0.25, "0.25"),
            (1.0 / 3.0, "0.3333"),
            (12.3456, "12.35"),
            (999.96, "1000"),
            (1_234_567.0, "1,234,567"),
            (-12_345.678, "-12,346"),
            (0.000_01, "1e-5"),
            (1.5e20, "1.5e20"),
            (f64::NAN, "none"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(number(value), expected, "{value}");
        }
        assert_eq!(percent(0.125), "12.5 %");
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(percent(0.0001), "< 0.1 %");
        assert_eq!(percent(0.0), "0 %");
    }
}
