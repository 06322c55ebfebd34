//! Round robin: the servers that take new flows in turn, whatever their weights.
//!
//! As the kernel's net/netfilter/ipvs/ip_vs_rr.c, except that each worker begins at a server of
//! its own: rounds that all begin at the same one would send it the first flow of every worker.

#![cfg_attr(target_arch = "wasm32", no_std)]

use shunt_sdk::{Flow, Placement, Scheduler, Servers};

/// The scheduler `rr`.
pub struct RoundRobin {
    worker: usize,
    /// The slot that was chosen last.
    last: Option<usize>,
}

impl Scheduler for RoundRobin {
    fn new(placement: Placement) -> RoundRobin {
        RoundRobin { worker: placement.worker, last: None }
    }

    fn choose(&mut self, servers: Servers<'_>, _: &Flow) -> Option<usize> {
        let from = match self.last {
            Some(last) => last + 1,
            None => servers.starting_slot(self.worker)?,
        };
        let chosen = servers.next_available(from)?;
        self.last = Some(chosen);
        Some(chosen)
    }
}

shunt_sdk::export!(RoundRobin);

#[cfg(test)]
mod tests;
