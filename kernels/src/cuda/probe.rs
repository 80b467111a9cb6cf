//! Looks for the CUDA driver, NVRTC, cuBLASLt and NCCL without needing any of them: a missing library or
//! symbol is a line in the report. Libraries are opened by path, so what is reported is what would load.

use libloading::{Library, Symbol};
use std::ffi::{c_char, c_int, c_uint};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What the caller read from its environment; nothing here reads it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CudaEnvironment {
    /// A configured folder of libraries, which comes before all others.
    pub folder: Option<PathBuf>,
    /// `LD_LIBRARY_PATH`, entries separated by `:`.
    pub library_path: Option<String>,
    /// `CUDA_HOME` or `CUDA_PATH`.
    pub cuda_home: Option<PathBuf>,
    /// Python `site-packages` folders that may hold NVIDIA's wheels.
    pub site_packages: Vec<PathBuf>,
}

/// One library: found or not.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LibraryReport {
    /// cuda, nvrtc, cublasLt or nccl.
    pub name: String,
    /// The path (or bare name, where the loader found it) that was opened.
    pub found: Option<String>,
    /// As the library says; none where it is not found or does not say.
    pub version: Option<String>,
    /// Folders and names that were tried before, in order.
    pub sought: Vec<String>,
    /// Why a library that exists did not open, or does not serve.
    pub error: Option<String>,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CudaDevice {
    pub ordinal: u32,
    pub name: String,
    /// Such as "9.0".
    pub compute_capability: String,
    pub memory_bytes: u64,
}

/// What of CUDA this host has.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CudaReport {
    pub libraries: Vec<LibraryReport>,
    pub devices: Vec<CudaDevice>,
    /// Why there are no devices.
    pub device_error: Option<String>,
}

/// A library's file names, newest first, and how it tells its version.
struct Wanted {
    name: &'static str,
    files: &'static [&'static str],
    version: fn(&Library) -> Option<String>,
    /// The oldest that serves, and what for.
    least: Option<([u32; 2], &'static str)>,
}

const WANTED: [Wanted; 4] = [
    Wanted { name: "cuda", files: &["libcuda.so.1", "libcuda.so"], version: driver_version, least: None },
    Wanted {
        name: "nvrtc",
        files: &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so"],
        version: nvrtc_version,
        least: Some(([11, 2], "compile kernels")),
    },
    Wanted {
        name: "cublasLt",
        files: &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11", "libcublasLt.so"],
        version: cublas_version,
        least: Some(([11, 6], "fuse a bias and an activation with a product")),
    },
    Wanted {
        name: "nccl",
        files: &["libnccl.so.2", "libnccl.so"],
        version: nccl_version,
        least: Some((NCCL_LEAST, "sum gradients on devices")),
    },
];

/// The oldest NCCL whose communicators are set up without blocking and as they are configured here.
pub(super) const NCCL_LEAST: [u32; 2] = [2, 18];

/// Why a library of this version does not serve; nothing where it does, or does not say.
fn too_old(wanted: &Wanted, version: Option<&str>) -> Option<String> {
    let ([major, minor], purpose) = wanted.least?;
    let found: Vec<u32> = version?.split('.').map_while(|part| part.parse().ok()).take(2).collect();
    let [found_major, found_minor] = found.try_into().ok()?;
    let serves = [found_major, found_minor] >= [major, minor];
    (!serves).then(|| format!("too old to {purpose}: {major}.{minor} or newer is needed"))
}

/// Looks for everything. Never panics, changes nothing but which libraries this process has open.
pub fn probe(environment: &CudaEnvironment) -> CudaReport {
    let folders = folders(environment);
    let mut devices = Err("the CUDA driver (libcuda.so.1) was not found".to_string());
    let mut libraries = Vec::with_capacity(WANTED.len());
    for wanted in &WANTED {
        let (library, mut report) = open(wanted, &folders);
        if let Some(library) = library {
            report.version = (wanted.version)(&library);
            report.error = too_old(wanted, report.version.as_deref());
            if wanted.name == "nccl" && report.error.is_none() {
                report.error = super::nccl::lacking(&library);
            }
            if wanted.name == "cuda" {
                devices = list_devices(&library);
            }
            // Unloading a CUDA library runs its destructors at a time it does not expect.
            std::mem::forget(library);
        }
        libraries.push(report);
    }
    let (devices, device_error) = match devices {
        Ok(devices) if devices.is_empty() => (devices, Some("the driver sees no device".into())),
        Ok(devices) => (devices, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    CudaReport { libraries, devices, device_error }
}

/// Opens a library for good, by its name here; where it was found. Later openings under any of its names find it.
///
/// # Errors
/// [`Error::Library`]: where it was sought, or why it did not open.
pub(super) fn require(name: &'static str, environment: &CudaEnvironment) -> Result<String> {
    let (library, found) = load_first(name, environment)?;
    // Unloading a CUDA library runs its destructors at a time it does not expect.
    std::mem::forget(library);
    open_parts(name, Path::new(&found));
    Ok(found)
}

/// The first library of a name here that opens, and where it was found.
///
/// # Errors
/// As [`require`].
pub(super) fn load_first(name: &'static str, environment: &CudaEnvironment) -> Result<(Library, String)> {
    let wanted = WANTED.iter().find(|wanted| wanted.name == name).expect("invariant: a name of the table");
    let (library, report) = open(wanted, &folders(environment));
    let (Some(library), Some(found)) = (library, report.found) else {
        let files = wanted.files.join(", ");
        let error = report.error.map_or_else(
            || format!("none of {files} was found"),
            |error| format!("none of {files} could be used; the last: {error}"),
        );
        return Err(Error::Library { library: wanted.name, error, sought: report.sought });
    };
    Ok((library, found))
}

/// Opens a library that nothing depends on, the first of these files that is found.
///
/// # Errors
/// Where it was sought, or why it did not open; for people.
pub(super) fn optional(
    name: &'static str,
    files: &'static [&'static str],
    environment: &CudaEnvironment,
) -> std::result::Result<Library, String> {
    let (library, report) = open(&Wanted { name, files, version: |_| None, least: None }, &folders(environment));
    library.ok_or_else(|| {
        let why = report.error.unwrap_or_else(|| format!("none of {} was found", files.join(", ")));
        format!("{name}: {why}; sought in {}", report.sought.join(", "))
    })
}

/// Libraries that lie beside another and that it opens by their bare names.
fn open_parts(name: &str, found: &Path) {
    let Some(folder) = found.parent().filter(|_| name == "nvrtc") else { return };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
        if file.starts_with("libnvrtc-builtins.so.") {
            // SAFETY: NVIDIA's libraries have no initializers that depend on the state of this process.
            if let Ok(part) = unsafe { Library::new(&path) } {
                std::mem::forget(part);
            }
        }
    }
}

/// Folders in the order of preference: the configured one, the library path, the toolkit, its usual place, wheels.
fn folders(environment: &CudaEnvironment) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = environment.folder.iter().cloned().collect();
    let listed = environment.library_path.iter().flat_map(|path| path.split(':'));
    folders.extend(listed.filter(|entry| !entry.is_empty()).map(PathBuf::from));
    if let Some(home) = &environment.cuda_home {
        folders.extend([home.join("lib64"), home.join("lib")]);
    }
    folders.push("/usr/local/cuda/lib64".into());
    for site in &environment.site_packages {
        let mut wheels: Vec<PathBuf> = std::fs::read_dir(site.join("nvidia"))
            .map(|entries| entries.flatten().map(|entry| entry.path().join("lib")).filter(|lib| lib.is_dir()).collect())
            .unwrap_or_default();
        wheels.sort();
        folders.extend(wheels);
    }
    folders
}

fn open(wanted: &Wanted, folders: &[PathBuf]) -> (Option<Library>, LibraryReport) {
    let mut report =
        LibraryReport { name: wanted.name.into(), found: None, version: None, sought: Vec::new(), error: None };
    for folder in folders {
        for path in wanted.files.iter().map(|file| folder.join(file)).filter(|path| path.is_file()) {
            if let Some(library) = load(&path, &mut report) {
                return (Some(library), report);
            }
        }
        report.sought.push(folder.display().to_string());
    }
    for file in wanted.files {
        // The loader's own search: its cache and its default folders.
        if let Some(library) = load(Path::new(file), &mut report) {
            report.error = None;
            return (Some(library), report);
        }
        report.sought.push((*file).into());
    }
    (None, report)
}

fn load(path: &Path, report: &mut LibraryReport) -> Option<Library> {
    // SAFETY: NVIDIA's libraries have no initializers that depend on the state of this process.
    match unsafe { Library::new(path) } {
        Ok(library) => {
            report.found = Some(path.display().to_string());
            Some(library)
        }
        Err(error) => {
            // A bare name that is simply absent is the normal case, not an error worth showing.
            if path.is_absolute() {
                report.error = Some(error.to_string());
            }
            None
        }
    }
}

/// A function of a library, if it has it.
///
/// # Safety
/// `F` is the function's type.
unsafe fn function<'l, F>(library: &'l Library, name: &str) -> Option<Symbol<'l, F>> {
    // SAFETY: the caller's promise.
    unsafe { library.get(name.as_bytes()) }.ok()
}

fn driver_version(library: &Library) -> Option<String> {
    let mut version: c_int = 0;
    // SAFETY: signature of cuda.h: CUresult cuDriverGetVersion(int*); works before cuInit.
    let status = unsafe {
        function::<unsafe extern "C" fn(*mut c_int) -> c_int>(library, "cuDriverGetVersion")?(&raw mut version)
    };
    (status == 0).then(|| format!("{}.{}", version / 1000, version % 1000 / 10))
}

fn nvrtc_version(library: &Library) -> Option<String> {
    let (mut major, mut minor): (c_int, c_int) = (0, 0);
    type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
    // SAFETY: signature of nvrtc.h: nvrtcResult nvrtcVersion(int*, int*).
    let status = unsafe { function::<Version>(library, "nvrtcVersion")?(&raw mut major, &raw mut minor) };
    (status == 0).then(|| format!("{major}.{minor}"))
}

fn cublas_version(library: &Library) -> Option<String> {
    // SAFETY: signature of cublasLt.h: size_t cublasLtGetVersion(void).
    let version = unsafe { function::<unsafe extern "C" fn() -> usize>(library, "cublasLtGetVersion")?() };
    // 13.0.1 is 130001 since version 11, which was 11xxx before.
    Some(format!("{}.{}.{}", version / 10_000, version % 10_000 / 100, version % 100))
}

fn nccl_version(library: &Library) -> Option<String> {
    let mut version: c_int = 0;
    // SAFETY: signature of nccl.h: ncclResult_t ncclGetVersion(int*).
    let status =
        unsafe { function::<unsafe extern "C" fn(*mut c_int) -> c_int>(library, "ncclGetVersion")?(&raw mut version) };
    (status == 0).then(|| format!("{}.{}.{}", version / 10_000, version % 10_000 / 100, version % 100))
}

/// The devices that the driver lists.
fn list_devices(library: &Library) -> std::result::Result<Vec<CudaDevice>, String> {
    let missing = |name: &str| format!("the CUDA driver has no {name}");
    let failed = |name: &str, status: c_int| format!("{name} failed with CUresult {status}");
    // SAFETY: signatures of cuda.h.
    let init = unsafe { function::<unsafe extern "C" fn(c_uint) -> c_int>(library, "cuInit") }
        .ok_or_else(|| missing("cuInit"))?;
    // SAFETY: flags must be 0.
    let status = unsafe { init(0) };
    if status != 0 {
        return Err(failed("cuInit", status));
    }
    // SAFETY: as above.
    let count = unsafe { function::<unsafe extern "C" fn(*mut c_int) -> c_int>(library, "cuDeviceGetCount") };
    let mut devices: c_int = 0;
    // SAFETY: the pointer is valid for the call.
    let status = unsafe { count.ok_or_else(|| missing("cuDeviceGetCount"))?(&raw mut devices) };
    if status != 0 {
        return Err(failed("cuDeviceGetCount", status));
    }
    (0..devices)
        .map(|ordinal| describe(library, ordinal).ok_or_else(|| format!("device {ordinal} could not be read")))
        .collect()
}

fn describe(library: &Library, ordinal: c_int) -> Option<CudaDevice> {
    const MAJOR: c_int = 75;
    const MINOR: c_int = 76;
    type Get = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
    type Name = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int;
    type Attribute = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;
    type Memory = unsafe extern "C" fn(*mut usize, c_int) -> c_int;
    let (mut device, mut major, mut minor, mut memory) = (0, 0, 0, 0usize);
    let mut name = [0 as c_char; 256];
    // SAFETY: signatures of cuda.h; every pointer is valid for the call and the name's length is given.
    let ok = unsafe {
        function::<Get>(library, "cuDeviceGet")?(&raw mut device, ordinal) == 0
            && function::<Name>(library, "cuDeviceGetName")?(name.as_mut_ptr(), 255, device) == 0
            && function::<Attribute>(library, "cuDeviceGetAttribute")?(&raw mut major, MAJOR, device) == 0
            && function::<Attribute>(library, "cuDeviceGetAttribute")?(&raw mut minor, MINOR, device) == 0
            && function::<Memory>(library, "cuDeviceTotalMem_v2")?(&raw mut memory, device) == 0
    };
    let letters: Vec<u8> = name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
    ok.then(|| CudaDevice {
        ordinal: ordinal as u32,
        name: String::from_utf8_lossy(&letters).into_owned(),
        compute_capability: format!("{major}.{minor}"),
        memory_bytes: memory as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_every_library_whatever_the_host_has() {
        let environment = CudaEnvironment {
            folder: None,
            library_path: Some("/nowhere::/nor/here".into()),
            cuda_home: Some("/no/toolkit".into()),
            site_packages: vec!["/no/python".into()],
        };
        let report = probe(&environment);
        assert_eq!(
            report.libraries.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(),
            ["cuda", "nvrtc", "cublasLt", "nccl"]
        );
        for library in &report.libraries {
            assert!(library.found.is_some() || library.sought.contains(&"/nowhere".to_string()), "{library:?}");
        }
        assert!(report.device_error.is_some() || !report.devices.is_empty());
        let text = serde_json::to_string(&report).expect("serializes");
        assert_eq!(serde_json::from_str::<CudaReport>(&text).expect("parses"), report);
    }

    #[test]
    fn a_file_that_is_no_library_is_an_error_in_the_report() {
        let folder = std::env::temp_dir().join(format!("within-probe-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("nvidia/cu13/lib")).expect("a temporary folder");
        std::fs::write(folder.join("nvidia/cu13/lib/libnccl.so.2"), b"not a library").expect("written");
        let report = probe(&CudaEnvironment { site_packages: vec![folder.clone()], ..Default::default() });
        std::fs::remove_dir_all(&folder).expect("removed");
        let nccl = &report.libraries[3];
        assert!(nccl.found.is_some() || nccl.error.is_some(), "{nccl:?}");
    }

    #[test]
    fn versions_that_are_too_old_are_told_with_the_one_that_is_needed() {
        let [_, _, blas, nccl] = &WANTED;
        assert_eq!(too_old(nccl, Some("2.18.1")), None);
        assert_eq!(too_old(nccl, Some("3.0.0")), None);
        let old = too_old(nccl, Some("2.4.8"));
        assert_eq!(old.as_deref(), Some("too old to sum gradients on devices: 2.18 or newer is needed"));
        assert!(too_old(blas, Some("11.5.2")).is_some() && too_old(blas, Some("13.0.2")).is_none());
        assert_eq!(too_old(nccl, None), None, "one that does not say may serve");
    }
}
