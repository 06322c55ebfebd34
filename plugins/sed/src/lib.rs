//! Shortest expected delay: the server with the least (active connections + 1) / weight, of those
//! that take new flows; the first of several. Inactive connections make no difference.
//!
//! As the kernel's net/netfilter/ipvs/ip_vs_sed.c, except that the comparison does not overflow: the
//! kernel's products have 32 bits.

#![cfg_attr(target_arch = "wasm32", no_std)]

use shunt_sdk::{Flow, Needs, Placement, Scheduler, Server, Servers};

/// The scheduler `sed`.
pub struct ShortestExpectedDelay;

impl Scheduler for ShortestExpectedDelay {
    const NEEDS: Needs = Needs::COST;

    fn new(_: Placement) -> ShortestExpectedDelay {
        ShortestExpectedDelay
    }

    fn cost(&self, server: &Server) -> f64 {
        (f64::from(server.active) + 1.0) / f64::from(server.weight)
    }

    fn choose(&mut self, servers: Servers<'_>, _: &Flow) -> Option<usize> {
        servers.least_cost()
    }
}

shunt_sdk::export!(ShortestExpectedDelay);

#[cfg(test)]
mod tests;
