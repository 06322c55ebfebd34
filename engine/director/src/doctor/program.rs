//! Which XDP program is on an interface, and who keeps it there.

use super::finding::{Area, Finding, list};
use std::path::Path;

/// The name of shunt's own program.
const OURS: &str = "steer";

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

/// An XDP program on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its id.
    pub id: u32,
    /// Its name, where that may be known.
    pub name: Option<String>,
    /// Who keeps it attached, by a bpf_link; nobody: it was attached to stay, or this process may
    /// not look.
    pub holders: Vec<Holder>,
}

impl Program {
    /// Looks.
    pub fn read(id: u32) -> Program {
        let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let holders = folders.filter_map(|folder| {
            let pid = folder.file_name().to_str()?.parse().ok()?;
            let name = std::fs::read_to_string(folder.path().join("comm")).ok()?;
            holds(&folder.path().join("fdinfo"), id)
                .then(|| Holder { pid, name: name.trim().to_owned() })
        });
        Program { id, name: xsk::program_name(id), holders: holders.collect() }
    }

    fn text(&self) -> String {
        let name = self.name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
        format!("XDP program {}{name}", self.id)
    }
}

/// Whether one of a process's descriptors is a link that has the program on an interface
/// (bpf_xdp_link_show_fdinfo in net/core/dev.c).
fn holds(descriptors: &Path, id: u32) -> bool {
    let files = std::fs::read_dir(descriptors).into_iter().flatten().flatten();
    files.filter_map(|file| std::fs::read_to_string(file.path()).ok()).any(|text| {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        value("link_type:").is_some_and(|kind| kind.trim() == "xdp")
            && value("prog_id:").and_then(|text| text.trim().parse().ok()) == Some(id)
    })
}

/// Whether the program that is on an interface belongs there. `attached`: the running director
/// says that it has its own on it; `running`: there is one.
pub fn finding(
    interface: &str,
    program: Option<&Program>,
    running: bool,
    attached: bool,
) -> Finding {
    const AREA: Area = Area::Interface;
    let Some(program) = program else {
        return match attached {
            true => Finding::problem(
                AREA,
                interface,
                "the director says that its XDP program is attached, and there is none",
            )
            .mended_by("start shunt anew"),
            false => Finding::ok(AREA, interface, "no XDP program is in the way"),
        };
    };
    // Without its name: the kernel lets nobody attach a second one.
    if attached && program.name.as_deref().is_none_or(|name| name == OURS) {
        let sentence = format!("{} is the running director's", program.text());
        return Finding::ok(AREA, interface, sentence);
    }
    let whose = match (program.holders.as_slice(), program.name.as_deref()) {
        ([], Some(OURS)) => ", perhaps another shunt's".to_owned(),
        ([], _) => String::new(),
        (holders, _) => {
            let holder = |holder: &Holder| format!("{} (process {})", holder.name, holder.pid);
            format!(" of {}", list(holders.iter().map(holder)))
        }
    };
    let what = if running { "the director cannot attach its own" } else { "a start is refused" };
    let sentence = format!("{}{whose} is in the way: while it is there, {what}", program.text());
    Finding::problem(AREA, interface, sentence).mended_by(match program.holders.first() {
        Some(holder) => format!("end process {}, which keeps it there", holder.pid),
        None => format!("ip link set dev {interface} xdp off"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    fn program(name: Option<&str>, holders: &[(u32, &str)]) -> Program {
        let holder = |&(pid, name): &(u32, &str)| Holder { pid, name: name.into() };
        Program {
            id: 27,
            name: name.map(str::to_owned),
            holders: holders.iter().map(holder).collect(),
        }
    }

    #[test]
    fn an_interface_is_free_or_has_the_directors_own() {
        assert_eq!(finding("eth0", None, false, false).state, State::Ok);
        let own = program(Some("steer"), &[(7, "shunt")]);
        assert_eq!(finding("eth0", Some(&own), true, true).state, State::Ok);
        let unnamed = program(None, &[]);
        assert_eq!(finding("eth0", Some(&unnamed), true, true).state, State::Ok);
    }

    #[test]
    fn a_program_of_somebody_else_is_named_with_its_holder() {
        let other = program(Some("xdp_pass"), &[(7, "katran")]);
        for attached in [false, true] {
            let found = finding("eth0", Some(&other), attached, attached);
            assert_eq!(found.state, State::Problem);
            assert!(found.sentence.contains("27 (xdp_pass) of katran (process 7)"), "{found:?}");
            assert_eq!(found.remedy.as_deref(), Some("end process 7, which keeps it there"));
        }
        let stays = finding("eth0", Some(&program(None, &[])), false, false);
        assert_eq!(stays.remedy.as_deref(), Some("ip link set dev eth0 xdp off"));
        let shunt = finding("eth0", Some(&program(Some("steer"), &[])), false, false);
        assert!(shunt.sentence.contains("another shunt's"), "{shunt:?}");
    }

    #[test]
    fn a_director_whose_program_is_gone_is_a_problem() {
        assert_eq!(finding("eth0", None, true, true).state, State::Problem);
    }

    #[test]
    fn only_links_of_xdp_hold_a_program() {
        let folder = lab::TempDir::create("fdinfo").unwrap();
        folder
            .write("3", "pos:\t0\nlink_type:\txdp\nlink_id:\t4\nprog_id:\t27\nifindex:\t2\n")
            .unwrap();
        folder.write("4", "link_type:\ttracing\nprog_id:\t28\n").unwrap();
        assert!(holds(folder.path(), 27) && !holds(folder.path(), 28));
    }
}
