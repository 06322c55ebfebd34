//! What a check is at, so that an error and a late answer can say it.

use super::kinds::CheckError;
use nix::errno::Errno;
use std::io::{self, ErrorKind};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Characters of a clause. A listing has one line for it.
const CLAUSE_MAX: usize = 200;

/// What a check is at.
#[derive(Debug, Default)]
pub(super) struct Doing(Mutex<Step>);

#[derive(Debug, Default, Clone)]
struct Step {
    what: String,
    late: &'static str,
}

impl Doing {
    /// From now on, `what` is being done; there is no answer yet.
    pub(super) fn now(&self, what: String) {
        self.set(Step { what, late: "no answer" });
    }

    /// From now on, `what` is being done; when it takes too long, `late` says what is missing.
    pub(super) fn now_or_late(&self, what: String, late: &'static str) {
        self.set(Step { what, late });
    }

    /// From now on, `late` says what is missing when it takes too long.
    pub(super) fn late_says(&self, late: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).late = late;
    }

    fn set(&self, step: Step) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = step;
    }

    fn step(&self) -> Step {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is being done has failed, and so has the server.
    pub(super) fn failed(&self, cause: impl AsRef<str>) -> CheckError {
        CheckError::Failed(self.clause(cause))
    }

    /// What is being done has failed for want of something that the director should have.
    pub(super) fn unable(&self, cause: impl AsRef<str>) -> CheckError {
        CheckError::Unable(self.clause(cause))
    }

    /// What is being done has failed at the system.
    pub(super) fn io(&self, error: &io::Error) -> CheckError {
        let cause = cause(error);
        if is_own(error) { self.unable(cause) } else { self.failed(cause) }
    }

    fn clause(&self, cause: impl AsRef<str>) -> String {
        clause(&format!("{}: {}", self.step().what, cause.as_ref()))
    }

    /// What is being done takes longer than `timeout`.
    pub(super) fn late(&self, timeout: Duration) -> CheckError {
        let Step { what, late } = self.step();
        CheckError::Failed(clause(&format!("{what}: {late} within {}", plain_seconds(timeout))))
    }
}

/// Whether it is the director that lacks something (descriptors, memory, ports, leave, its link),
/// whatever the server would have said. Not among these: EACCES and ENETUNREACH, by which the
/// kernel also reports what the server's own firewall says (icmpv6_err_convert in net/ipv6/icmp.c,
/// icmp_err_convert in net/ipv4/icmp.c).
fn is_own(error: &io::Error) -> bool {
    use Errno::*;
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(
            EADDRINUSE
                | EADDRNOTAVAIL
                | EAFNOSUPPORT
                | EMFILE
                | ENETDOWN
                | ENFILE
                | ENOBUFS
                | ENODEV
                | ENOMEM
                | EPERM
        )
    )
}

/// A time as listings show it: "2 s", "0.5 s".
pub(crate) fn plain_seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}

/// One line of bounded length, whatever a server or a program has put into it.
fn clause(text: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    match text.char_indices().nth(CLAUSE_MAX) {
        Some((end, _)) => text[..end].chars().map(shown).chain(['…']).collect(),
        None => text.chars().map(shown).collect(),
    }
}

/// What has gone wrong, as short as it can be said.
pub(super) fn cause(error: &io::Error) -> String {
    let plain = match error.kind() {
        ErrorKind::ConnectionRefused => "refused",
        ErrorKind::ConnectionReset => "reset",
        ErrorKind::HostUnreachable => "host unreachable",
        ErrorKind::NetworkUnreachable => "network unreachable",
        ErrorKind::NetworkDown => "network down",
        ErrorKind::TimedOut => "timed out",
        ErrorKind::UnexpectedEof => "closed by the server",
        ErrorKind::BrokenPipe => "closed by the server",
        ErrorKind::NotFound => "there is no such file",
        ErrorKind::PermissionDenied => "permission denied",
        _ => {
            let text = error.to_string();
            return text.split(" (os error").next().unwrap_or_default().to_owned();
        }
    };
    plain.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clause_is_one_line_of_bounded_length() {
        let doing = Doing::default();
        doing.now("ask\nthe server".to_owned());
        assert_eq!(doing.failed("no\tway\u{7}").to_string(), "ask the server: no way ");
        let long = doing.failed("ü".repeat(1000)).to_string();
        assert_eq!(long.chars().count(), CLAUSE_MAX + 1);
        assert!(long.ends_with("ü…"), "{long}");
    }

    #[test]
    fn errors_of_the_system_lose_their_numbers() {
        let doing = Doing::default();
        doing.now_or_late("open".to_owned(), "not open");
        let failed = |text: &str| CheckError::Failed(text.to_owned());
        let error = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        assert_eq!(doing.io(&error), failed("open: refused"));
        assert_eq!(doing.late(Duration::from_millis(1500)), failed("open: not open within 1.5 s"));
    }

    #[test]
    fn what_the_director_lacks_is_not_the_servers_fault() {
        let doing = Doing::default();
        doing.now("connect".to_owned());
        for (number, expected) in [
            (libc::EMFILE, Some("connect: Too many open files")),
            (libc::ENOBUFS, Some("connect: No buffer space available")),
            (libc::EADDRNOTAVAIL, Some("connect: Cannot assign requested address")),
            // By a firewall of the director's own.
            (libc::EPERM, Some("connect: permission denied")),
            (libc::ENETDOWN, Some("connect: network down")),
            // By that of the server, over IPv6, or by what it says of itself.
            (libc::EACCES, None),
            (libc::ENETUNREACH, None),
            (libc::EHOSTUNREACH, None),
            (libc::ECONNRESET, None),
            (libc::ETIMEDOUT, None),
        ] {
            let found = doing.io(&io::Error::from_raw_os_error(number));
            match expected {
                Some(text) => assert_eq!(found, CheckError::Unable(text.to_owned())),
                None => assert!(matches!(found, CheckError::Failed(_)), "{found:?}"),
            }
        }
    }
}
