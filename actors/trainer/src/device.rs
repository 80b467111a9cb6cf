//! CUDA devices of a worker: which there are, which of them a rank gets, and taking one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kernels::cuda::{Arch, Cache, Compiler, CudaEnvironment, CudaReport, Gpu, Machine, probe};
use kernels::{Error, ErrorKind};
use messages::error::Code;
use messages::{UnixMs, WireError, worker};
use tracing::warn;

/// Where this process looks for CUDA's libraries: `WITHIN_CUDA_LIBRARIES`, then as the loader does, then in wheels of the
/// Python environments of `WITHIN_SITE_PACKAGES`.
pub fn environment() -> CudaEnvironment {
    let variable = |name: &str| std::env::var(name).ok();
    CudaEnvironment {
        folder: std::env::var_os("WITHIN_CUDA_LIBRARIES").map(PathBuf::from),
        library_path: variable("LD_LIBRARY_PATH"),
        cuda_home: variable("CUDA_HOME").or_else(|| variable("CUDA_PATH")).map(PathBuf::from),
        site_packages: std::env::var_os("WITHIN_SITE_PACKAGES")
            .map(|folders| std::env::split_paths(&folders).collect())
            .unwrap_or_default(),
    }
}

/// Which devices a worker is told to use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Those that work; none is no fault.
    #[default]
    Auto,
    None,
    Only(Vec<u32>),
}

/// The devices of a worker, all of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    pub ordinals: Vec<u32>,
    /// Such as `sm_90`; none where there are no devices.
    pub kind: Option<String>,
}

impl Devices {
    /// What a worker's kernel fingerprint says of them, such as `+cuda-sm_90`.
    pub fn fingerprint(&self) -> String {
        self.kind.as_ref().map(|kind| format!("+{}{kind}", worker::CUDA)).unwrap_or_default()
    }
}

/// Looks for devices.
///
/// # Errors
/// Why devices that are asked for cannot be used.
pub fn find(wanted: &Wanted) -> Result<Devices, String> {
    if *wanted == Wanted::None {
        return Ok(Devices::default());
    }
    let environment = environment();
    let usable = among(&probe(&environment), wanted).and_then(|devices| {
        if devices.kind.is_some() {
            Compiler::load(&environment).map_err(|error| error.to_string())?;
        }
        Ok(devices)
    });
    match (usable, wanted) {
        (Err(why), Wanted::Auto) => {
            tracing::debug!("no CUDA device is used: {why}");
            Ok(Devices::default())
        }
        (found, _) => found,
    }
}

/// The wanted ones of those that are there: all of the first one's kind.
fn among(report: &CudaReport, wanted: &Wanted) -> Result<Devices, String> {
    if report.devices.is_empty() {
        return Err(report.device_error.clone().unwrap_or_else(|| "the driver sees no device".into()));
    }
    let kind = |ordinal: u32| {
        let device = report.devices.iter().find(|device| device.ordinal == ordinal)?;
        let (major, minor) = device.compute_capability.split_once('.')?;
        Some(Arch::new(major.parse().ok()?, minor.parse().ok()?).to_string())
    };
    let ordinals: Vec<u32> = match wanted {
        Wanted::Only(ordinals) => ordinals.clone(),
        _ => report.devices.iter().map(|device| device.ordinal).collect(),
    };
    let mut devices = Devices::default();
    for ordinal in ordinals {
        let own = kind(ordinal).ok_or_else(|| {
            let there: Vec<String> = report.devices.iter().map(|device| device.ordinal.to_string()).collect();
            format!("there is no CUDA device {ordinal}; those of this host are {}", there.join(", "))
        })?;
        match &devices.kind {
            Some(first) if *first != own && *wanted == Wanted::Auto => continue,
            Some(first) if *first != own => {
                return Err(format!(
                    "devices of one kind make a worker; device {ordinal} is {own}, others are {first}"
                ));
            }
            _ => {}
        }
        devices.kind = Some(own);
        devices.ordinals.push(ordinal);
    }
    Ok(devices)
}

/// Which device each rank of a worker has.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    ordinals: Vec<u32>,
    taken: BTreeMap<u64, u32>,
    next: u64,
}

impl Seats {
    pub(crate) fn new(ordinals: Vec<u32>) -> Self {
        Self { ordinals, ..Self::default() }
    }

    /// The device with the fewest ranks, the first of those; a number to give it back with.
    pub(crate) fn take(&mut self) -> Option<(u64, u32)> {
        let ranks = |ordinal: u32| self.taken.values().filter(|taken| **taken == ordinal).count();
        let ordinal = *self.ordinals.iter().min_by_key(|ordinal| ranks(**ordinal))?;
        self.next += 1;
        self.taken.insert(self.next, ordinal);
        Some((self.next, ordinal))
    }

    pub(crate) fn give_back(&mut self, seat: u64) {
        self.taken.remove(&seat);
    }

    /// Gives the device out no more; how many are left.
    pub(crate) fn lose(&mut self, ordinal: u32) -> usize {
        self.ordinals.retain(|own| *own != ordinal);
        self.ordinals.len()
    }
}

/// What a job's `resources.device` means for a rank whose worker gave it `given`: none is the CPU.
///
/// # Errors
/// Where the job asks for a device that the worker does not have.
pub(crate) fn chosen(device: &str, given: Option<u32>, all: &[u32]) -> Result<Option<u32>, WireError> {
    let lacking = |what: String| {
        let error = WireError::new(Code::DeviceError, format!("resources.device: {device}: {what}"));
        error.with_hint("see within doctor on the worker's host")
    };
    match device {
        "cpu" => Ok(None),
        "auto" => Ok(given),
        "cuda" => given.map(Some).ok_or_else(|| lacking("this worker uses no CUDA device".into())),
        _ => {
            let number = device.strip_prefix("cuda:").and_then(|number| number.parse().ok());
            let number = number.ok_or_else(|| lacking("expected auto, cpu, cuda or cuda:<number>".into()))?;
            if all.contains(&number) {
                return Ok(Some(number));
            }
            let all: Vec<String> = all.iter().map(u32::to_string).collect();
            let own = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
            Err(lacking(format!("this worker's CUDA devices are: {own}")))
        }
    }
}

/// Compiles what ranks will run, unless it lies in `cubins`: a rank has only so long to join. What goes wrong here is told
/// by the rank that takes the device.
pub(crate) fn compile(devices: &Devices, cubins: &Path) {
    let begun: UnixMs = bus::now_ms();
    let kind = devices.kind.as_ref().and_then(|kind| kind.parse::<Arch>().ok());
    let (Some(ordinal), Some(arch)) = (devices.ordinals.first(), kind) else { return };
    let compiled =
        kernels::cuda::compile_all(*ordinal, arch, &environment(), &Cache::new(cubins), |warning| warn!("{warning}"));
    match compiled {
        Ok(0) => {}
        Ok(files) => {
            tracing::info!(
                "compiled {files} files of kernels for {arch} in {} ms, once for this machine",
                bus::now_ms() - begun
            );
        }
        Err(error) => warn!("kernels for {arch} are not compiled: {error}"),
    }
}

/// This process could not take its device.
static LOST: AtomicBool = AtomicBool::new(false);

/// Whether a device could not be taken by this process.
pub(crate) fn is_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// Takes a device for a rank, with its kernels compiled or read from `cubins`.
///
/// # Errors
/// As the coordinator gets them: of class `device`.
pub(crate) fn open(ordinal: u32, cubins: &Path) -> Result<Arc<Gpu>, WireError> {
    let begun: UnixMs = bus::now_ms();
    let opened = Gpu::open(ordinal, &environment(), Cache::new(cubins), |warning| warn!("{warning}"));
    let gpu = opened.and_then(|gpu| gpu.prepare().map(|()| gpu)).map_err(|error| {
        // Where it is memory that lacks, another will have used it up.
        LOST.store(error.kind() != ErrorKind::OutOfMemory, Ordering::Relaxed);
        device_error(&error)
    })?;
    tracing::info!("trains on {} ({}), ready after {} ms", gpu.describe(), gpu.arch(), bus::now_ms() - begun);
    Ok(Arc::new(gpu))
}

/// What goes wrong beside the steps of a training, as it goes to the coordinator: a device's errors as those.
pub(crate) fn training_error(error: &Error) -> WireError {
    match error.kind() {
        ErrorKind::Device | ErrorKind::OutOfMemory => device_error(error),
        _ => WireError::new(Code::TrainingError, error.to_string()),
    }
}

/// An error of a device as it goes to the coordinator.
pub(crate) fn device_error(error: &Error) -> WireError {
    match error.kind() {
        ErrorKind::OutOfMemory => WireError::new(Code::OutOfMemory, error.to_string()),
        _ => WireError::new(Code::DeviceError, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::cuda::CudaDevice;
    use messages::error::Class;

    fn report(kinds: &[&str]) -> CudaReport {
        let device = |(ordinal, kind): (usize, &&str)| CudaDevice {
            ordinal: ordinal as u32,
            name: "a device".into(),
            compute_capability: (*kind).into(),
            memory_bytes: 1,
        };
        let devices = kinds.iter().enumerate().map(device).collect();
        CudaReport { libraries: Vec::new(), devices, device_error: None }
    }

    #[test]
    fn a_worker_has_devices_of_one_kind() {
        let found = |kinds: &[&str], wanted| among(&report(kinds), &wanted);
        let of = |ordinals: &[u32], kind: &str| Devices { ordinals: ordinals.to_vec(), kind: Some(kind.into()) };
        assert_eq!(found(&["9.0", "9.0"], Wanted::Auto), Ok(of(&[0, 1], "sm_90")));
        assert_eq!(found(&["9.0", "8.0", "9.0"], Wanted::Auto), Ok(of(&[0, 2], "sm_90")));
        assert_eq!(found(&["9.0", "8.0"], Wanted::Only(vec![1])), Ok(of(&[1], "sm_80")));
        assert_eq!(of(&[1], "sm_80").fingerprint(), "+cuda-sm_80");
        let mixed = found(&["9.0", "8.0"], Wanted::Only(vec![0, 1])).expect_err("two kinds");
        assert_eq!(mixed, "devices of one kind make a worker; device 1 is sm_80, others are sm_90");
        let missing = found(&["9.0"], Wanted::Only(vec![3])).expect_err("missing");
        assert_eq!(missing, "there is no CUDA device 3; those of this host are 0");
        assert!(found(&[], Wanted::Auto).is_err());
    }

    #[test]
    fn ranks_spread_over_the_devices() {
        let mut seats = Seats::new(vec![2, 5]);
        let (first, one) = seats.take().expect("a device");
        let (_, other) = seats.take().expect("a device");
        assert_eq!((one, other), (2, 5));
        seats.give_back(first);
        assert_eq!(seats.take().expect("a device").1, 2);
        assert_eq!(seats.take().expect("a device").1, 2);
        assert_eq!(Seats::default().take(), None);
        assert_eq!((seats.lose(2), seats.take().expect("a device").1, seats.lose(5), seats.take()), (1, 5, 0, None));
    }

    #[test]
    fn a_job_says_where_it_trains() {
        let ok = |device, given| chosen(device, given, &[1, 4]).expect("there");
        assert_eq!((ok("auto", Some(4)), ok("auto", None), ok("cpu", Some(4))), (Some(4), None, None));
        assert_eq!((ok("cuda", Some(4)), ok("cuda:1", Some(4))), (Some(4), Some(1)));
        let error = chosen("cuda:0", Some(4), &[1, 4]).expect_err("not there");
        assert_eq!(error.class, Class::Device);
        assert_eq!(error.message, "resources.device: cuda:0: this worker's CUDA devices are: 1, 4");
        assert!(chosen("cuda", None, &[]).is_err());
    }
}
