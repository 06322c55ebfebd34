//! Neighbors: which MAC address a real server has, and whether it still answers.
//!
//! Pure: it hears what the kernel's table says and tells what to ask the kernel for, both with
//! the time as a parameter. [`crate::netlink`] carries the messages.
//!
//! AF_XDP traffic confirms nothing to the kernel, so every entry would go stale under full load:
//! this asks for a probe every [`REFRESH`], and the entry keeps forwarding meanwhile. The kernel
//! gives up after three unanswered probes, a second apart (neigh_probe in net/core/neighbour.c).

use dataplane::{Millis, Neighbor};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Time between two probes of an entry that is in order.
pub const REFRESH: Millis = 5_000;
/// Rest after the kernel failed to find an address, before it is asked again; doubles each time.
const RETRY_FIRST: Millis = 1_000;
/// The longest such rest.
const RETRY_LAST: Millis = 4_000;
/// Time that the kernel gets to find an address: a little more than its three probes take.
const PATIENCE: Millis = 4_000;

/// State of a neighbor entry, as the kernel has it (NUD_* of include/uapi/linux/neighbour.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelState {
    /// NUD_REACHABLE, NUD_NOARP: in order.
    Reachable,
    /// NUD_PERMANENT: set by hand, never probed.
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
    /// Whether there is an entry to confirm, or none that is any good.
    pub kind: AskKind,
}

/// What to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AskKind {
    /// Find the address out.
    Resolve,
    /// Confirm the address that is known.
    Probe,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    reach: Reach,
    kernel: KernelState,
    /// The last MAC address known: established flows go there even while the entry is failed.
    mac: Option<[u8; 6]>,
    /// Failed, and no answer since: while the kernel tries again, it says INCOMPLETE.
    failed: bool,
    ask_at: Millis,
    /// The rest before the next retry; 0 while all is well.
    retry: Millis,
    seen_in_dump: bool,
}

/// The neighbor entries of all real servers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Neighbors {
    entries: BTreeMap<IpAddr, Entry>,
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
                Entry::new(Reach::Unknown)
            });
            self.entries.insert(address, entry);
        }
        added
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
        // What was learned on another link says nothing about this one.
        *entry = Entry::new(reach);
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
        let Some(entry) = self.on_link(link, address) else { return false };
        let before = (entry.forwards_to(), entry.takes_new_flows());
        entry.seen_in_dump = true;
        entry.kernel = state;
        match state {
            KernelState::Incomplete => {}
            KernelState::Failed => {
                entry.failed = true;
                // A known address was probed by unicast. A machine that was replaced hears only
                // a broadcast, so the first retry follows at once.
                entry.ask_at = now + entry.retry;
            }
            KernelState::Reachable | KernelState::Permanent | KernelState::Unconfirmed => {
                if let Some(mac) = mac.filter(|mac| *mac != [0; 6]) {
                    entry.mac = Some(mac);
                    entry.failed = false;
                    entry.retry = 0;
                    if state == KernelState::Reachable {
                        entry.ask_at = now + REFRESH;
                    }
                }
            }
        }
        before != (entry.forwards_to(), entry.takes_new_flows())
    }

    /// A machine on `link` has said (by ARP, or by neighbor discovery) that it has `address` and
    /// this MAC address. Returns whether the workers need to know.
    ///
    /// The kernel would not always listen: it ignores an ARP request with another MAC address
    /// within a second of its entry's last change (LOCKTIME, arp_process in net/ipv4/arp.c).
    pub fn heard(&mut self, link: u32, address: IpAddr, mac: [u8; 6], now: Millis) -> bool {
        let Some(entry) = self.on_link(link, address) else { return false };
        if entry.kernel == KernelState::Permanent || entry.mac == Some(mac) {
            return false;
        }
        entry.mac = Some(mac);
        entry.failed = false;
        entry.ask_at = now;
        true
    }

    /// The kernel dropped an entry from its table, which says nothing about the neighbor: it is
    /// asked for again, and keeps forwarding meanwhile.
    pub fn deleted(&mut self, link: u32, address: IpAddr, now: Millis) {
        if let Some(entry) = self.on_link(link, address) {
            entry.kernel = KernelState::Incomplete;
            entry.ask_at = entry.ask_at.min(now);
        }
    }

    /// The link of a served interface is up again: what failed because it was not is asked for at
    /// once.
    pub fn link_up(&mut self, interface: usize, now: Millis) {
        for entry in self.entries.values_mut().filter(|entry| entry.failed) {
            if matches!(entry.reach, Reach::OnLink { interface: on, .. } if on == interface) {
                entry.retry = 0;
                entry.ask_at = entry.ask_at.min(now);
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
            entry.kernel = KernelState::Incomplete;
            entry.ask_at = entry.ask_at.min(now);
        }
    }

    /// What to ask the kernel for now.
    pub fn due(&mut self, now: Millis) -> Vec<Ask> {
        let mut asks = Vec::new();
        for (&address, entry) in &mut self.entries {
            let Reach::OnLink { link, .. } = entry.reach else { continue };
            if entry.ask_at > now || entry.kernel == KernelState::Permanent {
                continue;
            }
            let kind = match entry.kernel {
                KernelState::Reachable | KernelState::Unconfirmed => {
                    entry.ask_at = now + REFRESH;
                    AskKind::Probe
                }
                _ => {
                    entry.retry = (entry.retry * 2).clamp(RETRY_FIRST, RETRY_LAST);
                    entry.ask_at = now + PATIENCE;
                    AskKind::Resolve
                }
            };
            asks.push(Ask { link, address, kind });
        }
        asks
    }

    /// Where frames for `address` go on this interface.
    pub fn neighbor(&self, interface: usize, address: IpAddr) -> Option<Neighbor> {
        let entry = self.entries.get(&address)?;
        let (reached_on, neighbor) = entry.forwards_to()?;
        (reached_on == interface).then_some(neighbor)
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

    /// The state of an address for listings and metrics.
    pub fn state(&self, address: IpAddr) -> NeighborState {
        self.entries.get(&address).map_or(NeighborState::Unresolved, Entry::state)
    }

    /// The MAC address last known.
    pub fn mac(&self, address: IpAddr) -> Option<[u8; 6]> {
        self.entries.get(&address)?.mac
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

    fn on_link(&mut self, link: u32, address: IpAddr) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(&address)?;
        matches!(entry.reach, Reach::OnLink { link: of, .. } if of == link).then_some(entry)
    }
}

impl Entry {
    fn new(reach: Reach) -> Entry {
        Entry {
            reach,
            kernel: KernelState::Incomplete,
            mac: None,
            failed: false,
            ask_at: 0,
            retry: 0,
            seen_in_dump: false,
        }
    }

    fn forwards_to(&self) -> Option<(usize, Neighbor)> {
        match self.reach {
            Reach::OnLink { interface, vlans, .. } => {
                Some((interface, Neighbor { mac: self.mac?, vlans }))
            }
            _ => None,
        }
    }

    fn takes_new_flows(&self) -> bool {
        self.mac.is_some() && !self.failed
    }

    fn state(&self) -> NeighborState {
        match (&self.reach, self.failed, self.mac, self.kernel) {
            (Reach::Impossible(_), ..) => NeighborState::Impossible,
            (_, true, ..) => NeighborState::Failed,
            (_, _, None, _) => NeighborState::Unresolved,
            (_, _, _, KernelState::Reachable | KernelState::Permanent) => NeighborState::Reachable,
            _ => NeighborState::Stale,
        }
    }
}

#[cfg(test)]
#[path = "neighbors_tests.rs"]
mod tests;
