//! CUDA, found at run time: what is there, and kernels compiled for it.

pub mod cache;
pub mod compile;
pub mod dropout;
pub mod launch;
pub mod layernorm;
pub mod optimizer;
mod probe;

pub use cache::{Cache, Loaded};
pub use compile::{Arch, Compiled, Compiler, Resources, Source};
pub use launch::Launch;
pub use probe::{CudaDevice, CudaEnvironment, CudaReport, LibraryReport, probe};

/// A file of kernels with what all of them share before it; lines are counted from its own beginning.
macro_rules! source {
    ($file:literal) => {
        $crate::cuda::Source {
            file: $file,
            text: concat!(
                "#line 1 \"block.cuh\"\n",
                include_str!("block.cuh"),
                "\n#line 1 \"",
                $file,
                "\"\n",
                include_str!($file)
            ),
        }
    };
}
use source;

/// Every file of kernels.
pub const SOURCES: [Source; 3] = [dropout::SOURCE, layernorm::SOURCE, optimizer::SOURCE];
