//! Weighted least connection: the server with the least (active × 256 + inactive connections) /
//! weight, of those that take new flows; the first of several.
//!
//! As the kernel's net/netfilter/ipvs/ip_vs_wlc.c, which compares products instead of quotients. The
//! quotients are in order as long as no server has 2^28 active connections.

#![cfg_attr(target_arch = "wasm32", no_std)]

use shunt_sdk::{Flow, Needs, Placement, Scheduler, Server, Servers};

/// The scheduler `wlc`.
pub struct WeightedLeastConnection;

impl Scheduler for WeightedLeastConnection {
    const NEEDS: Needs = Needs::COST;

    fn new(_: Placement) -> WeightedLeastConnection {
        WeightedLeastConnection
    }

    fn cost(&self, server: &Server) -> f64 {
        server.overhead() as f64 / f64::from(server.weight)
    }

    fn choose(&mut self, servers: Servers<'_>, _: &Flow) -> Option<usize> {
        servers.least_cost()
    }
}

shunt_sdk::export!(WeightedLeastConnection);

#[cfg(test)]
mod tests;
