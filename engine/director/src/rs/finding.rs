//! What `shunt rs check` says.

use crate::doctor::{self, State};
use nix::errno::Errno;
use serde::Serialize;
use std::fmt;

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// The VIP on this machine.
    Address,
    /// What rules ARP.
    Arp,
    /// Who has the VIP on the wire.
    Director,
    /// The filter of sources.
    RpFilter,
    /// Who listens.
    Listener,
    /// The way back to clients.
    WayBack,
    /// The size of packets.
    Mtu,
}

impl Area {
    fn name(self) -> &'static str {
        match self {
            Area::Address => "address",
            Area::Arp => "arp",
            Area::Director => "director",
            Area::RpFilter => "rp_filter",
            Area::Listener => "listener",
            Area::WayBack => "way back",
            Area::Mtu => "mtu",
        }
    }
}

/// What is said of one thing. A warning is what is not this machine's to mend, or was not asked for;
/// a problem keeps this machine from serving the VIP, or a look from showing whether it does.
pub type Finding = doctor::Finding<Area>;

/// A look that failed. It might have found a problem, so it is as bad as one.
pub fn unseen(area: Area, subject: &str, what: &str, why: &str) -> Finding {
    Finding::problem(area, subject, format!("{what} cannot be told: {why}"))
}

/// A look at the wire that failed, for which mostly the right is missing.
pub fn unasked(area: Area, subject: &str, what: &str, why: &str) -> Finding {
    let finding = unseen(area, subject, what, why);
    if why == Errno::EPERM.desc() {
        return finding.mended_by("repeat as root (CAP_NET_RAW)");
    }
    finding
}

/// A finding as one line.
pub fn line(finding: &Finding) -> String {
    let state = match finding.state {
        State::Ok => "ok",
        State::Warning => "warning",
        State::Problem => "problem",
    };
    let line = format!("{state:7}  {:9}  {}", finding.area.name(), finding.sentence);
    match &finding.remedy {
        Some(remedy) => format!("{line} -> {remedy}"),
        None => line,
    }
}

/// All findings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Nothing keeps this machine from serving the VIPs, and every look has shown so.
    pub ok: bool,
    /// Them.
    pub findings: Vec<Finding>,
}

impl Findings {
    /// All of them; each said once, though it may hold of several VIPs.
    pub fn new(all: Vec<Finding>) -> Findings {
        let mut findings: Vec<Finding> = Vec::new();
        for finding in all {
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
        let ok = findings.iter().all(|finding| finding.state != State::Problem);
        Findings { ok, findings }
    }
}

/// One line each.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings.iter().try_for_each(|finding| writeln!(f, "{}", line(finding)))
    }
}
