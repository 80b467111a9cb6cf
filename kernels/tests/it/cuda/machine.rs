//! A CPU that plays a device: memory that ends where it ends, kernels by `simt.rs`. Training on it takes every path of
//! training on a GPU but the driver's.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use kernels::cuda::{Argument, Cache, CudaEnvironment, Gpu, Kernel, Launch, Machine, SOURCES};
use kernels::{Error, Result};

use super::simt::{Guarded, ORDERS, Order, Shim};

/// See the module.
pub struct Played {
    order: Order,
    memory: Mutex<HashMap<u64, Guarded>>,
}

impl fmt::Debug for Played {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Played({:?})", self.order)
    }
}

/// What tests of the device path run on: a CPU that plays a device in each order of its threads, none where there is no
/// C++ compiler. With `REQUIRE_CUDA` set it is device 0 of this machine, twice: two runs give the same bits.
pub fn machines() -> Vec<Arc<dyn Machine>> {
    if std::env::var_os("REQUIRE_CUDA").is_none() {
        return ORDERS.into_iter().filter_map(|order| Some(Played::new(order)? as Arc<dyn Machine>)).collect();
    }
    let environment = environment();
    let cache = std::env::temp_dir().join("within-cubins");
    let gpu = Gpu::open(0, &environment, Cache::new(cache), |warning| eprintln!("{warning}"));
    let gpu: Arc<dyn Machine> = Arc::new(gpu.unwrap_or_else(|error| panic!("REQUIRE_CUDA is set: {error}")));
    vec![gpu.clone(), gpu]
}

/// Where this machine's own libraries are.
pub fn environment() -> CudaEnvironment {
    let variable = |name: &str| std::env::var(name).ok();
    CudaEnvironment {
        folder: variable("WITHIN_CUDA_LIBRARIES").map(Into::into),
        library_path: variable("LD_LIBRARY_PATH"),
        cuda_home: variable("CUDA_HOME").map(Into::into),
        site_packages: variable("WITHIN_SITE_PACKAGES").map(Into::into).into_iter().collect(),
    }
}

/// The first of them.
pub fn machine() -> Option<Arc<dyn Machine>> {
    machines().into_iter().next()
}

/// The kernels by the names of their files; none where there is no C++ compiler.
fn shims() -> Option<&'static HashMap<&'static str, Shim>> {
    static SHIMS: LazyLock<Option<HashMap<&'static str, Shim>>> =
        LazyLock::new(|| SOURCES.iter().map(|source| Some((source.file, Shim::new(*source)?))).collect());
    SHIMS.as_ref()
}

impl Played {
    /// None where there is no C++ compiler.
    pub fn new(order: Order) -> Option<Arc<Played>> {
        shims()?;
        Some(Arc::new(Played { order, memory: Mutex::default() }))
    }

    /// The allocation that holds these bytes.
    fn inside(&self, at: u64, bytes: usize) {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |held: &Guarded| {
            let begin = held.place() as u64;
            begin <= at && at + bytes as u64 <= begin + held.bytes() as u64
        };
        assert!(memory.values().any(holds), "{bytes} bytes at {at:x} are nobody's");
    }
}

impl Machine for Played {
    fn describe(&self) -> String {
        "played device".into()
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        let memory = Guarded::unwritten(bytes);
        let address = memory.place() as u64;
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).insert(address, memory);
        Ok(address)
    }

    fn release(&self, address: u64) {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
        memory.expect("memory that was allocated").check();
    }

    fn upload(&self, from: &[u8], to: u64) -> Result<()> {
        self.inside(to, from.len());
        // SAFETY: the bytes are within an allocation, and only one thread works on it.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        Ok(())
    }

    fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        self.inside(from, to.len());
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn clear(&self, at: u64, bytes: usize) -> Result<()> {
        self.inside(at, bytes);
        // SAFETY: as above.
        unsafe { std::ptr::write_bytes(at as *mut u8, 0, bytes) };
        Ok(())
    }

    fn take_aside(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.inside(from, bytes);
        self.inside(to, bytes);
        // SAFETY: as above; two allocations.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    fn start(&self, op: &'static str, kernel: Kernel, launch: Launch, arguments: &[Argument]) -> Result<()> {
        let shim = &shims().expect("checked in `new`")[kernel.source.file];
        let mut places = vec![[0; 5]; arguments.len()];
        places.iter_mut().zip(arguments).for_each(|(place, argument)| argument.write(place));
        let pointers = places.iter_mut().map(|place| place.as_mut_ptr().cast()).collect();
        shim.call(kernel.name, launch, self.order, pointers).map_err(|what| {
            let what = format!("{}: {what}", kernel.name);
            Error::Device { device: self.describe(), op: op.to_owned(), what }
        })
    }
}
