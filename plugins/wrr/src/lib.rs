//! Weighted round robin: in rounds with a sinking threshold, each server whose weight reaches the
//! threshold gets a flow. The threshold sinks from the greatest weight by the weights' greatest
//! common divisor.
//!
//! As the kernel's net/netfilter/ipvs/ip_vs_wrr.c, except that each worker begins its rounds at a
//! server of its own: rounds that all begin at the same one would send it the first flow of every
//! worker. An instance that replaces another goes on where that one was.

#![cfg_attr(target_arch = "wasm32", no_std)]

use shunt_sdk::{Flow, Placement, Scheduler, Servers};

/// The scheduler `wrr`.
pub struct WeightedRoundRobin {
    worker: usize,
    /// The slot at which rounds begin.
    first: usize,
    /// Steps from there to where the round goes on.
    next: usize,
    /// The weight that a server must have in this round.
    threshold: u32,
    /// The threshold of the first round; 0 when no server takes new flows.
    highest: u32,
    /// By how much the threshold sinks from round to round.
    decrement: u32,
}

impl Scheduler for WeightedRoundRobin {
    const STATE_VERSION: u32 = 1;
    const STATE_BYTES: usize = 8;

    fn new(placement: Placement) -> WeightedRoundRobin {
        WeightedRoundRobin {
            worker: placement.worker,
            first: 0,
            next: 0,
            threshold: 0,
            highest: 0,
            decrement: 1,
        }
    }

    fn servers_changed(&mut self, servers: Servers<'_>) {
        let divisor = servers.iter().fold(0, |divisor, server| gcd(divisor, server.weight));
        let greatest = servers.iter().map(|server| server.weight).max().unwrap_or(0);
        self.decrement = divisor.max(1);
        // So that the last round's threshold is 1.
        self.highest = greatest.saturating_sub(self.decrement - 1);
        self.first = servers.starting_slot(self.worker).unwrap_or(0);
        self.next = 0;
        if self.threshold == 0 || self.threshold > self.highest {
            self.threshold = self.highest;
        } else if self.decrement > 1 {
            self.threshold = self.threshold / self.decrement * self.decrement + 1;
        }
    }

    fn choose(&mut self, servers: Servers<'_>, _: &Flow) -> Option<usize> {
        if self.highest == 0 {
            return None;
        }
        // What is left of this round, and one whole round: no threshold exceeds all weights.
        for _ in 0..2 {
            if let Some(slot) = self.find_in_round(servers) {
                return Some(slot);
            }
            self.next = 0;
            self.threshold = match self.threshold.checked_sub(self.decrement) {
                None | Some(0) => self.highest,
                Some(threshold) => threshold,
            };
        }
        None
    }

    /// The threshold, and the steps to where the round goes on.
    fn save(&self, state: &mut [u8]) -> usize {
        let Some(bytes) = state.first_chunk_mut().filter(|_| self.highest > 0) else { return 0 };
        *bytes = (u64::from(self.threshold) | (self.next as u64) << 32).to_le_bytes();
        bytes.len()
    }

    fn restore(&mut self, _: Servers<'_>, version: u32, state: &[u8]) -> bool {
        let Ok(bytes) = state.try_into() else { return false };
        let saved = u64::from_le_bytes(bytes);
        let (threshold, next) = (saved as u32, (saved >> 32) as usize);
        // The servers may have changed since the other instance looked at them last.
        if version != Self::STATE_VERSION || !(1..=self.highest).contains(&threshold) {
            return false;
        }
        (self.threshold, self.next) = (threshold, next);
        true
    }
}

impl WeightedRoundRobin {
    /// The next slot of this round whose server's weight reaches the threshold.
    fn find_in_round(&mut self, servers: Servers<'_>) -> Option<usize> {
        let slots = servers.len();
        let first = self.first.min(slots);
        if self.next >= slots {
            return None;
        }
        let from = wrap(first + self.next, slots);
        let slot = servers.next_that(from, |server| server.weight >= self.threshold)?;
        let steps = wrap(slot + slots - first, slots);
        // Otherwise it was found beyond the end of the round, among those at its beginning.
        (steps >= self.next).then(|| {
            self.next = steps + 1;
            slot
        })
    }
}

/// A place in a circle of `slots`, from one that may be in the second round. A division would be
/// the dearest part of a call.
fn wrap(place: usize, slots: usize) -> usize {
    if place < slots { place } else { place - slots }
}

/// Greatest common divisor, where 0 is a multiple of everything.
fn gcd(mut one: u32, mut other: u32) -> u32 {
    while other != 0 {
        (one, other) = (other, one % other);
    }
    one
}

shunt_sdk::export!(WeightedRoundRobin);

#[cfg(test)]
mod tests;
