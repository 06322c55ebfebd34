//! Bare machines, each with files of its own, on which `shunt rs` is run as it is typed.

use super::{PATIENCE, shunt};
use lab::{MachineLock, Netns, OwnFiles, Plan, Topology, wait_until};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long nothing has changed when nothing more will.
const QUIET: Duration = Duration::from_millis(1_200);

/// Bare machines: a real server is what `shunt rs setup` makes of them.
pub struct Bare {
    files: Vec<OwnFiles>,
    pub topology: Topology,
    // The last to go: nobody else builds before all is removed.
    _lock: MachineLock,
}

/// What a command has said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub error: String,
}

impl Said {
    /// What it said when it ended well.
    #[track_caller]
    pub fn well(self) -> String {
        assert_eq!((self.code, self.error.as_str()), (Some(0), ""), "{}", self.out);
        self.out
    }

    /// What it said when it refused.
    #[track_caller]
    pub fn refused(self) -> String {
        assert_eq!((self.code, self.out.as_str()), (Some(1), ""), "{}", self.error);
        self.error
    }
}

impl Bare {
    pub fn build(plan: Plan, purpose: &str) -> Bare {
        let lock = MachineLock::acquire().unwrap();
        let topology = plan.bare().build().unwrap();
        let files = (1..=topology.real_servers.len())
            .map(|number| OwnFiles::create(&format!("{purpose}-files{number}")).unwrap())
            .collect();
        let bare = Bare { files, topology, _lock: lock };
        bare.settle();
        bare
    }

    /// Waits until the kernel has done what it does by itself after a link came up: it looks for
    /// carriers once a second (net/core/link_watch.c), and takes its time for IPv6.
    pub fn settle(&self) {
        let read = || {
            let numbers = 1..=self.topology.real_servers.len() as u8;
            numbers.map(|number| self.snapshot(number)).collect::<Vec<_>>()
        };
        let mut seen = (Instant::now(), read());
        wait_until(PATIENCE, "nothing changes by itself any more", || {
            let now = read();
            if now != seen.1 {
                seen = (Instant::now(), now);
            }
            seen.0.elapsed() > QUIET
        })
        .unwrap();
    }

    /// A real server, from 1.
    pub fn netns(&self, number: u8) -> &Netns {
        self.topology.real_server(number)
    }

    /// The files of a real server.
    pub fn files(&self, number: u8) -> &OwnFiles {
        &self.files[usize::from(number) - 1]
    }

    /// A program on a real server: to be completed and run.
    pub fn command(&self, number: u8, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.files(number).command(self.netns(number), program)
    }

    /// `shunt rs` with these words on a real server.
    pub fn rs(&self, number: u8, words: &str) -> Said {
        let mut command = self.command(number, shunt());
        run(command.arg("rs").args(words.split_whitespace()))
    }

    /// Types a command line on a real server, where `shunt` is the program under test.
    pub fn shell(&self, number: u8, line: &str) -> Said {
        let line = format!("shunt() {{ {} \"$@\"; }}; {line}", shunt().display());
        run(self.command(number, "sh").args(["-c", &line]))
    }

    /// Everything that a setup could change on a real server: the settings for IPv4 and IPv6 of
    /// each interface, the addresses, and the routes to them.
    pub fn snapshot(&self, number: u8) -> BTreeMap<String, String> {
        let netns = self.netns(number);
        let mut all = BTreeMap::new();
        netns.run(|| for_each_setting(&mut all)).unwrap();
        for words in ["-j address", "-j link", "route show table all", "-6 route show table all"] {
            all.insert(format!("ip {words}"), netns.ip(words).unwrap());
        }
        all
    }
}

/// A network card that answers no ARP. Where the kernel has no dummy devices, a bridge without
/// ports and without ARP is like one.
pub fn add_dummy(netns: &Netns, name: &str) {
    if netns.ip(&format!("link add {name} type dummy")).is_err() {
        netns.ip(&format!("link add {name} type bridge")).unwrap();
    }
    netns.ip(&format!("link set {name} arp off up")).unwrap();
}

/// Everything is as it was.
#[track_caller]
pub fn assert_same(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) {
    if let Some(name) = differences(before, after).first() {
        panic!("{name} was\n{}and is\n{}", before[name], after[name]);
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code(), out: text(&output.stdout), error: text(&output.stderr) }
}

fn for_each_setting(all: &mut BTreeMap<String, String>) {
    for family in ["ipv4", "ipv6"] {
        let conf = Path::new("/proc/sys/net").join(family).join("conf");
        for interface in fs::read_dir(conf).unwrap() {
            for file in fs::read_dir(interface.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                // Some may only be written.
                if let Ok(value) = fs::read_to_string(&path) {
                    all.insert(path.display().to_string(), value);
                }
            }
        }
    }
}

/// The names of what differs.
pub fn differences(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> Vec<String> {
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    let differs = |(name, value): &(&String, &String)| before[*name] != **value;
    after.iter().filter(differs).map(|(name, _)| name.clone()).collect()
}
