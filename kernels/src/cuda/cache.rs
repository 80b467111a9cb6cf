//! Compiled kernels on the disk, so that a device's code is made once for a machine and not for every process.
//!
//! An entry's name is the hash of everything that it depends on: source, options, kind of device, and the versions of
//! the compiler and of the driver. It is written aside and renamed, so that a reader sees all of it or nothing, whoever
//! else writes; its content is hashed in front of it, so that a damaged one is made anew.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::compile::{Arch, Compiled, Compiler, Resources, Source};
use crate::error::Result;

/// Begins every entry; another layout has another number.
const MAGIC: &[u8; 16] = b"within cubin 001";
/// Longest entry that is read, in bytes.
const MOST: u64 = 64 << 20;

/// A folder of compiled kernels.
#[derive(Debug)]
pub struct Cache {
    folder: Option<PathBuf>,
}

/// What came of asking for a source's code.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub compiled: Compiled,
    /// It lay in the cache.
    pub cached: bool,
    /// What a person should know: a damaged entry, a folder that cannot be written to.
    pub warning: Option<String>,
}

impl Cache {
    /// Entries lie in `folder`, which is made when the first is written.
    pub fn new(folder: impl Into<PathBuf>) -> Cache {
        Cache { folder: Some(folder.into()) }
    }

    /// Nothing is kept.
    pub fn none() -> Cache {
        Cache { folder: None }
    }

    /// The code of a source: as it lies here, or else as it is compiled now. `driver`: its version, which finishes code
    /// for devices that are newer than the compiler.
    ///
    /// # Errors
    /// Those of [`Compiler::compile`]. What is wrong with the cache is a warning.
    pub fn load(&self, compiler: &Compiler, source: Source, arch: Arch, driver: &str) -> Result<Loaded> {
        let Some(folder) = &self.folder else {
            return Ok(Loaded { compiled: compiler.compile(source, arch)?, cached: false, warning: None });
        };
        let path = folder.join(format!("{}.cubin", key(compiler.version(), source, arch, driver)));
        let damaged = match read(&path) {
            Ok(Some(compiled)) => return Ok(Loaded { compiled, cached: true, warning: None }),
            Ok(None) => None,
            Err(what) => Some(format!("{}: {what}; it is made anew", path.display())),
        };
        let compiled = compiler.compile(source, arch)?;
        let unwritten = write(folder, &path, &compiled).err();
        let unwritten = unwritten.map(|error| format!("{} cannot be written: {error}", path.display()));
        Ok(Loaded { compiled, cached: false, warning: unwritten.or(damaged) })
    }
}

/// 64 hexadecimal digits.
fn key((major, minor): (i32, i32), source: Source, arch: Arch, driver: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut put = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    put(source.text.as_bytes());
    for option in Compiler::options(arch) {
        put(option.as_bytes());
    }
    put(&[major.to_le_bytes(), minor.to_le_bytes()].concat());
    put(driver.as_bytes());
    hasher.finalize().to_hex().to_string()
}

/// None where there is no entry; an error where it is no whole one.
fn read(path: &Path) -> std::result::Result<Option<Compiled>, String> {
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if size > MOST {
        return Err(format!("{size} bytes are too many"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let damaged = || "the content is damaged".to_owned();
    let rest = bytes.strip_prefix(MAGIC.as_slice()).ok_or_else(damaged)?;
    let (hash, rest) = rest.split_at_checked(32).ok_or_else(damaged)?;
    if blake3::hash(rest).as_bytes() != hash {
        return Err(damaged());
    }
    let (length, rest) = rest.split_at_checked(4).ok_or_else(damaged)?;
    let length = u32::from_le_bytes(std::array::from_fn(|i| length[i])) as usize;
    let (table, cubin) = rest.split_at_checked(length).ok_or_else(damaged)?;
    let table: Vec<(String, u32, u32)> = serde_json::from_slice(table).map_err(|_| damaged())?;
    let resources = |(kernel, registers, spills)| Resources { kernel, registers, spills };
    Ok(Some(Compiled { cubin: cubin.to_vec(), kernels: table.into_iter().map(resources).collect() }))
}

fn write(folder: &Path, path: &Path, compiled: &Compiled) -> std::io::Result<()> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let table: Vec<_> = compiled.kernels.iter().map(|of| (&of.kernel, of.registers, of.spills)).collect();
    let table = serde_json::to_vec(&table)?;
    let content = [&(table.len() as u32).to_le_bytes(), table.as_slice(), &compiled.cubin].concat();
    std::fs::create_dir_all(folder)?;
    let aside = folder.join(format!(".{}-{}", std::process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed)));
    let written = std::fs::File::create(&aside).and_then(|mut file| {
        file.write_all(MAGIC)?;
        file.write_all(blake3::hash(&content).as_bytes())?;
        file.write_all(&content)?;
        file.sync_all()
    });
    let placed = written.and_then(|()| std::fs::rename(&aside, path));
    if placed.is_err() {
        // What could not be put in place is of no use.
        std::fs::remove_file(&aside).ok();
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled() -> Compiled {
        let kernels = vec![Resources { kernel: "k".into(), registers: 12, spills: 0 }];
        Compiled { cubin: vec![1, 2, 3], kernels }
    }

    #[test]
    fn an_entry_reads_as_written_and_any_damage_shows() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/e.cubin");
        assert_eq!(read(&path), Ok(None));
        write(path.parent().expect("a folder"), &path, &compiled()).expect("written");
        assert_eq!(read(&path), Ok(Some(compiled())));
        let whole = std::fs::read(&path).expect("there");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).expect("written");
            assert!(read(&path).is_err(), "byte {at}");
            std::fs::write(&path, &whole[..at]).expect("written");
            assert!(read(&path).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn an_entry_depends_on_everything_that_makes_it() {
        let source = Source { file: "k.cu", text: "a" };
        let base = key((13, 0), source, Arch::new(9, 0), "580.1");
        let others = [
            key((13, 1), source, Arch::new(9, 0), "580.1"),
            key((13, 0), Source { text: "b", ..source }, Arch::new(9, 0), "580.1"),
            key((13, 0), source, Arch { specific: true, ..Arch::new(9, 0) }, "580.1"),
            key((13, 0), source, Arch::new(9, 0), "580.2"),
        ];
        assert!(others.iter().all(|other| *other != base));
        assert_eq!(base, key((13, 0), Source { file: "moved.cu", ..source }, Arch::new(9, 0), "580.1"));
    }
}
