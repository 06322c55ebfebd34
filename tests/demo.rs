//! `shunt demo`: what a newcomer runs first.

mod common;

use common::{PATIENCE, shunt};
use lab::{MachineLock, Process, wait_until};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The promise, for a release build on a calm machine, is 30 s; a debug build gets the same.
const PROMISED: Duration = Duration::from_secs(30);

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(shunt());
    command.arg("demo").args(arguments);
    command
}

/// What is outside the namespaces: links, and names where things could be left.
fn outside() -> BTreeSet<String> {
    let links = lab::run(Command::new("ip").args(["-brief", "link"])).unwrap();
    let mut names: BTreeSet<String> = links
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    for directory in ["/tmp", "/run", "/run/netns", "/run/shunt"] {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        names.extend(entries.map(|entry| entry.unwrap().path().display().to_string()));
    }
    names
}

/// Nothing is left of the demo with this process id.
fn nothing_left(pid: u32, before: &BTreeSet<String>) {
    let own = format!("shunt-{pid}-");
    let left: Vec<String> = outside().into_iter().filter(|name| name.contains(&own)).collect();
    assert!(left.is_empty(), "{left:?}");
    // Something without its name? What others do on this machine meanwhile passes.
    let is_ours = |name: &&String| !name.starts_with("/tmp") || name.contains("shunt");
    wait_until(PATIENCE, "nothing new is left", || {
        outside().difference(before).filter(is_ours).count() == 0
    })
    .unwrap_or_else(|e| panic!("{e}: {:?}", outside().difference(before).collect::<Vec<_>>()));
}

#[test]
fn the_demo_shows_what_it_claims_and_leaves_nothing() {
    let _lock = MachineLock::acquire().unwrap();
    let before = outside();
    let begun = Instant::now();
    let demo = demo(&[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = demo.id();
    let Output { status, stdout, stderr } = demo.wait_with_output().unwrap();
    let took = begun.elapsed();
    let text = String::from_utf8(stdout).unwrap();
    assert!(status.success(), "{text}\n{}", String::from_utf8_lossy(&stderr));
    assert!(took < PROMISED, "{took:?}");
    for claim in [
        "alternate without exception",
        "shares are 3:1",
        "lc levelled",
        ": 0 failed",
        "all by rs1",
        "It is back",
    ] {
        assert!(text.contains(claim), "{claim} is missing in\n{text}");
    }
    assert!(!text.contains('\x1b'), "no colour where there is no terminal");
    nothing_left(pid, &before);
}

#[test]
fn the_held_demo_can_be_tried_and_ends_by_ctrl_c() {
    let _lock = MachineLock::acquire().unwrap();
    let before = outside();
    let held = Process::start(demo(&["--hold"])).unwrap();
    let up = || held.output().contains("Up until Ctrl-C");
    held.wait_until(PROMISED, "the demo is up", up).unwrap();

    // Its own advice, as it prints it.
    let output = held.output();
    let advice: Vec<&str> =
        output.lines().filter_map(|line| line.trim().strip_prefix("$ ip netns exec ")).collect();
    assert!(advice.len() >= 5, "{output}");
    let shunt_lines = advice.iter().filter(|line| line.contains("--api"));
    for line in shunt_lines {
        let said =
            lab::run(Command::new("sh").args(["-c", &format!("ip netns exec {line}")])).unwrap();
        if line.contains(" list ") {
            assert!(said.contains("172.17.100.100:80"), "{line}: {said}");
        }
    }
    held.signal(Signal::SIGINT).unwrap();
    let status = held.wait(PATIENCE).unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGINT as i32));
    nothing_left(held.pid(), &before);
}

#[test]
fn ctrl_c_at_any_moment_leaves_nothing() {
    let _lock = MachineLock::acquire().unwrap();
    let before = outside();
    for moment in ["Build the network", "Start a small", "Scheduler rr", "Change to wrr"] {
        let demo = Process::start(demo(&[])).unwrap();
        let seen = || demo.output().contains(moment);
        demo.wait_until(PROMISED, moment, seen).unwrap();
        demo.signal(Signal::SIGINT).unwrap();
        demo.wait(PATIENCE).unwrap();
        let output = demo.output();
        assert!(output.contains("Interrupted"), "{output}");
        assert!(!output.contains("failed"), "{output}");
        nothing_left(demo.pid(), &before);
    }
}

#[test]
fn without_root_it_says_so_in_one_sentence() {
    // A copy where anyone may run it.
    let _lock = MachineLock::acquire().unwrap();
    let nobody = 65_534;
    let directory = lab::TempDir::create("demo-copy").unwrap();
    let copy = directory.path().join("shunt");
    fs::copy(shunt(), &copy).unwrap();
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(directory.path(), everyone).unwrap();
    let output = Command::new(copy).arg("demo").uid(nobody).gid(nobody).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("shunt demo needs root") && said.contains("sudo"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(output.stdout.is_empty());
}
