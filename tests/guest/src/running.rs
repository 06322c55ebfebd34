//! A guest that runs.

use crate::console::Console;
use crate::wire::Wire;
use lab::{Doing, Error, Process, Result, TempDir};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a command may take in the guest, unless another time is given.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether something has happened in the guest.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How much of the kernel's messages an error quotes, in lines.
const QUOTED: usize = 30;

/// A running guest. Dropping it ends it.
#[derive(Debug)]
pub struct Guest {
    /// The other end of its cable.
    pub wire: Wire,
    process: Process,
    console: Console,
    monitor: UnixStream,
    log: PathBuf,
    _files: TempDir,
}

/// Something that runs in the guest in the background, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Background(String);

impl Guest {
    pub(crate) fn new(
        process: Process,
        wire: Wire,
        console: Console,
        monitor: UnixStream,
        log: PathBuf,
        files: TempDir,
    ) -> Guest {
        Guest { wire, process, console, monitor, log, _files: files }
    }

    /// An error, with what QEMU and the kernel said, if it has ended.
    pub(crate) fn alive(process: &Process, log: &Path) -> Result<()> {
        let Some(status) = process.ended() else { return Ok(()) };
        let log = std::fs::read(log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).replace('\r', "");
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(QUOTED)..].join("\n");
        Err(Error::Command {
            command: "QEMU".into(),
            status: status.to_string(),
            stderr: format!("{}\n{last}", process.output()),
        })
    }

    /// QEMU, with what it has written.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What the kernel has written to its console. Not much: it is told to be quiet.
    pub fn kernel_log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).replace('\r', "")
    }

    /// Runs a line of shell to its end and returns what it wrote. An exit status other than 0 is
    /// an error that carries it.
    pub fn run(&mut self, line: &str) -> Result<String> {
        self.run_within(PATIENCE, line)
    }

    /// [`run`](Guest::run), for what may take longer.
    pub fn run_within(&mut self, patience: Duration, line: &str) -> Result<String> {
        let (status, output) = self.status(patience, line)?;
        if status != 0 {
            return Err(Error::Command {
                command: format!("{line} (in the guest)"),
                status: format!("exit status: {status}"),
                stderr: output,
            });
        }
        Ok(output)
    }

    /// Runs a line of shell to its end and returns its exit status and what it wrote.
    pub fn status(&mut self, patience: Duration, line: &str) -> Result<(i32, String)> {
        let alive = || Guest::alive(&self.process, &self.log);
        self.console.run(line, patience, alive)
    }

    /// Writes a file.
    pub fn write(&mut self, path: &str, text: &str) -> Result<()> {
        let escaped = text.replace('\\', r"\\").replace('\n', r"\n").replace('\'', r"\047");
        self.run(&format!("printf %b '{escaped}' >{path}")).map(drop)
    }

    /// Starts a line of shell in the background: `name` names it, and no other. What it writes
    /// is in `/run/NAME.log`.
    pub fn start(&mut self, name: &str, line: &str) -> Result<Background> {
        self.run(&format!(
            "rm -f /run/{name}.*; {{ sh -c 'echo $$ >/run/{name}.pid; exec {line}'; \
             echo $? >/run/{name}.new; mv /run/{name}.new /run/{name}.status; }} \
             >/run/{name}.log 2>&1 &"
        ))?;
        Ok(Background(name.to_owned()))
    }

    /// What it has written so far.
    pub fn output(&mut self, of: &Background) -> Result<String> {
        self.run(&format!("cat /run/{}.log", of.0))
    }

    /// Its exit status, once it has ended. 128 and the signal's number if a signal ended it.
    pub fn ended(&mut self, what: &Background) -> Result<Option<i32>> {
        let said = self.run(&format!("cat /run/{}.status 2>/dev/null; true", what.0))?;
        Ok(said.trim().parse().ok())
    }

    /// Sends it a signal, named as kill(1) does.
    pub fn signal(&mut self, what: &Background, signal: &str) -> Result<()> {
        self.run(&format!("kill -{signal} $(cat /run/{}.pid)", what.0)).map(drop)
    }

    /// Waits until it ends and returns its exit status.
    pub fn wait(&mut self, what: &Background, patience: Duration) -> Result<i32> {
        self.wait_for(patience, &format!("{} ends", what.0), |guest| guest.ended(what))
    }

    /// Waits until it has written `text`; its end is an error with what it wrote.
    pub fn wait_for_output(
        &mut self,
        of: &Background,
        text: &str,
        patience: Duration,
    ) -> Result<()> {
        self.wait_for(patience, &format!("{} says `{text}`", of.0), |guest| {
            // First: what it wrote last is then seen below.
            let ended = guest.ended(of)?;
            let output = guest.output(of)?;
            if output.contains(text) {
                return Ok(Some(()));
            }
            match ended {
                None => Ok(None),
                Some(status) => Err(Error::Command {
                    command: format!("{} (in the guest)", of.0),
                    status: format!("exit status: {status}"),
                    stderr: output,
                }),
            }
        })
    }

    /// Asks `look` until it gives something.
    pub fn wait_for<T>(
        &mut self,
        patience: Duration,
        until: &str,
        mut look: impl FnMut(&mut Guest) -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                return Err(Error::Timeout { waited: patience, until: until.to_owned() });
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Pulls the cable out of the NIC, or plugs it in again.
    pub fn plug(&mut self, plugged_in: bool) -> Result<()> {
        let state = if plugged_in { "on" } else { "off" };
        self.monitor("set_link nic", state)
    }

    fn monitor(&mut self, command: &str, argument: &str) -> Result<()> {
        let doing = || format!("telling QEMU to {command} {argument}");
        self.monitor.write_all(format!("{command} {argument}\n").as_bytes()).doing(doing)
    }
}
