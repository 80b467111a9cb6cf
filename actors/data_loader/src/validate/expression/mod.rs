//! Conditions over the columns of a row, such as `end_date >= start_date` or `clicks <= impressions or source = 'test'`.
//!
//! Names are columns as they stand, or in backquotes (`` `capital-gain` ``); texts stand in quotes; a text beside a date
//! is read as a date. Operators, from the loosest: `or`, `and`, `not`, then `= == != <> < <= > >=`, `is [not] null`,
//! `[not] in (…)`, then `+ -`, then `* / %`, then a sign. Functions: `abs`, `min`, `max`, `round`, `length`, `lower`.
//! Two dates differ by days; a date may be moved by days.
//!
//! What is missing makes what is computed from it missing, and so does a division by 0. `and` and `or` are decided by the
//! other side where that suffices (`false and missing` is false). A row breaks a condition only where it is false, never
//! where it is missing: `is not null` asks for presence.

mod eval;
mod lexer;
mod parse;

use std::collections::BTreeMap;

pub use eval::{Cells, Truth};

use crate::nearest::did_you_mean;

/// Longest expression, in bytes.
pub const MAX_BYTES: usize = 4096;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Number,
    Text,
    /// Milliseconds since the epoch.
    Date,
    Bool,
}

impl Type {
    pub fn name(self) -> &'static str {
        match self {
            Self::Number => "a number",
            Self::Text => "a text",
            Self::Date => "a date",
            Self::Bool => "a condition",
        }
    }
}

/// What is wrong with an expression, and where: bytes from its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    pub at: usize,
    pub message: String,
}

impl Wrong {
    fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }

    /// With the character counted as a person counts.
    pub fn shown(&self, text: &str) -> String {
        let column = text.get(..self.at).map_or(0, |before| before.chars().count()) + 1;
        format!("character {column} of {}: {}", crate::check::shown(text), self.message)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Abs,
    Min,
    Max,
    Round,
    Length,
    Lower,
}

/// A typed expression; `at` is where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    at: usize,
    kind: Type,
    op: Op,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Op {
    /// Index into the columns of the expression.
    Column(usize),
    Number(f64),
    Text(String),
    Bool(bool),
    Negate(Box<Node>),
    Arithmetic(Arithmetic, Box<Node>, Box<Node>),
    Compare(Compare, Box<Node>, Box<Node>),
    Not(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    IsNull(Box<Node>),
    Call(Function, Vec<Node>),
}

/// A condition that fits the types of its columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    text: String,
    columns: Vec<String>,
    root: Node,
}

impl Expression {
    /// Reads a condition over columns of these types.
    pub fn parse(text: &str, types: &BTreeMap<String, Type>) -> Result<Self, Wrong> {
        if text.len() > MAX_BYTES {
            return Err(Wrong::new(0, format!("{} bytes, expected at most {MAX_BYTES}", text.len())));
        }
        let (root, columns) = parse::parse(text, types)?;
        if root.kind != Type::Bool {
            return Err(Wrong::new(root.at, format!("is {}, expected a condition such as a >= b", root.kind.name())));
        }
        Ok(Self { text: text.to_owned(), columns, root })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The columns that it reads, in the order that [`Expression::check`] wants them.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Whether each of `rows` rows fulfils the condition.
    pub fn check(&self, columns: &[&Cells<'_>], rows: usize) -> Vec<Truth> {
        eval::truths(&self.root, columns, rows)
    }
}

fn unknown_column(name: &str, at: usize, types: &BTreeMap<String, Type>) -> Wrong {
    let nearest = did_you_mean(name, types.keys().map(String::as_str));
    Wrong::new(at, format!("{name:?} is no column with a type in column_types{nearest}"))
}

#[cfg(test)]
mod tests;
