//! 100,000 flows over servers that come and go.

use crate::numbers::Numbers;
use crate::server_set::ServerSet;
use crate::site::{Fuel, Site};
use crate::subject::Subject;
use dataplane::{Millis, NewFlow};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Workers that share the flows.
const WORKERS: usize = 3;
/// Clients that there are.
const CLIENTS: usize = 50_000;
/// New flows in a millisecond.
const FLOWS_A_MILLISECOND: usize = 16;
/// The greatest weight.
const WEIGHT_MAX: u32 = 65_535;

/// A part of the history: the servers at its beginning, and what happens to them meanwhile.
struct Scene {
    /// As a failure report names it.
    name: &'static str,
    /// Of a thousand flows, so many.
    share: usize,
    begin: fn(&mut ServerSet),
    /// After each of so many flows (0: never) `then` happens.
    every: usize,
    then: fn(&mut ServerSet, &mut Numbers),
}

/// Nothing happens.
fn still(_: &mut ServerSet, _: &mut Numbers) {}

/// A server, any, has another weight: 0 half of the time.
fn reweigh(set: &mut ServerSet, numbers: &mut Numbers) {
    let slot = numbers.below(set.slots().len().max(1));
    let weight = if numbers.once_in(2) { 0 } else { numbers.below(10) as u32 + 1 };
    set.set_weight(slot, weight);
}

#[rustfmt::skip]
const SCENES: [Scene; 17] = [
    Scene { name: "no servers yet", share: 2, begin: |_| {}, every: 0, then: still },
    Scene { name: "one server", share: 10, every: 0, then: still,
        begin: |set| set.resize(1, |_| 1) },
    Scene { name: "two servers", share: 18, every: 0, then: still,
        begin: |set| set.resize(2, |_| 1) },
    Scene { name: "16 servers of weight 1", share: 100, every: 0, then: still,
        begin: |set| set.resize(16, |_| 1) },
    Scene { name: "weights to 0 and back", share: 150, every: 100, then: reweigh,
        begin: |set| set.set_weights(|slot| 1 + slot as u32 % 4) },
    Scene { name: "all drained", share: 2, every: 0, then: still,
        begin: |set| set.set_weights(|_| 0) },
    Scene { name: "one of many back", share: 10, every: 0, then: still,
        begin: |set| set.set_weight(set.slots().len() / 2, 3) },
    Scene { name: "servers added and removed, slots reused", share: 200, every: 50,
        begin: |set| set.resize(8, |_| 2),
        then: |set, numbers| set.change(numbers, 32) },
    Scene { name: "all gone", share: 2, every: 0, then: still, begin: ServerSet::clear },
    Scene { name: "others in their slots, with IPv6 addresses", share: 30, every: 100,
        then: reweigh,
        begin: |set| { set.v6 = true; set.resize(8, |_| 1); } },
    Scene { name: "weights of 1 and 65535", share: 50, every: 200,
        begin: |set| {
            set.v6 = false;
            set.resize(16, |_| 1);
            set.set_weights(|slot| if slot == 3 { WEIGHT_MAX } else { 1 });
        },
        then: |set, numbers| {
            let slot = numbers.below(set.slots().len().max(1));
            set.set_weight(slot, if numbers.once_in(2) { WEIGHT_MAX } else { 1 });
        } },
    Scene { name: "every server of weight 65535", share: 20, every: 0, then: still,
        begin: |set| set.set_weights(|_| WEIGHT_MAX) },
    Scene { name: "as many servers as it has slots for", share: 50, every: 500, then: reweigh,
        begin: |set| set.resize(usize::MAX, |slot| 1 + slot as u32 % 7) },
    Scene { name: "only the last slot available", share: 10, every: 0, then: still,
        begin: |set| {
            let last = set.slots().len() - 1;
            set.set_weights(|slot| u32::from(slot == last));
        } },
    Scene { name: "the first slots empty", share: 20, every: 0, then: still,
        begin: |set| {
            (0..set.slots().len().saturating_sub(4)).for_each(|slot| set.remove(slot));
            set.set_weights(|_| 1);
        } },
    Scene { name: "one server after many", share: 6, every: 0, then: still,
        begin: |set| { set.clear(); set.resize(1, |_| 1); } },
    Scene { name: "whatever comes up", share: 320, every: 20,
        begin: |set| set.resize(16, |_| 1),
        then: |set, numbers| {
            if numbers.once_in(100) {
                set.clear();
            }
            set.change(numbers, 64);
        } },
];

/// What may differ between two plays of one history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    /// How many flows.
    pub flows: usize,
    /// What all that looks random begins with.
    pub seed: u64,
    /// The most servers: the scheduler's slots.
    pub capacity: usize,
    /// When time begins.
    pub now: Millis,
}

/// An answer that must not be, and where in the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    /// Flows before it.
    pub flow: usize,
    /// The scene.
    pub scene: &'static str,
    /// Servers, and how many of them take new flows.
    pub servers: usize,
    pub available: usize,
    /// The worker.
    pub worker: usize,
    /// What the scheduler did.
    pub what: String,
}

/// What a scheduler did in a history.
#[derive(Debug, Default)]
pub(crate) struct Played {
    /// By flow: the slot, or `None` when it declined.
    pub answers: Vec<Option<usize>>,
    /// Flows that it declined, though there was a server for them.
    pub declined: usize,
    /// What the calls took.
    pub fuel: Fuel,
    /// Bytes of memory at the start, and at the end.
    pub memory: (usize, usize),
    /// Changes of the servers.
    pub changes: usize,
}

/// Why a history was not played to its end.
#[derive(Debug)]
pub(crate) enum Unplayed {
    /// There is no instance to play it to.
    NoInstance(String),
    /// The scheduler failed.
    Failed(Failed),
}

/// Plays a history, up to the first failure.
pub(crate) fn play(subject: &dyn Subject, plan: &Plan) -> Result<Played, Unplayed> {
    let Plan { flows, seed, capacity, now } = *plan;
    let mut site = Site::new(subject, WORKERS, seed, now).map_err(Unplayed::NoInstance)?;
    let mut numbers = Numbers::new(seed);
    let mut set = ServerSet::new(capacity);
    let memory = site.memory();
    let mut played = Played::default();
    for scene in &SCENES {
        (scene.begin)(&mut set);
        site.set_servers(&set);
        played.changes += 1;
        for flow in 0..(flows * scene.share).div_ceil(1000) {
            if flow > 0 && flow.checked_rem(scene.every) == Some(0) {
                (scene.then)(&mut set, &mut numbers);
                site.set_servers(&set);
                played.changes += 1;
            }
            site.now += Millis::from(numbers.once_in(FLOWS_A_MILLISECOND));
            let new = new_flow(&mut numbers, set.v6);
            // A flow stays on its queue, and the queue is its worker's.
            let worker = usize::from(new.source_port) % WORKERS;
            let answer = site.ask(worker, &new, &mut numbers).map_err(|mishap| {
                Unplayed::Failed(Failed {
                    flow: played.answers.len(),
                    scene: scene.name,
                    servers: set.len(),
                    available: set.available(),
                    worker,
                    what: mishap.what,
                })
            })?;
            played.declined += usize::from(answer.is_none() && set.available() > 0);
            played.answers.push(answer);
        }
    }
    played.memory = (memory, site.memory());
    played.fuel = site.fuel;
    Ok(played)
}

/// A flow of one of the clients.
pub(crate) fn new_flow(numbers: &mut Numbers, v6: bool) -> NewFlow {
    let client = numbers.below(CLIENTS) as u32;
    let (source, destination) = match v6 {
        true => (
            Ipv6Addr::from((0x2001_0db8_0001 << 80) | u128::from(client)),
            Ipv6Addr::from((0x2001_0db8_ffff << 80) | 100),
        ),
        false => (
            Ipv4Addr::from(0x6440_0000 + client).to_ipv6_mapped(),
            Ipv4Addr::new(172, 17, 100, 100).to_ipv6_mapped(),
        ),
    };
    NewFlow {
        source: source.octets(),
        destination: destination.octets(),
        source_port: 1024 + numbers.below(64_512) as u16,
        destination_port: 80,
        protocol: if numbers.once_in(8) { 17 } else { 6 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scenes_share_all_flows() {
        assert_eq!(SCENES.iter().map(|scene| scene.share).sum::<usize>(), 1000);
    }
}
