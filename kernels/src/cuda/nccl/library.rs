//! NCCL as a library that is found at run time: what is called of it, resolved by name, so that a library that is missing,
//! damaged or too old is an error that says so. The signatures are those of `nccl.h`.

use crate::cuda::probe::{self, CudaEnvironment, NCCL_LEAST};
use crate::error::{Error, Result};
use cudarc::driver::sys::CUstream;
use cudarc::nccl::sys::{ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId};
use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;

/// `ncclResult_t`, of which later versions may have more values than are known here.
pub(super) type Status = c_int;
pub(super) const SUCCESS: Status = 0;
/// A call to a communicator that does not block is under way.
pub(super) const IN_PROGRESS: Status = 7;

/// `ncclConfig_t` up to what version 2.18 knows of it; a later library takes its own defaults for the rest.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cluster_size: c_int,
    least_blocks: c_int,
    most_blocks: c_int,
    network: *const c_char,
    split_share: c_int,
}

impl Config {
    /// Calls return at once, and are asked after.
    pub(super) fn without_blocking() -> Config {
        const MAGIC: c_uint = 0xcafe_beef;
        const UNDEFINED: c_int = c_int::MIN;
        let [major, minor] = NCCL_LEAST;
        Config {
            size: size_of::<Config>(),
            magic: MAGIC,
            version: major * 10_000 + minor * 100,
            blocking: 0,
            cluster_size: UNDEFINED,
            least_blocks: UNDEFINED,
            most_blocks: UNDEFINED,
            network: std::ptr::null(),
            split_share: UNDEFINED,
        }
    }
}

/// Declares what is called, resolves all of it, and lists the names.
macro_rules! functions {
    ($($field:ident: $name:literal = fn($($argument:ty),*) -> $result:ty;)*) => {
        /// What is called of the library.
        pub(super) struct Functions {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Functions {
            /// The first name that the library lacks is the error.
            fn resolve(library: &Library) -> std::result::Result<Functions, &'static str> {
                Ok(Functions {
                    // SAFETY: the signatures of nccl.h.
                    $($field: *unsafe {
                        library.get::<unsafe extern "C" fn($($argument),*) -> $result>($name.as_bytes())
                    }.map_err(|_| $name)?,)*
                })
            }
        }
    };
}

functions! {
    version: "ncclGetVersion" = fn(*mut c_int) -> Status;
    unique_id: "ncclGetUniqueId" = fn(*mut ncclUniqueId) -> Status;
    init: "ncclCommInitRankConfig" = fn(*mut ncclComm_t, c_int, ncclUniqueId, c_int, *mut Config) -> Status;
    finalize: "ncclCommFinalize" = fn(ncclComm_t) -> Status;
    destroy: "ncclCommDestroy" = fn(ncclComm_t) -> Status;
    abort: "ncclCommAbort" = fn(ncclComm_t) -> Status;
    async_error: "ncclCommGetAsyncError" = fn(ncclComm_t, *mut Status) -> Status;
    error_string: "ncclGetErrorString" = fn(Status) -> *const c_char;
    last_error: "ncclGetLastError" = fn(ncclComm_t) -> *const c_char;
    group_start: "ncclGroupStart" = fn() -> Status;
    group_end: "ncclGroupEnd" = fn() -> Status;
    all_reduce: "ncclAllReduce" =
        fn(*const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, ncclComm_t, CUstream) -> Status;
    reduce_scatter: "ncclReduceScatter" =
        fn(*const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, ncclComm_t, CUstream) -> Status;
    all_gather: "ncclAllGather" = fn(*const c_void, *mut c_void, usize, ncclDataType_t, ncclComm_t, CUstream) -> Status;
    broadcast: "ncclBroadcast" =
        fn(*const c_void, *mut c_void, usize, ncclDataType_t, c_int, ncclComm_t, CUstream) -> Status;
    send: "ncclSend" = fn(*const c_void, usize, ncclDataType_t, c_int, ncclComm_t, CUstream) -> Status;
    recv: "ncclRecv" = fn(*mut c_void, usize, ncclDataType_t, c_int, ncclComm_t, CUstream) -> Status;
}

/// The library, open as long as the process lives.
pub struct Nccl {
    path: String,
    version: [u32; 3],
    pub(super) functions: Functions,
}

impl fmt::Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NCCL {} ({})", self.version_text(), self.path)
    }
}

/// What a group of ranks meets by: made by one of them, told to the others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UniqueId(pub(super) [u8; UniqueId::BYTES]);

impl UniqueId {
    pub const BYTES: usize = 128;

    pub fn from_bytes(bytes: [u8; UniqueId::BYTES]) -> UniqueId {
        UniqueId(bytes)
    }

    pub fn to_bytes(self) -> [u8; UniqueId::BYTES] {
        self.0
    }

    pub(super) fn as_library(self) -> ncclUniqueId {
        ncclUniqueId { internal: self.0.map(|byte| byte as c_char) }
    }
}

impl fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UniqueId(..)")
    }
}

/// What a library that opens lacks to be used.
pub(in crate::cuda) fn lacking(library: &Library) -> Option<String> {
    Functions::resolve(library).err().map(lacks)
}

fn lacks(name: &str) -> String {
    format!("it has no {name}: it is damaged, or no NCCL")
}

impl Nccl {
    /// Finds and opens it.
    ///
    /// # Errors
    /// [`Error::Library`]: where it was sought, why it did not open, which function it lacks, or that it is too old.
    pub fn load(environment: &CudaEnvironment) -> Result<Nccl> {
        let (library, path) = probe::load_first("nccl", environment)?;
        let refused =
            |what: String| Error::Library { library: "nccl", error: format!("{path}: {what}"), sought: vec![] };
        let resolved = Functions::resolve(&library);
        // Unloading a CUDA library runs its destructors at a time it does not expect.
        std::mem::forget(library);
        let functions = resolved.map_err(|name| refused(lacks(name)))?;
        let mut code: c_int = 0;
        // SAFETY: the pointer is valid for the call.
        let status = unsafe { (functions.version)(&raw mut code) };
        let code = u32::try_from(code).unwrap_or(0);
        if status != SUCCESS || code == 0 {
            return Err(refused(format!("ncclGetVersion failed with ncclResult {status}")));
        }
        let version = [code / 10_000, code % 10_000 / 100, code % 100];
        let nccl = Nccl { path: path.clone(), version, functions };
        if version[..2] < NCCL_LEAST[..] {
            let [major, minor] = NCCL_LEAST;
            let what = format!("it is NCCL {}, {major}.{minor} or newer is needed", nccl.version_text());
            return Err(refused(what));
        }
        Ok(nccl)
    }

    /// The file.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Major, minor, patch.
    pub fn version(&self) -> [u32; 3] {
        self.version
    }

    /// Such as `2.28.9`.
    pub fn version_text(&self) -> String {
        self.version.map(|part| part.to_string()).join(".")
    }

    /// A new id, by which ranks can meet once. Needs no device.
    ///
    /// # Errors
    /// [`Error::Collective`], such as where no network interface can be used.
    pub fn unique_id(&self) -> Result<UniqueId> {
        let mut id = ncclUniqueId { internal: [0; UniqueId::BYTES] };
        // SAFETY: the pointer is valid for the call.
        let status = unsafe { (self.functions.unique_id)(&raw mut id) };
        if status != SUCCESS {
            return Err(self.failure("ncclGetUniqueId", status, std::ptr::null_mut()));
        }
        Ok(UniqueId(id.internal.map(|byte| byte as u8)))
    }

    /// What a status means, in the library's words.
    pub(super) fn failure(&self, call: &'static str, status: Status, of: ncclComm_t) -> Error {
        let text = |text: *const c_char| {
            // SAFETY: a text of the library that ends with NUL, where there is one.
            (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned())
        };
        // SAFETY: any number may be asked after; the last error may be asked of no communicator too.
        let (name, last) = unsafe { ((self.functions.error_string)(status), (self.functions.last_error)(of)) };
        let name = text(name).filter(|name| !name.is_empty()).unwrap_or_else(|| format!("ncclResult {status}"));
        let what = match text(last).filter(|last| !last.is_empty()) {
            Some(last) => format!("{name}: {last}"),
            None => name,
        };
        Error::Collective { call, what }
    }
}
