//! Power of two choices: two servers are drawn, each as probably as its weight says, and the one
//! with the lesser (active × 256 + inactive connections) / weight is chosen; the first that was
//! drawn if they are equal. Both draws may give the same.
//!
//! As the kernel's net/netfilter/ipvs/ip_vs_twos.c, with its rounding: numbers are drawn from 0 to
//! the sum of the weights, both included, so that the first server is drawn as if its weight were
//! greater by one. The comparison does not overflow: the kernel's products have 32 bits. Workers
//! draw from generators of their own.

#![cfg_attr(target_arch = "wasm32", no_std)]

use shunt_sdk::{Flow, Needs, Placement, Scheduler, Server, Servers};

/// The most slots of a table.
const SLOTS_MAX: usize = 1024;

/// The scheduler `twos`.
pub struct PowerOfTwos {
    /// By slot, the sum of the weights up to it. So the first one that reaches a number is found by
    /// halving.
    sums: [u32; SLOTS_MAX],
}

impl Scheduler for PowerOfTwos {
    const NEEDS: Needs = Needs::LOAD;

    fn new(_: Placement) -> PowerOfTwos {
        PowerOfTwos { sums: [0; SLOTS_MAX] }
    }

    fn servers_changed(&mut self, servers: Servers<'_>) {
        let mut sum = 0;
        for (entry, server) in self.sums.iter_mut().zip(servers.iter()) {
            // At most 1024 × 65535.
            sum += server.weight;
            *entry = sum;
        }
    }

    fn choose(&mut self, servers: Servers<'_>, _: &Flow) -> Option<usize> {
        let sums = self.sums.get(..servers.len())?;
        let total = *sums.last()?;
        if total == 0 {
            return None;
        }
        let drawn = shunt_sdk::random();
        let [first, second] = [drawn as u32, (drawn >> 32) as u32].map(|number| {
            // 0 would find a server of weight 0 in front of the first that has one.
            let number = (number % (total + 1)).max(1);
            sums.partition_point(|&sum| sum < number)
        });
        let is_less = costs_less(servers.get(second)?, servers.get(first)?);
        Some(if is_less { second } else { first })
    }
}

/// Whether `one` has fewer connections for its weight than `other`.
fn costs_less(one: &Server, other: &Server) -> bool {
    // Crosswise, which needs no division. Less than 2^57.
    one.overhead() * u64::from(other.weight) < other.overhead() * u64::from(one.weight)
}

shunt_sdk::export!(PowerOfTwos);

#[cfg(test)]
mod tests;
