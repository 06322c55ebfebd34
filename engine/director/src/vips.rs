//! The VIPs on the director's own interfaces: which are there, by whose hands, which are to be
//! added, announced or removed, and who else says that they have one.
//!
//! Pure: it is told what the machine has and what was heard, and says what to do, all with the
//! time as a parameter. [`crate::vip_care`] does it.
//!
//! A VIP that other hands put there, keepalived's for one, is left alone for the rest of the run,
//! also after they took it away: then this director is a backup, and the master has the VIP.

use crate::addresses::{OwnAddress, holds};
use crate::config::{Config, DuplicateVip};
use crate::mac::mac_text as text;
use dataplane::Millis;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

/// Time between the announcements that follow a change. ARP and neighbor discovery are not
/// answered: one that is lost is not missed by anybody.
pub const ANNOUNCE_AGAIN: Millis = 1_000;
/// How often a change is announced.
const ANNOUNCEMENTS: u32 = 5;
/// Time between announcements while nothing changes: for switches and neighbors that have
/// forgotten, or heard another.
const ANNOUNCE_REST: Millis = 60_000;
/// Announcements of all VIPs within a second, at most.
const ANNOUNCEMENTS_A_SECOND: usize = 100;
/// Time between two questions on the link who else has a VIP.
pub const PROBE: Millis = 5_000;
/// A claim that was not repeated for so long has ended: three questions without an answer.
pub const CLAIM: Millis = 15_000;
/// Claims that are kept of one VIP. Whoever forges more of them is not told apart any more.
const CLAIMS_MAX: usize = 16;
/// Rest before a VIP that was deleted, or could not be added, is added again.
const ADD_AGAIN: Millis = 1_000;
/// Rest before it is asked again whether a VIP that another machine has is free.
const ASK_AGAIN: Millis = 5_000;

/// A link of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSeen {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// Position of the served interface that it is, or is a VLAN of.
    pub served: Option<usize>,
    /// Whether it is up and has a carrier.
    pub up: bool,
}

/// What the machine has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ground {
    /// Its links.
    pub links: Vec<LinkSeen>,
    /// Its addresses.
    pub addresses: Vec<OwnAddress>,
}

impl Ground {
    /// The link with this index.
    pub fn link(&self, index: u32) -> Option<&LinkSeen> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The MAC addresses of all links.
    pub fn macs(&self) -> BTreeSet<[u8; 6]> {
        self.links.iter().filter_map(|link| link.mac).collect()
    }

    fn is_served(&self, index: u32) -> bool {
        self.link(index).is_some_and(|link| link.served.is_some())
    }

    /// The addresses that a director has added to a served interface: this one, or one before it.
    pub fn marked(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        let marked = self.addresses.iter().filter(|own| own.by_shunt && self.is_served(own.link));
        marked.map(|own| (own.address, own.link))
    }

    /// The VIP where it is: on a served interface if it is on one.
    fn find(&self, vip: IpAddr) -> Option<&OwnAddress> {
        let there = || self.addresses.iter().filter(|own| own.address == vip);
        there()
            .find(|own| own.by_shunt && self.is_served(own.link))
            .or_else(|| there().find(|own| self.is_served(own.link)))
            .or_else(|| there().next())
    }

    /// The served link where a VIP belongs: one with an own address on the VIP's network, else the
    /// first interface.
    fn place(&self, vip: IpAddr, is_vip: impl Fn(IpAddr) -> bool) -> Option<u32> {
        let on_its_network = self.addresses.iter().filter(|own| {
            holds(own.address, own.prefix, vip)
                && own.address != vip
                && !is_vip(own.address)
                && self.is_served(own.link)
        });
        // The longest prefix is the nearest network.
        let nearest = on_its_network.max_by_key(|own| (own.prefix, std::cmp::Reverse(own.link)));
        nearest.map(|own| own.link).or_else(|| {
            let served = self.links.iter().filter(|link| link.served.is_some());
            served.min_by_key(|link| (link.served, link.index)).map(|link| link.index)
        })
    }
}

/// Whose hands put a VIP on the director.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Held {
    /// It is not there.
    #[default]
    Absent,
    /// This director, or one before it that was killed.
    Shunt,
    /// Somebody else.
    Other,
}

impl Held {
    /// As listings have it.
    pub fn name(self) -> &'static str {
        match self {
            Held::Absent => "absent",
            Held::Shunt => "shunt",
            Held::Other => "other",
        }
    }
}

/// Whether somebody else on the link has a VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Asked {
    /// It was not asked yet.
    #[default]
    No,
    /// It is being asked.
    Now,
    /// Nobody, or it does not matter.
    Free,
    /// Somebody. To be asked again then.
    Taken(Millis),
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Ask the link who else has it, for [`Vips::answered`].
    Ask(IpAddr, u32),
    /// Add it to the link, for [`Vips::added`].
    Add(IpAddr, u32),
    /// Remove it from the link.
    Remove(IpAddr, u32),
    /// Tell everybody on the link that it is here.
    Announce(IpAddr, u32),
    /// Ask the link who else has it. Whoever answers is heard by [`Vips::claimed`].
    Probe(IpAddr, u32),
    /// Say that something is so.
    Say(String),
    /// Say that something needs the operator's attention.
    Warn(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Entry {
    held: Held,
    /// Where it is, or where it belongs: index, name, whether it is up and served.
    link: Option<(u32, String, bool)>,
    /// It was there by other hands: it is never added.
    others: bool,
    /// This run has added it. Kernels before 5.18 do not keep the mark.
    added: bool,
    asked: Asked,
    /// Another machine had it when it was last asked.
    taken: bool,
    add_at: Millis,
    /// Why it could not be added, as it was said.
    failure: Option<String>,
    announce_at: Millis,
    /// Announcements that still follow the last change.
    left: u32,
    announced: Option<Millis>,
    announcements: u64,
    probe_at: Millis,
    /// By MAC address: when it was last heard.
    claims: BTreeMap<[u8; 6], Millis>,
}

/// The VIPs of all virtual services.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Vips {
    manage: bool,
    take: bool,
    entries: BTreeMap<IpAddr, Entry>,
    /// Those that no service has any more, and where they are.
    leaving: Vec<(IpAddr, u32)>,
    /// When the last announcements were made, within a second.
    announced: VecDeque<Millis>,
    notes: Vec<Act>,
    /// The machine was looked at.
    looked: bool,
}

impl Vips {
    /// None yet, to be treated as the config says.
    pub fn new(config: &Config) -> Vips {
        let take = config.duplicate_vip == DuplicateVip::Take;
        Vips { manage: config.manage_vip, take, ..Vips::default() }
    }

    /// The services have these VIPs and no others.
    pub fn want(&mut self, vips: impl IntoIterator<Item = IpAddr>) {
        let mut former = std::mem::take(&mut self.entries);
        for vip in vips {
            if self.entries.contains_key(&vip) {
                continue;
            }
            let leaving = self.leaving.iter().position(|(leaving, _)| *leaving == vip);
            let entry = former.remove(&vip).unwrap_or_else(|| {
                let came_back = leaving.map(|at| self.leaving.swap_remove(at)).is_some();
                // It was not removed yet, and is as it was.
                let asked = if came_back { Asked::Free } else { Asked::No };
                Entry { added: came_back, asked, ..Entry::default() }
            });
            self.entries.insert(vip, entry);
        }
        for (vip, entry) in former {
            if let (Held::Shunt, Some((link, ..))) = (entry.held, entry.link) {
                self.leaving.push((vip, link));
            }
        }
    }

    /// The machine has this now. `names`: what the services of a VIP are called.
    pub fn look(&mut self, ground: &Ground, names: impl Fn(IpAddr) -> String, now: Millis) {
        let vips: BTreeSet<IpAddr> = self.entries.keys().copied().collect();
        for (&vip, entry) in &mut self.entries {
            let found = ground.find(vip);
            let place = found
                .map(|own| own.link)
                .or_else(|| ground.place(vip, |address| vips.contains(&address)))
                .and_then(|index| ground.link(index));
            let was_up = entry.link.as_ref().is_some_and(|(.., up)| *up);
            // On a link that is not served there is nobody to speak to.
            let up = place.is_some_and(|link| link.up && link.served.is_some());
            entry.link = place.map(|link| (link.index, link.name.clone(), up));
            let held = match found {
                Some(own)
                    if self.manage
                        && ground.is_served(own.link)
                        && (own.by_shunt || entry.added) =>
                {
                    Held::Shunt
                }
                Some(_) => Held::Other,
                None => Held::Absent,
            };
            let before = std::mem::replace(&mut entry.held, held);
            if held == Held::Shunt && (before != held || (up && !was_up)) {
                entry.announce_from(now);
            }
            let news = before != held || !self.looked;
            self.notes.extend(entry.turned(vip, before, news, self.manage, &names));
        }
        if self.manage {
            // What a killed director has left, and what was being added when its service went.
            let unwanted = ground.marked().filter(|(address, _)| !vips.contains(address));
            let left = unwanted.filter(|place| !self.leaving.contains(place));
            self.leaving.extend(left.collect::<Vec<_>>());
        }
        self.looked = true;
    }

    /// What is to be done now.
    pub fn due(&mut self, now: Millis) -> Vec<Act> {
        let mut acts = std::mem::take(&mut self.notes);
        acts.extend(self.leaving.drain(..).map(|(vip, link)| Act::Remove(vip, link)));
        for (&vip, entry) in &mut self.entries {
            entry.claims.retain(|&mac, &mut heard| {
                let stands = heard + CLAIM > now && entry.held != Held::Absent;
                if !stands {
                    acts.push(Act::Say(format!("{} no longer claims VIP {vip}", text(mac))));
                }
                stands
            });
            let Some((link, _, up)) = entry.link else { continue };
            if self.manage && !entry.others {
                acts.extend(entry.place(vip, link, up, now));
            }
            if !up || entry.held == Held::Absent {
                continue;
            }
            if entry.probe_at <= now {
                entry.probe_at = now + PROBE;
                acts.push(Act::Probe(vip, link));
            }
        }
        acts.extend(self.announce(now));
        acts
    }

    /// The announcements that are due: those first that wait the longest.
    fn announce(&mut self, now: Millis) -> Vec<Act> {
        while self.announced.front().is_some_and(|&at| at + 1_000 <= now) {
            self.announced.pop_front();
        }
        let mut due: Vec<_> = self
            .entries
            .iter_mut()
            .filter(|(_, entry)| entry.is_to_be_announced(now))
            .filter_map(|(&vip, entry)| Some((vip, entry.link.as_ref()?.0, entry)))
            .collect();
        due.sort_by_key(|(_, _, entry)| entry.announce_at);
        due.truncate(ANNOUNCEMENTS_A_SECOND - self.announced.len());
        let announce = |(vip, link, entry): (IpAddr, u32, &mut Entry)| {
            entry.announce(now);
            self.announced.push_back(now);
            Act::Announce(vip, link)
        };
        due.into_iter().map(announce).collect()
    }

    /// How long there is nothing to do, if nothing happens meanwhile.
    pub fn rest(&self, now: Millis) -> Millis {
        let next = self.entries.values().filter_map(|entry| entry.next(self.manage)).min();
        next.map_or(Millis::MAX, |at| at.saturating_sub(now))
    }

    /// These, and no others, have answered for a VIP, with the real server of each that is one's;
    /// none of them is this machine. Returns whether the VIP is left to them.
    pub fn answered(
        &mut self,
        vip: IpAddr,
        by: &BTreeMap<[u8; 6], Option<IpAddr>>,
        now: Millis,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(&vip) else { return false };
        let taken = !by.is_empty() && !self.take;
        let told = std::mem::replace(&mut entry.taken, !by.is_empty());
        entry.asked = if taken { Asked::Taken(now + ASK_AGAIN) } else { Asked::Free };
        if by.is_empty() && told {
            self.notes.push(Act::Say(format!("nobody else has VIP {vip} any more")));
        } else if !by.is_empty() && !told {
            let outcome = match self.take {
                true => "it is taken all the same, as the config has duplicate_vip = \"take\"",
                false => "it is not added while that is so",
            };
            self.notes.push(Act::Warn(format!("{}; {outcome}", duplicate(vip, by))));
        }
        taken
    }

    /// Nobody could be asked, because the link went down or the answers are lost: it is asked
    /// again, once the link is up.
    pub fn unanswered(&mut self, vip: IpAddr) {
        if let Some(entry) = self.entries.get_mut(&vip).filter(|entry| entry.asked == Asked::Now) {
            entry.asked = Asked::No;
        }
    }

    /// The kernel was asked to add a VIP, and this became of it.
    pub fn added(&mut self, vip: IpAddr, result: Result<(), String>, now: Millis) {
        let Some(entry) = self.entries.get_mut(&vip) else { return };
        entry.add_at = now + ADD_AGAIN;
        entry.added = result.is_ok();
        let failure = result.err();
        if let Some(reason) = failure.as_ref().filter(|_| failure != entry.failure) {
            let name = entry.interface().unwrap_or("its interface");
            let sentence = format!("cannot add VIP {vip} to {name}: {reason}; trying again");
            self.notes.push(Act::Warn(sentence));
        }
        entry.failure = failure;
    }

    /// Another machine on `link` says that it has a VIP. Returns whether that is news.
    pub fn claimed(&mut self, link: u32, vip: IpAddr, mac: [u8; 6], now: Millis) -> bool {
        let Some(entry) = self.entries.get_mut(&vip) else { return false };
        let here = entry.link.as_ref().is_some_and(|(index, ..)| *index == link);
        // While the VIP is not here, another director has it by right.
        if !here || entry.held == Held::Absent {
            return false;
        }
        let known = entry.claims.contains_key(&mac);
        if !known && entry.claims.len() >= CLAIMS_MAX {
            return false;
        }
        entry.claims.insert(mac, now);
        // Whoever has heard it learns where the VIP is.
        let soon = entry.announced.map_or(now, |at| now.max(at + ANNOUNCE_AGAIN));
        entry.announce_at = entry.announce_at.min(soon);
        !known
    }

    /// The VIPs that a director which ends must remove, and where they are.
    pub fn own(&self, ground: &Ground) -> Vec<(IpAddr, u32)> {
        if !self.manage {
            return Vec::new();
        }
        let ours = |own: &&OwnAddress| match self.entries.get(&own.address) {
            Some(entry) => (own.by_shunt || entry.added) && ground.is_served(own.link),
            None => self.leaving.contains(&(own.address, own.link)),
        };
        ground.addresses.iter().filter(ours).map(|own| (own.address, own.link)).collect()
    }

    /// Whether it is not known yet who else has a VIP that was asked about.
    pub fn asking(&self) -> bool {
        self.entries.values().any(|entry| entry.asked == Asked::Now)
    }

    /// All VIPs.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.entries.keys().copied()
    }

    /// Whose hands put a VIP on the director.
    pub fn held(&self, vip: IpAddr) -> Held {
        self.entries.get(&vip).map_or(Held::Absent, |entry| entry.held)
    }

    /// Index of the link where a VIP is, or where it belongs.
    pub fn link(&self, vip: IpAddr) -> Option<u32> {
        self.entries.get(&vip)?.link.as_ref().map(|(index, ..)| *index)
    }

    /// Name of that link.
    pub fn interface(&self, vip: IpAddr) -> Option<&str> {
        self.entries.get(&vip)?.interface()
    }

    /// The MAC addresses of all others who say that they have a VIP.
    pub fn claims(&self, vip: IpAddr) -> impl Iterator<Item = [u8; 6]> {
        self.entries.get(&vip).into_iter().flat_map(|entry| entry.claims.keys().copied())
    }

    /// What is wrong with a VIP, for a listing: it is not here, or others claim it.
    pub fn trouble(&self, vip: IpAddr) -> Option<String> {
        let entry = self.entries.get(&vip).filter(|_| self.looked)?;
        let mut claims: Vec<String> = entry.claims.keys().map(|&mac| text(mac)).collect();
        match (entry.held, claims.len()) {
            (Held::Absent, _) => Some("VIP absent".to_owned()),
            (_, 0) => None,
            (_, 1..=3) => Some(format!("VIP claimed by {}", claims.join(", "))),
            (_, count) => {
                claims.truncate(3);
                Some(format!("VIP claimed by {} and {} more", claims.join(", "), count - 3))
            }
        }
    }

    /// How often a VIP was announced.
    pub fn announcements(&self, vip: IpAddr) -> u64 {
        self.entries.get(&vip).map_or(0, |entry| entry.announcements)
    }
}

impl Entry {
    fn interface(&self) -> Option<&str> {
        self.link.as_ref().map(|(_, name, _)| name.as_str())
    }

    fn announce_from(&mut self, now: Millis) {
        self.left = ANNOUNCEMENTS;
        self.announce_at = now;
    }

    /// When there is something to do for it.
    fn next(&self, manage: bool) -> Option<Millis> {
        let ended = self.claims.values().map(|heard| heard + CLAIM).min();
        let up = self.link.as_ref().is_some_and(|(.., up)| *up);
        let waits = match (self.asked, self.held) {
            // Nobody is asked on a link that is down.
            (Asked::No, _) => up.then_some(0),
            (Asked::Taken(until), _) => up.then_some(until),
            (Asked::Free, Held::Absent) => Some(self.add_at),
            _ => None,
        };
        let waits = waits.filter(|_| manage && !self.others);
        let announce = (up && self.held == Held::Shunt).then_some(self.announce_at);
        let probe = (up && self.held != Held::Absent).then_some(self.probe_at);
        [ended, waits, announce, probe].into_iter().flatten().min()
    }

    fn is_to_be_announced(&self, now: Millis) -> bool {
        let up = self.link.as_ref().is_some_and(|(.., up)| *up);
        self.held == Held::Shunt && self.asked == Asked::Free && up && self.announce_at <= now
    }

    fn announce(&mut self, now: Millis) {
        self.left = self.left.saturating_sub(1);
        self.announce_at = now + if self.left > 0 { ANNOUNCE_AGAIN } else { ANNOUNCE_REST };
        self.announced = Some(now);
        self.announcements += 1;
    }

    /// How it gets to its place.
    fn place(&mut self, vip: IpAddr, link: u32, up: bool, now: Millis) -> Option<Act> {
        let ask = match self.asked {
            Asked::No => true,
            Asked::Taken(until) => until <= now && self.held == Held::Absent,
            Asked::Now | Asked::Free => false,
        };
        // On a link that is down nobody answers, and somebody may have it when it is up.
        if ask && up {
            self.asked = Asked::Now;
            return Some(Act::Ask(vip, link));
        }
        // The kernel forgets an IPv6 address that is on a link which is down.
        let can_be = up || vip.is_ipv4();
        let add =
            self.held == Held::Absent && self.asked == Asked::Free && can_be && self.add_at <= now;
        if add {
            self.add_at = now + ADD_AGAIN;
        }
        add.then_some(Act::Add(vip, link))
    }

    /// It is held by other hands, or by none, than before.
    fn turned(
        &mut self,
        vip: IpAddr,
        before: Held,
        news: bool,
        manage: bool,
        names: &impl Fn(IpAddr) -> String,
    ) -> Option<Act> {
        let name = self.interface().unwrap_or("a served interface").to_owned();
        let up = self.link.as_ref().is_some_and(|(.., up)| *up);
        let warn_again = before == Held::Shunt && up;
        if self.held != Held::Shunt {
            self.added = false;
        }
        self.others |= self.held == Held::Other;
        if !news {
            return None;
        }
        match self.held {
            Held::Absent if manage && !self.others => warn_again.then(|| {
                Act::Warn(format!(
                    "VIP {vip} is gone from {name}, and not by shunt: it is added again"
                ))
            }),
            Held::Absent => {
                let of = names(vip);
                let width = if vip.is_ipv4() { 32 } else { 128 };
                let missing = format!(
                    "VIP {vip} of {of} is not on {name}, so nobody sends packets for it here"
                );
                Some(if before == Held::Other {
                    Act::Warn(format!(
                        "{missing}: it was taken away by other hands than shunt's; they, or `ip address add {vip}/{width} dev {name}`, put it back"
                    ))
                } else {
                    Act::Say(format!(
                        "{missing}: shunt waits for it, as the config has manage_vip = false"
                    ))
                })
            }
            Held::Other if manage => Some(Act::Say(format!(
                "VIP {vip} is on {name} by other hands: shunt leaves it to them"
            ))),
            Held::Other if before == Held::Absent => {
                Some(Act::Say(format!("VIP {vip} is there now, on {name}")))
            }
            _ => None,
        }
    }
}

/// Who claims a VIP: the MAC address, and whose it is.
fn claimant(mac: [u8; 6], server: Option<IpAddr>) -> String {
    match server {
        Some(server) => format!("real server {server} ({})", text(mac)),
        None => format!("{}, which is no real server's,", text(mac)),
    }
}

/// That other machines answer for a VIP, and what ends it.
pub fn duplicate(vip: IpAddr, by: &BTreeMap<[u8; 6], Option<IpAddr>>) -> String {
    let who: Vec<String> = by.iter().map(|(&mac, &server)| claimant(mac, server)).collect();
    let asked = crate::layer2::question(vip);
    let answer = if who.len() == 1 { "answers" } else { "answer" };
    let remedy = match by.values().all(Option::is_some) {
        true => format!("`shunt rs setup --vip {vip}` there ends that"),
        false => "another director, or a machine that must give it up".to_owned(),
    };
    format!("{} {answer} {asked} for VIP {vip} ({remedy})", who.join(" and "))
}

/// What is said of one such machine while the director runs.
pub fn claim(vip: IpAddr, mac: [u8; 6], server: Option<IpAddr>) -> String {
    let duplicate = duplicate(vip, &BTreeMap::from([(mac, server)]));
    format!("{duplicate}: packets of clients may go past this director")
}

#[cfg(test)]
#[path = "vips_tests.rs"]
mod tests;
