//! `make gpu-bench`: what the kernels reach on this machine's GPU, beside a copy, cuBLASLt and PyTorch in the same call.
//! One binary, which also runs alone on a machine with a driver and NVRTC.
//!
//! Arguments: `--results FILE` (the table is appended to it), `--quick` (small sizes; the figures then mean nothing).
//! `WITHIN_TORCH_PYTHON`: a Python with torch, to measure against. Libraries are found as `make gpu-test` finds them.
//! Without a GPU it says so and ends with 0, unless `REQUIRE_CUDA` is set.

mod suite;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |name: &str| arguments.iter().skip_while(|a| *a != name).nth(1).cloned();
    let settings = suite::Settings {
        scale: if arguments.iter().any(|a| a == "--quick") { suite::Scale::Quick } else { suite::Scale::Full },
        environment: suite::environment(),
        cubins: std::env::temp_dir().join("within-cubins"),
        python: std::env::var_os("WITHIN_TORCH_PYTHON").map(Into::into),
    };
    let report = match suite::run(&settings) {
        Ok(report) => report.to_string(),
        Err(error) => {
            println!("gpu-bench: not measured: {error}");
            return if std::env::var_os("REQUIRE_CUDA").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    print!("{report}");
    if let Some(path) = after("--results") {
        let appended = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        let written = appended.and_then(|mut file| std::io::Write::write_all(&mut file, report.as_bytes()));
        if let Err(error) = written {
            println!("gpu-bench: {path}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
