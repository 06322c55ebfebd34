//! Locality-based least connection: flows for one destination go to one server, the one with the
//! least connections over its weight when the destination was first asked for, until it is
//! overloaded (more active connections than its weight, while another server has fewer than half of
//! its own) or takes no new flows.
//!
//! As the kernel's net/netfilter/ipvs/ip_vs_lblc.c, made for a service that stands for many
//! destinations, such as a cache in front of them. Behind one VIP there is one destination: its
//! flows fill one server after the other.
//!
//! Parameter: `lblc-expiration`, after how many seconds a destination that nobody asks for is
//! forgotten; 86400 by default, as the kernel's sysctl net.ipv4.vs.lblc_expiration.
//!
//! What differs: the table has 2 rows, not 1024, so that destinations are forgotten early when
//! they are more than 32 (the kernel: 16,384). It never grows: with 48, further ones are not
//! remembered, as in the kernel when it has no memory. The check once a minute is made with the
//! first flow after it is due. Where the kernel refuses a flow because no server takes one, the
//! plugin declines, which gets it the native fallback.

#![cfg_attr(target_arch = "wasm32", no_std)]

use core::num::NonZeroU64;
use ipvs::{EXPIRATION, Members, Recent, is_overloaded, load};
use shunt_sdk::{Flow, Needs, ParamError, Params, Placement, Scheduler, Server, Servers, now_ms};

/// The scheduler `lblc`.
pub struct LocalityLeastConnection {
    /// By destination: the slot of its server and 1; 0: it has none.
    recent: Recent<u16>,
    members: Members,
    /// In milliseconds, unless it is the default.
    expiration: Option<NonZeroU64>,
}

impl Scheduler for LocalityLeastConnection {
    const NEEDS: Needs = Needs::COST.and(Needs::FLOW);
    const PARAMS: bool = true;

    #[inline]
    fn new(_: Placement) -> LocalityLeastConnection {
        LocalityLeastConnection { recent: Recent::new(), members: Members::new(), expiration: None }
    }

    fn configure(&mut self, params: Params<'_>) -> Result<(), ParamError> {
        params.only(&["lblc-expiration"])?;
        self.expiration = ipvs::expiration(params, "lblc-expiration")?;
        Ok(())
    }

    fn servers_changed(&mut self, servers: Servers<'_>) {
        if let Some(gone) = self.members.changed(&servers) {
            self.recent.for_each(|entry| {
                if usize::from(*entry).checked_sub(1).is_some_and(|slot| gone.contains(slot)) {
                    *entry = 0;
                }
            });
        }
    }

    fn cost(&self, server: &Server) -> f64 {
        load(server)
    }

    fn choose(&mut self, servers: Servers<'_>, flow: &Flow) -> Option<usize> {
        let now = now_ms();
        self.recent.check(now, self.expiration.map_or(EXPIRATION, NonZeroU64::get), |_| ());
        let entry = self.recent.find(&flow.destination, now);
        let known = entry.as_ref().and_then(|entry| usize::from(**entry).checked_sub(1));
        if let Some(slot) = known
            && let Some(server) = servers.get(slot)
            && server.takes_new_flows()
            && !is_overloaded(server, &servers)
        {
            return Some(slot);
        }
        let least = servers.least_cost()?;
        match entry {
            Some(entry) => *entry = least as u16 + 1,
            None => {
                self.recent.insert(&flow.destination, least as u16 + 1, now);
            }
        }
        Some(least)
    }
}

shunt_sdk::export!(LocalityLeastConnection);

#[cfg(test)]
mod tests;
