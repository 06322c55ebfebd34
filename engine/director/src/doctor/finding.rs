//! What the doctor says of one thing.

use serde::{Deserialize, Serialize};
use std::path::Path;

/// What the system says to those who may not look (EPERM, EACCES).
const REFUSALS: [&str; 2] = ["Operation not permitted", "Permission denied"];

/// How one thing is. The order is that of their weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could; or it could not be looked at.
    Warning,
    /// It keeps packets from where they should go, or the director from starting.
    Problem,
}

/// What a finding is about. The order is that of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Area {
    /// The config file, and the director that runs.
    Director,
    /// Kernel, capabilities, clock.
    Machine,
    /// Huge pages, locked memory, room for the flow tables.
    Memory,
    /// Driver, XDP, offloads, MTU.
    Interface,
    /// A NIC's queues, and how it spreads packets over them.
    Queues,
    /// The workers' cores.
    Cores,
    /// VIPs, here and on the wire.
    Vip,
    /// Real servers.
    Servers,
    /// The network around: sysctls, firewalls, IPVS.
    Network,
}

impl Area {
    /// The heading in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Area::Director => "director",
            Area::Machine => "machine",
            Area::Memory => "memory",
            Area::Interface => "interface",
            Area::Queues => "queues",
            Area::Cores => "cores",
            Area::Vip => "VIP",
            Area::Servers => "real servers",
            Area::Network => "network",
        }
    }
}

/// What the doctor says of one thing, or `shunt rs check`, which has areas of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding<A = Area> {
    /// What it is about.
    pub area: A,
    /// Which of those: an interface, a VIP, a real server.
    pub subject: String,
    /// How it is.
    pub state: State,
    /// One sentence.
    pub sentence: String,
    /// The command that mends it, or what else does.
    pub remedy: Option<String>,
}

impl<A> Finding<A> {
    fn new(state: State, area: A, subject: &str, sentence: impl Into<String>) -> Finding<A> {
        let sentence = sentence.into();
        Finding { area, subject: subject.to_owned(), state, sentence, remedy: None }
    }

    /// As it should be.
    pub fn ok(area: A, subject: &str, sentence: impl Into<String>) -> Finding<A> {
        Finding::new(State::Ok, area, subject, sentence)
    }

    /// It could be better.
    pub fn warning(area: A, subject: &str, sentence: impl Into<String>) -> Finding<A> {
        Finding::new(State::Warning, area, subject, sentence)
    }

    /// It must be mended.
    pub fn problem(area: A, subject: &str, sentence: impl Into<String>) -> Finding<A> {
        Finding::new(State::Problem, area, subject, sentence)
    }

    /// Something could not be looked at, which is never as good as ok.
    pub fn unread(area: A, subject: &str, what: &str, why: &str) -> Finding<A> {
        let finding = Finding::warning(area, subject, format!("{what} cannot be read: {why}"));
        match REFUSALS.iter().any(|refusal| why.contains(refusal)) {
            true => finding.mended_by("run this as root"),
            false => finding,
        }
    }

    /// With the command that mends it.
    pub fn mended_by(mut self, remedy: impl Into<String>) -> Finding<A> {
        self.remedy = Some(remedy.into());
        self
    }
}

/// Something read, or why it could not be.
pub type Read<T> = Result<T, String>;

/// The first line of a small file without the white space around it, or why it cannot be read.
pub fn read_line(path: &str) -> Read<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().next().unwrap_or_default().trim().to_owned()),
        Err(error) => Err(format!("{path}: {error}")),
    }
}

/// As [`read_line`], of a file that not every machine has in a folder that there must be.
pub fn read_if_any(folder: &Path, file: &str) -> Read<Option<String>> {
    let path = folder.join(file);
    if folder.is_dir() && !path.exists() {
        return Ok(None);
    }
    read_line(&path.display().to_string()).map(Some)
}

/// A list of numbers as the kernel writes it: `0-3,8`. What is no number is left out.
pub fn read_list(text: &str) -> Vec<usize> {
    let part = |part: &str| -> Option<Vec<usize>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        // A kernel of today has at most 8192 cores.
        (last < 1 << 16).then(|| (first..=last).collect())
    };
    text.trim().split(',').filter_map(part).flatten().collect()
}

/// Numbers as a sentence lists them.
pub fn list<T: ToString>(numbers: impl IntoIterator<Item = T>) -> String {
    numbers.into_iter().map(|number| number.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lists_are_read() {
        assert_eq!(read_list("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(read_list("5"), [5]);
        assert!(read_list("").is_empty() && read_list("\n").is_empty());
        assert!(read_list("0-99999999999").is_empty());
    }

    #[test]
    fn the_worst_is_the_greatest() {
        assert!(State::Ok < State::Warning && State::Warning < State::Problem);
    }

    #[test]
    fn what_cannot_be_read_is_said_with_the_reason() {
        let why = read_line("/no/such/file").unwrap_err();
        let finding = Finding::unread(Area::Machine, "clock", "the clock source", &why);
        assert_eq!(finding.state, State::Warning);
        assert!(finding.sentence.starts_with("the clock source cannot be read: /no/such/file: "));
        assert_eq!(finding.remedy, None);
        let refused =
            Finding::unread(Area::Machine, "", "it", "Operation not permitted (os error 1)");
        assert_eq!(refused.remedy.as_deref(), Some("run this as root"));
    }

    #[test]
    fn a_file_that_need_not_be_there_is_told_from_a_folder_that_is_missing() {
        let folder = lab::TempDir::create("any").unwrap();
        assert_eq!(read_if_any(folder.path(), "governor"), Ok(None));
        folder.write("governor", "performance\n").unwrap();
        assert_eq!(read_if_any(folder.path(), "governor"), Ok(Some("performance".into())));
        assert!(read_if_any(&folder.path().join("no"), "governor").is_err());
    }
}
