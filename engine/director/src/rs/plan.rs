//! From what a machine is like to the steps that make it a real server, or that put it back.

use crate::rs::facts::{ALL, Conf, Facts, Held, Key, LinkFacts, Setting, width};
use crate::rs::persist::{self, Files};
use crate::rs::record::{Record, SysctlRecord, VipRecord};
use crate::rs::report::{FileLine, FileState, Report, SysctlLine, SysctlState, VipLine, VipState};
use crate::rs::steps::{Content, Step};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// What is asked of a setup.
#[derive(Debug, Clone)]
pub struct Request {
    /// The VIPs, each once.
    pub vips: Vec<IpAddr>,
    /// The interface that holds them.
    pub interface: String,
    /// Write the files that apply it at boot; shunt is at this place then.
    pub persist: Option<PathBuf>,
}

/// What earlier setups have left.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Where the record is kept until the next reboot.
    pub path: PathBuf,
    /// It.
    pub record: Option<Record>,
    /// Where the root of the files is that apply it at boot.
    pub root: PathBuf,
    /// The record among them.
    pub persisted: Option<Record>,
    /// What is at these places now: the record's, and those of the files.
    pub files: Files,
}

/// What is to be done, and what to say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The steps, in this order.
    pub steps: Vec<Step>,
    /// What they come to.
    pub report: Report,
}

/// Plans a setup. Errors: why nothing is done, one sentence each with the next step.
pub fn setup(request: &Request, facts: &Facts, kept: &Kept) -> Result<Plan, Vec<String>> {
    let problems = refusals(request, facts);
    let Some(link) = facts.link(&request.interface).filter(|_| problems.is_empty()) else {
        return Err(problems);
    };
    let current = kept.record.as_ref().filter(|record| record.in_force(facts));
    let mut record = current.cloned().unwrap_or_default();
    let mut report = Report::default();
    let mut steps = Vec::new();
    for setting in settings(request) {
        let Some(value) = facts.value(&setting) else { continue };
        let to = aim(setting.key, value);
        let former = former(&record, kept.persisted.as_ref(), &setting, value);
        if to != value {
            steps.push(Step::Sysctl { setting: setting.clone(), from: value, to });
        }
        report.sysctls.push(SysctlLine {
            name: setting.to_string(),
            former: value,
            value: to,
            state: if to == value { SysctlState::Already } else { SysctlState::Changed },
        });
        record.put_sysctl(SysctlRecord { setting, former, value: to });
    }
    // The addresses come last: by then nobody answers ARP for them.
    for &address in &request.vips {
        let held = facts.places(address).find(|(place, _)| place.name == link.name);
        let (state, added) = match (held, record.vip(address)) {
            (None, _) => (VipState::Added, true),
            (Some(_), Some(known)) if !known.added => (VipState::Foreign, false),
            (Some(_), Some(_)) => (VipState::Already, true),
            (Some((_, held)), None) if held.by_shunt => (VipState::Already, true),
            (Some(_), None) => (VipState::Foreign, false),
        };
        if state == VipState::Added {
            let (link, interface) = (link.index, link.name.clone());
            steps.push(Step::Address { address, link, interface, present: true });
        }
        record.put_vip(VipRecord { address, interface: link.name.clone(), added });
        report.vips.push(VipLine::new(address, Some(&link.name), state));
    }
    if let Some(program) = &request.persist {
        let mut wanted = merge(kept.persisted.as_ref(), &record, &request.vips);
        wanted.program = Some(program.clone());
        change_files(kept, &persist::files(&kept.root, &wanted), &mut steps, &mut report);
        record.persisted_below = Some(kept.root.clone());
    } else if kept.persisted.is_some() {
        record.persisted_below = Some(kept.root.clone());
    }
    // First of all: what is not remembered cannot be put back.
    let text = Content::Text(record.to_text());
    steps.splice(0..0, change_file(kept, &kept.path, Some(text)));
    report.changed = report.changes();
    Ok(Plan { steps, report })
}

/// Plans a teardown of some VIPs; of all, if none is named. Errors: as for [`setup`].
pub fn teardown(vips: &[IpAddr], facts: &Facts, kept: &Kept) -> Result<Plan, Vec<String>> {
    let current = kept.record.as_ref().filter(|record| record.in_force(facts));
    let persisted = kept.persisted.as_ref();
    let record = all_of(current, persisted, facts);
    let known = record.vips.iter().map(|vip| vip.address);
    let vips: Vec<IpAddr> = if vips.is_empty() { known.collect() } else { vips.to_vec() };
    let mut report = Report::default();
    let mut steps = Vec::new();
    if let Some(persisted) = persisted {
        let rest = persisted.without(&vips);
        change_files(kept, &persist::files(&kept.root, &rest), &mut steps, &mut report);
    }
    let mut problems = Vec::new();
    for &address in &vips {
        match record.vip(address) {
            Some(vip) => take_away(vip, facts, &mut steps, &mut report),
            None => {
                problems.extend(facts.places(address).map(|(link, held)| not_ours(link, held)));
                report.vips.push(VipLine::new(address, None, VipState::Unknown));
            }
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let rest = record.without(&vips);
    // Only now may ARP be answered as before.
    for sysctl in record.sysctls.iter().filter(|sysctl| rest.sysctl(&sysctl.setting).is_none()) {
        put_back(sysctl, facts, &mut steps, &mut report);
    }
    // What was there before is still to be known of a setting that stays for the sake of a VIP that
    // only a boot would set up.
    let current = current.cloned().map(|mut left| {
        left.vips.retain(|vip| !vips.contains(&vip.address));
        left.sysctls.retain(|sysctl| rest.sysctl(&sysctl.setting).is_some());
        left
    });
    let current = current.filter(|left| !left.is_empty());
    let kept_on = current.map(|left| Content::Text(left.to_text()));
    steps.extend(change_file(kept, &kept.path, kept_on));
    report.changed = report.changes();
    Ok(Plan { steps, report })
}

/// All that was ever set up: also what is applied at boot, though the unit may not have run yet.
fn all_of(current: Option<&Record>, persisted: Option<&Record>, facts: &Facts) -> Record {
    let mut all = current.cloned().unwrap_or_default();
    for vip in persisted.iter().flat_map(|record| &record.vips) {
        if all.vip(vip.address).is_none() {
            // Since the boot nobody but the unit would have added it for shunt.
            let added = facts.places(vip.address).any(|(_, held)| held.by_shunt);
            all.put_vip(VipRecord { added, ..vip.clone() });
        }
    }
    for sysctl in persisted.iter().flat_map(|record| &record.sysctls) {
        if all.sysctl(&sysctl.setting).is_none() {
            all.put_sysctl(sysctl.clone());
        }
    }
    all
}

/// What is set for a request, in this order.
fn settings(request: &Request) -> Vec<Setting> {
    if !request.vips.iter().any(IpAddr::is_ipv4) {
        return Vec::new();
    }
    let of = |interface| Key::BOTH.map(|key| Setting::new(interface, key));
    [of(ALL), of(&request.interface)].concat()
}

/// What a setting becomes: it stays if it serves as well.
fn aim(key: Key, value: i32) -> i32 {
    if key.serves(value) { value } else { key.wanted() }
}

/// What a setting would be without shunt: if a setup has set it, or after a boot the file below
/// /etc, what it was before; if somebody else has set it since, that.
fn former(record: &Record, persisted: Option<&Record>, setting: &Setting, value: i32) -> i32 {
    let at_boot = || persisted.and_then(|record| record.sysctl(setting));
    let known = record.sysctl(setting).or_else(at_boot);
    known.filter(|known| known.value == value).map_or(value, |known| known.former)
}

/// What is applied at boot from now on: what was before, and these VIPs with what they need.
fn merge(persisted: Option<&Record>, record: &Record, vips: &[IpAddr]) -> Record {
    let mut merged = persisted.cloned().unwrap_or_default();
    let of_request = record.vips.iter().filter(|vip| vips.contains(&vip.address));
    of_request.for_each(|vip| merged.put_vip(vip.clone()));
    for sysctl in &record.sysctls {
        if merged.needs(&sysctl.setting) {
            merged.put_sysctl(sysctl.clone());
        }
    }
    merged.persisted_below = None;
    merged
}

fn change_file(kept: &Kept, path: &Path, to: Option<Content>) -> Option<Step> {
    let from = kept.files.get(path).cloned();
    (from != to).then(|| Step::File { path: path.to_owned(), from, to })
}

fn change_files(kept: &Kept, wanted: &Files, steps: &mut Vec<Step>, report: &mut Report) {
    let mut paths = persist::paths(&kept.root);
    if wanted.is_empty() {
        paths.reverse();
    }
    for path in paths {
        let to = wanted.get(&path).cloned();
        let state = match (kept.files.get(&path), &to) {
            (None, None) => continue,
            (Some(_), None) => FileState::Removed,
            (from, Some(_)) if from == to.as_ref() => FileState::Already,
            (_, Some(_)) => FileState::Written,
        };
        steps.extend(change_file(kept, &path, to));
        report.files.push(FileLine { path, state });
    }
}

fn take_away(vip: &VipRecord, facts: &Facts, steps: &mut Vec<Step>, report: &mut Report) {
    let address = vip.address;
    let there = facts.places(address).find(|(link, _)| link.name == vip.interface);
    let state = match there {
        None => VipState::Gone,
        Some(_) if !vip.added => VipState::Left,
        Some((link, _)) => {
            let (link, interface) = (link.index, link.name.clone());
            steps.push(Step::Address { address, link, interface, present: false });
            VipState::Removed
        }
    };
    report.vips.push(VipLine::new(address, Some(&vip.interface), state));
}

fn put_back(sysctl: &SysctlRecord, facts: &Facts, steps: &mut Vec<Step>, report: &mut Report) {
    let SysctlRecord { setting, former, value: set } = sysctl;
    // The interface may be gone, and its settings with it.
    let Some(now) = facts.value(setting) else { return };
    let state = match now {
        now if now == *former => SysctlState::Already,
        now if now == *set => SysctlState::Changed,
        _ => SysctlState::Left,
    };
    let mut value = now;
    if state == SysctlState::Changed {
        steps.push(Step::Sysctl { setting: setting.clone(), from: now, to: *former });
        value = *former;
    }
    report.sysctls.push(SysctlLine { name: setting.to_string(), former: now, value, state });
}

fn not_ours(link: &LinkFacts, held: &Held) -> String {
    let (address, prefix, name) = (held.address, held.prefix, &link.name);
    format!(
        "{address} is on {name}, but `shunt rs setup` has no record of it here, so it is left alone; if it is to go: `ip address del {address}/{prefix} dev {name}`"
    )
}

/// Why a setup is refused.
fn refusals(request: &Request, facts: &Facts) -> Vec<String> {
    let name = &request.interface;
    let Some(link) = facts.link(name) else {
        return vec![format!(
            "there is no interface {name}; leave --interface out for lo, or make one: `ip link add {name} type dummy && ip link set {name} up`"
        )];
    };
    let mut problems = Vec::new();
    if link.answers {
        problems.push(format!(
            "{name} answers ARP for its addresses, so with a VIP on it this machine would take the director's traffic: leave --interface out for lo, or name a dummy interface"
        ));
    }
    if !link.up {
        problems.push(format!(
            "{name} is down, and addresses on it are of no use: `ip link set {name} up`, then repeat"
        ));
    }
    if link.ipv6_off && request.vips.iter().any(IpAddr::is_ipv6) {
        problems.push(format!(
            "IPv6 is switched off on {name}: `sysctl -w net.ipv6.conf.{}.disable_ipv6=0`, then repeat",
            name.replace('.', "/")
        ));
    }
    for &vip in &request.vips {
        problems.extend(facts.places(vip).filter_map(|place| in_the_way(request, place)));
    }
    if request.vips.iter().any(IpAddr::is_ipv4) {
        problems.extend(defeats(request, facts));
    }
    problems
}

/// Why a VIP that is there already must not be there.
fn in_the_way(request: &Request, (link, held): (&LinkFacts, &Held)) -> Option<String> {
    let Held { address, prefix, .. } = held;
    let name = &link.name;
    let remove = format!("`ip address del {address}/{prefix} dev {name}`");
    if link.answers {
        return Some(format!(
            "{address} is this machine's own address on {name}, which answers ARP for it; --vip takes the VIP that the director answers for. If {address} is the VIP, {remove} and repeat"
        ));
    }
    if *prefix != width(*address) {
        return Some(format!(
            "{address} is on {name} with a prefix of /{prefix}, which makes this machine take a whole network for its own: {remove}, then repeat"
        ));
    }
    (*name != request.interface).then(|| {
        format!("{address} is on {name} already: repeat with --interface {name}, or {remove} first")
    })
}

/// The interfaces that would answer or ask with a VIP in spite of what is set for all.
fn defeats(request: &Request, facts: &Facts) -> Vec<String> {
    let aimed = Conf {
        arp_ignore: aim(Key::ArpIgnore, facts.all.arp_ignore),
        arp_announce: aim(Key::ArpAnnounce, facts.all.arp_announce),
        ..facts.all
    };
    let mut problems = Vec::new();
    for link in facts.links.iter().filter(|link| link.answers) {
        let Some(own) = link.conf else { continue };
        for key in Key::BOTH {
            let effective = own.with(&aimed).get(key);
            // 8 hides the VIP, and the machine with it: that is for `rs check` to say.
            if key.serves(effective) || (key, effective) == (Key::ArpIgnore, 8) {
                continue;
            }
            let does = match key {
                Key::ArpIgnore => "answer ARP for",
                Key::ArpAnnounce => "ask by ARP from",
            };
            problems.push(format!(
                "{} would {does} addresses on {} all the same: the kernel takes the greater of {} ({}) and {} ({effective}); `sysctl -w {}={}`, then repeat",
                link.name,
                request.interface,
                Setting::new(ALL, key),
                aimed.get(key),
                Setting::new(&link.name, key),
                Setting::new(&link.name, key),
                key.wanted(),
            ));
        }
    }
    problems
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
