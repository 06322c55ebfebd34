//! Real servers that come and go, in slots, as the director keeps them.

use crate::numbers::Numbers;
use dataplane::Candidate;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an empty slot looks like to a scheduler.
const NOBODY: Candidate = Candidate { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), weight: 0 };

/// The real servers of one virtual service, by slot.
#[derive(Debug, Clone)]
pub(crate) struct ServerSet {
    slots: Vec<Candidate>,
    /// The most slots.
    capacity: usize,
    /// Servers that there ever were: each has an address of its own.
    ever: u32,
    /// Newcomers have IPv6 addresses.
    pub v6: bool,
}

impl ServerSet {
    /// No servers yet.
    pub fn new(capacity: usize) -> ServerSet {
        ServerSet { slots: Vec::new(), capacity, ever: 0, v6: false }
    }

    /// Servers of these weights.
    pub fn of(weights: &[u32]) -> ServerSet {
        let mut set = ServerSet::new(weights.len());
        for &weight in weights {
            set.add(weight);
        }
        set
    }

    /// By slot, as a scheduler is told.
    pub fn slots(&self) -> &[Candidate] {
        &self.slots
    }

    /// Servers, those that are drained included.
    pub fn len(&self) -> usize {
        self.slots.iter().filter(|slot| **slot != NOBODY).count()
    }

    /// Servers that take new flows.
    pub fn available(&self) -> usize {
        self.slots.iter().filter(|slot| slot.weight > 0).count()
    }

    /// Adds a server in the first free slot, and returns that. `None` if there is no room.
    pub fn add(&mut self, weight: u32) -> Option<usize> {
        let free = self.slots.iter().position(|slot| *slot == NOBODY);
        let slot = free.unwrap_or(self.slots.len());
        if slot == self.capacity {
            return None;
        }
        self.ever += 1;
        let address = match self.v6 {
            true => Ipv6Addr::from((0x2001_0db8 << 96) | u128::from(self.ever)).into(),
            false => Ipv4Addr::from(0x0a00_0000 + self.ever).into(),
        };
        let server = Candidate { address, weight };
        match self.slots.get_mut(slot) {
            Some(place) => *place = server,
            None => self.slots.push(server),
        }
        Some(slot)
    }

    /// Removes the server in `slot`. Slots at the end that nobody has are given up.
    pub fn remove(&mut self, slot: usize) {
        if let Some(place) = self.slots.get_mut(slot) {
            *place = NOBODY;
        }
        while self.slots.last() == Some(&NOBODY) {
            self.slots.pop();
        }
    }

    /// Removes all servers.
    pub fn clear(&mut self) {
        self.slots.clear();
    }

    /// Changes a server's weight. An empty slot stays empty.
    pub fn set_weight(&mut self, slot: usize, weight: u32) {
        if let Some(place) = self.slots.get_mut(slot)
            && *place != NOBODY
        {
            place.weight = weight;
        }
    }

    /// Changes all weights.
    pub fn set_weights(&mut self, weight: impl Fn(usize) -> u32) {
        (0..self.slots.len()).for_each(|slot| self.set_weight(slot, weight(slot)));
    }

    /// Adds or removes servers until there are so many, or no more room.
    pub fn resize(&mut self, servers: usize, weight: impl Fn(usize) -> u32) {
        while self.len() > servers {
            self.remove(self.slots.len() - 1);
        }
        while self.len() < servers {
            let Some(slot) = self.add(1) else { break };
            self.set_weight(slot, weight(slot));
        }
    }

    /// Adds, removes, drains or puts back a server, whichever comes up.
    pub fn change(&mut self, numbers: &mut Numbers, servers_max: usize) {
        let slot = numbers.below(self.slots.len().max(1));
        let weight = numbers.below(8) as u32 + 1;
        match numbers.below(4) {
            0 if self.len() < servers_max => {
                self.add(weight);
            }
            0 | 1 => self.remove(slot),
            2 => self.set_weight(slot, 0),
            _ => self.set_weight(slot, weight),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_kept_reused_and_given_up() {
        let mut set = ServerSet::of(&[1, 2, 3]);
        let first = set.slots()[0];
        set.remove(1);
        assert_eq!((set.slots().len(), set.len(), set.available()), (3, 2, 2));
        set.set_weight(1, 5);
        assert_eq!(set.slots()[1], NOBODY, "nobody has no weight");
        assert_eq!(set.add(7), Some(1));
        assert_eq!(set.add(7), None, "no room");
        assert_ne!(set.slots()[1].address, first.address);
        set.remove(1);
        set.remove(2);
        assert_eq!(set.slots(), [first]);
        set.set_weights(|_| 0);
        assert_eq!((set.len(), set.available()), (1, 0));
    }

    #[test]
    fn changes_do_everything_in_the_end() {
        let mut set = ServerSet::new(8);
        let mut numbers = Numbers::new(1);
        let (mut empty, mut full, mut drained) = (0, 0, 0);
        for _ in 0..2000 {
            set.change(&mut numbers, 8);
            empty += usize::from(set.len() == 0);
            full += usize::from(set.len() == 8);
            drained += usize::from(set.available() < set.len());
        }
        assert!(empty > 0 && full > 0 && drained > 100, "{empty} {full} {drained}");
    }
}
