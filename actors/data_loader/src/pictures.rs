//! The pictures of a column: decoded and resized as its rows pass by, each file once.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use frame::manifest::Source;

use crate::source::path::resolve;
use crate::source::picture::{self, MAX_FILE_BYTES, Shape};

/// Most bytes of the pixels of a column.
const MAX_BYTES: usize = 64 << 30;

/// Where the files of pictures may lie.
#[derive(Debug, Clone, Default)]
pub struct Places {
    pub roots: Arc<Vec<PathBuf>>,
    /// The folder of each table, as the plan names it.
    pub folders: Arc<Vec<String>>,
}

/// Pixels by number, and the number of each row.
#[derive(Debug)]
pub struct Gallery {
    pub shape: Shape,
    pub pixels: Vec<u8>,
    rows: Vec<f64>,
    places: Places,
    known: HashMap<PathBuf, u32>,
    hasher: blake3::Hasher,
    size_bytes: u64,
    files: u64,
}

impl Gallery {
    pub fn new(shape: Shape, places: Places) -> Self {
        Self {
            shape,
            pixels: Vec::new(),
            rows: Vec::new(),
            places,
            known: HashMap::new(),
            hasher: blake3::Hasher::new(),
            size_bytes: 0,
            files: 0,
        }
    }

    pub fn push_missing(&mut self) {
        self.rows.push(f64::NAN);
    }

    /// A picture in a file: beside the table, or below a data root.
    pub fn push_file(&mut self, table: usize, name: &str) -> Result<(), String> {
        let read = self.file(table, name);
        match read {
            Ok(number) => self.rows.push(f64::from(number)),
            Err(_) => self.push_missing(),
        }
        read.map(drop)
    }

    fn file(&mut self, table: usize, name: &str) -> Result<u32, String> {
        let roots = &self.places.roots;
        let folder = self.places.folders.get(table).map_or("", String::as_str);
        let beside = (!folder.is_empty()).then(|| resolve(&format!("{folder}/{name}"), roots).ok()).flatten();
        let real = match beside {
            Some(real) => real,
            None => resolve(name, roots).map_err(|error| error.message)?,
        };
        if let Some(&number) = self.known.get(&real) {
            return Ok(number);
        }
        let mut bytes = Vec::new();
        let failed = |error: std::io::Error| format!("{name}: cannot be read: {error}");
        File::open(&real).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)).map_err(failed)?;
        let number = self.decode(&bytes).map_err(|problem| format!("{name}: {problem}"))?;
        self.known.insert(real, number);
        Ok(number)
    }

    /// A picture in the table itself.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> Result<(), String> {
        let read = self.decode(bytes);
        match read {
            Ok(number) => self.rows.push(f64::from(number)),
            Err(_) => self.push_missing(),
        }
        read.map(drop)
    }

    fn decode(&mut self, bytes: &[u8]) -> Result<u32, String> {
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(format!("is a picture of more than {MAX_FILE_BYTES} bytes"));
        }
        let pixels = picture::pixels(bytes, self.shape)?;
        if self.pixels.len() + pixels.len() > MAX_BYTES {
            return Err(format!("the column's pictures take more than {MAX_BYTES} bytes: set a smaller size"));
        }
        let number = u32::try_from(self.pixels.len() / self.shape.size().max(1)).map_err(|_| "too many pictures")?;
        self.pixels.extend_from_slice(&pixels);
        self.hasher.update(blake3::hash(bytes).as_bytes());
        self.size_bytes += bytes.len() as u64;
        self.files += 1;
        Ok(number)
    }

    /// The number of each row's picture.
    pub fn numbers(&self) -> Vec<f64> {
        self.rows.clone()
    }

    pub fn count(&self) -> usize {
        self.files as usize
    }

    pub fn bytes(&self) -> usize {
        self.pixels.len() + 8 * self.rows.len()
    }

    /// All pictures as one source: the BLAKE3 of theirs, in the order of their first rows.
    pub fn source(&self, column: &str) -> Source {
        Source {
            path: format!("{} pictures of column {column:?}", self.files),
            blake3: self.hasher.finalize().to_hex().to_string(),
            size_bytes: self.size_bytes,
            rows: 0,
            test: false,
        }
    }
}
