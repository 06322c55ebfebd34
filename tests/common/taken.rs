//! What a running program takes of the machine.

use lab::Process;
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What a process takes, all its threads together.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// Share of a core. CPU time, not wall time: what else runs on the machine does not count.
    pub share: f64,
    /// Times a second that a thread went to sleep.
    pub sleeps: f64,
}

impl Taken {
    /// What the process takes in the `time` from now on.
    pub fn during(time: Duration, process: &Process) -> Taken {
        let (begin, cpu, sleeps) = (Instant::now(), cpu(process), sleeps(process));
        sleep(time);
        let seconds = begin.elapsed().as_secs_f64();
        Taken {
            share: (self::cpu(process) - cpu).as_secs_f64() / seconds,
            sleeps: (self::sleeps(process) - sleeps) as f64 / seconds,
        }
    }
}

fn cpu(process: &Process) -> Duration {
    let clock = clock_getcpuclockid(Pid::from_raw(process.pid().cast_signed())).unwrap();
    clock.now().unwrap().into()
}

fn sleeps(process: &Process) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap();
    tasks.map(|task| sleeps_of_thread(&task.unwrap().path())).sum()
}

/// proc(5), status: a thread that gives up its core by itself does so to wait for something.
fn sleeps_of_thread(task: &Path) -> u64 {
    let status = fs::read_to_string(task.join("status")).unwrap();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.unwrap().trim().parse().unwrap()
}
