//! What the models of `lblc` and `lblcr` have in common: the servers, a map of destinations, and a
//! clock that looks at it.

use super::histories::history;
use ipvs::{FULL_CHECK_EVERY, RECENT_MAX, ROWS};
use proptest::prelude::*;
use shunt_sdk::testing::Event;
use shunt_sdk::{Flow, Server};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// A server: its slot and address.
pub type Somebody = (usize, [u8; 16]);

/// What is known of destinations, each with a `T`.
pub struct Remembered<T> {
    pub servers: Vec<Server>,
    /// By destination: what is known, and when it was last used.
    pub known: BTreeMap<[u8; 16], (T, u64)>,
    pub expiration: u64,
    next_check: Option<u64>,
    idle_checks: u64,
    rover: usize,
}

impl<T> Remembered<T> {
    pub fn new(expiration: u64) -> Remembered<T> {
        Remembered {
            servers: Vec::new(),
            known: BTreeMap::new(),
            expiration,
            next_check: None,
            idle_checks: 0,
            rover: 0,
        }
    }

    /// Follows an event that is no flow.
    pub fn follow(&mut self, event: &Event) {
        match event {
            Event::Servers(servers) => self.servers_changed(servers),
            Event::Load { slot, active, inactive } => {
                if let Some(server) = self.servers.get_mut(*slot) {
                    (server.active, server.inactive) = (*active, *inactive);
                }
            }
            _ => {}
        }
    }

    fn servers_changed(&mut self, now: &[(IpAddr, u32)]) {
        let mut servers = Vec::new();
        for (slot, &(address, weight)) in now.iter().enumerate() {
            let address = match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            let same = self.servers.get(slot).filter(|server| server.address == address);
            let server = same.copied().unwrap_or(Server { address, ..Server::default() });
            servers.push(Server { weight, ..server });
        }
        self.servers = servers;
    }

    /// The server in this slot.
    pub fn somebody(&self, slot: usize) -> Somebody {
        (slot, self.servers[slot].address)
    }

    pub fn is_overloaded(&self, slot: usize) -> bool {
        let server = &self.servers[slot];
        server.active > server.weight
            && self.servers.iter().any(|s| u64::from(s.active) * 2 < u64::from(s.weight))
    }

    /// Whether the load of one server is less than that of another, by crosswise multiplication.
    pub fn is_less(&self, one: usize, other: usize) -> bool {
        let product = |one: usize, other: usize| {
            let Server { active, inactive, .. } = self.servers[one];
            (u128::from(active) * 256 + u128::from(inactive))
                * u128::from(self.servers[other].weight)
        };
        product(one, other) < product(other, one)
    }

    /// The least loaded of all servers, the first of several.
    pub fn least(&self) -> Option<usize> {
        (0..self.servers.len())
            .filter(|&slot| self.servers[slot].weight > 0)
            .reduce(|least, slot| if self.is_less(slot, least) { slot } else { least })
    }

    /// The check that is due, if one is.
    pub fn check(&mut self, now: u64) {
        let Some(due) = self.next_check else {
            self.next_check = Some(now + 60_000);
            return;
        };
        if now < due {
            return;
        }
        let missed = (now - due) / 60_000;
        self.next_check = Some(due + (missed + 1) * 60_000);
        let too_many = self.known.len().saturating_sub(RECENT_MAX);
        let idle = if too_many > 0 { 1 } else { missed + 1 };
        if self.idle_checks + idle >= FULL_CHECK_EVERY {
            self.idle_checks = 0;
            self.known.retain(|_, &mut (_, used)| now < used + self.expiration);
        } else if too_many == 0 {
            self.idle_checks += idle;
        } else {
            let mut goal = (too_many * 4 / 3).min(RECENT_MAX / 2) as i64;
            for _ in 0..ROWS {
                self.rover = (self.rover + 1) % ROWS;
                let before = self.known.len();
                self.known.retain(|address, &mut (_, used)| {
                    row(address) != self.rover || now < used + 6 * 60_000
                });
                goal -= (before - self.known.len()) as i64;
                if goal <= 0 {
                    break;
                }
            }
        }
    }
}

/// Whether a server is where it was.
pub fn is_there(servers: &[Server], (slot, address): Somebody) -> bool {
    servers.get(slot).is_some_and(|server| server.address == address)
}

fn row(address: &[u8; 16]) -> usize {
    let words = address.chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap()));
    let words: Vec<u32> = words.collect();
    let folded = match words[..3] {
        [0, 0, 0xffff] => words[3],
        _ => words.iter().fold(0, |folded, word| folded ^ word),
    };
    let product = u64::from(folded) * 0x61C8_8647 % (1 << 32);
    (product * ROWS as u64 / (1 << 32)) as usize
}

/// A flow for a destination.
pub fn to(destination: u32) -> Flow {
    let destination = Ipv4Addr::from(destination).to_ipv6_mapped().octets();
    Flow { destination, ..Flow::default() }
}

/// Histories in which, now and then, hundreds of destinations are asked for at once.
pub fn crowded_history() -> impl Strategy<Value = Vec<Event>> {
    let crowds = prop::collection::vec((0..150usize, 0..900u32), 0..4);
    (history(), crowds).prop_map(|(mut history, crowds)| {
        for (at, count) in crowds {
            let at = at.min(history.len());
            history.splice(at..at, (0..count).map(|number| Event::Flow(to(number * 7))));
        }
        history
    })
}
