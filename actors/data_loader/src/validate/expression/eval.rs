//! Evaluation, a whole chunk of rows at a time.

use std::borrow::Cow;

use super::{Arithmetic, Compare, Function, Node, Op, Type};
use crate::validate::date::DAY_MS;

/// The values of one column in a chunk. NaN is a missing number or date.
#[derive(Debug, Clone)]
pub enum Cells<'a> {
    /// Numbers, and dates in milliseconds.
    Numbers(Vec<f64>),
    Texts(Vec<Option<Cow<'a, str>>>),
    Truths(Vec<Truth>),
}

/// Of a condition on one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    False,
    True,
    /// Something that it depends on is missing.
    Unknown,
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

pub(super) fn truths(node: &Node, columns: &[&Cells<'_>], rows: usize) -> Vec<Truth> {
    match &node.op {
        Op::Column(index) => match columns[*index] {
            Cells::Truths(truths) => truths.clone(),
            _ => vec![Truth::Unknown; rows],
        },
        Op::Bool(value) => vec![Truth::from(*value); rows],
        Op::Not(inner) => {
            let turned = |truth| match truth {
                Truth::True => Truth::False,
                Truth::False => Truth::True,
                Truth::Unknown => Truth::Unknown,
            };
            truths(inner, columns, rows).into_iter().map(turned).collect()
        }
        Op::And(left, right) => joined(truths(left, columns, rows), &truths(right, columns, rows), Truth::False),
        Op::Or(left, right) => joined(truths(left, columns, rows), &truths(right, columns, rows), Truth::True),
        Op::IsNull(inner) => missing(inner, columns, rows),
        Op::Compare(compare, left, right) => match left.kind {
            Type::Text => {
                let (left, right) = (texts(left, columns, rows), texts(right, columns, rows));
                let pairs = left.iter().zip(&right);
                pairs
                    .map(|pair| match pair {
                        (Some(left), Some(right)) => Truth::from(holds(*compare, left.cmp(right))),
                        _ => Truth::Unknown,
                    })
                    .collect()
            }
            Type::Bool => {
                let (left, right) = (truths(left, columns, rows), truths(right, columns, rows));
                let pairs = left.into_iter().zip(right);
                pairs
                    .map(|pair| match pair {
                        (Truth::Unknown, _) | (_, Truth::Unknown) => Truth::Unknown,
                        (left, right) => Truth::from((left == right) == (*compare == Compare::Equal)),
                    })
                    .collect()
            }
            Type::Number | Type::Date => {
                let (left, right) = (numbers(left, columns, rows), numbers(right, columns, rows));
                let compared = |(left, right): (&f64, &f64)| match left.partial_cmp(right) {
                    Some(order) => Truth::from(holds(*compare, order)),
                    None => Truth::Unknown,
                };
                left.iter().zip(right.iter()).map(compared).collect()
            }
        },
        // Typed otherwise: no condition.
        Op::Number(_) | Op::Text(_) | Op::Negate(_) | Op::Arithmetic(..) | Op::Call(..) => vec![Truth::Unknown; rows],
    }
}

/// `and` and `or` of three values: `deciding` on either side decides.
fn joined(left: Vec<Truth>, right: &[Truth], deciding: Truth) -> Vec<Truth> {
    let both = |(left, right): (Truth, &Truth)| {
        if left == deciding || *right == deciding {
            deciding
        } else if left == Truth::Unknown || *right == Truth::Unknown {
            Truth::Unknown
        } else {
            left
        }
    };
    left.into_iter().zip(right).map(both).collect()
}

fn holds(compare: Compare, order: std::cmp::Ordering) -> bool {
    match compare {
        Compare::Equal => order.is_eq(),
        Compare::NotEqual => order.is_ne(),
        Compare::Less => order.is_lt(),
        Compare::LessEqual => order.is_le(),
        Compare::Greater => order.is_gt(),
        Compare::GreaterEqual => order.is_ge(),
    }
}

fn missing(node: &Node, columns: &[&Cells<'_>], rows: usize) -> Vec<Truth> {
    match node.kind {
        Type::Text => texts(node, columns, rows).iter().map(|text| Truth::from(text.is_none())).collect(),
        Type::Bool => truths(node, columns, rows).iter().map(|truth| Truth::from(*truth == Truth::Unknown)).collect(),
        Type::Number | Type::Date => numbers(node, columns, rows).iter().map(|n| Truth::from(n.is_nan())).collect(),
    }
}

fn numbers<'c>(node: &Node, columns: &[&'c Cells<'_>], rows: usize) -> Cow<'c, [f64]> {
    let map = |inner: &Node, with: fn(f64) -> f64| -> Cow<'c, [f64]> {
        numbers(inner, columns, rows).iter().map(|value| with(*value)).collect()
    };
    match &node.op {
        Op::Column(index) => match columns[*index] {
            Cells::Numbers(numbers) => Cow::Borrowed(numbers),
            _ => vec![f64::NAN; rows].into(),
        },
        Op::Number(number) => vec![*number; rows].into(),
        Op::Negate(inner) => map(inner, |value| -value),
        Op::Arithmetic(op, left, right) => {
            // Dates count in milliseconds, what is added to them in days.
            let of_dates = left.kind == Type::Date;
            let scale = if of_dates && right.kind == Type::Number { DAY_MS as f64 } else { 1.0 };
            let divide = if of_dates && right.kind == Type::Date { DAY_MS as f64 } else { 1.0 };
            let (left, right) = (numbers(left, columns, rows), numbers(right, columns, rows));
            let pairs = left.iter().zip(right.iter());
            pairs.map(|(left, right)| finite(arithmetic(*op, *left, right * scale) / divide)).collect()
        }
        Op::Call(Function::Abs, arguments) => map(&arguments[0], f64::abs),
        Op::Call(Function::Round, arguments) => map(&arguments[0], f64::round),
        Op::Call(Function::Length, arguments) => {
            let length = |text: &Option<Cow<'_, str>>| text.as_ref().map_or(f64::NAN, |t| t.chars().count() as f64);
            texts(&arguments[0], columns, rows).iter().map(length).collect()
        }
        Op::Call(function, arguments) => {
            let pick = if *function == Function::Min { f64::min } else { f64::max };
            let mut result = numbers(&arguments[0], columns, rows).into_owned();
            for argument in &arguments[1..] {
                for (value, other) in result.iter_mut().zip(numbers(argument, columns, rows).iter()) {
                    *value = if value.is_nan() || other.is_nan() { f64::NAN } else { pick(*value, *other) };
                }
            }
            result.into()
        }
        _ => vec![f64::NAN; rows].into(),
    }
}

fn arithmetic(op: Arithmetic, left: f64, right: f64) -> f64 {
    match op {
        Arithmetic::Add => left + right,
        Arithmetic::Subtract => left - right,
        Arithmetic::Multiply => left * right,
        Arithmetic::Divide => left / right,
        Arithmetic::Remainder => left % right,
    }
}

/// What is no number (by a division by 0, or beyond the range) is missing.
fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { f64::NAN }
}

fn texts<'c>(node: &Node, columns: &[&'c Cells<'_>], rows: usize) -> Vec<Option<Cow<'c, str>>> {
    match &node.op {
        Op::Column(index) => match columns[*index] {
            Cells::Texts(texts) => texts.iter().map(|text| text.as_deref().map(Cow::Borrowed)).collect(),
            _ => vec![None; rows],
        },
        Op::Text(text) => vec![Some(Cow::Owned(text.clone())); rows],
        Op::Call(Function::Lower, arguments) => {
            let lower = |text: Option<Cow<'c, str>>| text.map(|text| Cow::Owned(text.to_lowercase()));
            texts(&arguments[0], columns, rows).into_iter().map(lower).collect()
        }
        _ => vec![None; rows],
    }
}
