//! Vectors that are larger than memory. [`Scratch`] is the program's allocator: small pieces come from the system's as
//! ever. A large piece that a thread asks for inside a [`Scope`] comes from memory as long as the scope's share lasts,
//! and from a mapped file without a name after that, so that the kernel keeps it on disk and only what is looked at in
//! memory. Code that fills, sorts and reads vectors need not know.
//!
//! The space of a file is reserved before it is mapped: a full disk is an error when memory is asked for, not a signal
//! when it is written to. Then the system's allocator is asked after all, and [`Scope::failure`] tells.
#![allow(unsafe_code)]

mod block;
mod window;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

use block::Block;

/// Pieces from this size on may lie in a file.
pub const LARGE_BYTES: usize = 1 << 20;

/// The allocator, for `#[global_allocator]`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scratch;

/// One piece of work and its share of memory. Cheap to clone; clones share.
#[derive(Debug, Clone)]
pub struct Scope(Arc<State>);

#[derive(Debug)]
struct State {
    folder: PathBuf,
    /// What large pieces may take of memory.
    memory_limit_bytes: usize,
    /// What they take of it now, and of files.
    memory_bytes: AtomicUsize,
    file_bytes: AtomicU64,
    /// The most that lay in files at once.
    file_peak_bytes: AtomicU64,
    /// `errno` of a file that could not be had; 0 is none.
    failure: AtomicI32,
}

thread_local! {
    /// The scope that this thread is in, an `Arc` of its own. Without a destructor, so that the allocator may look at it at any time.
    static CURRENT: Cell<*const State> = const { Cell::new(ptr::null()) };
}

/// As long as it lives, the thread is inside the scope.
#[derive(Debug)]
pub struct Entered {
    /// What the thread pointed to, and keeps again afterwards.
    before: *const State,
    /// Of this thread only.
    _here: PhantomData<*const ()>,
}

impl Scope {
    /// Files lie in `folder`, which must exist once the first is needed.
    pub fn new(folder: PathBuf, memory_limit_bytes: usize) -> Self {
        window::watch();
        Self(Arc::new(State {
            folder,
            memory_limit_bytes,
            memory_bytes: AtomicUsize::new(0),
            file_bytes: AtomicU64::new(0),
            file_peak_bytes: AtomicU64::new(0),
            failure: AtomicI32::new(0),
        }))
    }

    /// The scope that this thread is in, to be entered by threads that it starts.
    pub fn current() -> Option<Self> {
        let current = CURRENT.get();
        if current.is_null() {
            return None;
        }
        // SAFETY: it came from an `Arc` that the thread keeps.
        unsafe {
            Arc::increment_strong_count(current);
            Some(Self(Arc::from_raw(current)))
        }
    }

    /// Large pieces of this thread belong to the scope from now on.
    pub fn enter(&self) -> Entered {
        let before = CURRENT.replace(Arc::into_raw(Arc::clone(&self.0)));
        Entered { before, _here: PhantomData }
    }

    /// Whether [`Scratch`] is the program's allocator; without it a scope changes nothing.
    pub fn works(&self) -> bool {
        let _inside = self.enter();
        let before = self.0.memory_bytes.load(Ordering::Relaxed) as u64 + self.0.file_bytes.load(Ordering::Relaxed);
        let piece = std::hint::black_box(Vec::<u8>::with_capacity(LARGE_BYTES));
        let after = self.0.memory_bytes.load(Ordering::Relaxed) as u64 + self.0.file_bytes.load(Ordering::Relaxed);
        drop(piece);
        after > before
    }

    /// Bytes of large pieces in memory.
    pub fn memory_bytes(&self) -> usize {
        self.0.memory_bytes.load(Ordering::Relaxed)
    }

    /// The most bytes that lay in files at once.
    pub fn file_peak_bytes(&self) -> u64 {
        self.0.file_peak_bytes.load(Ordering::Relaxed)
    }

    pub fn folder(&self) -> &std::path::Path {
        &self.0.folder
    }

    /// Why a file could not be had. What did not fit then lies in memory, beyond the limit.
    pub fn failure(&self) -> Option<io::Error> {
        let errno = self.0.failure.load(Ordering::Relaxed);
        (errno != 0).then(|| io::Error::from_raw_os_error(errno))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let left = CURRENT.replace(self.before);
        if !left.is_null() {
            // SAFETY: it came from an `Arc`, and nobody else has taken it from the thread.
            drop(unsafe { Arc::from_raw(left) });
        }
    }
}

/// A large piece for this thread's scope; none where the system's allocator is to be asked.
fn large(size: usize, align: usize) -> Option<*mut u8> {
    if size < LARGE_BYTES || align > block::PAGE_BYTES {
        return None;
    }
    let scope = Scope::current()?;
    let block = Block::new(size, scope.0)?;
    Some(block::register(block))
}

// SAFETY: every piece is either the system's or a block of its own, told apart by the table of blocks; a block has at
// least the bytes that were asked for, at the start of a page, and lives until it is taken out of the table.
unsafe impl GlobalAlloc for Scratch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        large(layout.size(), layout.align()).unwrap_or_else(|| unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // A new mapping is zero.
        // SAFETY: as the caller promises.
        large(layout.size(), layout.align()).unwrap_or_else(|| unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        if layout.size() >= LARGE_BYTES
            && let Some(block) = block::take(piece)
        {
            drop(block);
            return;
        }
        // SAFETY: it is no block, so that the system gave it.
        unsafe { System.dealloc(piece, layout) }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.size() >= LARGE_BYTES
            && let Some(block) = block::take(piece)
        {
            if size >= LARGE_BYTES {
                return match block.resized(size) {
                    Ok(block) => block::register(block),
                    Err(block) => {
                        // SAFETY: the new piece is another one, with room for the shorter of the two.
                        unsafe { to_system(block, layout, size) }
                    }
                };
            }
            // SAFETY: as above. What is below the size of a block is always the system's.
            return unsafe { to_system(block, layout, size) };
        }
        if let Some(new) = large(size, layout.align()) {
            // SAFETY: both have the bytes, and the system gave the old one.
            unsafe {
                ptr::copy_nonoverlapping(piece, new, layout.size().min(size));
                System.dealloc(piece, layout);
            }
            return new;
        }
        // SAFETY: it is no block, so that the system gave it.
        unsafe { System.realloc(piece, layout, size) }
    }
}

/// Moves a block's bytes to a piece of the system's; where there is none, the block stays as it is.
///
/// # Safety
/// The block has at least `layout.size()` bytes, and `size` is not 0.
unsafe fn to_system(block: Block, layout: Layout, size: usize) -> *mut u8 {
    // SAFETY: the size is not 0, and rounded up to its alignment it fits, as `realloc` asks of its caller.
    let new = unsafe { System.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
    if new.is_null() {
        block::register(block);
        return new;
    }
    // SAFETY: both have these bytes.
    unsafe { ptr::copy_nonoverlapping(block.bytes(), new, layout.size().min(size)) };
    new
}
