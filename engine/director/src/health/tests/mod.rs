//! The kinds of checks against real sockets, servers and programs of this machine.

mod command;
mod dns;
mod http;
mod https;
mod tcp;
mod udp;

use super::kinds::{CheckKind, HealthCheck, OnFailure, Pattern, Target};
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
    Target { service, server: address.ip(), port: address.port() }
}

async fn ask_within(timeout: Duration, kind: CheckKind, target: &Target) -> Result<(), String> {
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
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern} {text:?}");
    }
}
