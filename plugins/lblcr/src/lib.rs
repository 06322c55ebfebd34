//! Locality-based least connection with replication: flows for one destination go to a set of
//! servers, to the one of them with the least connections over its weight. When that one is
//! overloaded (more active connections than its weight, while another server has fewer than half of
//! its own), the least loaded of all servers joins the set and gets the flow. When a set was not
//! changed for long, its most loaded server leaves.
//!
//! As the kernel's net/netfilter/ipvs/ip_vs_lblcr.c, made for a service that stands for many
//! destinations, such as a cache in front of them. Behind one VIP there is one destination, so one
//! set.
//!
//! Parameter: `lblcr-expiration`, after how many seconds a destination that nobody asks for is
//! forgotten, and a set that was not changed loses a server; 86400 by default, as the kernel's
//! sysctl net.ipv4.vs.lblcr_expiration.
//!
//! What differs: the table has 2 rows, not 1024, so that destinations are forgotten early when
//! they are more than 32 (the kernel: 16,384). It never grows: with 48, further ones are not
//! remembered, and nobody joins a set of 64 or, with 256 members in all sets, any, as in the kernel
//! when it has no memory: a flow then goes to the least loaded server all the same. The check once
//! a minute is made with the first flow after it is due. A server whose slot is given up leaves all
//! sets at once; in the kernel it stays a member that gets no flows. Where the kernel refuses a flow
//! because no server takes one, the plugin declines, which gets it the native fallback.

#![cfg_attr(target_arch = "wasm32", no_std)]

mod sets;

use core::num::NonZeroU64;
use ipvs::{EXPIRATION, Members, Recent, is_overloaded, load};
use sets::{Set, Sets};
use shunt_sdk::{Flow, Needs, ParamError, Params, Placement, Scheduler, Server, Servers, now_ms};

/// The scheduler `lblcr`.
pub struct ReplicatedLeastConnection {
    /// By destination: its set.
    recent: Recent<Set>,
    sets: Sets,
    members: Members,
    /// In milliseconds, unless it is the default.
    expiration: Option<NonZeroU64>,
}

impl Scheduler for ReplicatedLeastConnection {
    const NEEDS: Needs = Needs::COST.and(Needs::FLOW);
    const PARAMS: bool = true;

    #[inline]
    fn new(_: Placement) -> ReplicatedLeastConnection {
        ReplicatedLeastConnection {
            recent: Recent::new(),
            sets: Sets::new(),
            members: Members::new(),
            expiration: None,
        }
    }

    fn configure(&mut self, params: Params<'_>) -> Result<(), ParamError> {
        params.only(&["lblcr-expiration"])?;
        self.expiration = ipvs::expiration(params, "lblcr-expiration")?;
        Ok(())
    }

    fn servers_changed(&mut self, servers: Servers<'_>) {
        if let Some(gone) = self.members.changed(&servers) {
            self.recent.for_each(|set| self.sets.remove_all(set, |slot| gone.contains(slot)));
        }
    }

    fn cost(&self, server: &Server) -> f64 {
        load(server)
    }

    fn choose(&mut self, servers: Servers<'_>, flow: &Flow) -> Option<usize> {
        let ReplicatedLeastConnection { recent, sets, expiration, .. } = self;
        let expiration = expiration.map_or(EXPIRATION, NonZeroU64::get);
        let now = now_ms();
        recent.check(now, expiration, |mut set| sets.remove_all(&mut set, |_| true));
        let Some(set) = recent.find(&flow.destination, now) else {
            let least = servers.least_cost()?;
            let mut set = Set::default();
            sets.insert(&mut set, least, now);
            if !recent.insert(&flow.destination, set, now) {
                sets.remove_all(&mut set, |_| true);
            }
            return Some(least);
        };
        let least = sets.least_loaded(set, &servers);
        if set.len() > 1
            && now > set.modified().saturating_add(expiration)
            && let Some(most) = sets.most_loaded(set, &servers)
        {
            sets.remove(set, most, now);
        }
        if let Some(slot) = least
            && !is_overloaded(&servers[slot], &servers)
        {
            return Some(slot);
        }
        let least = servers.least_cost()?;
        sets.insert(set, least, now);
        Some(least)
    }
}

shunt_sdk::export!(ReplicatedLeastConnection);

#[cfg(test)]
mod tests;
