//! The line to the guest's shell: its second serial port, here a Unix socket.

use lab::{Doing, Error, Result};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

/// How long one read waits, at most, before the deadline is looked at.
const LOOK_UP: Duration = Duration::from_millis(100);
/// What the guest's terminal holds until its shell reads (N_TTY_BUF_SIZE in drivers/tty/n_tty.c).
const LINE_MAX: usize = 4000;
/// Ends what a command has written: see `tests/guest/init`.
const END: u8 = 1;

#[derive(Debug)]
pub(crate) struct Console {
    stream: UnixStream,
    read: Vec<u8>,
}

impl Console {
    /// Waits until the guest's shell listens. `alive` says why it never will.
    pub(crate) fn open(
        stream: UnixStream,
        patience: Duration,
        alive: impl FnMut() -> Result<()>,
    ) -> Result<Console> {
        stream.set_read_timeout(Some(LOOK_UP)).doing(|| "setting up the console".into())?;
        let mut console = Console { stream, read: Vec::new() };
        console.read_until("the guest is up", b"ready\n", patience, alive)?;
        Ok(console)
    }

    /// Runs a line of shell and returns its exit status and what it wrote.
    pub(crate) fn run(
        &mut self,
        line: &str,
        patience: Duration,
        mut alive: impl FnMut() -> Result<()>,
    ) -> Result<(i32, String)> {
        assert!(!line.contains('\n'), "one line at a time: {line:?}");
        assert!(line.len() < LINE_MAX, "too long a line for the guest: {line:?}");
        let doing = || format!("saying `{line}` to the guest");
        self.stream.write_all(format!("{line}\n").as_bytes()).doing(doing)?;
        let until = format!("`{line}` ends in the guest");
        let output = self.read_until(&until, &[END], patience, &mut alive)?;
        let status = self.read_until(&until, b"\n", patience, &mut alive)?;
        let status = status.trim().parse().map_err(|_| ErrorKind::InvalidData).doing(doing)?;
        Ok((status, output.replace('\r', "")))
    }

    fn read_until(
        &mut self,
        until: &str,
        end: &[u8],
        patience: Duration,
        mut alive: impl FnMut() -> Result<()>,
    ) -> Result<String> {
        let deadline = Instant::now() + patience;
        let mut looked = 0;
        loop {
            let from = looked;
            looked = self.read.len().saturating_sub(end.len() - 1);
            if let Some(at) = self.read[from..].windows(end.len()).position(|window| window == end)
            {
                let rest = self.read.split_off(from + at + end.len());
                self.read.truncate(from + at);
                let text = String::from_utf8_lossy(&self.read).into_owned();
                self.read = rest;
                return Ok(text);
            }
            if Instant::now() >= deadline {
                return Err(Error::Timeout { waited: patience, until: until.to_owned() });
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    // Whoever closes a socket by ending has not quite ended yet.
                    thread::sleep(LOOK_UP);
                    alive()?;
                    return Err(io::Error::from(ErrorKind::UnexpectedEof))
                        .doing(|| format!("waiting until {until}"));
                }
                Ok(count) => self.read.extend(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => alive()?,
                Err(error) => return Err(error).doing(|| format!("waiting until {until}")),
            }
        }
    }
}
