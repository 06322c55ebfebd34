//! Source hashing: a client's address says which of 256 places its flows look in, and servers take
//! the places in turn, each as many at a time as its weight.
//!
//! As the kernel's net/netfilter/ipvs/ip_vs_sh.c since Linux 4.18. Like there, a weight is a number
//! of places, whatever the other weights are: two servers of weight 256 do not share, the first
//! takes all. A server that drains keeps one place at a time.
//!
//! Parameters: `sh-port` (the client's port counts, too) and `sh-fallback` (a flow whose server
//! takes none goes on to the next place), each `true` or `false`, which is the default.
//!
//! What differs: servers take their places in the order of their addresses, not in that in which
//! they were added, so that several directors choose alike; and where the kernel refuses a flow
//! because its server takes none, the plugin declines, and the flow gets the native fallback. A
//! removed server counts as one that drains until its last flow has ended.

#![cfg_attr(target_arch = "wasm32", no_std)]

use ipvs::{PLACES, Places, fold, hash_32};
use shunt_sdk::{Flow, Needs, ParamError, Params, Placement, Scheduler, Servers};

/// The scheduler `sh`.
pub struct SourceHashing {
    places: Places,
    port: bool,
    fallback: bool,
}

impl Scheduler for SourceHashing {
    const NEEDS: Needs = Needs::FLOW;
    const PARAMS: bool = true;

    #[inline]
    fn new(_: Placement) -> SourceHashing {
        SourceHashing { places: Places::new(), port: false, fallback: false }
    }

    fn configure(&mut self, params: Params<'_>) -> Result<(), ParamError> {
        params.only(&["sh-fallback", "sh-port"])?;
        self.fallback = params.flag("sh-fallback")?;
        self.port = params.flag("sh-port")?;
        Ok(())
    }

    fn servers_changed(&mut self, servers: Servers<'_>) {
        self.places.fill(&servers, |server| server.weight);
    }

    fn choose(&mut self, servers: Servers<'_>, flow: &Flow) -> Option<usize> {
        let available = |place| {
            let slot = self.places.slot(place)?;
            servers.get(slot)?.takes_new_flows().then_some(slot)
        };
        let port = if self.port { u32::from(flow.source_port) } else { 0 };
        let place = hash_32(fold(&flow.source).wrapping_add(port), PLACES.ilog2());
        match available(place) {
            // The kernel adds where the search begins to the hash once more.
            None if self.fallback => (2 * place..).take(PLACES).find_map(available),
            found => found,
        }
    }
}

shunt_sdk::export!(SourceHashing);

#[cfg(test)]
mod tests;
