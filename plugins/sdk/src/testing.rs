//! Plays servers and flows to a scheduler natively, as the host does to a plugin.
//!
//! [`Host`] is the director with one instance. What a scheduler asks the director for, the test
//! says: [`set_now_ms`], [`set_seed`], [`logged`]. They hold for the thread, which is the test.

use crate::costs::Costs;
use crate::{Flow, Params, Placement, Scheduler, Server, Servers};
use shunt_abi::{
    CAPACITY_MAX, CHANGES_ALL, Changes, LOG_LINE_MAX, PARAM_KEY_MAX, PARAM_VALUE_MAX, PARAMS_MAX,
    Random,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;

thread_local! {
    static NOW_MS: Cell<u64> = const { Cell::new(0) };
    static RANDOM: Cell<Random> = const { Cell::new(Random::new(0, 0)) };
    static LOGGED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// What [`crate::now_ms`] answers from now on; 0 before.
pub fn set_now_ms(now: u64) {
    NOW_MS.set(now);
}

/// [`crate::random`] begins anew, as for the instance of worker 0 that has this seed.
pub fn set_seed(seed: u64) {
    set_random(Random::new(seed, 0));
}

/// [`crate::random`] goes on as this generator does.
pub fn set_random(random: Random) {
    RANDOM.set(random);
}

/// The lines that were written with [`log!`](crate::log!) since the last time that this was asked,
/// however many, each cut at 200 bytes.
pub fn logged() -> Vec<String> {
    LOGGED.take()
}

pub(crate) fn now_ms() -> i64 {
    NOW_MS.get() as i64
}

pub(crate) fn random() -> i64 {
    let mut random = RANDOM.get();
    let number = random.draw();
    RANDOM.set(random);
    number as i64
}

pub(crate) fn write(line: &str) {
    let line = line[..line.floor_char_boundary(LOG_LINE_MAX)].to_owned();
    LOGGED.with_borrow_mut(|lines| lines.push(line));
}

/// A scheduler and what it is told of.
pub struct Host<S> {
    scheduler: S,
    placement: Placement,
    /// One line each.
    params: String,
    servers: Vec<Server>,
    keys: Vec<f64>,
    costs: Box<Costs>,
    changes: Box<Changes>,
}

/// Something that happens to a scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The servers' weights, by slot, are now these, and their addresses 10.0.0.0, 10.0.0.1 ….
    Weights(Vec<u32>),
    /// The servers, by slot, have these addresses and weights now.
    Servers(Vec<(IpAddr, u32)>),
    /// A server's connections are now these. Nothing happens if there is no such slot.
    Load {
        /// The server's slot.
        slot: usize,
        /// Its active connections.
        active: u32,
        /// Its inactive connections.
        inactive: u32,
    },
    /// A flow arrives, all of whose fields are 0.
    Choose,
    /// This flow arrives.
    Flow(Flow),
    /// So many milliseconds pass.
    Pass(u64),
    /// A new instance takes the scheduler's place, and its state over if it can.
    Swap,
}

impl<S: Scheduler> Host<S> {
    /// A scheduler without servers, on this worker of so many. Its seed is the worker's number.
    pub fn new(worker: usize, workers: usize) -> Host<S> {
        Host::placed(Placement { worker, workers, seed: worker as u64 })
    }

    /// A scheduler without servers, placed there.
    pub fn placed(placement: Placement) -> Host<S> {
        let keys = if S::NEEDS.load { vec![f64::INFINITY; CAPACITY_MAX] } else { Vec::new() };
        let mut host = Host {
            scheduler: S::new(placement),
            placement,
            params: String::new(),
            servers: Vec::new(),
            keys,
            costs: Box::new(Costs::new()),
            changes: Box::new(Changes { count: CHANGES_ALL, slots: [0; CAPACITY_MAX] }),
        };
        host.tell_servers();
        host
    }

    /// The service has these parameters now: a new instance that was given them takes the
    /// scheduler's place, and its state over if it can.
    ///
    /// # Errors
    /// The sentence of the refusal. Then nothing has changed.
    pub fn set_params(&mut self, params: &[(&str, &str)]) -> Result<(), String> {
        let params: BTreeMap<_, _> = params.iter().copied().collect();
        if !S::PARAMS && !params.is_empty() {
            return Err("this scheduler takes no parameters".to_owned());
        }
        for (key, value) in &params {
            let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
            if !(1..=PARAM_KEY_MAX).contains(&key.len()) || !key.bytes().all(is_fit) {
                return Err(format!("\"{key}\" is no key: 1 to 64 ASCII letters, digits, _ and -"));
            }
            if value.len() > PARAM_VALUE_MAX || value.chars().any(char::is_control) {
                return Err(format!("{key} has more than 256 bytes, or control characters"));
            }
        }
        let params: String = params.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        if params.len() > PARAMS_MAX {
            return Err(format!("the parameters have more than {PARAMS_MAX} bytes"));
        }
        self.replace(params).map(|_| ())
    }

    /// A new instance takes the scheduler's place. Returns whether it took the state over.
    pub fn swap(&mut self) -> bool {
        self.replace(self.params.clone()).expect("the same parameters were accepted before")
    }

    /// The servers have these weights now, by slot, and addresses from 10.0.0.0 on. Connections
    /// stay as they are.
    ///
    /// # Panics
    /// When there are more than 1024.
    pub fn set_weights(&mut self, weights: &[u32]) {
        let addresses = (0u32..).map(|slot| std::net::Ipv4Addr::from_bits(0x0a00_0000 + slot));
        let servers: Vec<_> = addresses.map(IpAddr::V4).zip(weights.iter().copied()).collect();
        self.set_servers(&servers);
    }

    /// The servers, by slot, have these addresses and weights now. Connections stay with the
    /// address: a newcomer in the slot of another has none.
    ///
    /// # Panics
    /// When there are more than 1024.
    pub fn set_servers(&mut self, servers: &[(IpAddr, u32)]) {
        assert!(servers.len() <= CAPACITY_MAX, "a table has at most {CAPACITY_MAX} slots");
        self.servers.resize(servers.len(), Server::default());
        for (server, &(address, weight)) in self.servers.iter_mut().zip(servers) {
            let address = match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            if server.address != address {
                *server = Server { address, ..Server::default() };
            }
            server.weight = weight;
        }
        self.tell_servers();
    }

    /// The server in `slot` has so many connections now, if the scheduler wants to know.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn set_load(&mut self, slot: usize, active: u32, inactive: u32) {
        if S::NEEDS.load || S::NEEDS.cost {
            let server = &mut self.servers[slot];
            if (server.active, server.inactive) == (active, inactive) {
                return;
            }
            (server.active, server.inactive) = (active, inactive);
            self.write_key(slot);
            self.note_change(slot);
        }
    }

    /// The servers as the scheduler sees them.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The scheduler.
    pub fn scheduler(&self) -> &S {
        &self.scheduler
    }

    /// Asks for the slot that a flow goes to.
    pub fn choose(&mut self, flow: &Flow) -> Option<usize> {
        let flow = if S::NEEDS.flow { *flow } else { Flow::default() };
        let Host { scheduler, servers, keys, costs, changes, .. } = self;
        let mut seen = Servers::new(servers, keys);
        if S::NEEDS.cost {
            let least = costs.follow(changes, servers, |server| scheduler.cost(server));
            seen = seen.with_least_cost(least);
        }
        changes.count = 0;
        scheduler.choose(seen, &flow)
    }

    /// Plays a history and returns the scheduler's choices.
    pub fn play(&mut self, history: &[Event]) -> Vec<Option<usize>> {
        let mut choices = Vec::new();
        for event in history {
            match event {
                Event::Weights(weights) => self.set_weights(weights),
                Event::Servers(servers) => self.set_servers(servers),
                &Event::Load { slot, active, inactive } => {
                    if slot < self.servers.len() {
                        self.set_load(slot, active, inactive);
                    }
                }
                Event::Choose => choices.push(self.choose(&Flow::default())),
                Event::Flow(flow) => choices.push(self.choose(flow)),
                &Event::Pass(milliseconds) => {
                    NOW_MS.set(NOW_MS.get().saturating_add(milliseconds));
                }
                Event::Swap => {
                    self.swap();
                }
            }
        }
        choices
    }

    /// Puts a new instance with these parameters in the scheduler's place, as the director does:
    /// it is told the parameters and the servers, and then what the former one saved.
    fn replace(&mut self, params: String) -> Result<bool, String> {
        let mut scheduler = S::new(self.placement);
        if !params.is_empty() {
            let accepted = scheduler.configure(Params::new(&params));
            accepted.map_err(|error| error.sentence().to_owned())?;
        }
        let former = std::mem::replace(&mut self.scheduler, scheduler);
        self.params = params;
        self.tell_servers();
        if S::STATE_VERSION == 0 {
            return Ok(false);
        }
        let mut state = vec![0; S::STATE_BYTES];
        let length = former.save(&mut state);
        let Some(saved) = state.get(..length).filter(|saved| !saved.is_empty()) else {
            return Ok(false);
        };
        Ok(self.scheduler.restore(seen::<S>(&self.servers, &self.keys), S::STATE_VERSION, saved))
    }

    /// Tells the scheduler what the servers are.
    fn tell_servers(&mut self) {
        for slot in 0..self.keys.len() {
            self.write_key(slot);
        }
        self.changes.count = CHANGES_ALL;
        self.costs.forget();
        self.scheduler.servers_changed(seen::<S>(&self.servers, &self.keys));
    }

    fn write_key(&mut self, slot: usize) {
        if let Some(key) = self.keys.get_mut(slot) {
            *key = self.servers.get(slot).map_or(f64::INFINITY, |server| server.load_key(slot));
        }
    }

    /// Adds the slot to the change list, as long as there is room.
    fn note_change(&mut self, slot: usize) {
        let Changes { count, slots } = &mut *self.changes;
        match slots.get_mut(*count as usize) {
            Some(entry) => {
                *entry = slot as u16;
                *count += 1;
            }
            None => *count = CHANGES_ALL,
        }
    }
}

/// The servers outside of `choose`.
fn seen<'a, S: Scheduler>(servers: &'a [Server], keys: &'a [f64]) -> Servers<'a> {
    let servers = Servers::new(servers, keys);
    if S::NEEDS.cost { servers.with_least_cost(None) } else { servers }
}
