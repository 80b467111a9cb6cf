//! cuBLASLt, found at run time: products to measure ours against. No training uses it, as the bits of its results depend on
//! the number of rows.

use super::gpu::Gpu;
use super::machine::Memory;
use super::probe::{self, CudaEnvironment};
use crate::dtype::Precision;
use crate::error::{Error, Result};
use cudarc::cublaslt::{result, sys};
use std::ffi::c_void;
use std::sync::Arc;

/// Memory that an algorithm may use, in bytes: what cuBLAS recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

/// The library, on one device.
pub struct CublasLt {
    gpu: Arc<Gpu>,
    handle: sys::cublasLtHandle_t,
    workspace: Memory,
}

/// Which of a linear layer's three products, of `rows` rows, `outputs` and `inputs`; matrices lie by rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// y [rows, outputs] = x [rows, inputs] W [outputs, inputs]^T
    Forward,
    /// dx [rows, inputs] = dy [rows, outputs] W [outputs, inputs]
    Backward,
    /// dW [outputs, inputs] = dy [rows, outputs]^T x [rows, inputs]
    Weight,
}

/// One product with the algorithm that the library chose for it.
pub struct LtProduct<'a> {
    library: &'a CublasLt,
    description: sys::cublasLtMatmulDesc_t,
    left: sys::cublasLtMatrixLayout_t,
    right: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulHeuristicResult_t,
}

fn failed(what: &str, error: &result::CublasError) -> Error {
    Error::Library { library: "cublasLt", error: format!("{what}: {error}"), sought: Vec::new() }
}

impl CublasLt {
    /// Finds the library.
    ///
    /// # Errors
    /// [`Error::Library`] where there is none, or none that works with this device.
    pub fn load(gpu: Arc<Gpu>, environment: &CudaEnvironment) -> Result<CublasLt> {
        let found = probe::require("cublasLt", environment)?;
        // SAFETY: a library of that name has just been opened, and stays so.
        if !unsafe { sys::is_culib_present() } {
            let error = format!("{found} was opened, and yet cuBLASLt is not to be found under any of its names");
            return Err(Error::Library { library: "cublasLt", error, sought: Vec::new() });
        }
        gpu.ready("cublasLt")?;
        let handle = result::create_handle().map_err(|error| failed("cublasLtCreate", &error))?;
        let machine: Arc<dyn super::Machine> = gpu.clone();
        let mut library = CublasLt { gpu, handle, workspace: Memory::new(&machine) };
        library.workspace.renew(WORKSPACE)?;
        Ok(library)
    }

    /// Prepares a product with factors of `precision` and a result in f32, summed in f32.
    ///
    /// # Errors
    /// [`Error::Library`] where the library has no algorithm for it.
    pub fn product(
        &self,
        form: Form,
        precision: Precision,
        [rows, outputs, inputs]: [usize; 3],
    ) -> Result<LtProduct<'_>> {
        let kind = match precision {
            Precision::F32 => sys::cudaDataType::CUDA_R_32F,
            Precision::Bf16 => sys::cudaDataType::CUDA_R_16BF,
            Precision::F16 => sys::cudaDataType::CUDA_R_16F,
        };
        // The library counts by columns, so each matrix is its own transpose there and the sides are swapped:
        // (rows, columns) of left, right and result, and which of both is turned back.
        let (left, right, out, turned) = match form {
            Form::Forward => ((inputs, outputs), (inputs, rows), (outputs, rows), [true, false]),
            Form::Backward => ((inputs, outputs), (outputs, rows), (inputs, rows), [false, false]),
            Form::Weight => ((inputs, rows), (outputs, rows), (inputs, outputs), [false, true]),
        };
        let layout = |kind, (rows, columns): (usize, usize)| {
            result::create_matrix_layout(kind, rows as u64, columns as u64, rows as i64)
                .map_err(|error| failed("cublasLtMatrixLayoutCreate", &error))
        };
        let single = sys::cudaDataType::CUDA_R_32F;
        let description = result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, single)
            .map_err(|error| failed("cublasLtMatmulDescCreate", &error))?;
        let mut product = LtProduct {
            library: self,
            description,
            left: std::ptr::null_mut(),
            right: std::ptr::null_mut(),
            out: std::ptr::null_mut(),
            // SAFETY: a structure of plain numbers, filled below before it is used.
            algorithm: unsafe { std::mem::zeroed() },
        };
        product.left = layout(kind, left)?;
        product.right = layout(kind, right)?;
        product.out = layout(single, out)?;
        product.choose(turned)?;
        Ok(product)
    }
}

impl LtProduct<'_> {
    fn choose(&mut self, turned: [bool; 2]) -> Result<()> {
        use sys::cublasLtMatmulDescAttributes_t::{CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB};
        for (attribute, turned) in [CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB].into_iter().zip(turned) {
            // As `cublasOperation_t` numbers them.
            let operation = i32::from(turned);
            // SAFETY: the description lives, and the value has the size that the attribute asks for.
            unsafe { result::set_matmul_desc_attribute(self.description, attribute, (&raw const operation).cast(), 4) }
                .map_err(|error| failed("cublasLtMatmulDescSetAttribute", &error))?;
        }
        let preference =
            result::create_matmul_pref().map_err(|error| failed("cublasLtMatmulPreferenceCreate", &error))?;
        let bytes = WORKSPACE as u64;
        let most = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: everything that is named lives, and the value has the size that the attribute asks for.
        let chosen = unsafe {
            let set = result::set_matmul_pref_attribute(preference, most, (&raw const bytes).cast(), 8);
            let chosen = set.and_then(|()| {
                let (handle, out) = (self.library.handle, self.out);
                result::get_matmul_algo_heuristic(handle, self.description, self.left, self.right, out, out, preference)
            });
            // What could not be freed is gone with the process.
            result::destroy_matmul_pref(preference).ok();
            chosen
        };
        self.algorithm = chosen.map_err(|error| failed("cublasLtMatmulAlgoGetHeuristic", &error))?;
        Ok(())
    }

    /// Asks the device for it: `left` and `right` are the factors in the order in which [`Form`] names them.
    ///
    /// # Errors
    /// [`Error::Library`]; [`Error::Device`], also of what was asked for before.
    pub fn start(&self, left: u64, right: u64, out: u64) -> Result<()> {
        self.library.gpu.ready("cublasLt")?;
        let (one, zero) = (1.0f32, 0.0f32);
        let [out, left, right] = [out, left, right].map(|at| at as *mut c_void);
        // SAFETY: the layouts are those of the memory, by the caller's promise; everything else lives as long as this.
        let started = unsafe {
            result::matmul(
                self.library.handle,
                self.description,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                right,
                self.left,
                left,
                self.right,
                out,
                self.out,
                out,
                self.out,
                &raw const self.algorithm.algo,
                self.library.workspace.address() as *mut c_void,
                WORKSPACE,
                self.library.gpu.stream().cast(),
            )
        };
        started.map_err(|error| failed("cublasLtMatmul", &error))
    }
}

impl Drop for LtProduct<'_> {
    fn drop(&mut self) {
        // SAFETY: made in `product` and not used any more; what fails is gone with the process.
        unsafe {
            for layout in [self.left, self.right, self.out].into_iter().filter(|layout| !layout.is_null()) {
                result::destroy_matrix_layout(layout).ok();
            }
            result::destroy_matmul_desc(self.description).ok();
        }
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        if self.gpu.ready("cublasLt").is_ok() {
            // SAFETY: made in `load` and not used any more; what fails is gone with the process.
            unsafe { result::destroy_handle(self.handle) }.ok();
        }
    }
}
