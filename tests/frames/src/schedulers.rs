//! Schedulers for tests: one that turns, and one that does as it is told.

use dataplane::{Candidate, Failure, Load, Millis, NewFlow, Scheduler};
use std::sync::{Arc, Mutex};

/// Round robin over the servers that take new flows, from the first slot on.
#[derive(Debug, Default)]
pub struct RoundRobin {
    open: u128,
    slots: usize,
    next: usize,
}

impl Scheduler for RoundRobin {
    fn servers_changed(&mut self, servers: &[Candidate], _: Millis) -> Result<(), Failure> {
        self.slots = servers.len().min(128);
        self.open = 0;
        for (slot, server) in servers.iter().enumerate().take(128) {
            self.open |= u128::from(server.weight > 0) << slot;
        }
        Ok(())
    }

    fn wants_load(&self) -> bool {
        false
    }

    fn load_changed(&mut self, _slot: usize, _load: Load) {}

    fn choose(&mut self, _flow: &NewFlow, _: Millis) -> Result<usize, Failure> {
        for step in 0..self.slots {
            let slot = (self.next + step) % self.slots;
            if self.open >> slot & 1 == 1 {
                self.next = slot + 1;
                return Ok(slot);
            }
        }
        Err(Failure::Trap)
    }
}

/// What a [`Scripted`] scheduler was told and asked.
#[derive(Debug, Default)]
pub struct Heard {
    /// Weights by slot, as last told.
    pub weights: Vec<u32>,
    /// Loads by slot, as last told.
    pub loads: Vec<Load>,
    /// How often it was told of the servers.
    pub servers_changed: usize,
    /// The flows that it was asked about.
    pub asked: Vec<NewFlow>,
    /// Its answers, in turn; the last one is repeated.
    pub answers: Vec<Result<usize, Failure>>,
    /// What it answers to new servers.
    pub on_servers: Option<Failure>,
    /// Whether it answers with the slot of the fewest connections instead.
    pub least: bool,
}

/// A scheduler that listens, remembers and answers from a script that the test holds, too.
#[derive(Debug, Clone)]
pub struct Scripted {
    heard: Arc<Mutex<Heard>>,
    wants_load: bool,
}

impl Scripted {
    /// A scheduler that gives these answers.
    pub fn new(answers: &[Result<usize, Failure>]) -> Scripted {
        let heard = Heard { answers: answers.to_vec(), ..Heard::default() };
        Scripted { heard: Arc::new(Mutex::new(heard)), wants_load: false }
    }

    /// A scheduler that chooses the open slot with the fewest active flows.
    pub fn least_connections() -> Scripted {
        let heard = Heard { least: true, ..Heard::default() };
        Scripted { heard: Arc::new(Mutex::new(heard)), wants_load: true }
    }

    /// The script, shared with the scheduler.
    pub fn script(&self) -> Arc<Mutex<Heard>> {
        self.heard.clone()
    }
}

impl Scheduler for Scripted {
    fn servers_changed(&mut self, servers: &[Candidate], _: Millis) -> Result<(), Failure> {
        let mut heard = self.heard.lock().expect("no test has panicked inside");
        heard.servers_changed += 1;
        heard.weights = servers.iter().map(|server| server.weight).collect();
        heard.loads = vec![Load::default(); servers.len()];
        heard.on_servers.map_or(Ok(()), Err)
    }

    fn wants_load(&self) -> bool {
        self.wants_load
    }

    fn load_changed(&mut self, slot: usize, load: Load) {
        self.heard.lock().expect("no test has panicked inside").loads[slot] = load;
    }

    fn choose(&mut self, flow: &NewFlow, _: Millis) -> Result<usize, Failure> {
        let mut heard = self.heard.lock().expect("no test has panicked inside");
        heard.asked.push(*flow);
        if heard.least {
            let open = (0..heard.weights.len()).filter(|&slot| heard.weights[slot] > 0);
            return open.min_by_key(|&slot| heard.loads[slot].active).ok_or(Failure::Trap);
        }
        if heard.answers.len() > 1 { heard.answers.remove(0) } else { heard.answers[0] }
    }
}
