//! Copies through page-locked memory, on one stream: the host fills a half while the device reads the other.

use super::{Gpu, new_event, page_locked};
use crate::error::Result;
use cudarc::driver::sys as cu;
use std::ops::Range;
use std::ptr::NonNull;

/// Bytes of one half.
const STAGE: usize = 8 << 20;

/// See the module.
pub(super) struct Stages {
    halves: [Stage; 2],
    now: usize,
    filled: usize,
}

struct Stage {
    memory: NonNull<u8>,
    /// The device has read it.
    done: cu::CUevent,
}

impl Stages {
    pub fn new(ordinal: u32) -> Result<Stages> {
        let half = || Ok(Stage { memory: page_locked(ordinal, STAGE)?, done: new_event(ordinal)? });
        Ok(Stages { halves: [half()?, half()?], now: 0, filled: 0 })
    }

    /// To the device.
    pub fn upload(&mut self, gpu: &Gpu, stream: cu::CUstream, from: &[u8], to: u64) -> Result<()> {
        self.in_stages(gpu, stream, "upload", from.len(), |range, at| {
            // SAFETY: the part of the page-locked memory is as long as the range and read by the device only until the
            // event of its half, for which `in_stages` waits before it gives it out again.
            let status = unsafe {
                std::ptr::copy_nonoverlapping(from[range.clone()].as_ptr(), at.as_ptr(), range.len());
                cu::cuMemcpyHtoDAsync_v2(to + range.start as u64, at.as_ptr().cast(), range.len(), stream)
            };
            gpu.done("upload", "cuMemcpyHtoDAsync", status)
        })
    }

    /// From the device, after all that the stream was asked for before.
    pub fn download(&mut self, gpu: &Gpu, stream: cu::CUstream, from: u64, to: &mut [u8]) -> Result<()> {
        self.in_stages(gpu, stream, "download", to.len(), |range, at| {
            // SAFETY: as in `upload`.
            let copied =
                unsafe { cu::cuMemcpyDtoHAsync_v2(at.as_ptr().cast(), from + range.start as u64, range.len(), stream) };
            gpu.done("download", "cuMemcpyDtoHAsync", copied)?;
            // SAFETY: the stream lives as long as the device.
            gpu.done("download", "cuStreamSynchronize", unsafe { cu::cuStreamSynchronize(stream) })?;
            // SAFETY: the device has written it.
            unsafe { std::ptr::copy_nonoverlapping(at.as_ptr(), to[range.clone()].as_mut_ptr(), range.len()) };
            Ok(())
        })
    }

    /// `act` fills or has filled a part of the page-locked memory.
    fn in_stages(
        &mut self,
        gpu: &Gpu,
        stream: cu::CUstream,
        op: &'static str,
        bytes: usize,
        mut act: impl FnMut(Range<usize>, NonNull<u8>) -> Result<()>,
    ) -> Result<()> {
        let mut from = 0;
        while from < bytes {
            if self.filled == STAGE {
                let left = &self.halves[self.now];
                // SAFETY: the event and the stream live as long as the device.
                gpu.done(op, "cuEventRecord", unsafe { cu::cuEventRecord(left.done, stream) })?;
                self.now ^= 1;
                self.filled = 0;
                // SAFETY: as above.
                let waited = unsafe { cu::cuEventSynchronize(self.halves[self.now].done) };
                gpu.done(op, "cuEventSynchronize", waited)?;
            }
            let take = (bytes - from).min(STAGE - self.filled);
            // SAFETY: within the half.
            let at = unsafe { self.halves[self.now].memory.add(self.filled) };
            act(from..from + take, at)?;
            // Kept aligned for the device's copies.
            self.filled = (self.filled + take).next_multiple_of(256).min(STAGE);
            from += take;
        }
        Ok(())
    }

    /// Gives its memory back; the stream is done, and nothing is copied any more.
    pub fn free(&mut self) {
        for half in &self.halves {
            // SAFETY: made in `new`; what fails is gone with the process.
            unsafe {
                cu::cuEventDestroy_v2(half.done);
                cu::cuMemFreeHost(half.memory.as_ptr().cast());
            }
        }
    }
}
