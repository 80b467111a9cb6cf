//! From words to a typed tree. Each level of the grammar is a function; depth is bounded.

use std::collections::BTreeMap;

use super::lexer::{Token, tokens};
use super::{Arithmetic, Compare, Function, Node, Op, Type, Wrong, unknown_column};
use crate::nearest::did_you_mean;
use crate::validate::date;

/// Deepest nesting of brackets, signs and `not`.
const MAX_DEPTH: usize = 48;
const FUNCTIONS: [(&str, Function); 6] = [
    ("abs", Function::Abs),
    ("min", Function::Min),
    ("max", Function::Max),
    ("round", Function::Round),
    ("length", Function::Length),
    ("lower", Function::Lower),
];

pub(super) fn parse(text: &str, types: &BTreeMap<String, Type>) -> Result<(Node, Vec<String>), Wrong> {
    let mut parser = Parser { tokens: tokens(text)?, next: 0, types, columns: Vec::new(), depth: 0 };
    let root = parser.or()?;
    match parser.peek() {
        (_, Token::End) => Ok((root, parser.columns)),
        (at, token) => Err(Wrong::new(*at, format!("expected the end, found {}", token.describe()))),
    }
}

struct Parser<'a> {
    tokens: Vec<(usize, Token)>,
    next: usize,
    types: &'a BTreeMap<String, Type>,
    columns: Vec<String>,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> &(usize, Token) {
        &self.tokens[self.next.min(self.tokens.len() - 1)]
    }

    fn sign(&mut self, signs: &[&'static str]) -> Option<&'static str> {
        let (_, Token::Sign(found)) = self.peek() else { return None };
        let found = *found;
        signs.contains(&found).then(|| {
            self.next += 1;
            found
        })
    }

    fn word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), (_, Token::Name(name)) if name.eq_ignore_ascii_case(word));
        self.next += usize::from(found);
        found
    }

    fn expected<T>(&self, what: &str) -> Result<T, Wrong> {
        let (at, token) = self.peek();
        Err(Wrong::new(*at, format!("expected {what}, found {}", token.describe())))
    }

    /// One level deeper, while `inner` reads.
    fn deeper(&mut self, inner: impl FnOnce(&mut Self) -> Result<Node, Wrong>) -> Result<Node, Wrong> {
        if self.depth >= MAX_DEPTH {
            return Err(Wrong::new(self.peek().0, format!("nested deeper than {MAX_DEPTH}")));
        }
        self.depth += 1;
        let node = inner(self);
        self.depth -= 1;
        node
    }

    fn or(&mut self) -> Result<Node, Wrong> {
        let mut left = self.and()?;
        while self.word("or") {
            let right = self.and()?;
            left = logical(left, right, Op::Or)?;
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Node, Wrong> {
        let mut left = self.not()?;
        while self.word("and") {
            let right = self.not()?;
            left = logical(left, right, Op::And)?;
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Node, Wrong> {
        let at = self.peek().0;
        if self.word("not") || self.sign(&["!"]).is_some() {
            let inner = self.deeper(Self::not)?;
            return Ok(Node { at, kind: Type::Bool, op: Op::Not(Box::new(of_type(inner, Type::Bool)?)) });
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Node, Wrong> {
        let left = self.sum()?;
        if self.word("is") {
            let negated = self.word("not");
            if !self.word("null") {
                return self.expected("null");
            }
            return Ok(maybe_not(bool_node(left.at, Op::IsNull(Box::new(left))), negated));
        }
        let negated = self.word("not");
        if self.word("in") {
            return Ok(maybe_not(self.list(left)?, negated));
        }
        if negated {
            return self.expected("in");
        }
        let Some(sign) = self.sign(&["<=", ">=", "==", "!=", "<>", "<", ">", "="]) else { return Ok(left) };
        let right = self.sum()?;
        let compare = match sign {
            "<" => Compare::Less,
            "<=" => Compare::LessEqual,
            ">" => Compare::Greater,
            ">=" => Compare::GreaterEqual,
            "!=" | "<>" => Compare::NotEqual,
            _ => Compare::Equal,
        };
        compared(compare, left, right)
    }

    /// `in (a, b)` is `= a or = b`.
    fn list(&mut self, left: Node) -> Result<Node, Wrong> {
        if self.sign(&["("]).is_none() {
            return self.expected("(");
        }
        let mut all: Option<Node> = None;
        loop {
            let item = self.deeper(Self::sum)?;
            let equal = compared(Compare::Equal, left.clone(), item)?;
            all = Some(match all {
                Some(before) => logical(before, equal, Op::Or)?,
                None => equal,
            });
            if self.sign(&[","]).is_some() {
                continue;
            }
            if self.sign(&[")"]).is_none() {
                return self.expected(", or )");
            }
            return all.map_or_else(|| self.expected("a value"), Ok);
        }
    }

    fn sum(&mut self) -> Result<Node, Wrong> {
        let mut left = self.product()?;
        while let Some(sign) = self.sign(&["+", "-"]) {
            let right = self.product()?;
            left = computed(if sign == "+" { Arithmetic::Add } else { Arithmetic::Subtract }, left, right)?;
        }
        Ok(left)
    }

    fn product(&mut self) -> Result<Node, Wrong> {
        let mut left = self.signed()?;
        while let Some(sign) = self.sign(&["*", "/", "%"]) {
            let right = self.signed()?;
            let op = match sign {
                "*" => Arithmetic::Multiply,
                "/" => Arithmetic::Divide,
                _ => Arithmetic::Remainder,
            };
            left = computed(op, left, right)?;
        }
        Ok(left)
    }

    fn signed(&mut self) -> Result<Node, Wrong> {
        let at = self.peek().0;
        if self.sign(&["-"]).is_some() {
            let inner = of_type(self.deeper(Self::signed)?, Type::Number)?;
            return Ok(Node { at, kind: Type::Number, op: Op::Negate(Box::new(inner)) });
        }
        self.atom()
    }

    fn atom(&mut self) -> Result<Node, Wrong> {
        let (at, token) = self.peek().clone();
        self.next += 1;
        match token {
            Token::Number(number) => Ok(Node { at, kind: Type::Number, op: Op::Number(number) }),
            Token::Text(text) => Ok(Node { at, kind: Type::Text, op: Op::Text(text) }),
            Token::Quoted(name) => self.column(at, name),
            Token::Name(name) if matches!(self.peek().1, Token::Sign("(")) => self.call(at, &name),
            Token::Name(name) if name.eq_ignore_ascii_case("true") || name.eq_ignore_ascii_case("false") => {
                Ok(bool_node(at, Op::Bool(name.eq_ignore_ascii_case("true"))))
            }
            Token::Name(name) => self.column(at, name),
            Token::Sign("(") => {
                let inner = self.deeper(Self::or)?;
                if self.sign(&[")"]).is_none() {
                    return self.expected(")");
                }
                Ok(inner)
            }
            _ => {
                self.next -= 1;
                self.expected("a column, a number or a text")
            }
        }
    }

    fn column(&mut self, at: usize, name: String) -> Result<Node, Wrong> {
        let Some(&kind) = self.types.get(&name) else { return Err(unknown_column(&name, at, self.types)) };
        let index = self.columns.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.columns.push(name);
            self.columns.len() - 1
        });
        Ok(Node { at, kind, op: Op::Column(index) })
    }

    fn call(&mut self, at: usize, name: &str) -> Result<Node, Wrong> {
        let Some((_, function)) = FUNCTIONS.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) else {
            let names = FUNCTIONS.map(|(known, _)| known);
            let nearest = did_you_mean(name, names);
            return Err(Wrong::new(
                at,
                format!("{name:?} is no function: expected one of {}{nearest}", names.join(", ")),
            ));
        };
        self.next += 1;
        let wanted = if matches!(function, Function::Length | Function::Lower) { Type::Text } else { Type::Number };
        let mut arguments = Vec::new();
        loop {
            let argument = self.deeper(Self::sum)?;
            arguments.push(of_type(argument, wanted)?);
            if self.sign(&[","]).is_some() {
                continue;
            }
            if self.sign(&[")"]).is_none() {
                return self.expected(", or )");
            }
            break;
        }
        let several = matches!(function, Function::Min | Function::Max);
        if arguments.len() > 1 && !several {
            return Err(Wrong::new(at, format!("{name} takes one value, found {}", arguments.len())));
        }
        let kind = if function == Function::Lower { Type::Text } else { Type::Number };
        Ok(Node { at, kind, op: Op::Call(function, arguments) })
    }
}

fn bool_node(at: usize, op: Op) -> Node {
    Node { at, kind: Type::Bool, op }
}

fn maybe_not(node: Node, negated: bool) -> Node {
    if negated { bool_node(node.at, Op::Not(Box::new(node))) } else { node }
}

fn of_type(node: Node, wanted: Type) -> Result<Node, Wrong> {
    if node.kind == wanted {
        return Ok(node);
    }
    Err(Wrong::new(node.at, format!("is {}, expected {}", node.kind.name(), wanted.name())))
}

fn logical(left: Node, right: Node, op: fn(Box<Node>, Box<Node>) -> Op) -> Result<Node, Wrong> {
    let (left, right) = (of_type(left, Type::Bool)?, of_type(right, Type::Bool)?);
    Ok(bool_node(left.at, op(Box::new(left), Box::new(right))))
}

/// A text beside a date is one.
fn as_date(node: Node) -> Result<Node, Wrong> {
    let Op::Text(text) = &node.op else { return Ok(node) };
    match date::parse(text) {
        Some(moment) => Ok(Node { at: node.at, kind: Type::Date, op: Op::Number(moment.ms as f64) }),
        None => Err(Wrong::new(node.at, format!("{} is not a date such as '2021-01-25'", crate::check::shown(text)))),
    }
}

fn compared(compare: Compare, left: Node, right: Node) -> Result<Node, Wrong> {
    let (left, right) = match (left.kind, right.kind) {
        (Type::Date, Type::Text) => (left, as_date(right)?),
        (Type::Text, Type::Date) => (as_date(left)?, right),
        _ => (left, right),
    };
    if left.kind != right.kind {
        let message = format!("is {}, but is compared with {}", right.kind.name(), left.kind.name());
        return Err(Wrong::new(right.at, message));
    }
    if left.kind == Type::Bool && !matches!(compare, Compare::Equal | Compare::NotEqual) {
        return Err(Wrong::new(left.at, "conditions have no order: expected = or !="));
    }
    Ok(bool_node(left.at, Op::Compare(compare, Box::new(left), Box::new(right))))
}

fn computed(op: Arithmetic, left: Node, right: Node) -> Result<Node, Wrong> {
    let dates = |left: Node, right: Node| -> Result<(Node, Node), Wrong> {
        match (left.kind, right.kind) {
            (Type::Date, Type::Text) => Ok((left, as_date(right)?)),
            (Type::Text, Type::Date) => Ok((as_date(left)?, right)),
            _ => Ok((left, right)),
        }
    };
    let (left, right) = if op == Arithmetic::Subtract { dates(left, right)? } else { (left, right) };
    let kind = match (op, left.kind, right.kind) {
        (_, Type::Number, Type::Number) | (Arithmetic::Subtract, Type::Date, Type::Date) => Type::Number,
        (Arithmetic::Add | Arithmetic::Subtract, Type::Date, Type::Number) => Type::Date,
        _ => {
            let (node, other) = if left.kind == Type::Number { (&right, &left) } else { (&left, &right) };
            let message = format!("is {}, and cannot be computed with {}", node.kind.name(), other.kind.name());
            return Err(Wrong::new(node.at, message));
        }
    };
    Ok(Node { at: left.at, kind, op: Op::Arithmetic(op, Box::new(left), Box::new(right)) })
}
