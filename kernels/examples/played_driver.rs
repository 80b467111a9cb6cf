//! Makes a CUDA driver that runs kernels on the CPU (`tests/simt/driver.cpp`), in the folder that is given, and prints where:
//! for tests of the whole platform on a machine without a GPU.

#[allow(dead_code)]
#[path = "../tests/it/cuda/simt.rs"]
mod simt;

fn main() {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: played_driver <folder>");
        std::process::exit(2);
    };
    std::fs::create_dir_all(folder).expect("a folder");
    match simt::driver() {
        Some(played) => println!("{}", played.display()),
        None => std::process::exit(1),
    }
}
