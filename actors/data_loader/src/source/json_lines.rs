//! JSON lines: an object a line, whose values are the texts of the columns. The columns are the keys of the first
//! records; a record may lack some of them.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::StringBuilder;
use messages::WireError;
use messages::plan::TextEncoding;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::text::{self, Stream};
use super::{CHUNK_ROWS, Chunk, File, Format, Summary, Want};
use crate::check::{At, MAX_COLUMNS, Violation, Violations, shown};
use crate::nearest::did_you_mean;

/// Records whose keys make the columns.
const HEAD_ROWS: usize = 1_000;
const HEAD_BYTES: usize = 1 << 20;
/// Most bytes of a chunk's texts.
const CHUNK_BYTES: usize = 8 << 20;
const READ_BYTES: usize = 256 * 1024;

pub struct JsonLines {
    path: String,
    encoding: TextEncoding,
    reader: BufReader<Stream>,
    columns: Vec<String>,
    places: HashMap<String, usize>,
    /// For each column, its place among the wanted ones.
    wanted: Vec<Option<usize>>,
    width: usize,
    /// The first lines, which were read for their keys.
    held: std::vec::IntoIter<(u64, String)>,
    line: u64,
    at: u64,
    rows: u64,
    ended: bool,
}

impl JsonLines {
    pub fn open(file: &File, encoding: TextEncoding, violations: &mut Violations) -> Result<Option<Self>, WireError> {
        let Some(stream) = text::open(file, Format::JsonLines, encoding, violations)? else { return Ok(None) };
        let mut this = Self {
            path: file.path.clone(),
            encoding,
            reader: BufReader::with_capacity(READ_BYTES, stream),
            columns: Vec::new(),
            places: HashMap::new(),
            wanted: Vec::new(),
            width: 0,
            held: Vec::new().into_iter(),
            line: 0,
            at: 0,
            rows: 0,
            ended: false,
        };
        Ok(this.read_head(violations)?.then_some(this))
    }

    /// The columns, from the first records. Says whether there is anything to read.
    fn read_head(&mut self, violations: &mut Violations) -> Result<bool, WireError> {
        let (mut held, mut bytes, mut broken) = (Vec::new(), 0, false);
        while held.len() < HEAD_ROWS && bytes < HEAD_BYTES {
            let mut text = String::new();
            let Some(line) = self.read_line(&mut text, violations)? else { break };
            bytes += text.len();
            match record(&text) {
                Ok(fields) => {
                    for (name, _) in fields {
                        if !self.places.contains_key(&name) {
                            self.places.insert(name.clone(), self.columns.len());
                            self.columns.push(name);
                        }
                    }
                }
                Err(problem) => {
                    violations.add(Violation::new(problem).file(&self.path).at(At::Line(line)));
                    broken = true;
                }
            }
            if self.columns.len() > MAX_COLUMNS {
                let message = format!("has {} columns, expected at most {MAX_COLUMNS}", self.columns.len());
                violations.add(Violation::new(message).file(&self.path));
                return Ok(false);
            }
            held.push((line, text));
        }
        if self.columns.is_empty() {
            if violations.is_empty() {
                violations.add(Violation::new("is empty").file(&self.path));
            }
            return Ok(false);
        }
        self.held = held.into_iter();
        Ok(!broken)
    }

    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    pub fn want(&mut self, wanted: &[(usize, Want)]) {
        self.wanted = vec![None; self.columns.len()];
        for (place, (index, _)) in wanted.iter().enumerate() {
            self.wanted[*index] = Some(place);
        }
        self.width = wanted.len();
    }

    /// The next line that is not blank, and its number; none at the end, or where reading broke off.
    fn read_line(&mut self, text: &mut String, violations: &mut Violations) -> Result<Option<u64>, WireError> {
        let mut bytes = std::mem::take(text).into_bytes();
        while !self.ended {
            bytes.clear();
            self.reader.get_mut().begin_record(self.at);
            match self.reader.read_until(b'\n', &mut bytes) {
                Ok(0) => self.ended = true,
                Ok(read) => {
                    self.line += 1;
                    self.at += read as u64;
                    let body = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
                    // The guard has seen that it is UTF-8.
                    let body = std::str::from_utf8(body).unwrap_or_default().trim();
                    if !body.is_empty() {
                        body.clone_into(text);
                        return Ok(Some(self.line));
                    }
                }
                Err(error) => {
                    self.ended = true;
                    let line = self.line + 1;
                    let violation = text::stopped(self.reader.get_mut(), self.encoding, &self.path, line, &error)?;
                    violations.add(violation);
                }
            }
        }
        Ok(None)
    }

    pub fn next_chunk(&mut self, violations: &mut Violations) -> Result<Option<Chunk>, WireError> {
        let mut builders: Vec<StringBuilder> = (0..self.width).map(|_| StringBuilder::new()).collect();
        let mut values: Vec<Option<String>> = vec![None; self.width];
        let (mut lines, mut bytes, first_row) = (Vec::new(), 0, self.rows);
        let mut text = String::new();
        while lines.len() < CHUNK_ROWS && bytes < CHUNK_BYTES {
            let line = if let Some((line, held)) = self.held.next() {
                text = held;
                line
            } else if let Some(line) = self.read_line(&mut text, violations)? {
                line
            } else {
                break;
            };
            bytes += text.len();
            values.fill(None);
            let read = record(&text).map_err(Violation::new).and_then(|fields| self.place(fields, &mut values));
            if let Err(violation) = read {
                violations.add(violation.file(&self.path).at(At::Line(line)));
                continue;
            }
            for (builder, value) in builders.iter_mut().zip(&values) {
                builder.append_option(value.as_deref());
            }
            lines.push(line);
        }
        self.rows += lines.len() as u64;
        if lines.is_empty() {
            return Ok(None);
        }
        let columns = builders.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef).collect();
        Ok(Some(Chunk { rows: lines.len(), columns, lines, first_row, picked: None }))
    }

    /// The wanted values of one record.
    fn place(&self, fields: Vec<(String, &RawValue)>, values: &mut [Option<String>]) -> Result<(), Violation> {
        for (name, raw) in fields {
            let Some(&index) = self.places.get(&name) else {
                let nearest = did_you_mean(&name, self.columns.iter().map(String::as_str));
                let message = format!("is not among the keys of the first {HEAD_ROWS} records{nearest}");
                return Err(Violation::new(message).column(&name));
            };
            let Some(place) = self.wanted[index] else { continue };
            if values[place].is_some() {
                return Err(Violation::new("stands twice in the record").column(&name));
            }
            values[place] = value(raw.get()).map_err(|message| {
                Violation::new(message).column(&name).hint("leave the column out with data.exclude")
            })?;
        }
        Ok(())
    }

    pub fn finish(mut self) -> Result<Summary, WireError> {
        text::summary(self.reader.get_mut(), &self.path, self.rows)
    }
}

/// A value as a text: numbers as they stand, so that long ones lose nothing; null is none.
fn value(raw: &str) -> Result<Option<String>, String> {
    match raw.as_bytes().first() {
        Some(b'"') => serde_json::from_str(raw).map(Some).map_err(|e| format!("{}: {e}", shown(raw))),
        Some(b'n') => Ok(None),
        Some(b'{') => Err("is an object, expected a number, a text, true, false or null".into()),
        Some(b'[') => Err("is a list, expected a number, a text, true, false or null".into()),
        _ => Ok(Some(raw.to_owned())),
    }
}

/// The fields of one line, in its order.
fn record(line: &str) -> Result<Vec<(String, &RawValue)>, String> {
    let mut deserializer = serde_json::Deserializer::from_str(line);
    let fields = Fields.deserialize(&mut deserializer).and_then(|fields| deserializer.end().map(|()| fields));
    fields.map_err(|error| {
        // The position that it names is within the line.
        let what = error.to_string();
        let what = what.split(" at line ").next().unwrap_or_default().to_owned();
        format!("is no JSON object ({what} at column {}): {}", error.column(), shown(line))
    })
}

struct Fields;

impl<'de> DeserializeSeed<'de> for Fields {
    type Value = Vec<(String, &'de RawValue)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            fields.push((name, map.next_value::<&RawValue>()?));
        }
        Ok(fields)
    }
}
