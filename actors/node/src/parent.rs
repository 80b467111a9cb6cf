//! `within die-with-parent PID -- PROGRAM …`: asks the kernel for SIGKILL at the parent's end, then
//! becomes the program. No `unsafe` is needed this way: the request is made in the child's own
//! process, and survives the exec.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

use crate::cli::DieWithParentArgs;
use crate::exit;

pub fn exec(args: &DieWithParentArgs) -> ExitCode {
    if let Err(error) = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL) {
        eprintln!("die-with-parent: {error}");
        return ExitCode::from(exit::INFRASTRUCTURE);
    }
    // The parent may have died before the request was made.
    if getppid() != Pid::from_raw(args.parent) {
        return ExitCode::from(exit::INFRASTRUCTURE);
    }
    let Some((program, rest)) = args.command.split_first() else {
        return ExitCode::from(exit::USAGE);
    };
    let error = Command::new(program).args(rest).exec();
    eprintln!("{program}: {error}");
    ExitCode::from(exit::INFRASTRUCTURE)
}
