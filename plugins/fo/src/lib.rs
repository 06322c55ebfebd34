//! Weighted failover: all flows go to the server with the greatest weight; the first of several.
//! The others wait until it is drained or gone.
//!
//! As the kernel's net/netfilter/ipvs/ip_vs_fo.c.

#![cfg_attr(target_arch = "wasm32", no_std)]

use shunt_sdk::{Flow, Placement, Scheduler, Servers};

/// The scheduler `fo`.
pub struct Failover {
    /// The slot with the greatest weight.
    greatest: Option<usize>,
}

impl Scheduler for Failover {
    fn new(_: Placement) -> Failover {
        Failover { greatest: None }
    }

    fn servers_changed(&mut self, servers: Servers<'_>) {
        let mut greatest = 0;
        self.greatest = None;
        for (slot, server) in servers.iter().enumerate() {
            if server.weight > greatest {
                (self.greatest, greatest) = (Some(slot), server.weight);
            }
        }
    }

    fn choose(&mut self, _: Servers<'_>, _: &Flow) -> Option<usize> {
        self.greatest
    }
}

shunt_sdk::export!(Failover);

#[cfg(test)]
mod tests;
