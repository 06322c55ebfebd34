//! Runs a program of this machine in a guest, as `tests/guest/run` does with tests.
//!
//! ```text
//! in_guest [--copy FILE]... PROGRAM [ARGUMENT]...
//! ```
//!
//! Both are at the same path in the guest. Exits as the program does.

use guest::{Kernel, Machine};
use lab::{MachineLock, Result};
use std::process::ExitCode;
use std::time::Duration;

/// More than a test takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    match boot_and_run() {
        Ok((status, output)) => {
            print!("{output}");
            ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX))
        }
        Err(error) => {
            eprintln!("guest: {error}");
            ExitCode::FAILURE
        }
    }
}

fn boot_and_run() -> Result<(i32, String)> {
    let _lock = MachineLock::acquire()?;
    // What tests of the lab need, which a Debian kernel has as modules.
    let mut machine = Machine::new(Kernel::Cloud618).memory(2048).module("veth").module("8021q");
    machine = machine.module("bridge");
    let mut words = std::env::args().skip(1).peekable();
    while words.next_if(|word| word == "--copy").is_some() {
        let file = words.next().unwrap_or_default();
        machine = machine.program(&file, &file);
    }
    let program = words.peek().cloned().unwrap_or_default();
    machine = machine.program(&program, &program);
    let line: Vec<String> = words.map(|word| format!("'{word}'")).collect();
    machine.boot()?.status(PATIENCE, &line.join(" "))
}
