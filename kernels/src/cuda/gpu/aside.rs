//! Copies to a device beside what it computes, on a stream of their own. Two events order them: what is brought may be
//! taken when it is there, and the next may be brought when the last was taken. Nobody waits on the host but for room in
//! the page-locked memory.

use super::{Gpu, Stages, new_event, new_stream};
use crate::error::Result;
use cudarc::driver::sys as cu;

/// See the module.
pub(super) struct Aside {
    stream: cu::CUstream,
    stages: Stages,
    /// What was brought last is there.
    pub written: cu::CUevent,
    /// The device's stream has come so far that the memory may be written: it was taken, or allocated.
    free: cu::CUevent,
}

impl Aside {
    pub fn new(ordinal: u32) -> Result<Aside> {
        let stream = new_stream(ordinal)?;
        Ok(Aside { stream, stages: Stages::new(ordinal)?, written: new_event(ordinal)?, free: new_event(ordinal)? })
    }

    /// Brings parts to their places behind `to`.
    pub fn upload(&mut self, gpu: &Gpu, parts: &[(usize, &[u8])], to: u64) -> Result<()> {
        const OP: &str = "upload aside";
        // SAFETY: events and streams live as long as the device; a wait is for the event as it was recorded last.
        gpu.done(OP, "cuStreamWaitEvent", unsafe { cu::cuStreamWaitEvent(self.stream, self.free, 0) })?;
        parts.iter().try_for_each(|(at, part)| self.stages.upload(gpu, self.stream, part, to + *at as u64))?;
        // SAFETY: as above.
        gpu.done(OP, "cuEventRecord", unsafe { cu::cuEventRecord(self.written, self.stream) })
    }

    /// Copies what was brought, on the device's own stream.
    pub fn take(&mut self, gpu: &Gpu, from: u64, to: u64, bytes: usize) -> Result<()> {
        const OP: &str = "take aside";
        // SAFETY: as in `upload`.
        gpu.done(OP, "cuStreamWaitEvent", unsafe { cu::cuStreamWaitEvent(gpu.stream, self.written, 0) })?;
        gpu.copy(from, to, bytes)?;
        self.may_be_written(gpu)
    }

    /// What the device was asked for so far comes before the next copies beside it.
    pub fn may_be_written(&self, gpu: &Gpu) -> Result<()> {
        // SAFETY: as in `upload`.
        gpu.done("take aside", "cuEventRecord", unsafe { cu::cuEventRecord(self.free, gpu.stream) })
    }

    /// Waits for its copies and gives back what it has.
    pub fn free(&mut self) {
        // SAFETY: made in `new` and not used any more; what fails is gone with the process.
        unsafe {
            cu::cuStreamSynchronize(self.stream);
            self.stages.free();
            cu::cuEventDestroy_v2(self.written);
            cu::cuEventDestroy_v2(self.free);
            cu::cuStreamDestroy_v2(self.stream);
        }
    }
}
