//! Destination hashing: the address that a flow asks for says which of 256 places it looks in, and
//! servers take the places in turn, one at a time, whatever their weights.
//!
//! As the kernel's net/netfilter/ipvs/ip_vs_dh.c since Linux 4.18, made for a service that stands
//! for many destinations, such as a cache in front of them. Behind one VIP there is one destination,
//! so all flows go to one server.
//!
//! What differs: servers take their places in the order of their addresses, not in that in which
//! they were added, so that several directors choose alike; and where the kernel refuses a flow
//! because its server takes none, the plugin declines, and the flow gets the native fallback. A
//! removed server counts as one that drains until its last flow has ended.

#![cfg_attr(target_arch = "wasm32", no_std)]

use ipvs::{PLACES, Places, fold, hash_32};
use shunt_sdk::{Flow, Needs, Placement, Scheduler, Servers};

/// The scheduler `dh`.
pub struct DestinationHashing {
    places: Places,
}

impl Scheduler for DestinationHashing {
    const NEEDS: Needs = Needs::FLOW;

    #[inline]
    fn new(_: Placement) -> DestinationHashing {
        DestinationHashing { places: Places::new() }
    }

    fn servers_changed(&mut self, servers: Servers<'_>) {
        self.places.fill(&servers, |_| 1);
    }

    fn choose(&mut self, servers: Servers<'_>, flow: &Flow) -> Option<usize> {
        let place = hash_32(fold(&flow.destination), PLACES.ilog2());
        let slot = self.places.slot(place)?;
        servers.get(slot)?.takes_new_flows().then_some(slot)
    }
}

shunt_sdk::export!(DestinationHashing);

#[cfg(test)]
mod tests;
