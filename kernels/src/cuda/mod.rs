//! CUDA, found at run time. So far the probe: what is there, what is not, and where it was sought.

mod probe;

pub use probe::{CudaDevice, CudaEnvironment, CudaReport, LibraryReport, probe};
