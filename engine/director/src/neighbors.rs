//! Neighbors: which MAC address a real server has, and whether it still answers.
//!
//! Pure: it hears what the kernel's table says, and what machines say of themselves, and tells
//! what to ask the kernel for, all with the time as a parameter. [`crate::netlink`] carries the
//! messages.
//!
//! AF_XDP traffic confirms nothing to the kernel, so every entry would go stale under full load:
//! this asks for a probe every [`REFRESH`], and the entry keeps forwarding meanwhile. After
//! [`MISSES`] probes without an answer, a second apart (neigh_probe in net/core/neighbour.c), the
//! real server is gone: noticed 3 to 4 s after its last answer could have come.
//!
//! A machine that claims the address of a real server with another MAC address is believed when
//! the one that had it does not answer a probe of its own, sent for that, within 0.3 s. So a
//! replaced machine is followed at once, and two machines with one address do not take each
//! other's flows in turns: the first keeps them, and the second is warned of.

use crate::mac::Mac;
use crate::neighbor_entry::Entry;
use crate::neighbor_events::{self, Events, NeighborEvent, Said};
use dataplane::{Millis, Neighbor};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub use crate::neighbor_entry::AskKind;

/// Time between two probes of an entry.
pub const REFRESH: Millis = 1_000;
/// Probes without an answer after which a real server is gone.
pub const MISSES: u8 = 3;

/// State of a neighbor entry, as the kernel has it (NUD_* of include/uapi/linux/neighbour.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelState {
    /// NUD_REACHABLE: in order.
    Reachable,
    /// NUD_PERMANENT, NUD_NOARP: set by hand, never probed.
    Permanent,
    /// NUD_STALE, NUD_DELAY, NUD_PROBE: not confirmed for a while.
    Unconfirmed,
    /// NUD_NONE, NUD_INCOMPLETE: asked, no answer yet.
    Incomplete,
    /// NUD_FAILED: no answer.
    Failed,
}

/// How a real server is reached, as the kernel's routes say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Reach {
    /// Not looked up yet.
    #[default]
    Unknown,
    /// Directly, on a served interface or on a VLAN of it.
    OnLink {
        /// Position of the interface among the served ones.
        interface: usize,
        /// Index of the link to resolve on: the interface, or the VLAN device on top of it.
        link: u32,
        /// VLAN ids, outermost first; 0: none.
        vlans: [u16; 2],
        /// The address of the director's own that the kernel would send from (RTA_PREFSRC).
        source: Option<IpAddr>,
    },
    /// Not in a way that direct routing can use: why, and what to do.
    Impossible(String),
}

impl Reach {
    /// Whether both are the same, apart from the address that the kernel would send from.
    fn same_place(&self, other: &Reach) -> bool {
        match (self, other) {
            (
                Reach::OnLink { interface, link, vlans, .. },
                Reach::OnLink {
                    interface: other_interface,
                    link: other_link,
                    vlans: other_vlans,
                    ..
                },
            ) => (interface, link, vlans) == (other_interface, other_link, other_vlans),
            _ => self == other,
        }
    }
}

/// What a neighbor's state is called in listings and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NeighborState {
    /// No answer was ever received.
    Unresolved,
    /// Confirmed lately, or set by hand.
    Reachable,
    /// Known, and being confirmed again. Forwards.
    Stale,
    /// No longer answers. No new flows.
    Failed,
    /// Not on the link: direct routing cannot reach it.
    Impossible,
}

impl NeighborState {
    /// All states.
    pub const ALL: [NeighborState; 5] = [
        NeighborState::Unresolved,
        NeighborState::Reachable,
        NeighborState::Stale,
        NeighborState::Failed,
        NeighborState::Impossible,
    ];

    /// The metric's label.
    pub fn name(self) -> &'static str {
        match self {
            NeighborState::Unresolved => "unresolved",
            NeighborState::Reachable => "reachable",
            NeighborState::Stale => "stale",
            NeighborState::Failed => "failed",
            NeighborState::Impossible => "impossible",
        }
    }
}

/// Something to ask the kernel for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Index of the link.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
    /// What for.
    pub kind: AskKind,
}

/// The neighbor entries of all real servers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Neighbors {
    entries: BTreeMap<IpAddr, Entry>,
    /// MAC addresses that the config gives.
    fixed: BTreeMap<IpAddr, Mac>,
    /// MAC addresses of the director's own links: no real server has one.
    own: BTreeSet<Mac>,
    events: Vec<NeighborEvent>,
    said: BTreeMap<IpAddr, Said>,
}

impl Neighbors {
    /// Wants these addresses resolved and forgets all others. Returns the new ones, which still
    /// need [`Neighbors::place`].
    pub fn want(&mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
        let mut former = std::mem::take(&mut self.entries);
        let mut added = Vec::new();
        for address in addresses {
            if self.entries.contains_key(&address) {
                continue;
            }
            let entry = former.remove(&address).unwrap_or_else(|| {
                added.push(address);
                let mut entry = Entry::new(Reach::Unknown);
                entry.fix(self.fixed.get(&address).copied());
                entry
            });
            self.entries.insert(address, entry);
        }
        self.said.retain(|address, _| self.entries.contains_key(address));
        added
    }

    /// The config gives these MAC addresses: they are never asked for, and nothing that is heard
    /// changes them. Returns whether the workers need to know.
    pub fn set_fixed(&mut self, fixed: BTreeMap<IpAddr, Mac>) -> bool {
        let mut changed = false;
        for (address, entry) in &mut self.entries {
            let wanted = fixed.get(address).copied();
            if wanted != self.fixed.get(address).copied() {
                let before = seen_by_workers(entry);
                entry.fix(wanted);
                changed |= before != seen_by_workers(entry);
            }
        }
        self.fixed = fixed;
        changed
    }

    /// These are the MAC addresses of the director's own links: what is sent there comes back.
    /// Returns whether the workers need to know.
    pub fn set_own(&mut self, own: BTreeSet<Mac>, now: Millis) -> bool {
        if own == self.own {
            return false;
        }
        self.own = own;
        for (&address, entry) in &mut self.entries {
            let fixed = self.fixed.get(&address).copied();
            if fixed.is_some() && entry.problem.is_some() {
                entry.fix(fixed);
            }
            let Some(mac) = entry.mac.filter(|mac| self.own.contains(mac)) else { continue };
            let said = self.said.entry(address).or_default();
            entry.refuse(mac, now, &mut Events { address, to: &mut self.events, said });
        }
        true
    }

    /// What happened since this was asked last.
    pub fn take_events(&mut self) -> Vec<NeighborEvent> {
        std::mem::take(&mut self.events)
    }

    /// All addresses that are wanted.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.entries.keys().copied()
    }

    /// The routes now say that `address` is reached like this. Returns whether that is news.
    pub fn place(&mut self, address: IpAddr, reach: Reach) -> bool {
        let Some(entry) = self.entries.get_mut(&address) else { return false };
        if entry.reach.same_place(&reach) {
            entry.reach = reach;
            return false;
        }
        entry.moved(reach);
        true
    }

    /// The kernel says this of an entry. Returns whether the workers need to know.
    pub fn learned(
        &mut self,
        link: u32,
        address: IpAddr,
        state: KernelState,
        mac: Option<[u8; 6]>,
        now: Millis,
    ) -> bool {
        let own = mac.is_some_and(|mac| self.own.contains(&mac));
        self.on_link(link, address, |entry, events| {
            entry.seen_in_dump = true;
            match mac {
                Some(mac) if own => entry.learned_own(state, mac, now, events),
                _ => entry.learned(state, mac.filter(is_one_machines), now, events),
            }
        })
    }

    /// A machine on `link` has said (by ARP, or by neighbor discovery) that it has `address` and
    /// this MAC address. Returns whether the workers need to know.
    ///
    /// The kernel would not always listen: it ignores an ARP request with another MAC address
    /// within a second of its entry's last change (LOCKTIME, arp_process in net/ipv4/arp.c).
    pub fn heard(&mut self, link: u32, address: IpAddr, mac: [u8; 6], now: Millis) -> bool {
        if !is_one_machines(&mac) || self.own.contains(&mac) {
            return false;
        }
        self.on_link(link, address, |entry, events| entry.claimed(mac, now, events))
    }

    /// The kernel dropped an entry from its table, which says nothing about the neighbor: it is
    /// asked for again, and keeps forwarding meanwhile.
    pub fn deleted(&mut self, link: u32, address: IpAddr, now: Millis) {
        self.on_link(link, address, |entry, _| entry.deleted(now));
    }

    /// The link of a served interface is up again: what failed because it was not is asked for at
    /// once.
    pub fn link_up(&mut self, interface: usize, now: Millis) {
        for entry in self.entries.values_mut() {
            if matches!(entry.reach, Reach::OnLink { interface: on, .. } if on == interface) {
                entry.link_up(now);
            }
        }
    }

    /// A dump of the kernel's table begins.
    pub fn begin_dump(&mut self) {
        for entry in self.entries.values_mut() {
            entry.seen_in_dump = false;
        }
    }

    /// The dump is complete: what it did not contain is not in the kernel's table.
    pub fn end_dump(&mut self, now: Millis) {
        for entry in self.entries.values_mut().filter(|entry| !entry.seen_in_dump) {
            entry.missing(now);
        }
    }

    /// What to ask the kernel for now, in this order, and whether the workers need to know
    /// something.
    pub fn due(&mut self, now: Millis) -> (Vec<Ask>, bool) {
        let (mut asks, mut changed) = (Vec::new(), false);
        for (&address, entry) in &mut self.entries {
            let Reach::OnLink { link, .. } = entry.reach else { continue };
            let before = seen_by_workers(entry);
            let said = self.said.entry(address).or_default();
            let mut events = Events { address, to: &mut self.events, said };
            if let Some(mac) = entry.mac.filter(|mac| self.own.contains(mac)) {
                entry.refuse(mac, now, &mut events);
            }
            let kinds = entry.due(now, &mut events);
            asks.extend(kinds.into_iter().map(|kind| Ask { link, address, kind }));
            changed |= before != seen_by_workers(entry);
        }
        (asks, changed)
    }

    /// When something is due again, if nothing happens before.
    pub fn due_at(&self) -> Option<Millis> {
        let asked = |entry: &&Entry| matches!(entry.reach, Reach::OnLink { .. });
        self.entries.values().filter(asked).filter_map(Entry::due_at).min()
    }

    /// Where frames for `address` go on this interface.
    pub fn neighbor(&self, interface: usize, address: IpAddr) -> Option<Neighbor> {
        let entry = self.entries.get(&address)?;
        let (reached_on, neighbor) = entry.forwards_to()?;
        let own = self.own.contains(&neighbor.mac);
        (reached_on == interface && !own).then_some(neighbor)
    }

    /// Whether new flows may be sent to `address` on this interface.
    pub fn takes_new_flows(&self, interface: usize, address: IpAddr) -> bool {
        self.neighbor(interface, address).is_some()
            && self.entries.get(&address).is_some_and(Entry::takes_new_flows)
    }

    /// How an address is reached; nothing if it is not wanted.
    pub fn reach(&self, address: IpAddr) -> Option<&Reach> {
        self.entries.get(&address).map(|entry| &entry.reach)
    }

    /// Whether new flows may be sent to `address` on whichever interface it is reached.
    pub fn takes_flows(&self, address: IpAddr) -> bool {
        let takes = |entry: &Entry| entry.forwards_to().is_some() && entry.takes_new_flows();
        self.entries.get(&address).is_some_and(takes)
    }

    /// The state of an address for listings and metrics.
    pub fn state(&self, address: IpAddr) -> NeighborState {
        self.entries.get(&address).map_or(NeighborState::Unresolved, Entry::state)
    }

    /// The MAC address last known.
    pub fn mac(&self, address: IpAddr) -> Option<[u8; 6]> {
        self.entries.get(&address)?.mac
    }

    /// How often the MAC address of a real server changed from one to another.
    pub fn mac_changes(&self, address: IpAddr) -> u64 {
        self.entries.get(&address).map_or(0, |entry| entry.changes)
    }

    /// The MAC addresses of other machines that said of late that they have this address.
    pub fn claims(&self, address: IpAddr, now: Millis) -> impl Iterator<Item = Mac> {
        let claims = self.said.get(&address).map(|said| neighbor_events::claims(said, now));
        let its = self.mac(address);
        claims.into_iter().flatten().filter(move |&mac| Some(mac) != its)
    }

    /// Why an address gets no flows although it may answer, if so.
    pub fn problem(&self, address: IpAddr) -> Option<&str> {
        self.impossible(address).or_else(|| self.entries.get(&address)?.problem.as_deref())
    }

    /// Why direct routing cannot reach an address, if so.
    pub fn impossible(&self, address: IpAddr) -> Option<&str> {
        match &self.entries.get(&address)?.reach {
            Reach::Impossible(reason) => Some(reason),
            _ => None,
        }
    }

    /// Whether every address is either resolved, failed or impossible to reach.
    pub fn settled(&self) -> bool {
        self.entries.values().all(|entry| entry.state() != NeighborState::Unresolved)
    }

    /// Has something happen to the entry of `address`, if it is reached by `link`. Returns whether
    /// the workers need to know.
    fn on_link(
        &mut self,
        link: u32,
        address: IpAddr,
        happen: impl FnOnce(&mut Entry, &mut Events),
    ) -> bool {
        let Some(entry) = self.entries.get_mut(&address) else { return false };
        if !matches!(entry.reach, Reach::OnLink { link: of, .. } if of == link) {
            return false;
        }
        let before = seen_by_workers(entry);
        let said = self.said.entry(address).or_default();
        happen(entry, &mut Events { address, to: &mut self.events, said });
        before != seen_by_workers(entry)
    }
}

fn seen_by_workers(entry: &Entry) -> (Option<(usize, Neighbor)>, bool) {
    (entry.forwards_to(), entry.takes_new_flows())
}

/// Whether this is the MAC address of one machine: not zero, and no group's (IEEE 802, 8.2.2).
fn is_one_machines(mac: &Mac) -> bool {
    *mac != [0; 6] && mac[0] & 1 == 0
}

#[cfg(test)]
#[path = "neighbors_tests.rs"]
mod tests;
