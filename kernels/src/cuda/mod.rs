//! CUDA, found at run time: what is there, and kernels compiled for it.

pub mod cache;
pub mod compile;
mod probe;

pub use cache::{Cache, Loaded};
pub use compile::{Arch, Compiled, Compiler, Resources, Source};
pub use probe::{CudaDevice, CudaEnvironment, CudaReport, LibraryReport, probe};
