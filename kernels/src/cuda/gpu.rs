//! A GPU through the CUDA driver: one stream on which everything happens in order, and a second one for copies beside it;
//! memory from the driver's pool, copies through page-locked memory that do not wait for one another, kernels compiled when
//! they are first started, work that comes again and again as a graph.
//!
//! A failure on the device is told by the driver only later, and of no kernel in particular. So after each kernel the
//! device writes its number into memory of the host; where something has failed, the first number that is missing names
//! the operation.

mod aside;
mod graph;
mod measure;
mod side;
mod stages;

pub use graph::Graphs;
pub use side::SideStream;

use super::cache::Cache;
use super::compile::{Arch, Compiler, Source};
use super::launch::Launch;
use super::machine::{Argument, Kernel, Machine};
use super::probe::{self, CudaEnvironment};
use super::work::Work;
use crate::error::{Error, Result};
use aside::Aside;
use cudarc::driver::sys as cu;
use graph::Kept;
use stages::Stages;
use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, CString, c_void};
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The oldest kind of device that kernels are written for, and the oldest that the newest compilers still know.
const OLDEST: Arch = Arch::new(7, 0);
/// Most threads that compile at once.
const COMPILERS: usize = 8;
/// Operations whose names are kept until the device has done them.
const NAMES: usize = 4_096;

/// See the module.
pub struct Gpu {
    ordinal: u32,
    name: String,
    device: cu::CUdevice,
    context: cu::CUcontext,
    stream: cu::CUstream,
    arch: Arch,
    /// The driver's version, such as 13.0.
    driver: (i32, i32),
    /// Whether memory comes from the driver's pool, in the stream's order.
    pooled: bool,
    /// Whether the device tells how far it is; some that are shared between virtual machines cannot.
    tells: bool,
    compiler: Compiler,
    cache: Cache,
    warn: fn(&str),
    functions: Mutex<HashMap<&'static str, HashMap<&'static str, Function>>>,
    stages: Mutex<Stages>,
    aside: Mutex<Aside>,
    graphs: Graphs,
    kept: Mutex<Kept>,
    progress: Mutex<Progress>,
    /// The first failure, which all that follows gets again.
    failed: Mutex<Option<Error>>,
}

// SAFETY: handles of the driver may be used by any thread in whose context they are; every call sets it.
unsafe impl Send for Gpu {}
// SAFETY: as above; what changes is behind locks, and the driver's own calls are safe to make from several threads.
unsafe impl Sync for Gpu {}

#[derive(Clone, Copy)]
struct Function(cu::CUfunction);

/// What the device has done, by number.
struct Progress {
    /// Where the device writes the number of the last kernel or graph that it has finished, and behind it how far it is in
    /// the graph that it has begun last.
    finished: NonNull<[AtomicU32; 2]>,
    address: u64,
    started: u32,
    names: VecDeque<(u32, Started)>,
}

/// An operation and a kernel.
type Name = (&'static str, &'static str);

enum Started {
    Kernel(Name),
    /// All in its order; none: nobody tells how far a graph is.
    Graph(Arc<[Name]>),
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpu({}, {}, {})", self.ordinal, self.name, self.arch)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The driver's words for a status.
fn words(status: cu::CUresult) -> String {
    let text = |get: unsafe fn(cu::CUresult, *mut *const std::ffi::c_char) -> cu::CUresult| {
        let mut text = std::ptr::null();
        // SAFETY: the pointer is valid for the call; the text is the driver's and stays.
        let told = unsafe { get(status, &raw mut text) } == cu::CUresult::CUDA_SUCCESS && !text.is_null();
        // SAFETY: a text that ends with NUL, as the call promises.
        told.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    };
    let name = text(cu::cuGetErrorName).unwrap_or_else(|| format!("status {}", status as u32));
    match text(cu::cuGetErrorString) {
        Some(what) => format!("{what} ({name})"),
        None => name,
    }
}

/// What a start goes wrong with, before there is a device to speak of.
fn opening(ordinal: u32, what: impl Into<String>) -> Error {
    Error::Device { device: format!("cuda:{ordinal}"), op: "open".into(), what: what.into() }
}

fn check(ordinal: u32, call: &str, status: cu::CUresult) -> Result<()> {
    match status {
        cu::CUresult::CUDA_SUCCESS => Ok(()),
        cu::CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE => {
            Err(opening(ordinal, format!("the device is busy: another process has it to itself ({call})")))
        }
        status => Err(opening(ordinal, format!("{call}: {}", words(status)))),
    }
}

fn attribute(ordinal: u32, device: cu::CUdevice, which: cu::CUdevice_attribute) -> Result<i32> {
    let mut value = 0;
    // SAFETY: the pointer is valid for the call.
    check(ordinal, "cuDeviceGetAttribute", unsafe { cu::cuDeviceGetAttribute(&raw mut value, which, device) })?;
    Ok(value)
}

/// Whether code of this compiler runs with this driver: from the same major version on, and with any newer one.
fn fits(ordinal: u32, driver: (i32, i32), compiler: (i32, i32), found: &str) -> Result<()> {
    if driver.0 >= compiler.0 {
        return Ok(());
    }
    let (major, minor) = driver;
    let what = format!(
        "the driver is too old: it is of CUDA {major}.{minor}, and {found} compiles for {}.0 and later; update the \
         driver, or put an NVRTC of CUDA {major} before it",
        compiler.0
    );
    Err(opening(ordinal, what))
}

/// The driver's version, and a compiler whose code it runs.
fn libraries(ordinal: u32, environment: &CudaEnvironment) -> Result<((i32, i32), Compiler)> {
    let found = probe::require("cuda", environment)?;
    // SAFETY: a library of that name has just been opened, and stays so.
    if !unsafe { cu::is_culib_present() } {
        let error = format!("{found} was opened, and yet the driver is not to be found under any of its names");
        return Err(Error::Library { library: "cuda", error, sought: Vec::new() });
    }
    let mut version = 0;
    // SAFETY: the pointer is valid for the call, which needs no initialization.
    check(ordinal, "cuDriverGetVersion", unsafe { cu::cuDriverGetVersion(&raw mut version) })?;
    let driver = (version / 1_000, version % 1_000 / 10);
    let compiler = Compiler::load(environment)?;
    fits(ordinal, driver, compiler.version(), compiler.path())?;
    Ok((driver, compiler))
}

/// How the cache's entries name a driver.
fn version_name((major, minor): (i32, i32)) -> String {
    format!("{major}.{minor}")
}

/// Sees to it that the code of every kernel for device `ordinal`, of the kind `arch`, lies in the cache, by several
/// threads; how many files were compiled. The device itself is not touched.
///
/// # Errors
/// As [`Gpu::open`], and [`Error::Compile`].
pub fn compile_all(
    ordinal: u32,
    arch: Arch,
    environment: &CudaEnvironment,
    cache: &Cache,
    warn: fn(&str),
) -> Result<usize> {
    let (driver, compiler) = libraries(ordinal, environment)?;
    let (driver, next, compiled) = (version_name(driver), AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || -> Result<()> {
        while let Some(source) = super::SOURCES.get(next.fetch_add(1, Ordering::Relaxed)) {
            let loaded = cache.load(&compiler, *source, arch, &driver)?;
            compiled.fetch_add(usize::from(!loaded.cached), Ordering::Relaxed);
            if let Some(warning) = &loaded.warning {
                warn(warning);
            }
        }
        Ok(())
    };
    let threads = crate::pool::available_threads().min(COMPILERS);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        others.into_iter().fold(own, |all, other| all.and(other.join().expect("invariant: compiling does not panic")))
    })?;
    Ok(compiled.into_inner())
}

/// Whether kernels run on this kind of device, with this compiler.
fn serves(ordinal: u32, name: &str, arch: Arch, compiler: (i32, i32)) -> Result<()> {
    let least = if compiler.0 >= 13 { Arch::new(7, 5) } else { OLDEST };
    if arch >= least {
        return Ok(());
    }
    let old = if arch >= OLDEST { "; NVRTC of CUDA 12 still knows it" } else { "" };
    let what = format!(
        "{name} has compute capability {}.{}, at least {}.{} is needed{old}",
        arch.major, arch.minor, least.major, least.minor
    );
    Err(opening(ordinal, what))
}

impl Gpu {
    /// Takes device `ordinal`, with what its kernels are compiled with. `warn` gets what a person should know and nobody
    /// has to act on, such as a cache that cannot be written to.
    ///
    /// # Errors
    /// [`Error::Library`] where the driver or NVRTC is missing: which one, and where it was sought. [`Error::Device`]
    /// where there is no such device, where it is busy, or too old, or its driver is.
    pub fn open(ordinal: u32, environment: &CudaEnvironment, cache: Cache, warn: fn(&str)) -> Result<Gpu> {
        let (driver, compiler) = libraries(ordinal, environment)?;
        // SAFETY: no flags are defined but 0.
        check(ordinal, "cuInit", unsafe { cu::cuInit(0) })?;
        let mut count = 0;
        // SAFETY: the pointer is valid for the call.
        check(ordinal, "cuDeviceGetCount", unsafe { cu::cuDeviceGetCount(&raw mut count) })?;
        if i64::from(ordinal) >= i64::from(count) {
            let devices = if count == 1 { "1 device".into() } else { format!("{count} devices") };
            return Err(opening(ordinal, format!("there is no such device: the driver sees {devices}")));
        }
        let mut device = 0;
        // SAFETY: as above.
        check(ordinal, "cuDeviceGet", unsafe { cu::cuDeviceGet(&raw mut device, ordinal as i32) })?;
        let mut letters = [0; 256];
        // SAFETY: the buffer has the length that is given.
        check(ordinal, "cuDeviceGetName", unsafe { cu::cuDeviceGetName(letters.as_mut_ptr(), 256, device) })?;
        let letters: Vec<u8> = letters.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
        let name = String::from_utf8_lossy(&letters).into_owned();
        use cu::CUdevice_attribute as Attribute;
        let major = attribute(ordinal, device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(ordinal, device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let arch = Arch::new(major as u32, minor as u32);
        serves(ordinal, &name, arch, compiler.version())?;
        let pooled = attribute(ordinal, device, Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? != 0;
        let mut context = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the call. The context is shared by the process and kept until it ends.
        let retained = unsafe { cu::cuDevicePrimaryCtxRetain(&raw mut context, device) };
        check(ordinal, "cuDevicePrimaryCtxRetain", retained)?;
        // SAFETY: the context was retained above.
        check(ordinal, "cuCtxSetCurrent", unsafe { cu::cuCtxSetCurrent(context) })?;
        let stream = new_stream(ordinal)?;
        if pooled {
            keep_memory(ordinal, device)?;
        }
        let (stages, progress) = (Stages::new(ordinal)?, Progress::new(ordinal)?);
        // SAFETY: page-locked memory that the device may write.
        let told = unsafe { cu::cuStreamWriteValue32_v2(stream, progress.address, 0, 0) };
        let tells = told != cu::CUresult::CUDA_ERROR_NOT_SUPPORTED;
        if tells {
            check(ordinal, "cuStreamWriteValue32", told)?;
        }
        Ok(Gpu {
            ordinal,
            name,
            device,
            context,
            stream,
            arch,
            driver,
            pooled,
            tells,
            compiler,
            cache,
            warn,
            functions: Mutex::default(),
            stages: Mutex::new(stages),
            aside: Mutex::new(Aside::new(ordinal)?),
            graphs: Graphs::Auto,
            kept: Mutex::new(Kept::new(ordinal)?),
            progress: Mutex::new(progress),
            failed: Mutex::default(),
        })
    }

    /// Whether work that comes again is kept as graphs, from now on.
    pub fn with_graphs(mut self, graphs: Graphs) -> Gpu {
        self.graphs = graphs;
        self
    }

    /// How often work was started as a graph.
    pub fn replays(&self) -> u64 {
        lock(&self.kept).replays()
    }

    /// Its kind.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// The number that the device was made with: two processes that have the same one share a device, whatever they call it.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn identity(&self) -> Result<[u8; 16]> {
        let mut uuid = cu::CUuuid_st { bytes: [0; 16] };
        // SAFETY: the pointer is valid for the call.
        let status = unsafe { cu::cuDeviceGetUuid_v2(&raw mut uuid, self.device) };
        self.done("identify", "cuDeviceGetUuid", status)?;
        Ok(uuid.bytes.map(|byte| byte as u8))
    }

    /// Compiles every kernel, or reads it from the cache, so that no step waits for it.
    ///
    /// # Errors
    /// [`Error::Compile`], [`Error::Device`].
    pub fn prepare(&self) -> Result<()> {
        self.enter("prepare")?;
        super::SOURCES.into_iter().try_for_each(|source| self.function("prepare", source, "").map(drop))
    }

    /// Makes the context that of this thread.
    fn enter(&self, op: &'static str) -> Result<()> {
        if let Some(error) = lock(&self.failed).clone() {
            return Err(error);
        }
        // SAFETY: the context was retained and is kept.
        let status = unsafe { cu::cuCtxSetCurrent(self.context) };
        self.done(op, "cuCtxSetCurrent", status)
    }

    /// What a call came to. A failure is kept: a context that has failed does nothing any more.
    fn done(&self, op: &'static str, call: &str, status: cu::CUresult) -> Result<()> {
        if status == cu::CUresult::CUDA_SUCCESS {
            return Ok(());
        }
        let unfinished = if self.tells { lock(&self.progress).first_unfinished() } else { None };
        let (op, of) = match unfinished {
            Some((op, kernel)) => (op, format!(" in {kernel}")),
            None => (op, String::new()),
        };
        let error = Error::Device {
            device: self.describe(),
            op: op.into(),
            what: format!("{}{of}, told by {call}", words(status)),
        };
        lock(&self.failed).get_or_insert(error.clone());
        Err(error)
    }

    /// A kernel's function; of no name: only its file is loaded.
    fn function(&self, op: &'static str, source: Source, name: &'static str) -> Result<Option<Function>> {
        let mut functions = lock(&self.functions);
        if let Some(of_file) = functions.get(source.file)
            && let Some(function) = of_file.get(name)
        {
            return Ok(Some(*function));
        }
        if functions.contains_key(source.file) {
            return Ok(None);
        }
        let driver = version_name(self.driver);
        let loaded = self.cache.load(&self.compiler, source, self.arch, &driver)?;
        if let Some(warning) = &loaded.warning {
            (self.warn)(warning);
        }
        let mut module = std::ptr::null_mut();
        // SAFETY: the image is a whole cubin, which the call copies; the module is kept until the process ends.
        let status = unsafe { cu::cuModuleLoadData(&raw mut module, loaded.compiled.cubin.as_ptr().cast()) };
        self.done(op, "cuModuleLoadData", status)?;
        let mut of_file = HashMap::new();
        for resources in &loaded.compiled.kernels {
            let text = CString::new(resources.kernel.as_str())
                .map_err(|_| Error::value("cuda", "a name without NUL", &resources.kernel))?;
            let mut function = std::ptr::null_mut();
            // SAFETY: the module was loaded above, and the name ends with NUL.
            let status = unsafe { cu::cuModuleGetFunction(&raw mut function, module, text.as_ptr()) };
            self.done(op, "cuModuleGetFunction", status)?;
            // Names of kernels are few and the process keeps their code.
            of_file.insert(&*resources.kernel.clone().leak(), Function(function));
        }
        let found = of_file.get(name).copied();
        functions.insert(source.file, of_file);
        Ok(found)
    }

    /// The function of a kernel that must be there.
    fn kernel(&self, op: &'static str, kernel: Kernel) -> Result<Function> {
        let found = self.function(op, kernel.source, kernel.name)?;
        found.ok_or_else(|| Error::value("cuda", format!("a kernel of {}", kernel.source.file), kernel.name))
    }

    /// Starts a kernel on a stream.
    fn launch(
        &self,
        stream: cu::CUstream,
        op: &'static str,
        function: Function,
        launch: Launch,
        arguments: &[Argument],
    ) -> Result<()> {
        if arguments.len() > MOST_ARGUMENTS {
            return Err(Error::value("cuda", format!("at most {MOST_ARGUMENTS} arguments"), arguments.len()));
        }
        self.done(op, "cuLaunchKernel", function.launch(stream, launch, arguments))
    }

    /// Has the device write a number where it tells how far it is.
    fn tell(&self, op: &'static str, address: u64, number: u32) -> Result<()> {
        if !self.tells {
            return Ok(());
        }
        // SAFETY: page-locked memory that the device may write.
        let status = unsafe { cu::cuStreamWriteValue32_v2(self.stream, address, number, 0) };
        self.done(op, "cuStreamWriteValue32", status)
    }

    fn wait(&self, op: &'static str) -> Result<()> {
        // SAFETY: the stream lives as long as this.
        self.done(op, "cuStreamSynchronize", unsafe { cu::cuStreamSynchronize(self.stream) })
    }
}

impl Function {
    /// Puts it on a stream, with at most [`MOST_ARGUMENTS`].
    fn launch(self, stream: cu::CUstream, launch: Launch, arguments: &[Argument]) -> cu::CUresult {
        let mut places = [[0u64; 5]; MOST_ARGUMENTS];
        places.iter_mut().zip(arguments).for_each(|(place, argument)| argument.write(place));
        let mut pointers = places.each_mut().map(|place| place.as_mut_ptr().cast::<c_void>());
        let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
        // SAFETY: the arguments are of the kernel's types, which the tests see to; they are read before the call returns.
        unsafe {
            let (shared, none) = (launch.shared, std::ptr::null_mut());
            cu::cuLaunchKernel(self.0, gx, gy, gz, bx, by, bz, shared, stream, pointers.as_mut_ptr(), none)
        }
    }
}

/// A stream that waits for no other by itself. The context is current.
fn new_stream(ordinal: u32) -> Result<cu::CUstream> {
    const NON_BLOCKING: u32 = 1;
    let mut stream = std::ptr::null_mut();
    // SAFETY: the pointer is valid for the call.
    check(ordinal, "cuStreamCreate", unsafe { cu::cuStreamCreate(&raw mut stream, NON_BLOCKING) })?;
    Ok(stream)
}

/// An event, which has happened as long as it was never recorded.
fn new_event(ordinal: u32) -> Result<cu::CUevent> {
    const NO_TIMING: u32 = 2;
    let mut event = std::ptr::null_mut();
    // SAFETY: the pointer is valid for the call, and the context is current.
    check(ordinal, "cuEventCreate", unsafe { cu::cuEventCreate(&raw mut event, NO_TIMING) })?;
    Ok(event)
}

/// Freed memory stays with the process, for the next step.
fn keep_memory(ordinal: u32, device: cu::CUdevice) -> Result<()> {
    let (mut pool, mut threshold) = (std::ptr::null_mut(), u64::MAX);
    // SAFETY: the pointer is valid for the call.
    check(ordinal, "cuDeviceGetDefaultMemPool", unsafe { cu::cuDeviceGetDefaultMemPool(&raw mut pool, device) })?;
    let attribute = cu::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: this attribute is read as 64 bits.
    let status = unsafe { cu::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast()) };
    check(ordinal, "cuMemPoolSetAttribute", status)
}

/// Page-locked memory, zeroed.
fn page_locked(ordinal: u32, bytes: usize) -> Result<NonNull<u8>> {
    let mut memory: *mut c_void = std::ptr::null_mut();
    // SAFETY: the pointer is valid for the call.
    let status = unsafe { cu::cuMemHostAlloc(&raw mut memory, bytes, cu::CU_MEMHOSTALLOC_DEVICEMAP) };
    check(ordinal, "cuMemHostAlloc", status)?;
    let memory = NonNull::new(memory.cast::<u8>()).ok_or_else(|| opening(ordinal, "cuMemHostAlloc gave nothing"))?;
    // SAFETY: just allocated.
    unsafe { memory.write_bytes(0, bytes) };
    Ok(memory)
}

impl Progress {
    fn new(ordinal: u32) -> Result<Progress> {
        let memory = page_locked(ordinal, size_of::<[AtomicU32; 2]>())?;
        let mut address = 0;
        // SAFETY: page-locked memory that the device may see.
        let status = unsafe { cu::cuMemHostGetDevicePointer_v2(&raw mut address, memory.as_ptr().cast(), 0) };
        check(ordinal, "cuMemHostGetDevicePointer", status)?;
        Ok(Progress { finished: memory.cast(), address, started: 0, names: VecDeque::new() })
    }

    /// The next one's number.
    fn start(&mut self, what: Started) -> u32 {
        self.started = self.started.wrapping_add(1);
        if self.names.len() == NAMES {
            self.names.pop_front();
        }
        self.names.push_back((self.started, what));
        self.started
    }

    /// Where the device writes how far it is in a graph.
    fn within_graph(&self) -> u64 {
        self.address + size_of::<AtomicU32>() as u64
    }

    /// The operation and the kernel that the device has begun, or would have, when it failed.
    fn first_unfinished(&self) -> Option<Name> {
        // SAFETY: the memory lives as long as the process.
        let [finished, within] = unsafe { self.finished.as_ref() }.each_ref().map(|word| word.load(Ordering::Acquire));
        let unfinished = |number: u32| (number.wrapping_sub(finished) as i32) > 0;
        match &self.names.iter().find(|(number, _)| unfinished(*number))?.1 {
            Started::Kernel(name) => Some(*name),
            Started::Graph(names) => names.get(within as usize).copied(),
        }
    }
}

impl Machine for Gpu {
    fn describe(&self) -> String {
        format!("cuda:{} ({})", self.ordinal, self.name)
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.enter("allocate")?;
        let mut address = 0;
        // SAFETY: the pointer is valid for the call, and the context is current.
        let status = unsafe {
            if self.pooled {
                cu::cuMemAllocAsync(&raw mut address, bytes, self.stream)
            } else {
                cu::cuMemAlloc_v2(&raw mut address, bytes)
            }
        };
        if status == cu::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            let (mut free, mut total) = (0, 0);
            // SAFETY: the pointers are valid for the call. Where it fails nothing is known to be free.
            unsafe { cu::cuMemGetInfo_v2(&raw mut free, &raw mut total) };
            return Err(Error::DeviceMemory { device: self.describe(), needed: bytes, had: free, rows: None });
        }
        self.done("allocate", "cuMemAlloc", status)?;
        if self.pooled {
            // It is there when the stream comes to it; copies beside it have to know.
            lock(&self.aside).may_be_written(self)?;
        }
        Ok(address)
    }

    fn release(&self, address: u64) {
        // What a failed context held is gone with it.
        if self.enter("release").is_ok() {
            // SAFETY: allocated above, and nobody uses it after what was asked for before.
            unsafe {
                // Copies beside it may still be on their way there.
                cu::cuStreamWaitEvent(self.stream, lock(&self.aside).written, 0);
                if self.pooled {
                    cu::cuMemFreeAsync(address, self.stream);
                } else {
                    cu::cuMemFree_v2(address);
                }
            }
        }
    }

    fn upload(&self, from: &[u8], to: u64) -> Result<()> {
        self.enter("upload")?;
        lock(&self.stages).upload(self, self.stream, from, to)
    }

    fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        self.enter("download")?;
        lock(&self.stages).download(self, self.stream, from, to)
    }

    fn upload_aside(&self, parts: &[(usize, &[u8])], to: u64) -> Result<()> {
        self.enter("upload aside")?;
        lock(&self.aside).upload(self, parts, to)
    }

    fn take_aside(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.enter("take aside")?;
        lock(&self.aside).take(self, from, to, bytes)
    }

    fn run(&self, work: &Work) -> Result<()> {
        self.enter("run")?;
        let replayed = lock(&self.kept).replay(self, work)?;
        if replayed { Ok(()) } else { work.run_on(self) }
    }

    fn clear(&self, at: u64, bytes: usize) -> Result<()> {
        self.enter("clear")?;
        // SAFETY: memory of this machine, by the caller's promise.
        self.done("clear", "cuMemsetD8Async", unsafe { cu::cuMemsetD8Async(at, 0, bytes, self.stream) })
    }

    fn start(&self, op: &'static str, kernel: Kernel, launch: Launch, arguments: &[Argument]) -> Result<()> {
        self.enter(op)?;
        let function = self.kernel(op, kernel)?;
        let mut progress = lock(&self.progress);
        let number = progress.start(Started::Kernel((op, kernel.name)));
        let address = progress.address;
        drop(progress);
        self.launch(self.stream, op, function, launch, arguments)?;
        self.tell(op, address, number)
    }
}

/// Arguments of a kernel.
const MOST_ARGUMENTS: usize = 24;

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: all was made in `open` and nobody uses it any more; what fails is gone with the process.
        unsafe {
            if cu::cuCtxSetCurrent(self.context) == cu::CUresult::CUDA_SUCCESS {
                cu::cuStreamSynchronize(self.stream);
                lock(&self.aside).free();
                lock(&self.kept).free();
                lock(&self.stages).free();
                cu::cuMemFreeHost(lock(&self.progress).finished.as_ptr().cast());
                cu::cuStreamDestroy_v2(self.stream);
            }
            cu::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_and_devices_that_are_too_old_are_refused_by_name() {
        assert!(fits(0, (13, 0), (13, 0), "/nvrtc").is_ok() && fits(0, (13, 2), (12, 4), "/nvrtc").is_ok());
        let error = fits(3, (12, 4), (13, 0), "/lib/libnvrtc.so.13").expect_err("too old").to_string();
        assert!(error.starts_with("cuda:3: open: the driver is too old: it is of CUDA 12.4"), "{error}");
        assert!(error.contains("/lib/libnvrtc.so.13"), "{error}");
        assert!(serves(0, "T4", Arch::new(7, 5), (13, 0)).is_ok());
        assert!(serves(0, "Tesla V100", Arch::new(7, 0), (12, 8)).is_ok());
        let error = serves(0, "Tesla V100", Arch::new(7, 0), (13, 0)).expect_err("too old").to_string();
        assert!(
            error.contains("Tesla V100 has compute capability 7.0, at least 7.5 is needed; NVRTC of CUDA 12"),
            "{error}"
        );
        let error = serves(0, "Tesla P100", Arch::new(6, 0), (12, 8)).expect_err("too old").to_string();
        assert!(error.ends_with("Tesla P100 has compute capability 6.0, at least 7.0 is needed"), "{error}");
    }
}
