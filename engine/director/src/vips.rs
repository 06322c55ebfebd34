//! The VIPs on the director's own interfaces: which are there, by whose hands, which are to be
//! added, announced or removed, and who else says that they have one.
//!
//! Pure: it is told what the machine has and what was heard, and says what to do, all with the
//! time as a parameter. [`crate::vip_care`] does it.
//!
//! A VIP that other hands put there, keepalived's for one, is left alone for the rest of the run,
//! also after they took it away: then this director is a backup, and the master has the VIP.

use crate::addresses::OwnAddress;
use crate::config::{Config, DuplicateVip};
use crate::mac::{Mac, mac_text as text};
use crate::vip_claims::{Claims, Whose, duplicate, enumerated};
use crate::vip_ground::{Ground, LinkSeen};
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
/// Questions to the link at a time, at most: more frames than that may not fit into a socket.
const PROBES_AT_ONCE: usize = 200;
/// Machines that a listing names of those that have a VIP which is absent here.
const NAMED: usize = 3;
/// Rest before a VIP that was deleted, or could not be added, is added again.
const ADD_AGAIN: Millis = 1_000;
/// How long a link that came up may hide who else has a VIP: a switch with spanning tree forwards
/// nothing for half a minute.
const UNSURE: Millis = 60_000;
/// Rest before it is asked again whether a VIP that another machine has is free.
const ASK_AGAIN: Millis = 5_000;

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
    /// How often that lost its carrier.
    downs: u32,
    /// It was there by other hands: it is never added.
    others: bool,
    /// This run has added it. Kernels before 5.18 do not keep the mark.
    added: bool,
    asked: Asked,
    /// Who else had it when that was last asked: the first few.
    taken_by: Vec<Mac>,
    /// Its link came up so lately that somebody may have taken it unheard: until then.
    unsure: Millis,
    add_at: Millis,
    /// Why it could not be added, as it was said.
    failure: Option<String>,
    announce_at: Millis,
    /// Announcements that still follow the last change.
    left: u32,
    announced: Option<Millis>,
    announcements: u64,
    probe_at: Millis,
    claims: Claims,
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
            // What was added since the last look is not known to be there yet.
            let ours = entry.held == Held::Shunt || entry.added;
            self.leaving.extend(entry.link.filter(|_| ours).map(|(link, ..)| (vip, link)));
        }
    }

    /// The machine has this now. `names`: what the services of a VIP are called.
    pub fn look(&mut self, ground: &Ground, names: impl Fn(IpAddr) -> String, now: Millis) {
        let vips: BTreeSet<IpAddr> = self.entries.keys().copied().collect();
        for (&vip, entry) in &mut self.entries {
            let found = ground.find(vip);
            let was = entry.link.as_ref().map(|(index, ..)| *index);
            let place = found.map(|own| own.link).or_else(|| ground.place(vip, &vips, was));
            let came_up = entry.stand(place.and_then(|index| ground.link(index)));
            let ours = |own: &OwnAddress| {
                self.manage && ground.is_served(own.link) && (own.by_shunt || entry.added)
            };
            let held = match found {
                Some(own) if ours(own) => Held::Shunt,
                Some(_) => Held::Other,
                None => Held::Absent,
            };
            if came_up && entry.announced.is_some() {
                entry.unsure = now + UNSURE;
            }
            let before = std::mem::replace(&mut entry.held, held);
            if held == Held::Shunt && (before != held || came_up) {
                entry.announce_from(now);
            }
            if held == Held::Shunt
                && let Some(own) = found
                && let Some(home) = ground.elsewhere(vip, &vips, own.link)
                && !self.leaving.contains(&(vip, own.link))
            {
                self.notes.extend(entry.moves(vip, ground.link(home), now));
                self.leaving.push((vip, own.link));
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
        let mut probes = 0;
        for (&vip, entry) in &mut self.entries {
            if entry.held == Held::Absent {
                entry.claims.end();
            }
            acts.extend(entry.claims.due(vip, now));
            let Some((link, _, up)) = entry.link else { continue };
            if self.manage && !entry.others {
                acts.extend(entry.place(vip, link, up, now));
            }
            if !up || entry.held == Held::Absent {
                continue;
            }
            if entry.probe_at <= now && probes < PROBES_AT_ONCE {
                probes += 1;
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
    ///
    /// What was announced in this run is asked about again after its link was down: another
    /// director may have it by right, a real server never.
    pub fn answered(
        &mut self,
        vip: IpAddr,
        by: &BTreeMap<Mac, Option<IpAddr>>,
        now: Millis,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(&vip) else { return false };
        let link = entry.link.as_ref().filter(|(.., up)| *up).map(|(index, ..)| *index);
        if by.is_empty() && link.is_none() {
            // It went down meanwhile: whoever has it may not have heard the question.
            entry.asked = Asked::No;
            return false;
        }
        let by_servers = by.values().all(Option::is_some);
        let ours = entry.announced.is_some() && by_servers;
        if !by.is_empty() {
            entry.unsure = now;
        }
        let left = !by.is_empty() && !self.take && !ours;
        entry.asked = if left { Asked::Taken(now + ASK_AGAIN) } else { Asked::Free };
        let here = entry.held == Held::Shunt;
        self.leaving.extend(link.filter(|_| left && here).map(|link| (vip, link)));
        let taken_by = by.keys().take(NAMED).copied().collect();
        let told = !std::mem::replace(&mut entry.taken_by, taken_by).is_empty();
        if by.is_empty() && told {
            self.notes.push(Act::Say(format!("nobody else has VIP {vip} any more")));
        } else if !by.is_empty() && !told {
            let outcome = match (self.take, left, here) {
                (true, ..) => {
                    "it is taken all the same, as the config has duplicate_vip = \"take\""
                }
                (_, true, true) => "it is removed here while that is so",
                (_, true, false) => "it is not added while that is so",
                (_, false, _) => "it stays here, and is announced again",
            };
            self.notes.push(Act::Warn(format!("{}; {outcome}", duplicate(vip, by))));
        }
        left
    }

    /// Nobody could be asked, because the link went down or the answers are lost: it is asked
    /// again, once the link is up.
    pub fn unanswered(&mut self, vip: IpAddr) {
        if let Some(entry) = self.entries.get_mut(&vip).filter(|entry| entry.asked == Asked::Now) {
            entry.asked = Asked::No;
        }
    }

    /// The kernel was asked to add a VIP, and this became of it.
    pub fn added(&mut self, vip: IpAddr, link: u32, result: Result<(), String>, now: Millis) {
        let Some(entry) = self.entries.get_mut(&vip) else {
            // Its service went meanwhile.
            self.leaving.extend(result.is_ok().then_some((vip, link)));
            return;
        };
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

    /// An announcement did not get onto the link, whose ear or carrier is missing.
    pub fn unannounced(&mut self, vip: IpAddr, now: Millis) {
        let Some(entry) = self.entries.get_mut(&vip) else { return };
        entry.announcements = entry.announcements.saturating_sub(1);
        entry.announce_from(now + ANNOUNCE_AGAIN);
    }

    /// Another machine on `link` says that it has a VIP, or another link of this one. Returns whether
    /// that is news.
    pub fn claimed(&mut self, link: u32, vip: IpAddr, mac: Mac, whose: Whose, now: Millis) -> bool {
        let Some(entry) = self.entries.get_mut(&vip) else { return false };
        let here = entry.link.as_ref().is_some_and(|(index, ..)| *index == link);
        // While the VIP is not here, another director has it by right.
        if !here || entry.held == Held::Absent {
            return false;
        }
        // Whoever has heard it learns where the VIP is.
        let soon = entry.announced.map_or(now, |at| now.max(at + ANNOUNCE_AGAIN));
        entry.announce_at = entry.announce_at.min(soon);
        let taken = entry.asked == Asked::Free && now < entry.unsure && whose == Whose::Unknown;
        if taken {
            // One that did not hear the question at first.
            entry.asked = Asked::No;
        }
        entry.claims.heard(mac, whose, now) || taken
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

    /// Whether an answer is awaited about a VIP on this link.
    pub fn asks(&self, vip: IpAddr, link: u32) -> bool {
        let asked = self.entries.get(&vip).is_some_and(|entry| entry.asked == Asked::Now);
        asked && self.link(vip) == Some(link)
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

    /// Who says that they have a VIP, too.
    pub fn claims(&self, vip: IpAddr) -> Option<&Claims> {
        Some(&self.entries.get(&vip)?.claims)
    }

    /// What is wrong with a VIP, for a listing: it is not here, or others claim it.
    pub fn trouble(&self, vip: IpAddr) -> Option<String> {
        let entry = self.entries.get(&vip).filter(|_| self.looked)?;
        if entry.held != Held::Absent {
            return entry.claims.listed().map(|who| format!("VIP claimed by {who}"));
        }
        let who: Vec<String> = entry.taken_by.iter().copied().map(text).collect();
        let whose = enumerated(&who).map(|who| format!(": {who} answers for it"));
        Some(format!("VIP absent{}", whose.unwrap_or_default()))
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
        let up = self.link.as_ref().is_some_and(|(.., up)| *up);
        let waits = match (self.asked, self.held) {
            (Asked::No, _) => Some(0),
            (Asked::Taken(until), _) => Some(until),
            (Asked::Free, Held::Absent) => Some(self.add_at),
            _ => None,
        };
        // Nobody is asked on a link that is down.
        let waits = waits.filter(|_| up && manage && !self.others);
        let announce = (up && self.held == Held::Shunt).then_some(self.announce_at);
        let probe = (up && self.held != Held::Absent).then_some(self.probe_at);
        [self.claims.next(), waits, announce, probe].into_iter().flatten().min()
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

    /// Where it is, or belongs, now. Returns whether that came up.
    fn stand(&mut self, place: Option<&LinkSeen>) -> bool {
        // On a link that is not served there is nobody to speak to.
        let up = place.is_some_and(|link| link.up && link.served.is_some());
        let now = place.map(|link| (link.index, link.name.clone(), up));
        let before = std::mem::replace(&mut self.link, now);
        let index = before.as_ref().map(|(index, ..)| *index);
        let was_up = before.is_some_and(|(.., up)| up);
        let moved = index.is_some() && index != place.map(|link| link.index);
        let downs = place.map_or(0, |link| link.downs);
        // One that is up again soon may never be seen while it is down.
        let fell = std::mem::replace(&mut self.downs, downs) != downs || !up;
        // Somebody else may have taken it meanwhile, or has it there.
        if moved || was_up && fell && self.asked == Asked::Free {
            self.asked = Asked::No;
        }
        up && (fell || !was_up)
    }

    /// It is removed from where it is, and added where it belongs.
    fn moves(&mut self, vip: IpAddr, home: Option<&LinkSeen>, now: Millis) -> Option<Act> {
        // Nothing is announced here any more; if it cannot be removed, it stays.
        self.asked = Asked::Taken(now + ASK_AGAIN);
        let (from, to) = (self.interface()?, &home?.name);
        Some(Act::Say(format!("VIP {vip} goes from {from} to {to}, where its network is")))
    }

    /// How it gets to its place. On a link that is down nobody answers, and somebody may have it
    /// when it is up.
    fn place(&mut self, vip: IpAddr, link: u32, up: bool, now: Millis) -> Option<Act> {
        let ask = match self.asked {
            Asked::No => true,
            Asked::Taken(until) => until <= now,
            Asked::Now | Asked::Free => false,
        };
        if ask && up {
            self.asked = Asked::Now;
            return Some(Act::Ask(vip, link));
        }
        let absent = self.held == Held::Absent && self.asked == Asked::Free;
        let add = absent && up && self.add_at <= now;
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
        let warn_again = before == Held::Shunt && up && self.asked == Asked::Free;
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

#[cfg(test)]
#[path = "vips_tests.rs"]
mod tests;
