//! Least connection: the server with the least active × 256 + inactive connections, of those that
//! take new flows; the first of several. Weights make no other difference.
//!
//! As the kernel's net/netfilter/ipvs/ip_vs_lc.c.

#![cfg_attr(target_arch = "wasm32", no_std)]

use shunt_sdk::{Flow, Needs, Placement, Scheduler, Servers};

/// The scheduler `lc`.
pub struct LeastConnection;

impl Scheduler for LeastConnection {
    const NEEDS: Needs = Needs::LOAD;

    fn new(_: Placement) -> LeastConnection {
        LeastConnection
    }

    fn choose(&mut self, servers: Servers<'_>, _: &Flow) -> Option<usize> {
        servers.least_connections()
    }
}

shunt_sdk::export!(LeastConnection);

#[cfg(test)]
mod tests;
