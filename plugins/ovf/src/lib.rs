//! Overflow: all flows go to the server with the greatest weight until it has more active
//! connections than that, then to the next; the first of several with the same weight.
//!
//! As the kernel's net/netfilter/ipvs/ip_vs_ovf.c, except for a flow that comes when every server
//! has overflown: the kernel drops its packet, and here it gets the native fallback. A server takes
//! one flow more than its weight, in the kernel, too.

#![cfg_attr(target_arch = "wasm32", no_std)]

use shunt_sdk::{Flow, Needs, Placement, Scheduler, Server, Servers};

/// The scheduler `ovf`.
pub struct Overflow;

impl Scheduler for Overflow {
    const NEEDS: Needs = Needs::COST;

    fn new(_: Placement) -> Overflow {
        Overflow
    }

    fn cost(&self, server: &Server) -> f64 {
        let has_overflown = server.active > server.weight;
        if has_overflown { f64::INFINITY } else { -f64::from(server.weight) }
    }

    fn choose(&mut self, servers: Servers<'_>, _: &Flow) -> Option<usize> {
        servers.least_cost()
    }
}

shunt_sdk::export!(Overflow);

#[cfg(test)]
mod tests;
