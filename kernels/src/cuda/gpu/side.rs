//! A second stream of a GPU, for what goes on beside its computing: what one is asked for waits for the other only where
//! an event says so.

use super::{Gpu, Kernel, new_event, new_stream};
use crate::cuda::launch::Launch;
use crate::cuda::machine::Argument;
use crate::error::Result;
use cudarc::driver::sys as cu;
use std::sync::Arc;

/// See the module.
pub struct SideStream {
    gpu: Arc<Gpu>,
    stream: cu::CUstream,
    /// The device has come so far that this stream may go on.
    ready: cu::CUevent,
    /// This stream has come so far.
    reached: cu::CUevent,
}

// SAFETY: handles of the driver may be used by any thread in whose context they are; every call sets it.
unsafe impl Send for SideStream {}

impl SideStream {
    /// A stream of this device.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn new(gpu: &Arc<Gpu>) -> Result<SideStream> {
        gpu.enter("open a stream")?;
        let stream = new_stream(gpu.ordinal)?;
        let mut side =
            SideStream { gpu: gpu.clone(), stream, ready: std::ptr::null_mut(), reached: std::ptr::null_mut() };
        for event in [&mut side.ready, &mut side.reached] {
            *event = new_event(gpu.ordinal)?;
        }
        Ok(side)
    }

    /// The device that it is of.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// The driver's handle.
    pub(in crate::cuda) fn handle(&self) -> cu::CUstream {
        self.stream
    }

    /// Makes the device's context that of this thread.
    pub(in crate::cuda) fn enter(&self, op: &'static str) -> Result<()> {
        self.gpu.enter(op)
    }

    /// What is asked of this stream from now on comes after all that the device was asked for before.
    ///
    /// # Errors
    /// [`crate::Error::Device`], also of what was asked for before.
    pub fn follow(&self, op: &'static str) -> Result<()> {
        self.gpu.enter(op)?;
        // SAFETY: events and streams live as long as this; a wait is for the event as it was recorded last.
        let recorded = unsafe { cu::cuEventRecord(self.ready, self.gpu.stream) };
        self.gpu.done(op, "cuEventRecord", recorded)?;
        // SAFETY: as above.
        self.gpu.done(op, "cuStreamWaitEvent", unsafe { cu::cuStreamWaitEvent(self.stream, self.ready, 0) })
    }

    /// Remembers what this stream was asked for so far, for [`SideStream::is_done`].
    ///
    /// # Errors
    /// As [`SideStream::follow`].
    pub fn mark(&self, op: &'static str) -> Result<()> {
        self.gpu.enter(op)?;
        // SAFETY: as above.
        self.gpu.done(op, "cuEventRecord", unsafe { cu::cuEventRecord(self.reached, self.stream) })
    }

    /// Whether the device has done all up to the last mark. Waits for nothing.
    ///
    /// # Errors
    /// As [`SideStream::follow`].
    pub fn is_done(&self, op: &'static str) -> Result<bool> {
        self.gpu.enter(op)?;
        // SAFETY: as above.
        match unsafe { cu::cuEventQuery(self.reached) } {
            cu::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            status => self.gpu.done(op, "cuEventQuery", status).map(|()| true),
        }
    }

    /// Starts a kernel on this stream.
    ///
    /// # Errors
    /// As [`crate::cuda::Machine::start`].
    pub fn start(&self, op: &'static str, kernel: Kernel, launch: Launch, arguments: &[Argument]) -> Result<()> {
        self.gpu.enter(op)?;
        let function = self.gpu.kernel(op, kernel)?;
        self.gpu.launch(self.stream, op, function, launch, arguments)
    }
}

impl Drop for SideStream {
    fn drop(&mut self) {
        // SAFETY: all was made in `new` and nobody uses it any more; what fails is gone with the process. What the stream
        // was asked for still uses memory that others are about to free, so its end is waited for.
        unsafe {
            if cu::cuCtxSetCurrent(self.gpu.context) == cu::CUresult::CUDA_SUCCESS {
                cu::cuStreamSynchronize(self.stream);
                for event in [self.ready, self.reached].into_iter().filter(|event| !event.is_null()) {
                    cu::cuEventDestroy_v2(event);
                }
                cu::cuStreamDestroy_v2(self.stream);
            }
        }
    }
}
