//! Never queue: the first server without active connections, of those that take new flows; when
//! there is none, the one with the least (active connections + 1) / weight, as `sed`.
//!
//! As the kernel's net/netfilter/ipvs/ip_vs_nq.c, except that the comparison does not overflow: the
//! kernel's products have 32 bits.

#![cfg_attr(target_arch = "wasm32", no_std)]

use shunt_sdk::{Flow, Needs, Placement, Scheduler, Server, Servers};

/// The scheduler `nq`.
pub struct NeverQueue;

impl Scheduler for NeverQueue {
    const NEEDS: Needs = Needs::COST;

    fn new(_: Placement) -> NeverQueue {
        NeverQueue
    }

    fn cost(&self, server: &Server) -> f64 {
        if server.active == 0 {
            // Whatever its weight, less than any that works.
            return 0.0;
        }
        (f64::from(server.active) + 1.0) / f64::from(server.weight)
    }

    fn choose(&mut self, servers: Servers<'_>, _: &Flow) -> Option<usize> {
        servers.least_cost()
    }
}

shunt_sdk::export!(NeverQueue);

#[cfg(test)]
mod tests;
