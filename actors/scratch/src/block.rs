//! Blocks: mappings of memory or of files without a name, and the table of all that live.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, posix_fallocate};
use nix::sys::mman::{MRemapFlags, MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, mremap, munmap};
use nix::sys::stat::Mode;
use nix::unistd::{ftruncate, unlink};

use crate::{State, window};

/// What mappings begin at multiples of, and have a multiple of.
pub const PAGE_BYTES: usize = 4096;

/// A mapping, which ends when this is dropped.
#[derive(Debug)]
pub struct Block {
    start: NonNull<c_void>,
    /// A multiple of the page.
    bytes: usize,
    lies: Lies,
    scope: Arc<State>,
}

/// Where a block's bytes are.
#[derive(Debug)]
enum Lies {
    InMemory,
    /// Open only where it is large, to grow without being copied: a process may not have many open files.
    InFile(Option<OwnedFd>),
}

/// Files from this size on stay open.
const OPEN_BYTES: usize = 64 << 20;

// SAFETY: a mapping belongs to no thread.
unsafe impl Send for Block {}

/// All that live, by where they start. A mapping must not be given back while the table has it: another one may come to
/// lie there, and lose its pages to [`release`].
static BLOCKS: Mutex<BTreeMap<usize, Block>> = Mutex::new(BTreeMap::new());
/// How many, so that whoever frees memory of the system's need not look.
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// Bytes of the blocks that lie in files.
static IN_FILES: AtomicUsize = AtomicUsize::new(0);

fn blocks() -> MutexGuard<'static, BTreeMap<usize, Block>> {
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds a block, and says where its bytes are. The table's own nodes are small, so that they come from the system.
pub fn register(block: Block) -> *mut u8 {
    let bytes = block.bytes();
    blocks().insert(bytes.addr(), block);
    COUNT.fetch_add(1, Ordering::Release);
    bytes
}

/// The block that starts there, out of the table; none where the system gave it.
pub fn take(bytes: *mut u8) -> Option<Block> {
    if COUNT.load(Ordering::Acquire) == 0 {
        return None;
    }
    let block = blocks().remove(&bytes.addr())?;
    COUNT.fetch_sub(1, Ordering::Release);
    Some(block)
}

/// Bytes of all blocks that lie in files.
pub fn in_files() -> usize {
    IN_FILES.load(Ordering::Relaxed)
}

/// Takes the pages of all files out of this process. They stay with the kernel, which writes them out when it needs the
/// room; whoever looks at one gets it back.
pub fn release() {
    for block in blocks().values().filter(|block| block.in_file()) {
        // SAFETY: the mapping lives as long as the table has it, and is shared: its pages are the file's.
        unsafe { madvise(block.start, block.bytes, MmapAdvise::MADV_DONTNEED) }.ok();
    }
}

fn whole_pages(size: usize) -> Option<usize> {
    size.checked_next_multiple_of(PAGE_BYTES)
}

impl Block {
    /// A block of at least `size` zeros: of memory as long as the scope's share lasts, else of a file.
    pub fn new(size: usize, scope: Arc<State>) -> Option<Self> {
        let bytes = whole_pages(size)?;
        if scope.take_memory(bytes) {
            let block = Self::of_memory(bytes, &scope);
            if block.is_none() {
                scope.memory_bytes.fetch_sub(bytes, Ordering::Relaxed);
            }
            return block;
        }
        Self::of_file(bytes, scope)
    }

    fn of_memory(bytes: usize, scope: &Arc<State>) -> Option<Self> {
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping, over nothing that is there.
        let start = unsafe { mmap_anonymous(None, NonZeroUsize::new(bytes)?, read_write(), flags) }.ok()?;
        Some(Self { start, bytes, lies: Lies::InMemory, scope: Arc::clone(scope) })
    }

    fn of_file(bytes: usize, scope: Arc<State>) -> Option<Self> {
        match Self::map_file(bytes, &scope) {
            Ok((start, file)) => {
                scope.file_grew(bytes as u64);
                IN_FILES.fetch_add(bytes, Ordering::Relaxed);
                window::wake();
                let file = Some(file).filter(|_| bytes >= OPEN_BYTES);
                Some(Self { start, bytes, lies: Lies::InFile(file), scope })
            }
            Err(errno) => {
                scope.failed(errno);
                None
            }
        }
    }

    fn map_file(bytes: usize, scope: &State) -> Result<(NonNull<c_void>, OwnedFd), Errno> {
        let file = nameless(&scope.folder)?;
        reserve(&file, 0, bytes)?;
        let size = NonZeroUsize::new(bytes).ok_or(Errno::EINVAL)?;
        // SAFETY: a new mapping, over nothing that is there, of a file that nobody else can open.
        let start = unsafe { mmap(None, size, read_write(), MapFlags::MAP_SHARED, &file, 0) }?;
        Ok((start, file))
    }

    fn in_file(&self) -> bool {
        matches!(self.lies, Lies::InFile(_))
    }

    pub fn bytes(&self) -> *mut u8 {
        self.start.as_ptr().cast()
    }

    /// The same block with another size, perhaps elsewhere, and in a file if memory is used up. What could not be had
    /// leaves it as it was.
    pub fn resized(mut self, size: usize) -> Result<Self, Self> {
        let Some(bytes) = whole_pages(size) else { return Err(self) };
        if bytes == self.bytes {
            return Ok(self);
        }
        match &self.lies {
            Lies::InMemory => self.resized_memory(bytes),
            Lies::InFile(None) => self.moved_to_file(bytes),
            Lies::InFile(Some(_)) => match self.resize_file(bytes) {
                Ok(()) => Ok(self),
                Err(errno) => {
                    self.scope.failed(errno);
                    Err(self)
                }
            },
        }
    }

    fn resized_memory(mut self, bytes: usize) -> Result<Self, Self> {
        let grown = bytes.saturating_sub(self.bytes);
        if self.scope.take_memory(grown) {
            let before = self.bytes;
            if self.remap(bytes).is_err() {
                self.scope.memory_bytes.fetch_sub(grown, Ordering::Relaxed);
                return Err(self);
            }
            self.scope.memory_bytes.fetch_sub(before.saturating_sub(bytes), Ordering::Relaxed);
            return Ok(self);
        }
        self.moved_to_file(bytes)
    }

    fn moved_to_file(self, bytes: usize) -> Result<Self, Self> {
        let Some(other) = Self::of_file(bytes, Arc::clone(&self.scope)) else { return Err(self) };
        // SAFETY: two mappings, both with the bytes of the smaller one.
        unsafe { std::ptr::copy_nonoverlapping(self.bytes(), other.bytes(), self.bytes.min(bytes)) };
        Ok(other)
    }

    fn resize_file(&mut self, bytes: usize) -> Result<(), Errno> {
        let Lies::InFile(Some(file)) = &self.lies else { return Err(Errno::EBADF) };
        let before = self.bytes;
        if bytes > before {
            reserve(file, before, bytes - before)?;
            self.remap(bytes)?;
            self.scope.file_grew((bytes - before) as u64);
            IN_FILES.fetch_add(bytes - before, Ordering::Relaxed);
        } else {
            // The mapping first: nothing may be mapped that the file does not have.
            self.remap(bytes)?;
            self.scope.file_bytes.fetch_sub((before - bytes) as u64, Ordering::Relaxed);
            IN_FILES.fetch_sub(before - bytes, Ordering::Relaxed);
            if let Lies::InFile(Some(file)) = &self.lies {
                // Else its end stays as it is, unused.
                ftruncate(file, bytes as i64).ok();
            }
        }
        Ok(())
    }

    fn remap(&mut self, bytes: usize) -> Result<(), Errno> {
        // SAFETY: this is the one who knows the mapping; whoever used the old place gets the new one.
        self.start = unsafe { mremap(self.start, self.bytes, bytes, MRemapFlags::MREMAP_MAYMOVE, None) }?;
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: it is out of the table, and whoever used it has given it back.
        unsafe { munmap(self.start, self.bytes) }.ok();
        if self.in_file() {
            self.scope.file_bytes.fetch_sub(self.bytes as u64, Ordering::Relaxed);
            IN_FILES.fetch_sub(self.bytes, Ordering::Relaxed);
        } else {
            self.scope.memory_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

impl State {
    /// Counts these bytes, if the share of memory has room for them.
    fn take_memory(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.memory_limit_bytes || bytes == 0);
        self.memory_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    fn file_grew(&self, bytes: u64) {
        let now = self.file_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.file_peak_bytes.fetch_max(now, Ordering::Relaxed);
    }

    fn failed(&self, errno: Errno) {
        self.failure.store(errno as i32, Ordering::Relaxed);
    }
}

fn read_write() -> ProtFlags {
    ProtFlags::PROT_READ | ProtFlags::PROT_WRITE
}

/// A file without a name, so that none is left behind by whoever is killed.
fn nameless(folder: &Path) -> Result<OwnedFd, Errno> {
    let (flags, mode) = (OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::S_IRUSR | Mode::S_IWUSR);
    match open(folder, flags | OFlag::O_TMPFILE, mode) {
        // Some file systems know no such files, and old kernels see a folder that is to be written to.
        Err(Errno::EOPNOTSUPP | Errno::EISDIR) => {}
        other => return other,
    }
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!(".{}-{number}", std::process::id()));
    let file = open(&path, flags | OFlag::O_CREAT | OFlag::O_EXCL, mode)?;
    unlink(&path)?;
    Ok(file)
}

/// Room on the disk, which reads as zeros.
fn reserve(file: &OwnedFd, from: usize, bytes: usize) -> Result<(), Errno> {
    loop {
        // Where a file system cannot reserve, the library writes.
        match posix_fallocate(file, from as i64, bytes as i64) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}
