//! What `shunt rs setup` has found and changed, so that `shunt rs teardown` can put it back.
//!
//! It is kept where it is gone with a reboot, as the settings are. What `--persist` sets again at
//! each boot is also kept where a reboot leaves it: after a boot the former values cannot be read
//! any more.

use crate::rs::facts::{ALL, Facts, Setting};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A VIP that was set up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipRecord {
    /// The VIP.
    pub address: IpAddr,
    /// The interface that holds it.
    pub interface: String,
    /// Whether shunt added it; if not, it was there before and stays.
    pub added: bool,
}

/// A setting that a VIP needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SysctlRecord {
    /// Which.
    #[serde(flatten)]
    pub setting: Setting,
    /// What it would be without shunt: as it was before the first setup, or as somebody else has
    /// set it since.
    pub former: i32,
    /// What the last setup has set it to, or left it at.
    pub value: i32,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Record {
    /// The VIPs.
    pub vips: Vec<VipRecord>,
    /// The settings.
    pub sysctls: Vec<SysctlRecord>,
    /// Where the root of the files is that apply it at boot, if there are some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persisted_below: Option<PathBuf>,
    /// Of what is applied at boot: where shunt is then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<PathBuf>,
}

impl Record {
    /// Reads what was kept. Errors: one sentence with the next step.
    pub fn parse(path: &Path, text: &str) -> Result<Record, String> {
        serde_json::from_str(text).map_err(|error| {
            let path = path.display();
            format!("{path} is not what shunt has written ({error}): remove it, and put back by hand what it names")
        })
    }

    /// As it is kept.
    pub fn to_text(&self) -> String {
        // Numbers, strings and lists of them: there is nothing that could not be written.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Whether there is nothing to put back.
    pub fn is_empty(&self) -> bool {
        self.vips.is_empty() && self.sysctls.is_empty()
    }

    /// Whether anything of what was changed is still so. If not, the record is of another time:
    /// a network namespace that is gone leaves its number to the next.
    pub fn in_force(&self, facts: &Facts) -> bool {
        let vip = |vip: &VipRecord| {
            vip.added && facts.places(vip.address).any(|(link, _)| link.name == vip.interface)
        };
        let sysctl = |sysctl: &SysctlRecord| {
            sysctl.former != sysctl.value && facts.value(&sysctl.setting) == Some(sysctl.value)
        };
        let nothing_changed = self.vips.iter().all(|vip| !vip.added)
            && self.sysctls.iter().all(|sysctl| sysctl.former == sysctl.value);
        nothing_changed || self.vips.iter().any(vip) || self.sysctls.iter().any(sysctl)
    }

    /// The VIP's entry.
    pub fn vip(&self, address: IpAddr) -> Option<&VipRecord> {
        self.vips.iter().find(|vip| vip.address == address)
    }

    /// The setting's entry.
    pub fn sysctl(&self, setting: &Setting) -> Option<&SysctlRecord> {
        self.sysctls.iter().find(|sysctl| sysctl.setting == *setting)
    }

    /// Whether one of its VIPs needs a setting. IPv6 asks for nothing: the kernel answers a
    /// neighbor solicitation for an address of the asked interface only (Linux, net/ipv6/ndisc.c).
    pub fn needs(&self, setting: &Setting) -> bool {
        let by = |vip: &VipRecord| setting.interface == ALL || vip.interface == setting.interface;
        self.vips.iter().any(|vip| vip.address.is_ipv4() && by(vip))
    }

    /// Takes a VIP's entry in, in place of a former one.
    pub fn put_vip(&mut self, entry: VipRecord) {
        match self.vips.iter_mut().find(|vip| vip.address == entry.address) {
            Some(vip) => *vip = entry,
            None => self.vips.push(entry),
        }
    }

    /// Takes a setting's entry in, in place of a former one.
    pub fn put_sysctl(&mut self, entry: SysctlRecord) {
        match self.sysctls.iter_mut().find(|sysctl| sysctl.setting == entry.setting) {
            Some(sysctl) => *sysctl = entry,
            None => self.sysctls.push(entry),
        }
    }

    /// What is left of it without these VIPs.
    pub fn without(&self, vips: &[IpAddr]) -> Record {
        let mut rest = self.clone();
        rest.vips.retain(|vip| !vips.contains(&vip.address));
        let needed = rest.clone();
        rest.sysctls.retain(|sysctl| needed.needs(&sysctl.setting));
        rest
    }
}

/// The interfaces of some VIPs, each once, in their order.
pub fn interfaces(vips: &[VipRecord]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for vip in vips {
        if !names.contains(&vip.interface.as_str()) {
            names.push(&vip.interface);
        }
    }
    names
}
