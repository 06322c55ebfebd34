//! What `shunt rs check` says.

use serde::Serialize;
use std::fmt;

/// How one thing is. The order is that of their weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Ok,
    /// It could not be looked at, or is not this machine's to mend.
    Warning,
    /// It keeps this machine from serving the VIP.
    Problem,
}

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

/// What is said of one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub area: Area,
    /// Which of those: a VIP, an interface.
    pub subject: String,
    /// How it is.
    pub state: State,
    /// One sentence.
    pub sentence: String,
    /// What mends it.
    pub remedy: Option<String>,
}

impl Finding {
    fn new(state: State, area: Area, subject: &str, sentence: String) -> Finding {
        Finding { area, subject: subject.to_owned(), state, sentence, remedy: None }
    }

    /// As it should be.
    pub fn ok(area: Area, subject: &str, sentence: impl Into<String>) -> Finding {
        Finding::new(State::Ok, area, subject, sentence.into())
    }

    /// It could not be looked at, or is not this machine's to mend.
    pub fn warning(area: Area, subject: &str, sentence: impl Into<String>) -> Finding {
        Finding::new(State::Warning, area, subject, sentence.into())
    }

    /// It keeps this machine from serving the VIP.
    pub fn problem(area: Area, subject: &str, sentence: impl Into<String>) -> Finding {
        Finding::new(State::Problem, area, subject, sentence.into())
    }

    /// With what mends it.
    pub fn mended_by(mut self, remedy: impl Into<String>) -> Finding {
        self.remedy = Some(remedy.into());
        self
    }
}

/// One line.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Problem => "PROBLEM",
        };
        write!(f, "{state:<8} {:<9}  {}", self.area.name(), self.sentence)?;
        match &self.remedy {
            Some(remedy) => write!(f, " => {remedy}"),
            None => Ok(()),
        }
    }
}

/// All findings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Nothing keeps this machine from serving the VIPs.
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
        self.findings.iter().try_for_each(|finding| writeln!(f, "{finding}"))
    }
}
