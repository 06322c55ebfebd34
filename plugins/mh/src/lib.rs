//! Maglev hashing: servers take the places of a table in turn, each in an order of its own, until
//! all are taken; the hash of a client's address says in which place its flows look. All servers
//! get their share to a place, and when one comes or goes, few flows of the others move.
//!
//! As the kernel's net/netfilter/ipvs/ip_vs_mh.c and section 3.4 of Eisenbud et al., "Maglev: A
//! Fast and Reliable Software Network Load Balancer", NSDI 2016. Like in the kernel, a server whose
//! weight becomes 0 keeps the places of its last weight: nobody else's flows move, neither then nor
//! when it is back, and nothing is computed. Only when its slot is given up (removed, and its last
//! flow has ended) does the table change.
//!
//! Parameters, as the kernel's flags: `mh-port` (the client's port counts, too) and `mh-fallback`
//! (a flow whose server takes none looks elsewhere), each `true` or `false`, which is the default.
//! `mh-table` is the number of places, which the kernel fixes when it is built: 251, 509, 1021,
//! 2039 or 4093, the default. The paper asks for a hundred times the number of servers.
//!
//! What differs from the kernel:
//! - The hashes, so the tables. But nothing in them depends on the director, the worker, the slots
//!   or the order in which servers were added: all directors that know the same servers, and have
//!   seen the same last weights, choose alike. One that starts while a server drains has not seen
//!   its weight, and gives it no place until it is back.
//! - All 16 bytes of an IPv6 address count; the kernel folds them to four first.
//! - Weights are followed exactly. The kernel divides them by their common divisor, shifts the
//!   greatest down to six bits, and lets each server take so many places at a time: of a hundred
//!   servers of weight 50 and one of 51 the first 82 fill the table, and the others get no flow.
//!   Here each server has one place, and its weight's part of the others.
//! - Where the kernel refuses a flow because its server takes none, the plugin declines, and the
//!   flow gets the native fallback. With `mh-fallback`, 256 further hashes are tried, and then one
//!   place after the other; the kernel tries as many hashes as there are places, which would not
//!   be within the fuel.
//! - With more servers than places, some get none. The kernel refuses such a service.
//! - The kernel's greater tables are left out: with 1024 servers, the next one cannot be built
//!   within the fuel of an update. This one takes up to two thirds of it: the last 64 places are
//!   computed, where the kernel goes on searching.

#![cfg_attr(target_arch = "wasm32", no_std)]

mod hash;
mod lookup;

use lookup::{Lookup, SIZES};
use shunt_sdk::{Flow, Needs, ParamError, Params, Placement, Scheduler, Servers};

/// Further hashes of a flow that are tried before its place's neighbors are.
const TRIES: u64 = 256;

/// The scheduler `mh`.
pub struct Maglev {
    lookup: Lookup,
    port: bool,
    fallback: bool,
}

impl Scheduler for Maglev {
    const NEEDS: Needs = Needs::FLOW;
    const PARAMS: bool = true;

    #[inline]
    fn new(_: Placement) -> Maglev {
        Maglev { lookup: Lookup::new(), port: false, fallback: false }
    }

    fn configure(&mut self, params: Params<'_>) -> Result<(), ParamError> {
        params.only(&["mh-fallback", "mh-port", "mh-table"])?;
        self.fallback = params.flag("mh-fallback")?;
        self.port = params.flag("mh-port")?;
        if let Some(places) = params.number("mh-table")? {
            let Some(&size) = SIZES.iter().find(|&&size| size as u64 == places) else {
                let given = params.get("mh-table").unwrap_or_default();
                let takes = "takes 251, 509, 1021, 2039 or 4093";
                return Err(ParamError::value("mh-table", takes, given));
            };
            self.lookup.resize(size);
        }
        Ok(())
    }

    fn servers_changed(&mut self, servers: Servers<'_>) {
        self.lookup.servers_changed(servers.iter().map(|server| (&server.address, server.weight)));
    }

    #[inline]
    fn choose(&mut self, servers: Servers<'_>, flow: &Flow) -> Option<usize> {
        let hash = hash::flow_hash(&flow.source, if self.port { flow.source_port } else { 0 });
        let slot = self.lookup.slot(hash::below(hash, self.lookup.size()))?;
        match servers.get(slot)?.takes_new_flows() {
            true => Some(slot),
            false if self.fallback => self.fall_back(servers, hash),
            false => None,
        }
    }
}

impl Maglev {
    /// Another slot for a flow whose own takes no new flows.
    #[cold]
    fn fall_back(&self, servers: Servers<'_>, hash: u64) -> Option<usize> {
        let size = self.lookup.size();
        let available = |place| {
            let slot = self.lookup.slot(place)?;
            servers.get(slot)?.takes_new_flows().then_some(slot)
        };
        let further = |number| available(hash::below(hash::next(hash, number), size));
        (1..=TRIES).find_map(further).or_else(|| {
            // Nearly all are unavailable.
            let place = hash::below(hash, size);
            (place..size).chain(0..place).find_map(available)
        })
    }
}

shunt_sdk::export!(Maglev);

#[cfg(test)]
mod tests;
