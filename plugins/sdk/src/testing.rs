//! Plays servers and flows to a scheduler natively, as the host does to a plugin.

use crate::{Flow, Placement, Scheduler, Server, Servers};
use shunt_abi::CAPACITY_MAX;

/// A scheduler and the servers that it is told of.
pub struct Host<S> {
    scheduler: S,
    servers: Vec<Server>,
    keys: Vec<f64>,
}

/// Something that happens to a scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The servers' weights, by slot, are now these.
    Weights(Vec<u32>),
    /// A server's connections are now these. Nothing happens if there is no such slot.
    Load {
        /// The server's slot.
        slot: usize,
        /// Its active connections.
        active: u32,
        /// Its inactive connections.
        inactive: u32,
    },
    /// A flow arrives.
    Choose,
}

impl<S: Scheduler> Host<S> {
    /// A scheduler without servers, on this worker of so many.
    pub fn new(worker: usize, workers: usize) -> Host<S> {
        let placement = Placement { worker, workers, seed: worker as u64 };
        let keys = if S::NEEDS.load { vec![f64::INFINITY; CAPACITY_MAX] } else { Vec::new() };
        let mut host = Host { scheduler: S::new(placement), servers: Vec::new(), keys };
        host.set_weights(&[]);
        host
    }

    /// The servers have these weights now, by slot, and addresses from 10.0.0.0 on. Connections
    /// stay as they are.
    ///
    /// # Panics
    /// When there are more than 1024.
    pub fn set_weights(&mut self, weights: &[u32]) {
        assert!(weights.len() <= CAPACITY_MAX, "a table has at most {CAPACITY_MAX} slots");
        self.servers.resize(weights.len(), Server::default());
        for (slot, (server, &weight)) in self.servers.iter_mut().zip(weights).enumerate() {
            let [high, low] = (slot as u16).to_be_bytes();
            server.address = std::net::Ipv4Addr::new(10, 0, high, low).to_ipv6_mapped().octets();
            server.weight = weight;
        }
        for slot in 0..self.keys.len() {
            self.write_key(slot);
        }
        self.scheduler.servers_changed(Servers::new(&self.servers, &self.keys));
    }

    /// The server in `slot` has so many connections now, if the scheduler wants to know.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn set_load(&mut self, slot: usize, active: u32, inactive: u32) {
        if S::NEEDS.load {
            let server = &mut self.servers[slot];
            (server.active, server.inactive) = (active, inactive);
            self.write_key(slot);
        }
    }

    /// The servers as the scheduler sees them.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Asks for the slot that a flow goes to.
    pub fn choose(&mut self, flow: &Flow) -> Option<usize> {
        let flow = if S::NEEDS.flow { *flow } else { Flow::default() };
        self.scheduler.choose(Servers::new(&self.servers, &self.keys), &flow)
    }

    /// Plays a history and returns the scheduler's choices.
    pub fn play(&mut self, history: &[Event]) -> Vec<Option<usize>> {
        let mut choices = Vec::new();
        for event in history {
            match event {
                Event::Weights(weights) => self.set_weights(weights),
                &Event::Load { slot, active, inactive } => {
                    if slot < self.servers.len() {
                        self.set_load(slot, active, inactive);
                    }
                }
                Event::Choose => choices.push(self.choose(&Flow::default())),
            }
        }
        choices
    }

    fn write_key(&mut self, slot: usize) {
        self.keys[slot] =
            self.servers.get(slot).map_or(f64::INFINITY, |server| server.load_key(slot));
    }
}
