//! The kinds of checks against real sockets, servers and programs of this machine.

mod command;
mod dns;
mod http;
mod https;
mod tcp;
mod udp;

use super::kinds::{CheckError, CheckKind, HealthCheck, OnFailure, Pattern, Target};
use dataplane::{Protocol, ServiceKey};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Longer than anything here takes unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// For what is meant to be late.
const IMPATIENCE: Duration = Duration::from_secs(1);

fn target(address: SocketAddr) -> Target {
    let vip = IpAddr::from([172, 17, 100, 100]);
    let service = ServiceKey { address: vip, port: 80, protocol: Protocol::Tcp };
    Target { service, server: address.ip(), port: address.port(), source: None }
}

/// Asks once; the error is what a listing says.
async fn ask_within(timeout: Duration, kind: CheckKind, target: &Target) -> Result<(), String> {
    judge_within(timeout, kind, target).await.map_err(|error| error.to_string())
}

async fn judge_within(
    timeout: Duration,
    kind: CheckKind,
    target: &Target,
) -> Result<(), CheckError> {
    let check = HealthCheck {
        kind,
        port: None,
        interval: timeout,
        timeout,
        rise: 1,
        fall: 1,
        jitter: 0.0,
        on_failure: OnFailure::Drain,
    };
    check.ask(target).await
}

async fn ask(kind: CheckKind, address: SocketAddr) -> Result<(), String> {
    ask_within(PATIENCE, kind, &target(address)).await
}

/// Waits until `done`; fails when it takes too long.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_pattern_looks_at_lines() {
    let matches = |pattern: &str, text: &[u8]| Pattern::new(pattern).unwrap().is_match(text);
    for (pattern, text, expected) in [
        ("^OK$", &b"OK"[..], true),
        ("^OK$", b"OK\n", true),
        ("^OK$", b"status\r\nOK\r\n", true),
        ("^OK$", b"NOT OK\n", false),
        (r"\AOK", b"status\nOK\n", false),
        ("\u{fc}", "\u{fc}".as_bytes(), true),
        (r"^\xfc$", b"\xfc", true),
        (r"(?i)\bok\b", b"NOT-OK.", true),
        (r"(?i)\bok\b", b"book", false),
        ("^$", b"OK\r\n\r\n", true),
        ("^$", b"", true),
        ("", b"", true),
        (r"ok\z", b"ok\n", false),
        (r#""status":\s*"(ok|fine)"[^}]*\}"#, br#"{"status": "fine", "since": 12}"#, true),
        (r"load [0-9]{1,3}\.\d\d$", b"load 12.34\r\n", true),
        ("a.b", b"a\nb", false),
        ("(?s)a.b", b"a\nb", true),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern} {text:?}");
    }
}

/// Whoever followed so many states at once would take seconds for a body of the greatest length, on
/// the control thread.
#[test]
fn a_pattern_that_could_take_long_is_refused() {
    for text in ["(x{99}){99}", "(a|b)*a(a|b){20}c", "[ab]*a[ab]{30}c", "(a?){500}(a){500}b"] {
        let error = Pattern::new(text).err().unwrap_or_else(|| panic!("{text} is compiled"));
        assert!(error.contains("too complex"), "{text}: {error}");
    }
    // What only looks so takes one step a byte.
    let body = vec![b'a'; 64 << 10];
    for text in ["(a*)*b", "(a|aa)+$b", "a{1,9}a{1,9}a{1,9}b", "(.*)(.*)(.*)(.*)(.*)[^a]"] {
        let pattern = Pattern::new(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(!pattern.is_match(&body), "{text}");
    }
}
