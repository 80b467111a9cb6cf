//! Aligned storage and its reuse. A buffer keeps the largest size it ever had, so that steps over batches
//! of varying size allocate nothing once the largest has come by.

use crate::error::{Error, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;

/// Bytes: a cache line, and a whole AVX-512 register.
const ALIGN: usize = 64;

/// A fixed-length run of f32, aligned to a cache line.
pub struct AlignedBuf {
    ptr: NonNull<f32>,
    len: usize,
    capacity: usize,
}

// SAFETY: the buffer owns its memory alone, as a Vec does.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access is read-only through `&self`, as with a Vec.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// `len` zeros. Fails with `OutOfMemory` where the allocator refuses.
    pub fn zeroed(len: usize) -> Result<AlignedBuf> {
        let oom = || Error::OutOfMemory { op: "allocate", bytes: len.saturating_mul(4) };
        if len == 0 {
            return Ok(AlignedBuf { ptr: NonNull::dangling(), len: 0, capacity: 0 });
        }
        let bytes = len.checked_mul(4).ok_or_else(oom)?;
        let layout = Layout::from_size_align(bytes, ALIGN).map_err(|_| oom())?;
        // SAFETY: the layout has a size above zero.
        let raw = unsafe { alloc_zeroed(layout) };
        let ptr = NonNull::new(raw.cast::<f32>()).ok_or_else(oom)?;
        Ok(AlignedBuf { ptr, len, capacity: len })
    }

    /// A copy of `values`.
    pub fn copy_of(values: &[f32]) -> Result<AlignedBuf> {
        let mut buf = AlignedBuf::zeroed(values.len())?;
        buf.copy_from_slice(values);
        Ok(buf)
    }

    /// Makes this `len` elements long, contents unspecified; returns whether memory had to be asked for.
    /// Then it is a little more than asked for, so that sizes that creep up do not ask each time.
    pub(crate) fn renew(&mut self, len: usize) -> Result<bool> {
        if len <= self.capacity {
            self.len = len;
            return Ok(false);
        }
        let step = (len / 8 + 1).checked_next_power_of_two().unwrap_or(1).max(ALIGN);
        *self = AlignedBuf::zeroed(len.checked_next_multiple_of(step).unwrap_or(len))?;
        self.len = len;
        Ok(true)
    }

    /// A view that threads share while they write disjoint ranges of it.
    pub(crate) fn shared(&mut self) -> Shared<f32> {
        Shared { ptr: self.ptr.as_ptr(), len: self.len }
    }
}

impl Deref for AlignedBuf {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: `ptr` is valid for `len` initialized elements (zeroed at birth), or dangling with len 0.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Clone for AlignedBuf {
    fn clone(&self) -> Self {
        AlignedBuf::copy_of(self).expect("invariant: a copy of a buffer that exists fits in memory")
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} f32)", self.len)
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if self.capacity > 0 {
            let layout = Layout::from_size_align(self.capacity * 4, ALIGN).expect("invariant: built with this layout");
            // SAFETY: allocated in `zeroed` with this very layout.
            unsafe { dealloc(self.ptr.as_ptr().cast(), layout) }
        }
    }
}

/// A raw view of a buffer whose disjoint ranges several threads write during one parallel region.
///
/// Invariant kept by every caller: within a region no element is written by one task and touched by
/// another, and the buffer outlives the region (the pool returns only when every task is done).
pub(crate) struct Shared<T> {
    ptr: *mut T,
    len: usize,
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: see the invariant above; the pointer itself is plain data.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// A view of nothing.
    pub(crate) const EMPTY: Shared<T> = Shared { ptr: NonNull::dangling().as_ptr(), len: 0 };

    /// A view of a slice.
    pub(crate) fn of(slice: &mut [T]) -> Shared<T> {
        Shared { ptr: slice.as_mut_ptr(), len: slice.len() }
    }

    pub(crate) fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The view of a range.
    pub(crate) fn part(self, range: Range<usize>) -> Shared<T> {
        assert!(range.start <= range.end && range.end <= self.len, "invariant: range inside the buffer");
        Shared { ptr: self.ptr.wrapping_add(range.start), len: range.end - range.start }
    }

    /// # Safety
    /// Nobody writes `range` while the slice lives.
    pub(crate) unsafe fn get<'a>(self, range: Range<usize>) -> &'a [T] {
        assert!(range.start <= range.end && range.end <= self.len, "invariant: range inside the buffer");
        // SAFETY: in bounds by the assertion; no writer by the caller's promise.
        unsafe { std::slice::from_raw_parts(self.ptr.add(range.start), range.end - range.start) }
    }

    /// # Safety
    /// Nobody else reads or writes `range` while the slice lives.
    pub(crate) unsafe fn get_mut<'a>(self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "invariant: range inside the buffer");
        // SAFETY: in bounds by the assertion; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(range.start), range.end - range.start) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_keep_their_largest_size() {
        let mut buf = AlignedBuf::zeroed(0).expect("empty");
        assert!(buf.renew(100).expect("memory"));
        assert_eq!((buf.as_ptr() as usize % ALIGN, buf.len()), (0, 100));
        assert!(!buf.renew(90).expect("kept") && !buf.renew(100).expect("kept"));
        assert!(!buf.renew(101).expect("kept"), "a little to spare");
        assert!(buf.renew(500).expect("memory") && buf.len() == 500);
    }

    #[test]
    fn an_absurd_size_is_an_error_and_an_empty_buffer_is_not() {
        assert_eq!(AlignedBuf::zeroed(0).expect("empty").len(), 0);
        let error = AlignedBuf::zeroed(usize::MAX / 2).expect_err("too large");
        assert_eq!(error.kind(), crate::error::ErrorKind::OutOfMemory);
    }
}
