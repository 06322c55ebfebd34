use std::fmt;
use std::io;
use std::time::Duration;
use thiserror::Error;

/// What went wrong in the lab: the place, what was attempted, what the system said.
#[derive(Error)]
pub enum Error {
    /// The caller is not root.
    #[error("{what} needs root: it makes network namespaces. Try: sudo {command_line}")]
    NotRoot {
        /// Who needs it.
        what: String,
        /// The command to repeat as root.
        command_line: String,
    },
    /// The `ip` command is missing.
    #[error("the command `ip` was not found in PATH: install the package iproute2")]
    NoIproute2,
    /// A command could not be started.
    #[error("cannot start `{command}`: {source}")]
    Start {
        /// The command line.
        command: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A command ended with a failure.
    #[error("`{command}` failed ({status}): {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// What it wrote to standard error.
        stderr: String,
    },
    /// A system call failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Something awaited did not happen.
    #[error("waited {waited:?} in vain until {until}")]
    Timeout {
        /// How long.
        waited: Duration,
        /// For what.
        until: String,
    },
    /// A server answered what a server must not answer.
    #[error("bad answer from {peer}: {problem}")]
    BadAnswer {
        /// Who answered.
        peer: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// A test that unwraps shall say the same sentence as a program that prints.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The lab's results.
pub type Result<T> = std::result::Result<T, Error>;

/// Adds to an error of the system what was being done.
pub trait Doing<T> {
    /// `doing` names the place and the attempt, as in "opening /etc/hosts".
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { doing: doing(), source: source.into() })
    }
}
