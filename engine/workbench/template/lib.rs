//! A scheduler plugin: of two servers that the client's address names, the less loaded one.
//!
//! A client comes back to one of the same two servers, whichever worker sees it, as long as the
//! servers stay the same; and a server that is busier than others gets fewer new flows.

// The plugin needs no standard library. The tests, which run natively, have it.
#![cfg_attr(target_arch = "wasm32", no_std)]

use shunt_sdk::{Flow, Needs, Placement, Scheduler, Server, Servers};

/// What one instance remembers from flow to flow: here nothing. There is one instance for each
/// virtual service on each worker, and they share nothing.
pub struct TwoOfAClient;

impl Scheduler for TwoOfAClient {
    // What the host keeps current for us. It costs time with each new flow, so ask for what you
    // read only: `Needs::NOTHING` leaves the servers' addresses and weights.
    const NEEDS: Needs = Needs::LOAD.and(Needs::FLOW);

    // Runs once. `placement` says which worker this is, of how many, and has a seed for random
    // choices. Memory does not grow later, so whoever allocates does it here.
    fn new(_: Placement) -> TwoOfAClient {
        TwoOfAClient
    }

    // Runs for each new flow, on the worker, while packets wait. `servers` is a slice by slot: a
    // server keeps its slot as long as it exists, and weight 0 means that it takes no new flows
    // (drained, removed, or an empty slot). Answer the slot, or `None` when no server will do.
    fn choose(&mut self, servers: Servers<'_>, flow: &Flow) -> Option<usize> {
        let hash = hash(&flow.source);
        let (low, high) = (hash as u32 as usize, (hash >> 32) as usize);
        // `checked_rem` is `None` when there is no server at all.
        let first = servers.next_available(low.checked_rem(servers.len())?)?;
        let second = servers.next_available(high.checked_rem(servers.len())?)?;
        // `get` rather than an index: without code that can panic the plugin is a third as large.
        let less = is_less_loaded(servers.get(second)?, servers.get(first)?);
        Some(if less { second } else { first })
    }
}

/// Whether `one` has fewer connections for its weight than `other`.
fn is_less_loaded(one: &Server, other: &Server) -> bool {
    // Crosswise, which is the same as comparing quotients and needs no division.
    connections(one) * u64::from(other.weight) < connections(other) * u64::from(one.weight)
}

/// An active connection weighs as much as 256 others, as in the kernel's IPVS.
fn connections(server: &Server) -> u64 {
    u64::from(server.active) * 256 + u64::from(server.inactive)
}

/// Spreads addresses that differ little over all numbers (the finalizer of SplitMix64).
fn hash(address: &[u8; 16]) -> u64 {
    let bits = u128::from_be_bytes(*address);
    let mut hash = (bits as u64 ^ (bits >> 64) as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

// Makes the crate a plugin. One that uses the standard library says `export!(TwoOfAClient, std)`
// and drops the `no_std` line above.
shunt_sdk::export!(TwoOfAClient);

#[cfg(test)]
mod tests;
