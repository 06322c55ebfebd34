use crate::cleanup::{self, Guard};
use crate::command;
use crate::error::{Doing, Error, Result};
use crate::wait::{wait_for, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{PipeReader, Read, pipe};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How long a process may take to end after SIGTERM before it is killed.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// A running program. It ends with this value, or with the calling process.
#[derive(Debug)]
pub struct Process {
    child: Arc<Mutex<Child>>,
    pid: Pid,
    command: String,
    output: Arc<Mutex<Vec<u8>>>,
    _guard: Guard,
}

impl Process {
    /// Starts `command` in the background and collects what it writes.
    ///
    /// It gets a process group of its own, so that Ctrl-C on the terminal reaches the caller
    /// alone, who then ends it in good order.
    pub fn start(mut command: Command) -> Result<Process> {
        let line = command::line(&command);
        let (reader, writer) = pipe().doing(|| format!("making a pipe for `{line}`"))?;
        let error_writer = writer.try_clone().doing(|| format!("making a pipe for `{line}`"))?;
        command.stdin(Stdio::null()).stdout(writer).stderr(error_writer).process_group(0);

        let place: Arc<Mutex<Option<Arc<Mutex<Child>>>>> = Arc::default();
        let to_end = place.clone();
        let remove = move || {
            if let Some(child) = lock(&to_end).take() {
                end(&child, END_PATIENCE);
            }
        };
        let (child, guard) = cleanup::make(remove, || {
            let child =
                command.spawn().map_err(|source| Error::Start { command: line.clone(), source })?;
            let child = Arc::new(Mutex::new(child));
            *lock(&place) = Some(child.clone());
            Ok(child)
        })?;
        // The command keeps the pipe's writing end open, and the reader would never see its end.
        drop(command);

        let pid = Pid::from_raw(lock(&child).id().cast_signed());
        let output = Arc::default();
        collect(reader, Arc::clone(&output), &line)?;
        Ok(Process { child, pid, command: line, output, _guard: guard })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    /// What it has written to standard output and standard error so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&lock(&self.output)).into_owned()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // The lock keeps the process from being reaped, and its id from being given to another.
        let mut child = lock(&self.child);
        if child.try_wait().doing(|| format!("looking after `{}`", self.command))?.is_some() {
            return Err(self.ended_early());
        }
        kill(self.pid, signal).doing(|| format!("sending {signal} to `{}`", self.command))
    }

    /// Its exit status, once it has ended.
    pub fn ended(&self) -> Option<ExitStatus> {
        lock(&self.child).try_wait().ok().flatten()
    }

    /// Waits until it ends.
    pub fn wait(&self, patience: Duration) -> Result<ExitStatus> {
        wait_for(patience, &format!("`{}` ends", self.command), || self.ended())
    }

    /// Waits for `condition` while the process lives; its end is an error with what it wrote.
    pub fn wait_until(
        &self,
        patience: Duration,
        until: &str,
        mut condition: impl FnMut() -> bool,
    ) -> Result<()> {
        wait_for(patience, until, || {
            if condition() {
                return Some(Ok(()));
            }
            self.ended().map(|_| Err(self.ended_early()))
        })?
    }

    fn ended_early(&self) -> Error {
        // What it wrote last may still be on its way through the pipe.
        let _ = wait_until(Duration::from_millis(200), "some output", || {
            !lock(&self.output).is_empty()
        });
        let status = lock(&self.child).try_wait().ok().flatten();
        Error::Command {
            command: self.command.clone(),
            status: status.map_or("still running".into(), |status| status.to_string()),
            stderr: self.output().trim().to_owned(),
        }
    }
}

/// Asks the process to end, and kills it if it does not within `patience`.
fn end(child: &Mutex<Child>, patience: Duration) {
    let has_ended = || lock(child).try_wait().is_ok_and(|status| status.is_some());
    if has_ended() {
        return;
    }
    let pid = Pid::from_raw(lock(child).id().cast_signed());
    // It has not been reaped, so the id is still its own.
    let _ = kill(pid, Signal::SIGTERM);
    if wait_until(patience, "the process ends", has_ended).is_err() {
        let mut child = lock(child);
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn collect(mut reader: PipeReader, output: Arc<Mutex<Vec<u8>>>, line: &str) -> Result<()> {
    let read_all = move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut bytes) {
            lock(&output).extend_from_slice(&bytes[..count]);
        }
    };
    // Not joined: a grandchild that outlives the process may hold the pipe open.
    let thread = thread::Builder::new().name("lab-output".into()).spawn(read_all);
    thread.map(|_| ()).doing(|| format!("starting a thread for the output of `{line}`"))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start(command).unwrap()
    }

    #[test]
    fn output_and_status_are_kept() {
        let process = shell("echo out; echo err >&2; exit 4");
        assert_eq!(process.wait(SOON).unwrap().code(), Some(4));
        wait_until(SOON, "both lines", || {
            let output = process.output();
            output.contains("out\n") && output.contains("err\n")
        })
        .unwrap();
    }

    #[test]
    fn a_process_ends_with_its_value() {
        let process = shell("trap '' TERM; echo ready; while :; do sleep 0.05; done");
        process.wait_until(SOON, "the trap is set", || process.output().contains("ready")).unwrap();
        let pid = process.pid;
        drop(process);
        assert!(kill(pid, None).is_err());
    }

    #[test]
    fn an_early_end_says_what_was_written() {
        let process = shell("echo no such file >&2; exit 1");
        let error = process.wait_until(SOON, "it is up", || false).unwrap_err();
        assert!(error.to_string().contains("no such file"), "{error}");
    }
}
