//! CUDA, found at run time: what is there, kernels compiled for it, and a machine that runs them. What a kernel computes is
//! in its `.cu`; which ones an operation starts is in `ops`.

pub mod cache;
pub mod compile;
pub mod cublaslt;
pub mod dropout;
mod gpu;
pub mod launch;
pub mod layernorm;
pub mod machine;
pub mod nccl;
pub mod nvml;
pub mod optimizer;
mod probe;
pub mod product;
mod work;

pub use cache::{Cache, Loaded};
pub use compile::{Arch, Compiled, Compiler, Resources, Source};
pub use cublaslt::CublasLt;
pub use gpu::{Gpu, Graphs, SideStream, compile_all};
pub use launch::Launch;
pub use machine::{Argument, Kernel, Machine};
pub use nvml::Nvml;
pub use probe::{CudaDevice, CudaEnvironment, CudaReport, LibraryReport, probe};
pub use work::{Item, Work};

/// A file of kernels with what it shares with others before it; lines are counted from its own beginning.
macro_rules! source {
    ($file:literal $(, $shared:literal)*) => {
        Source {
            file: $file,
            text: concat!(
                "#line 1 \"block.cuh\"\n",
                include_str!("block.cuh"),
                $("\n#line 1 \"", $shared, "\"\n", include_str!($shared),)*
                "\n#line 1 \"",
                $file,
                "\"\n",
                include_str!($file)
            ),
        }
    };
}

pub const ATTENTION: Source = source!("attention.cu", "math.cuh", "attention.cuh");
pub const ATTENTION_TENSOR: Source = source!("attention_tensor.cu", "math.cuh", "attention.cuh", "tensor.cuh");
pub const BATCH_NORM: Source = source!("batchnorm.cu");
pub const CONV: Source = source!("conv.cu", "math.cuh", "windows.cuh", "product.cuh", "tensor.cuh");
pub const DROPOUT: Source = source!("dropout.cu");
pub const ELEMENTWISE: Source = source!("elementwise.cu", "math.cuh");
pub const EMBEDDING: Source = source!("embedding.cu");
pub const ITEMS: Source = source!("items.cu", "windows.cuh");
pub const LAYER_NORM: Source = source!("layernorm.cu");
pub const LSTM: Source = source!("lstm.cu", "math.cuh");
pub const LSTM_TENSOR: Source = source!("lstm_tensor.cu", "math.cuh", "tensor.cuh");
pub const OPTIMIZER: Source = source!("optimizer.cu");
pub const PRODUCT: Source = source!("product.cu", "math.cuh", "product.cuh", "tensor.cuh");
pub const ROWS: Source = source!("rows.cu", "math.cuh");
pub const SHARDS: Source = source!("shards.cu");

/// Every file of kernels.
pub const SOURCES: [Source; 15] = [
    ATTENTION,
    ATTENTION_TENSOR,
    BATCH_NORM,
    CONV,
    DROPOUT,
    ELEMENTWISE,
    EMBEDDING,
    ITEMS,
    LAYER_NORM,
    LSTM,
    LSTM_TENSOR,
    OPTIMIZER,
    PRODUCT,
    ROWS,
    SHARDS,
];
