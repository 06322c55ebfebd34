//! The real servers' health: what is asked of each, and what follows from the answers.
//!
//! ```text
//! run ── asks by kinds, dr, in its rhythm ── each result ──▶ judge   one server: up or down
//!                                                            │
//!                  services, neighbors ──▶ weights ◀─────────┘       who takes new flows
//!                                             └──▶ tables ──▶ the workers
//! ```

mod command;
mod dns;
pub(crate) mod doing;
pub mod dr;
mod dr_packet;
mod http;
pub mod judge;
pub mod kinds;
pub mod members;
mod orphans;
pub mod quorum;
pub mod rhythm;
pub mod run;
mod source;
mod tcp;
mod tls;
mod udp;
pub mod views;
pub mod weights;

use crate::service_name::ServiceName;
use crate::services::Services;
use crate::{say, warn};
use kinds::HealthCheck;
use members::Members;
use quorum::Quorum;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::Notify;
use weights::{Standing, Weights};

/// How a virtual service looks after its real servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The check; `None`: a server is up as long as its neighbor entry is.
    pub check: Option<Arc<HealthCheck>>,
    /// Servers that must be up for the service to count as served, at least 1.
    pub quorum: u16,
    /// How far the number must be from `quorum` for the service to change over; less than `quorum`.
    pub hysteresis: u16,
    /// Who gets the new flows while there are too few servers.
    pub sorry_server: Option<IpAddr>,
    /// Seconds in which the weight of a server that has come back grows to its own; 0: at once.
    pub slow_start: u16,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { check: None, quorum: 1, hysteresis: 0, sorry_server: None, slow_start: 0 }
    }
}

/// What the supervisor knows of the real servers' health.
#[derive(Debug, Default)]
pub struct Health {
    /// What the checks say of each.
    pub members: Members,
    /// What the workers were told last.
    pub weights: Weights,
    /// Told when there may be other checks to make.
    pub changed: Arc<Notify>,
}

impl Health {
    /// The workers have, or are about to have, these weights.
    pub fn accept(&mut self, weights: Weights, services: &Services) {
        for (_, service) in services.services() {
            if service.removed || service.policy == Policy::default() {
                continue;
            }
            let [before, now] = [&self.weights, &weights].map(|of| of.standing(&service.key));
            tell(ServiceName(service.key), &service.policy, before, now);
        }
        if weights.next_step() != self.weights.next_step() {
            // Whoever has the weights grow sleeps until the step that was the next one.
            self.changed.notify_one();
        }
        self.weights = weights;
    }
}

/// Says that a service's quorum changed, and who takes the new flows then.
fn tell(service: ServiceName, policy: &Policy, before: Standing, now: Standing) {
    let sorry = |standing: Standing| policy.sorry_server.filter(|_| standing.sorry);
    let changed = (before.quorum, before.sorry) != (now.quorum, now.sorry);
    match (before.quorum, now.quorum) {
        (_, Quorum::Lost) if changed => {
            let flows = match (sorry(now), policy.sorry_server) {
                (Some(sorry), _) => format!("new flows go to the sorry server {sorry}"),
                (None, Some(sorry)) => format!(
                    "the sorry server {sorry} has no neighbor entry that works, so new flows go to whoever is left"
                ),
                (None, None) if now.count.up == 0 => "new flows go nowhere".to_owned(),
                (None, None) => "new flows go to whoever is left".to_owned(),
            };
            warn!(
                "{service} has lost its quorum of {}: {} of {} real servers take new flows; {flows}",
                policy.quorum, now.count.up, now.count.all
            );
        }
        (Quorum::Lost, Quorum::Held) => say!(
            "{service} has its quorum again: {} of {} real servers take new flows",
            now.count.up,
            now.count.all
        ),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
