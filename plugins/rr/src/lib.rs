//! Round robin: the servers that take new flows in turn, whatever their weights.
//!
//! As the kernel's net/netfilter/ipvs/ip_vs_rr.c, except that each worker begins at a server of
//! its own: rounds that all begin at the same one would send it the first flow of every worker.
//! An instance that replaces another goes on where that one was.

#![cfg_attr(target_arch = "wasm32", no_std)]

use shunt_sdk::{Flow, Placement, Scheduler, Servers};

/// The scheduler `rr`.
pub struct RoundRobin {
    worker: usize,
    /// The slot that was chosen last.
    last: Option<usize>,
}

impl Scheduler for RoundRobin {
    const STATE_VERSION: u32 = 1;
    const STATE_BYTES: usize = 4;

    fn new(placement: Placement) -> RoundRobin {
        RoundRobin { worker: placement.worker, last: None }
    }

    fn choose(&mut self, servers: Servers<'_>, _: &Flow) -> Option<usize> {
        let from = match self.last {
            Some(last) => last.wrapping_add(1),
            None => servers.starting_slot(self.worker)?,
        };
        let chosen = servers.next_available(from)?;
        self.last = Some(chosen);
        Some(chosen)
    }

    /// The slot that was chosen last.
    fn save(&self, state: &mut [u8]) -> usize {
        let (Some(last), Some(bytes)) = (self.last, state.first_chunk_mut()) else { return 0 };
        *bytes = (last as u32).to_le_bytes();
        bytes.len()
    }

    fn restore(&mut self, _: Servers<'_>, version: u32, state: &[u8]) -> bool {
        let Ok(bytes) = state.try_into() else { return false };
        if version != Self::STATE_VERSION {
            return false;
        }
        self.last = Some(u32::from_le_bytes(bytes) as usize);
        true
    }
}

shunt_sdk::export!(RoundRobin);

#[cfg(test)]
mod tests;
