//! NVRTC as it is: what it makes, what it objects to, and what is kept of it.

use kernels::cuda::{Arch, Cache, Compiler, CudaEnvironment, Source};
use kernels::error::ErrorKind;

use super::compiler;

const GOOD: Source = Source {
    file: "scale.cu",
    text: "extern \"C\" __global__ void scale(float* x, unsigned long long n, float by) {\n\
           unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;\n\
           if (i < n) x[i] *= by;\n}\n",
};

#[test]
fn a_source_becomes_code_for_each_kind_of_device() {
    let Some(compiler) = compiler() else { return };
    let (major, _) = compiler.version();
    assert!(major >= 12, "{:?}", compiler.version());
    for arch in ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_120"] {
        let compiled = compiler.compile(GOOD, arch.parse().expect("a kind")).unwrap_or_else(|e| panic!("{arch}: {e}"));
        assert!(compiled.cubin.starts_with(b"\x7fELF"), "{arch}");
        let [kernel] = &compiled.kernels[..] else { panic!("{arch}: {:?}", compiled.kernels) };
        assert!(kernel.kernel == "scale" && kernel.registers > 0 && kernel.spills == 0, "{arch}: {kernel:?}");
    }
}

#[test]
fn an_objection_names_file_line_and_device() {
    let Some(compiler) = compiler() else { return };
    let text = "extern \"C\" __global__ void k(float* x) {\n  x[0] = y;\n}\n";
    let error = compiler.compile(Source { file: "wrong.cu", text }, Arch::new(9, 0)).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Compile);
    let said = error.to_string();
    assert!(
        said.starts_with("wrong.cu(2): error: ") && said.contains("\"y\"") && said.ends_with("(compiled for sm_90)"),
        "{said}"
    );
    // A warning is one too.
    let text = "extern \"C\" __global__ void k(float* x) {\n  int unused;\n  x[0] = 1;\n}\n";
    let error = compiler.compile(Source { file: "loose.cu", text }, Arch::new(9, 0)).expect_err("refused");
    assert!(error.to_string().starts_with("loose.cu(2): "), "{error}");
}

#[test]
fn a_device_that_the_compiler_does_not_know_is_an_error() {
    let Some(compiler) = compiler() else { return };
    // CUDA 13 has dropped it.
    let error = compiler.compile(GOOD, Arch::new(7, 0)).expect_err("refused");
    assert!(error.kind() == ErrorKind::Library && error.to_string().contains("sm_70"), "{error}");
}

#[test]
fn code_is_kept_damage_is_mended_and_a_folder_that_cannot_be_written_to_is_no_obstacle() {
    let Some(compiler) = compiler() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let cache = Cache::new(folder.path().join("cubin"));
    let load = || cache.load(compiler, GOOD, Arch::new(8, 0), "580.65").expect("compiles");
    let first = load();
    assert!(!first.cached && first.warning.is_none(), "{:?}", first.warning);
    let second = load();
    assert!(second.cached && second.compiled == first.compiled);
    let entry =
        std::fs::read_dir(folder.path().join("cubin")).expect("lists").next().expect("one").expect("entry").path();
    std::fs::write(&entry, b"within cubin 001 and no more").expect("writes");
    let mended = load();
    assert!(!mended.cached && mended.warning.is_some_and(|warning| warning.contains("damaged")));
    assert!(load().cached);
    std::fs::write(folder.path().join("file"), b"").expect("writes");
    let nowhere = Cache::new(folder.path().join("file/cubin"));
    let loaded = nowhere.load(compiler, GOOD, Arch::new(8, 0), "580.65").expect("compiles all the same");
    assert!(loaded.compiled == first.compiled && loaded.warning.is_some(), "{:?}", loaded.warning);
    assert!(!Cache::none().load(compiler, GOOD, Arch::new(8, 0), "580.65").expect("compiles").cached);
}

#[test]
fn processes_share_a_cache() {
    let Some(compiler) = compiler() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let cache = Cache::new(folder.path());
    std::thread::scope(|scope| {
        let load = || cache.load(compiler, GOOD, Arch::new(8, 6), "580.65").expect("compiles").compiled;
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        let all: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
    });
    let names: Vec<_> =
        std::fs::read_dir(folder.path()).expect("lists").map(|e| e.expect("entry").file_name()).collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn a_broken_library_is_named_and_so_is_where_it_was_sought() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("libnvrtc.so.13"), b"no library").expect("writes");
    let environment = CudaEnvironment { folder: Some(folder.path().into()), ..CudaEnvironment::default() };
    // Where the machine has one of its own, that one serves.
    let Err(error) = Compiler::load(&environment) else { return };
    assert_eq!(error.kind(), ErrorKind::Library);
    let said = error.to_string();
    for part in ["nvrtc", "libnvrtc.so.13", &folder.path().display().to_string()] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
