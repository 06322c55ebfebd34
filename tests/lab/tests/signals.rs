//! A signal that ends the process removes everything first. The test starts itself as the process
//! that is to be ended.

use lab::{MachineLock, Plan, catch_signals, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

fn main() {
    if std::env::args().nth(1).as_deref() == Some("be-ended") {
        be_ended();
    }
    let _lock = MachineLock::acquire().unwrap();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        ended_in_good_order(signal);
        println!("{signal}: everything was removed");
    }
    ended_while_building();
    println!("a signal at any moment of the building: everything was removed");
}

/// Makes a topology with a process inside, says so, and waits for its end.
fn be_ended() {
    catch_signals(|| println!("ending")).unwrap();
    loop {
        let topology = Plan::new("ended").build().unwrap();
        let sleeper = topology.client.start("sleep", &["1000"]).unwrap();
        println!("sleeper {}", sleeper.pid());
        if std::env::args().nth(2).is_none() {
            sleeper.wait(PATIENCE * 10).unwrap();
        }
    }
}

fn start(arguments: &[&str]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap)
}

fn end(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

fn ended_in_good_order(signal: Signal) {
    let mut child = start(&["be-ended"]);
    let mut lines = lines(&mut child);
    let first = lines.next().unwrap();
    let sleeper: i32 = first.strip_prefix("sleeper ").unwrap().parse().unwrap();
    assert!(run(Command::new("ip").args(["netns", "list"])).unwrap().contains(&own(&child)));
    end(&child, signal);
    assert_eq!(lines.next().as_deref(), Some("ending"));
    assert_eq!(child.wait().unwrap().signal(), Some(signal as i32));
    assert!(kill(Pid::from_raw(sleeper), None).is_err(), "the sleeper lives");
    nothing_is_left(&child);
}

/// A signal that arrives at some moment while things are made and removed over and over.
fn ended_while_building() {
    for delay in (0..10).map(|step| Duration::from_millis(step * 37)) {
        let mut child = start(&["be-ended", "again-and-again"]);
        let mut lines = lines(&mut child);
        lines.next().unwrap();
        // Not a wait for something to happen: the moment is what is varied.
        std::thread::sleep(delay);
        end(&child, Signal::SIGTERM);
        lines.for_each(drop);
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGTERM as i32));
        nothing_is_left(&child);
    }
}

fn own(child: &Child) -> String {
    format!("shunt-{}-", child.id())
}

fn nothing_is_left(child: &Child) {
    let own = own(child);
    assert!(!run(Command::new("ip").args(["netns", "list"])).unwrap().contains(&own));
    for directory in [std::env::temp_dir(), "/run/netns".into()] {
        let mut names = std::fs::read_dir(&directory).unwrap();
        let left = names
            .find(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains(&own));
        assert!(left.is_none(), "{left:?}");
    }
}
