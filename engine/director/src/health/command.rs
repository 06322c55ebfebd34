//! `command`: does a program say that the server is well?

use super::doing::{Doing, cause};
use super::kinds::{CheckError, CommandCheck, Target};
use super::orphans::Group;
use crate::service_name::ServiceName;
use nix::sys::signal::Signal;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::time::sleep;

/// Bytes that are read at once: a pipe holds that much.
const READ: usize = 64 << 10;
/// Bytes of output whose last line is the error; more is read and forgotten.
const TAIL_MAX: usize = 1 << 10;
/// Bytes after which a program that prints more has to wait between two reads, so that it keeps
/// no core busy ...
const FLOOD: usize = 1 << 20;
/// ... for this long.
const FLOOD_WAIT: Duration = Duration::from_millis(1);

/// Runs the program once. It, and all that it has started in its process group, ends when this
/// future does, and when the director does.
pub(super) async fn check(
    target: &Target,
    command: &CommandCheck,
    doing: &Doing,
) -> Result<(), CheckError> {
    let Some((program, arguments)) = command.command.split_first() else {
        return Err(CheckError::Unable("command: none is given".to_owned()));
    };
    doing.now_or_late(format!("run {program}"), "not done");
    // A program that is missing, or just being written, says nothing of the server.
    let (mut child, output) =
        start(program, arguments, target).map_err(|error| doing.unable(cause(&error)))?;
    let _group = child.id().map(Group::new);
    let mut output = Output { pipe: Some(output), tail: Vec::new(), read: 0 };
    let status = loop {
        tokio::select! {
            biased;
            status = child.wait() => break status.map_err(|error| doing.io(&error))?,
            () = output.read_on() => {}
        }
    };
    if status.success() {
        return Ok(());
    }
    output.read_rest();
    let line = output.last_line();
    let colon = if line.is_empty() { "" } else { ": " };
    Err(doing.failed(format!("{}{colon}{line}", ending(status))))
}

fn start(program: &str, arguments: &[String], target: &Target) -> io::Result<(Child, Receiver)> {
    let (read, write) = io::pipe()?;
    let output = Receiver::from_owned_fd(OwnedFd::from(read))?;
    // Nothing here needs more than posix_spawn(3) can do, which copies no page tables: after a
    // fork(2), each page that a worker writes to would cost it a fault.
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("SHUNT_SERVICE", ServiceName(target.service).to_string())
        .env("SHUNT_VIP", target.service.address.to_string())
        .env("SHUNT_PORT", target.port.to_string())
        .env("SHUNT_SERVER", target.server.to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(write.try_clone()?)
        .stderr(write)
        .process_group(0)
        // Which also has it waited for, so that no zombie stays.
        .kill_on_drop(true);
    Ok((command.spawn()?, output))
}

/// What the program prints.
struct Output {
    pipe: Option<Receiver>,
    tail: Vec<u8>,
    read: usize,
}

impl Output {
    /// Reads what there is next; never ends after the output's end.
    async fn read_on(&mut self) {
        let Some(pipe) = &mut self.pipe else { return std::future::pending().await };
        if self.read > FLOOD {
            sleep(FLOOD_WAIT).await;
        }
        let mut buffer = vec![0; READ];
        match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => self.pipe = None,
            Ok(length) => self.take(&buffer[..length]),
        }
    }

    /// Reads what is in the pipe when the program has ended. What it has left behind may hold the
    /// pipe open, and is not waited for.
    fn read_rest(&mut self) {
        let mut buffer = vec![0; READ];
        let Some(Ok(length)) = self.pipe.as_ref().map(|pipe| pipe.try_read(&mut buffer)) else {
            return;
        };
        self.take(&buffer[..length]);
    }

    fn take(&mut self, bytes: &[u8]) {
        self.read = self.read.saturating_add(bytes.len());
        self.tail.extend_from_slice(bytes);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL_MAX));
    }

    fn last_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.tail);
        text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default().to_owned()
    }
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => {
            let name = Signal::try_from(signal).map_or("a signal", Signal::as_str);
            format!("ended by {name}")
        }
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn the_last_line_is_the_same_in_whatever_pieces_it_comes(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            last in "[!-~]{1,100}",
        ) {
            let mut output = Output { pipe: None, tail: Vec::new(), read: 0 };
            for piece in &pieces {
                output.take(piece);
                prop_assert!(output.tail.len() <= TAIL_MAX);
                // Whatever it is.
                prop_assert!(!output.last_line().contains('\n'));
            }
            output.take(b"\n");
            for byte in format!("{last}\n \n").bytes() {
                output.take(&[byte]);
            }
            prop_assert_eq!(output.last_line(), last);
            let length: usize = pieces.iter().map(Vec::len).sum();
            prop_assert_eq!(output.read, length + output.last_line().len() + 4);
        }
    }
}
