//! Tables of what is read, what is refused, what is computed; and properties against a plain evaluation.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::validate::date;

fn types() -> BTreeMap<String, Type> {
    [
        ("a", Type::Number),
        ("b", Type::Number),
        ("capital-gain", Type::Number),
        ("impressions", Type::Number),
        ("name", Type::Text),
        ("start_date", Type::Date),
        ("end_date", Type::Date),
        ("ok", Type::Bool),
    ]
    .map(|(name, kind)| (name.to_owned(), kind))
    .into()
}

fn cells() -> BTreeMap<&'static str, Cells<'static>> {
    let day = |text: &str| date::parse(text).map_or(f64::NAN, |moment| moment.ms as f64);
    [
        ("a", Cells::Numbers(vec![1.0, 5.0, f64::NAN])),
        ("b", Cells::Numbers(vec![2.0, 0.0, 3.0])),
        ("capital-gain", Cells::Numbers(vec![0.0, 1.0, 2.0])),
        ("impressions", Cells::Numbers(vec![10.0, 20.0, 30.0])),
        ("name", Cells::Texts(vec![Some("Ann".into()), None, Some("bob".into())])),
        ("start_date", Cells::Numbers(vec![day("2021-01-25"), day("2021-02-01"), f64::NAN])),
        ("end_date", Cells::Numbers(vec![day("2021-01-26"), day("2021-01-01"), day("2021-01-01")])),
        ("ok", Cells::Truths(vec![Truth::True, Truth::False, Truth::Unknown])),
    ]
    .into()
}

/// `T`, `F` and `?` of the three rows.
fn truths(text: &str) -> String {
    let expression = Expression::parse(text, &types()).unwrap_or_else(|wrong| panic!("{}", wrong.shown(text)));
    let cells = cells();
    let columns: Vec<&Cells> = expression.columns().iter().map(|name| &cells[name.as_str()]).collect();
    let letter = |truth: &Truth| match truth {
        Truth::True => 'T',
        Truth::False => 'F',
        Truth::Unknown => '?',
    };
    expression.check(&columns, 3).iter().map(letter).collect()
}

#[test]
fn conditions_hold_where_they_should() {
    let mut wrong = Vec::new();
    for (text, expected) in [
        ("a <= b", "TF?"),
        ("a > b", "FT?"),
        ("a = 1", "TF?"),
        ("a == 1 or b = 3", "TFT"),
        ("a = 1 and b = 3", "FF?"),
        ("a = 1 AND b = 2", "TFF"),
        ("not a = 1", "FT?"),
        ("!(a = 1)", "FT?"),
        ("a is null", "FFT"),
        ("a is not null", "TTF"),
        ("a / b > 0", "T??"),
        ("a / b is null or a / b < 10", "TTT"),
        ("a + b * 2 = 5", "TT?"),
        ("(a + b) * 2 = 6", "TF?"),
        ("-a < 0", "TT?"),
        ("a - -b = 3", "TF?"),
        ("10 % 4 = 2", "TTT"),
        ("a in (1, 2)", "TF?"),
        ("a not in (1, 2)", "FT?"),
        ("`capital-gain` >= 1", "FTT"),
        ("name = 'Ann'", "T?F"),
        ("name in ('Ann', \"bob\")", "T?T"),
        ("lower(name) = 'ann'", "T?F"),
        ("length(name) = 3", "T?T"),
        ("end_date >= start_date", "TF?"),
        ("end_date - start_date = 1", "TF?"),
        ("start_date + 1 = end_date", "TF?"),
        ("start_date >= '2021-01-31'", "FT?"),
        ("'2021-01-31' > end_date", "TTT"),
        ("end_date - '2021-01-01' <= 0", "FTT"),
        ("ok", "TF?"),
        ("ok = false", "FT?"),
        ("ok or a = 5", "TT?"),
        ("abs(a - b) <= 1", "TF?"),
        ("min(a, b) = 1", "TF?"),
        ("max(a, b, 4) = 5", "FT?"),
        ("round(a / 2) = 1", "TF?"),
        ("true", "TTT"),
        ("1 / 0 = 1 / 0", "???"),
    ] {
        let found = truths(text);
        if found != expected {
            wrong.push(format!("{text}: {found}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn refused(texts: &[&str], expected: Expect) {
    let told = texts.iter().map(|text| match Expression::parse(text, &types()) {
        Ok(_) => format!("{text}: is read\n"),
        Err(wrong) => wrong.shown(text) + "\n",
    });
    expected.assert_eq(&told.collect::<String>());
}

#[test]
fn mistakes_are_told_by_their_place() {
    refused(
        &[
            "",
            "a",
            "a >=",
            "a >= b b",
            "(a >= b",
            "a > impresions",
            "a > 'x'",
            "name > start_date",
            "start_date > '2021-02-30'",
            "start_date + end_date = 1",
            "ok < true",
            "a and b",
            "not a",
            "sum(a) > 1",
            "abs(a, b) > 1",
            "length(a) > 1",
            "a = 1.2.3",
            "name = 'Ann",
            "ü > 1 and €",
            "a is 1",
            "a not b",
            "a in 1",
            "a in (1",
        ],
        expect![[r#"
            character 1 of "": expected a column, a number or a text, found the end
            character 1 of "a": is a number, expected a condition such as a >= b
            character 5 of "a >=": expected a column, a number or a text, found the end
            character 8 of "a >= b b": expected the end, found "b"
            character 8 of "(a >= b": expected ), found the end
            character 5 of "a > impresions": "impresions" is no column with a type in column_types (did you mean "impressions"?)
            character 5 of "a > 'x'": is a text, but is compared with a number
            character 8 of "name > start_date": is a date, but is compared with a text
            character 14 of "start_date > '2021-02-30'": "2021-02-30" is not a date such as '2021-01-25'
            character 1 of "start_date + end_date = 1": is a date, and cannot be computed with a date
            character 1 of "ok < true": conditions have no order: expected = or !=
            character 1 of "a and b": is a number, expected a condition
            character 5 of "not a": is a number, expected a condition
            character 1 of "sum(a) > 1": "sum" is no function: expected one of abs, min, max, round, length, lower
            character 1 of "abs(a, b) > 1": abs takes one value, found 2
            character 8 of "length(a) > 1": is a number, expected a text
            character 5 of "a = 1.2.3": "1.2.3" is not a number
            character 8 of "name = 'Ann": ' is never closed
            character 11 of "ü > 1 and €": '€' means nothing here
            character 6 of "a is 1": expected null, found the number 1
            character 7 of "a not b": expected in, found "b"
            character 6 of "a in 1": expected (, found the number 1
            character 8 of "a in (1": expected , or ), found the end
        "#]],
    );
    let deep = format!("{}a = 1{}", "(".repeat(1000), ")".repeat(1000));
    assert!(Expression::parse(&deep, &types()).expect_err("deep").message.contains("nested deeper"));
    let long = "a = 1 or ".repeat(1000) + "a = 1";
    assert!(Expression::parse(&long, &types()).expect_err("long").message.contains("at most 4096"));
}

/// An expression of numbers as text, with its value by plain arithmetic.
fn arithmetic() -> impl Strategy<Value = (String, f64)> {
    let leaf = prop_oneof![
        (0u32..1000).prop_map(|n| (n.to_string(), f64::from(n))),
        Just(("a".to_owned(), 1.0)),
        Just(("impressions".to_owned(), 10.0)),
    ];
    leaf.prop_recursive(5, 64, 2, |inner| {
        (inner.clone(), inner, 0..4).prop_map(|((left, l), (right, r), op)| {
            let (sign, value) = match op {
                0 => ("+", l + r),
                1 => ("-", l - r),
                2 => ("*", l * r),
                _ => ("/", l / r),
            };
            (format!("({left} {sign} {right})"), if value.is_finite() { value } else { f64::NAN })
        })
    })
}

proptest! {
    #[test]
    fn arithmetic_is_that_of_numbers((text, value) in arithmetic()) {
        let condition = format!("{text} = {text}");
        prop_assert_eq!(truths(&condition).starts_with('?'), value.is_nan());
        if value.is_finite() && value.abs() < 1e15 {
            let sign = if value < 0.0 { format!("-{}", -value) } else { value.to_string() };
            let condition = format!("{text} = {sign}");
            prop_assert!(truths(&condition).starts_with('T'), "{condition}");
        }
    }

    #[test]
    fn any_text_ends_with_an_answer(text in any::<String>()) {
        let _ = Expression::parse(&text, &types()).map_err(|wrong| wrong.shown(&text));
    }

    #[test]
    fn any_words_end_with_an_answer(words in prop::collection::vec(prop::sample::select(vec![
        "a", "b", "name", "start_date", "ok", "1", "'x'", "'2021-01-01'", "and", "or", "not", "in", "is", "null", "(", ")", ",",
        "<", "=", "+", "-", "*", "/", "abs", "min", "length", "`capital-gain`", "true",
    ]), 0..24)) {
        let text = words.join(" ");
        if let Ok(expression) = Expression::parse(&text, &types()) {
            let cells = cells();
            let columns: Vec<&Cells> = expression.columns().iter().map(|name| &cells[name.as_str()]).collect();
            prop_assert_eq!(expression.check(&columns, 3).len(), 3);
        }
    }
}
