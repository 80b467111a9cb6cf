//! Kernels for CUDA without a GPU: every source through the real compiler for every kind of device.
//!
//! NVRTC is found by `WITHIN_NVRTC`, the folder of its libraries, or in `.tools/nvrtc` of the repository, where
//! `scripts/provision-nvrtc` puts it. Without it these tests say so and pass, unless `REQUIRE_NVRTC` is set, as `make test` does.

mod bench;
mod compile;
mod device;
mod geometry;
pub mod gpu;
mod graphs;
pub mod machine;
mod nccl;
mod ops;
mod shim;
pub mod simt;
mod steps;
mod tensor;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use kernels::cuda::{Compiler, CudaEnvironment};

pub fn folder() -> PathBuf {
    let provisioned = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/nvrtc/nvidia/cu13/lib");
    std::env::var_os("WITHIN_NVRTC").map_or_else(provisioned, PathBuf::from)
}

/// The compiler; none where the test is to be skipped.
pub fn compiler() -> Option<&'static Compiler> {
    static COMPILER: LazyLock<Result<Compiler, kernels::Error>> =
        LazyLock::new(|| Compiler::load(&CudaEnvironment { folder: Some(folder()), ..CudaEnvironment::default() }));
    match &*COMPILER {
        Ok(compiler) => Some(compiler),
        Err(error) if std::env::var_os("REQUIRE_NVRTC").is_some() => panic!("{error}"),
        Err(error) => {
            println!("skipped: {error} (scripts/provision-nvrtc fetches it)");
            None
        }
    }
}
