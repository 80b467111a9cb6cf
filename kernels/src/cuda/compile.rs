//! CUDA sources to machine code for one kind of device, by NVRTC: at run time where the device is found, and without a
//! device in the tests.

use std::ffi::CString;
use std::fmt;
use std::str::FromStr;

use cudarc::nvrtc::{result, sys};

use super::probe::{self, CudaEnvironment};
use crate::error::{Error, Result};

/// The oldest NVRTC whose language and options the kernels need.
const OLDEST: (i32, i32) = (12, 0);
/// What every kernel is compiled with. Nothing is contracted into a fused multiply-add that the source does not ask for,
/// and nothing is approximated: the bits are those that the source says.
const OPTIONS: [&str; 4] = ["--std=c++17", "--fmad=false", "--prec-div=true", "--prec-sqrt=true"];

/// A kind of device: its compute capability, such as 9.0, and whether code may use what only that one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arch {
    pub major: u32,
    pub minor: u32,
    /// `sm_90a`: runs nowhere else.
    pub specific: bool,
}

impl Arch {
    pub const fn new(major: u32, minor: u32) -> Arch {
        Arch { major, minor, specific: false }
    }
}

impl fmt::Display for Arch {
    /// As the compiler calls it: `sm_90`, `sm_90a`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}{}", self.major, self.minor, if self.specific { "a" } else { "" })
    }
}

impl FromStr for Arch {
    type Err = Error;

    fn from_str(text: &str) -> Result<Arch> {
        let wrong = || Error::value("cuda", "a device's kind, such as sm_90", text);
        let digits = text.strip_prefix("sm_").ok_or_else(wrong)?;
        let (digits, specific) = digits.strip_suffix('a').map_or((digits, false), |digits| (digits, true));
        let number: u32 = digits.parse().map_err(|_| wrong())?;
        if number < 10 {
            return Err(wrong());
        }
        Ok(Arch { major: number / 10, minor: number % 10, specific })
    }
}

/// A source file of kernels, compiled into the binary as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its file's name, which errors give.
    pub file: &'static str,
    pub text: &'static str,
}

/// What NVRTC made of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// Machine code for the one kind of device, an ELF file.
    pub cubin: Vec<u8>,
    /// What each kernel needs.
    pub kernels: Vec<Resources>,
}

/// What one kernel needs of a multiprocessor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    pub kernel: String,
    /// Registers a thread.
    pub registers: u32,
    /// Bytes a thread that do not fit its registers: each of these is a slow access.
    pub spills: u32,
}

/// NVRTC, found and usable.
#[derive(Debug)]
pub struct Compiler {
    version: (i32, i32),
    found: String,
}

impl Compiler {
    /// Finds NVRTC.
    ///
    /// # Errors
    /// [`Error::Library`] where there is none, none that works, or one too old; it says where it was sought.
    pub fn load(environment: &CudaEnvironment) -> Result<Compiler> {
        let found = probe::require("nvrtc", environment)?;
        // SAFETY: a library of that name has just been opened, and stays so.
        if !unsafe { sys::is_culib_present() } {
            let error = format!("{found} was opened, and yet NVRTC is not to be found under any of its names");
            return Err(Error::Library { library: "nvrtc", error, sought: Vec::new() });
        }
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the pointers are valid for the call.
        let told = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
        if told.result().is_err() || (major, minor) < OLDEST {
            let error = format!("{found} is of version {major}.{minor}, at least {}.{} is needed", OLDEST.0, OLDEST.1);
            return Err(Error::Library { library: "nvrtc", error, sought: Vec::new() });
        }
        Ok(Compiler { version: (major, minor), found })
    }

    /// Such as 13.0.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Where it was found.
    pub fn path(&self) -> &str {
        &self.found
    }

    /// The options for a kind of device.
    pub fn options(arch: Arch) -> Vec<String> {
        let mut options: Vec<String> = OPTIONS.map(str::to_owned).to_vec();
        options.push(format!("--gpu-architecture={arch}"));
        // Registers and spills, in the log.
        options.push("--ptxas-options=-v".into());
        options
    }

    /// Compiles a source for one kind of device.
    ///
    /// # Errors
    /// [`Error::Compile`] with file, line and the compiler's words; [`Error::Library`] where the compiler itself fails.
    pub fn compile(&self, source: Source, arch: Arch) -> Result<Compiled> {
        let failed = |error: result::NvrtcError| Error::Library {
            library: "nvrtc",
            error: format!("{}: {error}", self.found),
            sought: Vec::new(),
        };
        let nul = |_| Error::value("cuda", "a source without NUL", source.file);
        let (text, file) = (CString::new(source.text).map_err(nul)?, CString::new(source.file).map_err(nul)?);
        let program = Program(result::create_program(&text, Some(&file)).map_err(failed)?);
        // SAFETY: the program was created above and lives until the end of this function.
        let outcome = unsafe { result::compile_program(program.0, &Compiler::options(arch)) };
        let log = program.log().map_err(failed)?;
        match outcome {
            // Warnings are errors.
            Ok(()) if !log.contains(": warning") => {}
            Ok(()) => return Err(said(source.file, arch, &log)),
            Err(error) if error.0 == sys::nvrtcResult::NVRTC_ERROR_COMPILATION => {
                return Err(said(source.file, arch, &log));
            }
            Err(error) if error.0 == sys::nvrtcResult::NVRTC_ERROR_INVALID_OPTION => {
                let error = format!("{} cannot compile for {arch}: {}", self.found, log.trim());
                return Err(Error::Library { library: "nvrtc", error, sought: Vec::new() });
            }
            Err(error) => return Err(failed(error)),
        }
        Ok(Compiled { cubin: program.cubin().map_err(failed)?, kernels: resources(&log) })
    }
}

/// Destroyed when it is dropped.
struct Program(sys::nvrtcProgram);

impl Program {
    fn log(&self) -> std::result::Result<String, result::NvrtcError> {
        // SAFETY: the program lives as long as this.
        let bytes = unsafe { result::get_program_log(self.0) }?;
        let bytes: Vec<u8> = bytes.into_iter().map(|byte| byte as u8).take_while(|byte| *byte != 0).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn cubin(&self) -> std::result::Result<Vec<u8>, result::NvrtcError> {
        let mut size = 0;
        // SAFETY: the program lives, and the pointer is valid for the call.
        unsafe { sys::nvrtcGetCUBINSize(self.0, &raw mut size) }.result()?;
        let mut cubin = vec![0u8; size];
        // SAFETY: the buffer has the size that the compiler has just named.
        unsafe { sys::nvrtcGetCUBIN(self.0, cubin.as_mut_ptr().cast()) }.result()?;
        Ok(cubin)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: it was created and is not used any more. What it could not free is gone with the process.
        unsafe { result::destroy_program(self.0) }.ok();
    }
}

/// The first thing that the compiler objects to: `file(line): error: what`.
fn said(file: &str, arch: Arch, log: &str) -> Error {
    let objection = log.lines().find_map(|line| {
        let rest = line.strip_prefix(file)?.strip_prefix('(')?;
        let (number, what) = rest.split_once("): ")?;
        Some((number.parse().ok()?, what.to_owned()))
    });
    let (line, what) = objection.unwrap_or((0, log.lines().next().unwrap_or("the compiler says nothing").to_owned()));
    Error::Compile { file: file.to_owned(), line, arch: arch.to_string(), what, log: log.to_owned() }
}

/// Registers and spills, as the assembler tells them: "Compiling entry function 'k' for 'sm_90'", then "Function
/// properties", "N bytes stack frame, N bytes spill stores, N bytes spill loads", and "Used N registers".
fn resources(log: &str) -> Vec<Resources> {
    let before = |line: &str, unit: &str| -> Option<u32> {
        line[..line.find(unit)?].split_whitespace().next_back()?.parse().ok()
    };
    let mut kernels: Vec<Resources> = Vec::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            kernels.push(Resources { kernel, registers: 0, spills: 0 });
        } else if let Some(last) = kernels.last_mut() {
            if let Some(stores) = before(line, " bytes spill stores") {
                last.spills = stores + before(line, " bytes spill loads").unwrap_or(0);
            }
            if let Some(registers) = before(line, " registers") {
                last.registers = registers;
            }
        }
    }
    kernels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_devices_are_read_as_written() {
        for text in ["sm_75", "sm_90", "sm_90a", "sm_120"] {
            assert_eq!(text.parse::<Arch>().expect("a kind").to_string(), text);
        }
        assert_eq!("sm_120".parse::<Arch>().expect("a kind"), Arch::new(12, 0));
        for wrong in ["90", "sm_", "sm_9", "sm_9x"] {
            assert!(wrong.parse::<Arch>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_assemblers_words_are_understood() {
        let log = "ptxas info    : 0 bytes gmem\n\
                   ptxas info    : Compiling entry function 'a' for 'sm_90'\n\
                   ptxas info    : Function properties for a\n\
                   ptxas         .     8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads\n\
                   ptxas info    : Used 40 registers, used 1 barriers, 8 bytes cumulative stack size\n\
                   ptxas info    : Compiling entry function 'b' for 'sm_90'\n\
                   ptxas info    : Used 8 registers, used 0 barriers\n";
        let expected = [("a", 40, 28), ("b", 8, 0)];
        let found = resources(log);
        let found: Vec<_> = found.iter().map(|of| (of.kernel.as_str(), of.registers, of.spills)).collect();
        assert_eq!(found, expected);
    }
}
