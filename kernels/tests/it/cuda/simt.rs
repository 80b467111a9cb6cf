//! Kernels on the CPU: a source is compiled by the host's C++ compiler with `simt.h` in place of CUDA, and its kernels
//! are called as a device would call them, in each order of blocks and threads. Buffers end where memory does.
//!
//! `CXX`, else g++ or clang++. Without one these tests say so and pass, unless `REQUIRE_NVRTC` is set.

use std::ffi::{c_char, c_void};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::Command;

use kernels::cuda::{Launch, Source};
use libloading::Library;

/// Whose turn it is among blocks, and among the threads of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Forward,
    Reverse,
    Random,
}

pub const ORDERS: [Order; 3] = [Order::Forward, Order::Reverse, Order::Random];

/// A source's kernels.
pub struct Shim {
    library: Library,
    path: PathBuf,
}

/// What kernels on the CPU are made with.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/simt");

/// Where libraries are made: the build's folder, or that of an example's first argument.
fn target() -> PathBuf {
    let given = || std::env::args_os().nth(1).expect("a folder").into();
    option_env!("CARGO_TARGET_TMPDIR").map_or_else(given, PathBuf::from)
}

/// A library of this text, made once for each content and kept in the build folder.
fn made(compiler: &str, name: &str, text: &str, more: &[&str]) -> PathBuf {
    let header = std::fs::read(format!("{SOURCES}/simt.h")).expect("the header");
    let mut hasher = blake3::Hasher::new();
    hasher.update(&header).update(text.as_bytes()).update(compiler.as_bytes());
    for option in more {
        hasher.update(option.as_bytes());
    }
    let name = format!("{name}-{}", &hasher.finalize().to_hex()[..16]);
    let library = target().join(format!("{name}.so"));
    // One test makes what several need.
    static MAKING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if library.exists() {
        return library;
    }
    // Other processes may make it too, each aside.
    let aside = |end: &str| target().join(format!("{name}.{}.{end}", std::process::id()));
    let (code, made) = (aside("cpp"), aside("made"));
    std::fs::write(&code, text).expect("written");
    let output = Command::new(compiler)
        .args(["-std=c++20", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"])
        .args(["-shared", "-fPIC", "-ftls-model=initial-exec"])
        // NVRTC brings the C++ library's own symbols and must not meet those of another.
        .args(["-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL"])
        .args(more)
        .arg(&code)
        .arg("-o")
        .arg(&made)
        .output()
        .expect("the compiler runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&made, &library).expect("placed");
    std::fs::remove_file(&code).expect("removed");
    library
}

/// A library of this text; none where there is no C++ compiler.
pub fn library(name: &str, text: &str) -> Option<PathBuf> {
    Some(made(&compiler()?, name, text, &[]))
}

/// A folder with a driver that runs the kernels on the CPU (`driver.cpp`), and an NCCL that moves data between processes
/// (`nccl.cpp`); none where there is no C++ compiler.
pub fn driver() -> Option<PathBuf> {
    let compiler = compiler()?;
    let library = |name: &str, file: &'static str| {
        let text = std::fs::read_to_string(format!("{SOURCES}/{name}.cpp")).expect("the library");
        (made(&compiler, name, &text, &[&format!("-Wl,-soname,{file}")]), file)
    };
    let libraries = [
        library("driver", "libcuda.so.1"),
        library("cublaslt", "libcublasLt.so.13"),
        library("nccl", "libnccl.so.2"),
        library("nvml", "libnvidia-ml.so.1"),
    ];
    let shims: Vec<PathBuf> =
        kernels::cuda::SOURCES.iter().map(|source| Some(Shim::new(*source)?.path)).collect::<Option<_>>()?;
    let mut hasher = blake3::Hasher::new();
    for path in shims.iter().chain(libraries.iter().map(|(path, _)| path)) {
        hasher.update(path.as_os_str().as_encoded_bytes());
    }
    let folder = target().join(format!("played-{}", &hasher.finalize().to_hex()[..16]));
    let aside = folder.with_extension(format!("{}-{:?}", std::process::id(), std::thread::current().id()));
    if !folder.exists() {
        std::fs::create_dir_all(aside.join("kernels")).expect("a folder");
        for (library, file) in &libraries {
            std::fs::copy(library, aside.join(file)).expect("copied");
        }
        for shim in &shims {
            std::fs::copy(shim, aside.join("kernels").join(shim.file_name().expect("a name"))).expect("copied");
        }
        // Another may have been faster.
        if std::fs::rename(&aside, &folder).is_err() {
            std::fs::remove_dir_all(&aside).expect("removed");
        }
    }
    Some(folder)
}

/// What a kernel is given.
pub enum Argument<'a> {
    /// Read and written; copied there and back.
    Floats(&'a mut [f32]),
    Doubles(&'a mut [f64]),
    Words64(&'a [u64]),
    Float(f32),
    Word(u32),
    Word64(u64),
}

/// As `simt.h` declares it.
type Kernel =
    unsafe extern "C" fn(*const u32, usize, u32, u64, *mut c_char, usize, *mut *mut c_void) -> std::ffi::c_int;

fn compiler() -> Option<String> {
    let runs = |name: &str| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    let found = std::env::var("CXX").ok().into_iter().chain(["g++".into(), "clang++".into()]).find(|name| runs(name));
    assert!(found.is_some() || std::env::var_os("REQUIRE_NVRTC").is_none(), "no C++ compiler: install g++, or set CXX");
    if found.is_none() {
        println!("skipped: no C++ compiler (install g++, or set CXX)");
    }
    found
}

/// Names of a source's kernels.
pub fn kernels_of(text: &str) -> Vec<String> {
    let after = |rest: &str| {
        let rest = rest.split("extern").next().unwrap_or(rest);
        let mut words = rest.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
        words
            .find(|word| !["__launch_bounds__", "void"].contains(word) && !word.starts_with(char::is_numeric))
            .map(str::to_owned)
    };
    text.split("extern \"C\" __global__").skip(1).filter_map(after).collect()
}

impl Shim {
    /// None where there is no compiler. Made once for each content, and kept in the build folder.
    pub fn new(source: Source) -> Option<Shim> {
        let compiler = compiler()?;
        let header = format!("{SOURCES}/simt.h");
        let exports =
            kernels_of(source.text).iter().map(|kernel| format!("SIMT_EXPORT({kernel})\n")).collect::<String>();
        let names = kernels_of(source.text).join(" ");
        let text = format!("{}\n{exports}extern \"C\" const char* const simt_names = \"{names}\";\n", source.text);
        let library = made(&compiler, source.file.trim_end_matches(".cu"), &text, &["-include", &header]);
        // SAFETY: it has just been made from the header and the source, which run nothing when they are loaded.
        Some(Shim { library: unsafe { Library::new(&library) }.expect("loads"), path: library })
    }

    /// Calls a kernel; what `simt.h` says went wrong.
    pub fn run(
        &self,
        kernel: &str,
        launch: Launch,
        order: Order,
        arguments: &mut [Argument<'_>],
    ) -> Result<(), String> {
        let mut buffers: Vec<Option<Guarded>> = arguments.iter().map(Guarded::of).collect();
        let mut places: Vec<u64> = buffers
            .iter()
            .zip(arguments.iter())
            .map(|(buffer, argument)| match (buffer, argument) {
                (Some(buffer), _) => buffer.place() as u64,
                (None, Argument::Float(value)) => u64::from(value.to_bits()),
                (None, Argument::Word(value)) => u64::from(*value),
                (None, Argument::Word64(value)) => *value,
                (None, _) => unreachable!("slices have buffers"),
            })
            .collect();
        // SAFETY: every kernel has such an export.
        let takes = unsafe {
            let takes = self.library.get::<extern "C" fn() -> u32>(format!("simt_arguments_{kernel}").as_bytes());
            takes.expect("a kernel")()
        };
        assert_eq!(places.len(), takes as usize, "arguments of {kernel}");
        let pointers = places.iter_mut().map(|place| std::ptr::from_mut(place).cast()).collect();
        let outcome = self.call(kernel, launch, order, pointers);
        for (buffer, argument) in buffers.iter_mut().zip(arguments) {
            let Some(buffer) = buffer else { continue };
            buffer.check();
            match argument {
                // SAFETY: written as such in `new`, and aligned to 16 bytes.
                Argument::Floats(values) => values.copy_from_slice(unsafe { buffer.values() }),
                // SAFETY: as above.
                Argument::Doubles(values) => values.copy_from_slice(unsafe { buffer.values() }),
                _ => {}
            }
        }
        outcome
    }

    /// Calls a kernel with pointers to its arguments, which are of its types: what `simt.h` says went wrong.
    pub fn call(
        &self,
        kernel: &str,
        launch: Launch,
        order: Order,
        mut pointers: Vec<*mut c_void>,
    ) -> Result<(), String> {
        // SAFETY: every export has this signature.
        let function = unsafe { self.library.get::<Kernel>(format!("simt_{kernel}").as_bytes()) }.expect("a kernel");
        let size: Vec<u32> = [launch.grid, launch.block].concat();
        let mut message = [0 as c_char; 256];
        // SAFETY: the arguments are of the kernel's types, which is the caller's business, and outlive the call.
        let status = unsafe {
            let (text, length) = (message.as_mut_ptr(), message.len());
            function(size.as_ptr(), launch.shared as usize, order as u32, 7, text, length, pointers.as_mut_ptr())
        };
        if status == 0 {
            return Ok(());
        }
        let text: Vec<u8> = message.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
        Err(String::from_utf8_lossy(&text).into_owned())
    }
}

/// A copy that ends where readable memory ends, to 16 bytes; what lies before it must stay as it is.
pub struct Guarded {
    base: std::ptr::NonNull<c_void>,
    mapped: usize,
    /// Of the copy, from the base.
    at: usize,
    bytes: usize,
}

// SAFETY: a mapping that one owner has.
unsafe impl Send for Guarded {}

const PAGE: usize = 4096;
const CANARY: u8 = 0xc5;

impl Guarded {
    fn of(argument: &Argument<'_>) -> Option<Guarded> {
        match argument {
            Argument::Floats(values) => Some(Guarded::new(values.as_ptr().cast(), size_of_val(&**values))),
            Argument::Doubles(values) => Some(Guarded::new(values.as_ptr().cast(), size_of_val(&**values))),
            Argument::Words64(values) => Some(Guarded::new(values.as_ptr().cast(), size_of_val(*values))),
            _ => None,
        }
    }

    /// Memory that a kernel has yet to write: not a number, whatever is read there.
    pub fn unwritten(bytes: usize) -> Guarded {
        let values = vec![0xff; bytes];
        Guarded::new(values.as_ptr(), bytes)
    }

    fn new(from: *const u8, bytes: usize) -> Guarded {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect};
        let mapped = (bytes.div_ceil(PAGE) + 2) * PAGE;
        let length = NonZeroUsize::new(mapped).expect("more than nothing");
        let both = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping; its last page is then closed, and `at` leaves room for all bytes before it.
        unsafe {
            let base = mmap_anonymous(None, length, both, MapFlags::MAP_PRIVATE).expect("memory");
            base.cast::<u8>().write_bytes(CANARY, mapped - PAGE);
            let last = base.byte_add(mapped - PAGE);
            mprotect(last, PAGE, ProtFlags::PROT_NONE).expect("closed");
            // Aligned as device memory is, for vectors.
            let at = (mapped - PAGE - bytes) / 16 * 16;
            std::ptr::copy_nonoverlapping(from, base.cast::<u8>().as_ptr().add(at), bytes);
            Guarded { base, mapped, at, bytes }
        }
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn place(&self) -> *mut c_void {
        // SAFETY: within the mapping.
        unsafe { self.base.as_ptr().byte_add(self.at) }
    }

    /// # Safety
    /// It was made of values of this type.
    unsafe fn values<T>(&self) -> &[T] {
        // SAFETY: the caller's promise; the place is aligned to 16 bytes.
        unsafe { std::slice::from_raw_parts(self.place().cast(), self.bytes / size_of::<T>()) }
    }

    /// Nothing was written before it, or between it and the end.
    pub fn check(&self) {
        // SAFETY: all but the last page can be read.
        let all = unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast::<u8>(), self.mapped - PAGE) };
        let around = all[..self.at].iter().chain(&all[self.at + self.bytes..]);
        assert!(around.copied().all(|byte| byte == CANARY), "a kernel wrote beside a buffer");
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and nobody keeps a pointer into it.
        unsafe { nix::sys::mman::munmap(self.base, self.mapped) }.expect("unmapped");
    }
}
