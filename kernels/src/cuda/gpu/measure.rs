//! What a bench asks of a GPU: how long work takes there, copies within its memory, and who it is.

use super::{Gpu, words};
use crate::error::{Error, Result};
use cudarc::driver::sys as cu;
use std::ffi::CStr;

/// The first driver that has the call which tells the time between two events.
const OLDEST_TIMING: (i32, i32) = (12, 8);

/// An event, destroyed when it is dropped.
struct Mark(cu::CUevent);

impl Drop for Mark {
    fn drop(&mut self) {
        // SAFETY: made in `mark` and not used any more; what fails is gone with the process.
        unsafe { cu::cuEventDestroy_v2(self.0) };
    }
}

impl Gpu {
    /// Seconds that the device takes for what `act` asks of it, by its own clock; all that was asked for before is over
    /// when they begin to count.
    ///
    /// # Errors
    /// Those of `act` and of the device.
    pub fn timed(&self, act: impl FnOnce() -> Result<()>) -> Result<f64> {
        const OP: &str = "timing";
        if self.driver < OLDEST_TIMING {
            let (major, minor) = self.driver;
            let what = format!("the driver is of CUDA {major}.{minor}; times are told by one of 12.8 and later");
            return Err(Error::Device { device: self.name.clone(), op: OP.into(), what });
        }
        self.enter(OP)?;
        self.wait(OP)?;
        let begin = self.mark()?;
        act()?;
        self.enter(OP)?;
        let end = self.mark()?;
        let mut milliseconds = 0.0f32;
        // SAFETY: both events were made and recorded, and live until the end of this function.
        unsafe {
            self.done(OP, "cuEventSynchronize", cu::cuEventSynchronize(end.0))?;
            let told = cu::cuEventElapsedTime_v2(&raw mut milliseconds, begin.0, end.0);
            self.done(OP, "cuEventElapsedTime", told)?;
        }
        Ok(f64::from(milliseconds) / 1e3)
    }

    fn mark(&self) -> Result<Mark> {
        const TIMED: u32 = 0;
        let mut event = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the call, and the context is current.
        self.done("timing", "cuEventCreate", unsafe { cu::cuEventCreate(&raw mut event, TIMED) })?;
        let mark = Mark(event);
        // SAFETY: the event was made above, and the stream lives as long as this.
        self.done("timing", "cuEventRecord", unsafe { cu::cuEventRecord(mark.0, self.stream) })?;
        Ok(mark)
    }

    /// Copies within the device's memory, in the order in which it is asked for.
    ///
    /// # Errors
    /// Those of the device.
    pub fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.enter("copy")?;
        // SAFETY: memory of this device, by the caller's promise.
        let status = unsafe { cu::cuMemcpyDtoDAsync_v2(to, from, bytes, self.stream) };
        self.done("copy", "cuMemcpyDtoDAsync", status)
    }

    /// The driver's version, such as 13.0.
    pub fn driver(&self) -> (i32, i32) {
        self.driver
    }

    /// The device's name as its maker gave it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it sits, such as `0000:19:00.0`: the name by which other libraries know it.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn bus_id(&self) -> Result<String> {
        let mut letters = [0; 64];
        // SAFETY: the buffer has the length that is given.
        let status = unsafe { cu::cuDeviceGetPCIBusId(letters.as_mut_ptr(), 64, self.device) };
        if status != cu::CUresult::CUDA_SUCCESS {
            let what = format!("cuDeviceGetPCIBusId: {}", words(status));
            return Err(Error::Device { device: self.name.clone(), op: "bus id".into(), what });
        }
        // SAFETY: the driver ends it with NUL.
        Ok(unsafe { CStr::from_ptr(letters.as_ptr()) }.to_string_lossy().into_owned())
    }

    /// The stream on which everything happens, for libraries that put work there.
    pub(in crate::cuda) fn stream(&self) -> cu::CUstream {
        self.stream
    }

    /// What a library's call came to, as the driver's calls are told of.
    pub(in crate::cuda) fn ready(&self, op: &'static str) -> Result<()> {
        self.enter(op)
    }
}
