//! Who takes how many new flows: from what the operator wants and what is known of the servers.
//!
//! Pure. The reasons for a weight of 0 are, in this order: removed, no neighbor, no first result
//! yet, down, quorum lost (the sorry server takes its place), and the operator's own 0, which no
//! check ever raises.

use super::Policy;
use super::judge::Verdict;
use super::kinds::OnFailure;
use super::members::{Member, Members};
use super::quorum::{Count, Quorum};
use crate::neighbors::{NeighborState, Neighbors};
use crate::services::{ServerEntry, ServiceEntry, Services};
use dataplane::{Millis, ServerIndex, ServerState, ServiceKey};
use std::collections::HashMap;

/// The most steps in which a weight grows. Each costs the workers a table and the scheduler an
/// update, so they are few.
pub const SLOW_START_STEPS: u64 = 16;
/// The sorry server's weight while it serves; it is alone then.
const SORRY_WEIGHT: u32 = 1;

/// What the workers are told of a server, whatever its neighbor entry on their interface says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// What the scheduler sees.
    pub weight: u32,
    /// What its flows may do.
    pub state: ServerState,
}

/// What became of a service's quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Whether there are enough servers.
    pub quorum: Quorum,
    /// How many there are.
    pub count: Count,
    /// Whether the sorry server takes the new flows.
    pub sorry: bool,
}

/// All weights at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Weights {
    /// By server index.
    given: Vec<Option<Given>>,
    standings: HashMap<ServiceKey, Standing>,
    /// When a weight grows next without anything happening.
    next_step: Option<Millis>,
}

impl Weights {
    /// What the workers are told of a server.
    pub fn given(&self, server: ServerIndex) -> Given {
        let nobody = Given { weight: 0, state: ServerState::Removed };
        self.given.get(usize::from(server.0)).copied().flatten().unwrap_or(nobody)
    }

    /// A service's quorum.
    pub fn standing(&self, service: &ServiceKey) -> Standing {
        self.standings.get(service).copied().unwrap_or_default()
    }

    /// All quorums.
    pub fn standings(&self) -> impl Iterator<Item = (&ServiceKey, &Standing)> {
        self.standings.iter()
    }

    /// When a weight grows next without anything happening.
    pub fn next_step(&self) -> Option<Millis> {
        self.next_step
    }

    /// Whether the workers would see no difference.
    pub fn same_for_workers(&self, other: &Weights) -> bool {
        self.given == other.given
    }
}

/// What there is to weigh.
pub struct Scales<'a> {
    /// What the operator wants.
    pub services: &'a Services,
    /// Where servers are on the wire.
    pub neighbors: &'a Neighbors,
    /// What their checks say.
    pub members: &'a Members,
    /// What was before: quorums have a memory.
    pub former: &'a Weights,
    /// The time.
    pub now: Millis,
}

impl Scales<'_> {
    /// The weights now.
    pub fn weigh(&self) -> Weights {
        let mut weights = Weights {
            given: vec![None; self.services.servers_len()],
            standings: HashMap::new(),
            next_step: None,
        };
        for (_, service) in self.services.services() {
            self.weigh_service(service, &mut weights);
        }
        weights
    }

    fn weigh_service(&self, service: &ServiceEntry, weights: &mut Weights) {
        let mut count = Count { settled: true, ..Count::default() };
        let mut sorry = None;
        for (index, server) in self.services.members(service) {
            let verdict = self.members.verdict(service, server);
            let serves = !service.removed && server.state == ServerState::Serving;
            let usable = serves && self.neighbors.takes_flows(server.address);
            let (weight, state) = match server.sorry {
                true => {
                    sorry = usable.then_some(index).or(sorry);
                    (0, server.state)
                }
                false if usable && verdict == Verdict::Up => {
                    (self.grown(service, server, weights), server.state)
                }
                false => (0, state(service, server, verdict)),
            };
            if serves && !server.sorry && server.weight > 0 {
                count.all += 1;
                count.up += usize::from(weight > 0);
                let found = self.neighbors.state(server.address) != NeighborState::Unresolved;
                let member = self.members.get(&(service.key, server.address));
                // What cannot be checked is not waited for.
                let known = verdict != Verdict::Checking || !member.is_none_or(Member::waits);
                count.settled &= found && known;
            }
            weights.given[usize::from(index.0)] = Some(Given { weight, state });
        }
        if service.removed {
            return;
        }
        let quorum = self.former.standing(&service.key).quorum.next(&service.policy, count);
        // One that cannot be reached would help nobody: whoever is left goes on.
        let sorry = sorry.filter(|_| quorum == Quorum::Lost);
        if let Some(sorry) = sorry {
            for (index, _) in self.services.members(service) {
                if let Some(given) = &mut weights.given[usize::from(index.0)] {
                    given.weight = if index == sorry { SORRY_WEIGHT } else { 0 };
                }
            }
        }
        let standing = Standing { quorum, count, sorry: sorry.is_some() };
        weights.standings.insert(service.key, standing);
    }

    /// The weight of a server that is up: its own, or less soon after its return.
    fn grown(&self, service: &ServiceEntry, server: &ServerEntry, weights: &mut Weights) -> u32 {
        let member = self.members.get(&(service.key, server.address));
        let returned = member.and_then(|member| member.judge.returned());
        let Some(returned) = returned else { return server.weight.into() };
        let (weight, next) = slow_start(&service.policy, server.weight, self.now - returned);
        let next = next.map(|next| returned + next);
        weights.next_step = weights.next_step.into_iter().chain(next).min();
        weight
    }
}

/// The state of a server that takes no new flows.
fn state(service: &ServiceEntry, server: &ServerEntry, verdict: Verdict) -> ServerState {
    let expires = |check: &super::kinds::HealthCheck| check.on_failure == OnFailure::Expire;
    let expires = service.policy.check.as_deref().is_some_and(expires);
    if server.state == ServerState::Serving && !server.sorry && verdict == Verdict::Down && expires
    {
        ServerState::Expired
    } else {
        server.state
    }
}

/// The weight so many milliseconds after the return, and when after the return it grows next.
pub fn slow_start(policy: &Policy, weight: u16, since: Millis) -> (u32, Option<Millis>) {
    let duration = Millis::from(policy.slow_start) * 1_000;
    let steps = SLOW_START_STEPS.min(weight.into());
    // The first step is taken with the return, the last at the end.
    let climbs = steps.saturating_sub(1);
    if since >= duration || climbs == 0 {
        return (weight.into(), None);
    }
    let done = since * climbs / duration;
    let next = ((done + 1) * duration).div_ceil(climbs);
    ((u64::from(weight) * (done + 1) / steps) as u32, Some(next))
}

#[cfg(test)]
#[path = "weights_tests.rs"]
mod tests;
