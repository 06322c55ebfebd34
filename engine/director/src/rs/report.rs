//! What `shunt rs setup` and `shunt rs teardown` say they did.

use crate::rs::facts::width;
use serde::Serialize;
use std::fmt::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;

/// What became of a VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VipState {
    /// It was added.
    Added,
    /// It was there, by an earlier setup.
    Already,
    /// It was there, not by shunt.
    Foreign,
    /// It was removed.
    Removed,
    /// It was there before the setup, and stays.
    Left,
    /// It was not there any more.
    Gone,
    /// It was never set up.
    Unknown,
}

/// What became of a VIP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VipLine {
    /// The VIP.
    pub address: IpAddr,
    /// Length of its network's prefix: it is alone on it.
    pub prefix: u8,
    /// The interface; none for a VIP that was never set up.
    pub interface: Option<String>,
    /// What became of it.
    pub state: VipState,
}

impl VipLine {
    /// What became of a VIP on an interface.
    pub fn new(address: IpAddr, interface: Option<&str>, state: VipState) -> VipLine {
        VipLine { address, prefix: width(address), interface: interface.map(str::to_owned), state }
    }
}

/// What became of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SysctlState {
    /// It has another value.
    Changed,
    /// It was as it should be.
    Already,
    /// Somebody else has changed it since the setup, and it stays so.
    Left,
}

/// What became of a setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SysctlLine {
    /// Its name, as sysctl(8) writes it.
    pub name: String,
    /// Its value before this command.
    pub former: i32,
    /// Its value now.
    pub value: i32,
    /// What became of it.
    pub state: SysctlState,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// It was written.
    Written,
    /// It was as it should be.
    Already,
    /// It was removed.
    Removed,
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileLine {
    /// Where.
    pub path: PathBuf,
    /// What became of it.
    pub state: FileState,
}

/// All of it. With `dry_run` it is what would become.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// Nothing was changed: this is what would be.
    pub dry_run: bool,
    /// Whether anything was, or would be, changed.
    pub changed: bool,
    /// The settings, in the order of the changes.
    pub sysctls: Vec<SysctlLine>,
    /// The VIPs.
    pub vips: Vec<VipLine>,
    /// The files that apply it at boot.
    pub files: Vec<FileLine>,
}

impl Report {
    /// Whether anything is, or would be, changed.
    pub fn changes(&self) -> bool {
        self.sysctls.iter().any(|line| line.state == SysctlState::Changed)
            || self.vips.iter().any(|l| matches!(l.state, VipState::Added | VipState::Removed))
            || self.files.iter().any(|line| line.state != FileState::Already)
    }
}

impl fmt::Display for VipLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)?;
        if let Some(interface) = &self.interface {
            write!(f, " on {interface}")?;
        }
        f.write_str(match self.state {
            VipState::Added => ": added",
            VipState::Already => ": already there",
            VipState::Foreign => ": already there, not by shunt, so a teardown leaves it",
            VipState::Removed => ": removed",
            VipState::Left => ": left, because it was there before the setup",
            VipState::Gone => ": was gone already",
            VipState::Unknown => ": was not set up by shunt, and is not here",
        })
    }
}

impl fmt::Display for SysctlLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SysctlLine { name, former, value, state } = self;
        match state {
            SysctlState::Changed => write!(f, "{name}: {former} -> {value}"),
            SysctlState::Already => write!(f, "{name}: already {value}"),
            SysctlState::Left => {
                write!(f, "{name}: left at {value}, which somebody else has set since the setup")
            }
        }
    }
}

impl fmt::Display for FileLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            FileState::Written => "written",
            FileState::Already => "already as it should be",
            FileState::Removed => "removed",
        };
        write!(f, "{}: {state}", self.path.display())
    }
}

/// One line for each.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = String::new();
        let (sysctls, vips) = (&self.sysctls, &self.vips);
        sysctls.iter().try_for_each(|line| writeln!(lines, "{line}"))?;
        vips.iter().try_for_each(|line| writeln!(lines, "{line}"))?;
        self.files.iter().try_for_each(|line| writeln!(lines, "{line}"))?;
        if self.dry_run {
            f.write_str("dry run, nothing is changed; without --dry-run it would be:\n")?;
        } else if !self.changed {
            lines.push_str("nothing had to be changed\n");
        }
        f.write_str(&lines)
    }
}
