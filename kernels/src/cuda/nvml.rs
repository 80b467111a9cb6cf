//! NVML, found at run time: the driver's version and how much energy a device has used.

use super::probe::{self, CudaEnvironment};
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_ulonglong, c_void};

/// One device, as NVML knows it.
#[derive(Debug)]
pub struct Nvml {
    library: Library,
    device: *mut c_void,
}

type Plain = unsafe extern "C" fn() -> c_int;
type ByBus = unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int;
type Energy = unsafe extern "C" fn(*mut c_void, *mut c_ulonglong) -> c_int;
type Version = unsafe extern "C" fn(*mut c_char, c_uint) -> c_int;

impl Nvml {
    /// Opens NVML for the device at `bus_id` (`Gpu::bus_id`).
    ///
    /// # Errors
    /// Why nothing can be measured, for people.
    pub fn open(bus_id: &str, environment: &CudaEnvironment) -> Result<Nvml, String> {
        let library = probe::optional("nvidia-ml", &["libnvidia-ml.so.1", "libnvidia-ml.so"], environment)?;
        let bus_id = CString::new(bus_id).map_err(|_| "a bus id with NUL".to_owned())?;
        let mut device = std::ptr::null_mut();
        let told = |name: &str, status: c_int| match status {
            0 => Ok(()),
            status => Err(format!("{name} failed with nvmlReturn {status}")),
        };
        // SAFETY: signatures of nvml.h; the pointers are valid for the calls.
        unsafe {
            let init = library.get::<Plain>(b"nvmlInit_v2").map_err(|error| error.to_string())?;
            told("nvmlInit_v2", init())?;
            let name = b"nvmlDeviceGetHandleByPciBusId_v2";
            let by_bus = library.get::<ByBus>(name).map_err(|error| error.to_string())?;
            told("nvmlDeviceGetHandleByPciBusId_v2", by_bus(bus_id.as_ptr(), &raw mut device))?;
        }
        Ok(Nvml { library, device })
    }

    /// Joules that the device has used since its driver was loaded; none where it does not count them (before Volta).
    pub fn joules(&self) -> Option<f64> {
        let mut millijoules = 0;
        // SAFETY: signature of nvml.h; the device was found by this library.
        let status = unsafe {
            let energy = self.library.get::<Energy>(b"nvmlDeviceGetTotalEnergyConsumption").ok()?;
            energy(self.device, &raw mut millijoules)
        };
        (status == 0).then_some(millijoules as f64 / 1e3)
    }

    /// The driver's own version, such as 580.65.06.
    pub fn driver(&self) -> Option<String> {
        let mut letters = [0 as c_char; 96];
        // SAFETY: signature of nvml.h; the buffer has the length that is given, and ends with NUL.
        unsafe {
            let version = self.library.get::<Version>(b"nvmlSystemGetDriverVersion").ok()?;
            (version(letters.as_mut_ptr(), 96) == 0)
                .then(|| CStr::from_ptr(letters.as_ptr()).to_string_lossy().into_owned())
        }
    }
}

impl Drop for Nvml {
    fn drop(&mut self) {
        // SAFETY: signature of nvml.h; each opening is closed once.
        unsafe {
            if let Ok(shutdown) = self.library.get::<Plain>(b"nvmlShutdown") {
                shutdown();
            }
        }
    }
}
