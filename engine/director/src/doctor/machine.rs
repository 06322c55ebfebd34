//! The kernel, what this process may do with it, and the clock.

use super::finding::{Area, Finding, Read, list, read_line};
use xsk::Error;

/// The oldest kernel that has all that AF_XDP is used for here.
const KERNEL_OLDEST: (u32, u32) = (5, 15);
/// Clock sources that are read without a system call (arch_vdso of linux/clocksource.h).
const CLOCKS_FAST: [&str; 6] = [
    "tsc",
    "kvm-clock",
    "hyperv_clocksource_tsc_page",
    "arch_sys_counter",
    "riscv_clocksource",
    "stick",
];
const CLOCK_FOLDER: &str = "/sys/devices/system/clocksource/clocksource0";

/// linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Whether AF_XDP sockets can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AfXdp {
    /// One was opened.
    Works,
    /// This kernel has none, in its own words.
    Missing(String),
    /// It could not be tried.
    NotTried(String),
}

/// Capabilities in effect, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// Those of this process.
    pub fn read() -> Read<Capabilities> {
        let path = "/proc/self/status";
        let status = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .map(Capabilities)
            .ok_or_else(|| format!("{path} has no CapEff"))
    }

    fn has(self, capability: u32) -> bool {
        self.0 & (1 << capability) != 0
    }

    /// Whether memory can be locked without a limit.
    pub fn may_lock(self) -> bool {
        self.has(CAP_IPC_LOCK)
    }

    /// The names of those that a director needs and that are not there.
    fn missing(self) -> Vec<&'static str> {
        // capable() in kernel/capability.c takes CAP_SYS_ADMIN for the two younger ones.
        let admin = self.has(CAP_SYS_ADMIN);
        [
            ("CAP_NET_ADMIN", self.has(CAP_NET_ADMIN)),
            ("CAP_NET_RAW", self.has(CAP_NET_RAW)),
            ("CAP_BPF", admin || self.has(CAP_BPF)),
            ("CAP_PERFMON", admin || self.has(CAP_PERFMON)),
        ]
        .into_iter()
        .filter_map(|(name, there)| (!there).then_some(name))
        .collect()
    }
}

/// What was read of the machine.
#[derive(Debug, Clone)]
pub struct MachineFacts {
    /// The kernel's release, as `uname -r` has it.
    pub release: Read<String>,
    /// What this process may do.
    pub capabilities: Read<Capabilities>,
    /// Whether there are AF_XDP sockets.
    pub af_xdp: AfXdp,
    /// The clock source.
    pub clock: Read<String>,
    /// Those that there are.
    pub clocks: Vec<String>,
    /// Whether BPF programs are compiled; nothing where the kernel does not say.
    pub jit: Option<bool>,
}

impl MachineFacts {
    /// Looks.
    pub fn read() -> MachineFacts {
        let clocks = read_line(&format!("{CLOCK_FOLDER}/available_clocksource"));
        MachineFacts {
            release: read_line("/proc/sys/kernel/osrelease"),
            capabilities: Capabilities::read(),
            af_xdp: match xsk::can_open_socket() {
                Ok(()) => AfXdp::Works,
                Err(error @ Error::NoAfXdp) => AfXdp::Missing(error.to_string()),
                Err(error) => AfXdp::NotTried(error.to_string()),
            },
            clock: read_line(&format!("{CLOCK_FOLDER}/current_clocksource")),
            clocks: clocks.unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
            // Only root may read it, and only in the machine's first network namespace is it there.
            jit: read_line("/proc/sys/net/core/bpf_jit_enable").ok().map(|value| value != "0"),
        }
    }
}

/// What follows from it.
pub fn findings(facts: &MachineFacts) -> Vec<Finding> {
    let mut findings = vec![
        kernel(&facts.release, &facts.af_xdp),
        capabilities(&facts.capabilities),
        clock(&facts.clock, &facts.clocks),
    ];
    if facts.jit == Some(false) {
        let sentence = "BPF programs are interpreted, which makes every packet dearer";
        findings.push(
            Finding::warning(Area::Machine, "BPF", sentence)
                .mended_by("sysctl -w net.core.bpf_jit_enable=1"),
        );
    }
    findings
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel(release: &Read<String>, af_xdp: &AfXdp) -> Finding {
    const SUBJECT: &str = "kernel";
    let release = match release {
        Ok(release) => release,
        Err(why) => return Finding::unread(Area::Machine, SUBJECT, "its version", why),
    };
    let (major, minor) = KERNEL_OLDEST;
    let old = version(release).is_none_or(|version| version < KERNEL_OLDEST);
    match af_xdp {
        AfXdp::Missing(why) => {
            Finding::problem(Area::Machine, SUBJECT, format!("Linux {release}: {why}"))
                .mended_by("boot a kernel with CONFIG_XDP_SOCKETS")
        }
        _ if old => Finding::problem(
            Area::Machine,
            SUBJECT,
            format!(
                "Linux {release} is older than {major}.{minor}, which AF_XDP is used as of here"
            ),
        )
        .mended_by(format!("boot Linux {major}.{minor} or newer")),
        AfXdp::NotTried(why) => Finding::warning(
            Area::Machine,
            SUBJECT,
            format!("Linux {release}; whether it has AF_XDP sockets cannot be told: {why}"),
        )
        .mended_by("sudo shunt doctor"),
        AfXdp::Works => {
            Finding::ok(Area::Machine, SUBJECT, format!("Linux {release} has AF_XDP sockets"))
        }
    }
}

fn capabilities(capabilities: &Read<Capabilities>) -> Finding {
    const SUBJECT: &str = "capabilities";
    let missing = match capabilities {
        Ok(capabilities) => capabilities.missing(),
        Err(why) => return Finding::unread(Area::Machine, SUBJECT, "what is allowed", why),
    };
    if missing.is_empty() {
        let sentence = "this process may do all that a director needs";
        return Finding::ok(Area::Machine, SUBJECT, sentence);
    }
    let sentence = format!(
        "this process lacks {}: it cannot look at everything, and a director started like this is \
         refused",
        list(missing)
    );
    Finding::problem(Area::Machine, SUBJECT, sentence).mended_by("sudo shunt doctor")
}

fn clock(clock: &Read<String>, available: &[String]) -> Finding {
    const SUBJECT: &str = "clock source";
    let name = match clock {
        Ok(name) => name.as_str(),
        Err(why) => return Finding::unread(Area::Machine, SUBJECT, "it", why),
    };
    if CLOCKS_FAST.contains(&name) {
        let sentence = format!("{name} is read without a system call");
        return Finding::ok(Area::Machine, SUBJECT, sentence);
    }
    let sentence =
        format!("{name} is read by a system call, and each worker reads it once a burst");
    let finding = Finding::warning(Area::Machine, SUBJECT, sentence);
    let better = CLOCKS_FAST.iter().find(|fast| available.iter().any(|name| name == *fast));
    finding.mended_by(match better {
        Some(better) => format!("echo {better} > {CLOCK_FOLDER}/current_clocksource"),
        None => "look in `dmesg` why the kernel does not trust the tsc".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    const ALL: Capabilities = Capabilities(u64::MAX);

    fn said(text: &str) -> Read<String> {
        Ok(text.to_owned())
    }

    #[test]
    fn an_old_kernel_is_a_problem_and_one_that_does_not_say_is_no_good_either() {
        let state = |release: &str| kernel(&said(release), &AfXdp::Works).state;
        assert_eq!(state("6.18.15+deb13-cloud-amd64"), State::Ok);
        assert_eq!(state("5.15.0"), State::Ok);
        assert_eq!(state("5.14.21-rt"), State::Problem);
        assert_eq!(state("5.4"), State::Problem);
        assert_eq!(state("next"), State::Problem);
        assert_eq!(kernel(&Err("gone".into()), &AfXdp::Works).state, State::Warning);
    }

    #[test]
    fn a_kernel_without_af_xdp_is_told_from_one_that_was_not_asked() {
        let missing = kernel(&said("6.18.0"), &AfXdp::Missing("no AF_XDP".into()));
        assert_eq!(missing.state, State::Problem);
        assert!(missing.sentence.contains("no AF_XDP") && missing.remedy.is_some());
        let not_tried = kernel(&said("6.18.0"), &AfXdp::NotTried("no permission".into()));
        assert!(not_tried.state == State::Warning && not_tried.remedy.is_some());
    }

    #[test]
    fn every_missing_capability_is_named() {
        assert_eq!(capabilities(&Ok(ALL)).state, State::Ok);
        let none = capabilities(&Ok(Capabilities(0)));
        assert_eq!(none.state, State::Problem);
        for name in ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_PERFMON"] {
            assert!(none.sentence.contains(name), "{}", none.sentence);
        }
        let old_root = Capabilities(1 << CAP_SYS_ADMIN | 1 << CAP_NET_ADMIN | 1 << CAP_NET_RAW);
        assert_eq!(capabilities(&Ok(old_root)).state, State::Ok);
        assert_eq!(capabilities(&Err("gone".into())).state, State::Warning);
    }

    #[test]
    fn a_slow_clock_names_the_fast_one_that_there_is() {
        assert_eq!(clock(&said("kvm-clock"), &[]).state, State::Ok);
        let slow = clock(&said("hpet"), &["tsc".into(), "hpet".into()]);
        assert_eq!(slow.state, State::Warning);
        assert!(slow.remedy.unwrap().starts_with("echo tsc > "));
        let distrusted = clock(&said("acpi_pm"), &["acpi_pm".into()]);
        assert!(distrusted.remedy.unwrap().contains("dmesg"));
        assert_eq!(clock(&Err("gone".into()), &[]).state, State::Warning);
    }

    #[test]
    fn an_interpreter_is_named() {
        let mut facts = MachineFacts::read();
        facts.jit = Some(false);
        let interpreted = findings(&facts);
        assert!(interpreted.iter().any(|finding| finding.subject == "BPF"));
        facts.jit = Some(true);
        assert!(!findings(&facts).iter().any(|finding| finding.subject == "BPF"));
    }
}
