//! Sets of servers, in lists that share one memory.

use ipvs::load;
use shunt_sdk::Server;

/// Members there is room for, in all sets.
pub const MEMBERS_MAX: usize = 256;
/// Members of one set: what can be looked at within the fuel of a call.
pub const SET_MAX: u32 = 64;

/// A set of slots; the newest comes first. Without padding, as `ipvs::Recent` wants its values.
#[derive(Debug, Clone, Copy, Default)]
pub struct Set {
    /// When somebody joined or left.
    modified: u64,
    /// Its first member, counted from 1; 0: none.
    first: u32,
    len: u32,
}

/// The members of all sets.
pub struct Sets {
    slots: [u16; MEMBERS_MAX],
    /// By member: the next one of its set, or of those given back, counted from 1; 0: none.
    nexts: [u16; MEMBERS_MAX],
    /// The first member that was given back, counted from 1; 0: none.
    given_back: u16,
    /// Members that were ever used: those from here on are free, too.
    used: u16,
}

impl Set {
    /// Members.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// When somebody joined or left.
    pub fn modified(&self) -> u64 {
        self.modified
    }
}

impl Sets {
    /// No members.
    #[inline]
    pub const fn new() -> Sets {
        Sets { slots: [0; MEMBERS_MAX], nexts: [0; MEMBERS_MAX], given_back: 0, used: 0 }
    }

    /// Members of all sets.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        let mut free = 0;
        let mut next = self.given_back;
        while next != 0 {
            free += 1;
            next = self.nexts[usize::from(next - 1)];
        }
        usize::from(self.used) - free
    }

    /// Has a server join a set, unless it is a member, or there is no room.
    pub fn insert(&mut self, set: &mut Set, slot: usize, now: u64) {
        if set.len == SET_MAX || self.members(set).any(|member| member == slot) {
            return;
        }
        let place = if self.given_back != 0 {
            let place = self.given_back;
            self.given_back = self.nexts[usize::from(place - 1)];
            place
        } else if usize::from(self.used) < MEMBERS_MAX {
            self.used += 1;
            self.used
        } else {
            return;
        };
        let at = usize::from(place - 1);
        self.slots[at] = slot as u16;
        self.nexts[at] = set.first as u16;
        set.first = u32::from(place);
        set.len += 1;
        set.modified = now;
    }

    /// Has a server leave a set.
    pub fn remove(&mut self, set: &mut Set, slot: usize, now: u64) {
        self.remove_all(set, |member| member == slot);
        set.modified = now;
    }

    /// Has all servers leave that `leaves` names, which changes nothing about when the set was
    /// modified.
    pub fn remove_all(&mut self, set: &mut Set, leaves: impl Fn(usize) -> bool) {
        let mut stays: Option<usize> = None;
        let mut next = set.first as u16;
        while next != 0 {
            let at = usize::from(next - 1);
            let after = self.nexts[at];
            if leaves(usize::from(self.slots[at])) {
                match stays {
                    None => set.first = u32::from(after),
                    Some(stays) => self.nexts[stays] = after,
                }
                self.nexts[at] = self.given_back;
                self.given_back = next;
                set.len -= 1;
            } else {
                stays = Some(at);
            }
            next = after;
        }
    }

    /// The member with the least load of those that take new flows, the first of several.
    pub fn least_loaded(&self, set: &Set, servers: &[Server]) -> Option<usize> {
        self.first_by(set, servers, |load, least| load < least)
    }

    /// The member with the most load of those that take new flows, the first of several.
    pub fn most_loaded(&self, set: &Set, servers: &[Server]) -> Option<usize> {
        self.first_by(set, servers, |load, most| load > most)
    }

    fn first_by(
        &self,
        set: &Set,
        servers: &[Server],
        is_better: impl Fn(f64, f64) -> bool,
    ) -> Option<usize> {
        let mut best: Option<(usize, f64)> = None;
        for slot in self.members(set) {
            let Some(server) = servers.get(slot).filter(|server| server.takes_new_flows()) else {
                continue;
            };
            let load = load(server);
            if best.is_none_or(|(_, best)| is_better(load, best)) {
                best = Some((slot, load));
            }
        }
        best.map(|(slot, _)| slot)
    }

    fn members(&self, set: &Set) -> impl Iterator<Item = usize> {
        let mut next = set.first as u16;
        core::iter::from_fn(move || {
            let at = usize::from(next.checked_sub(1)?);
            next = self.nexts[at];
            Some(usize::from(self.slots[at]))
        })
    }
}
