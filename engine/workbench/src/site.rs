//! A virtual service without a network: servers, flows, their connections, and one instance of
//! the scheduler for each worker, which is asked and told as the dataplane does it.

use crate::numbers::Numbers;
use crate::server_set::ServerSet;
use crate::subject::{Subject, Tried};
use dataplane::{Candidate, Failure, Load, Millis, NewFlow};
use plugin_host::Placement;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// How long a flow is active at most, and then inactive.
const ACTIVE_MAX: usize = 2_000;
const INACTIVE: Millis = 500;

/// An answer that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mishap {
    /// The worker whose instance failed.
    pub worker: usize,
    /// What it did, as a sentence without a subject.
    pub what: String,
}

/// One worker's side.
struct WorkerSide {
    instance: Box<dyn Tried>,
    /// [`Site::version`] of the servers that it was last told of.
    told: u64,
    /// It was not told of all connections since it was told of the servers.
    loads_due: bool,
    merged_at: Millis,
    /// By slot: connections on this worker.
    own: Vec<Load>,
    /// By slot: connections on the others, as last read.
    others: Vec<Load>,
    /// Slots whose connections changed here since it was last told.
    dirty: Vec<usize>,
}

/// What becomes of a flow, and when. Ordered by time; `number` makes the order total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Later {
    at: Millis,
    number: u64,
    worker: usize,
    slot: usize,
    /// The server that it was given to: not the one that has the slot then.
    tenant: u32,
    was_active: bool,
}

/// Fuel of the calls so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fuel {
    /// Of each answered `shunt_schedule`.
    pub schedule: Vec<u64>,
    /// Of each `shunt_update`.
    pub update: Vec<u64>,
}

/// The service.
pub(crate) struct Site {
    workers: Vec<WorkerSide>,
    servers: ServerSet,
    /// By slot: which of its successive servers is there.
    tenants: Vec<u32>,
    version: u64,
    later: BinaryHeap<Reverse<Later>>,
    flows: u64,
    pub now: Millis,
    pub fuel: Fuel,
}

impl Site {
    /// A site without servers on which so many workers share the flows. Time begins at `now`.
    pub fn new(
        subject: &dyn Subject,
        workers: usize,
        seed: u64,
        now: Millis,
    ) -> Result<Site, String> {
        let sides = (0..workers).map(|worker| {
            let seed = seed.wrapping_add(worker as u64);
            let placement = Placement { worker: worker as u32, workers: workers as u32, seed };
            Ok(WorkerSide {
                instance: subject.start(placement)?,
                told: 0,
                loads_due: true,
                merged_at: 0,
                own: Vec::new(),
                others: Vec::new(),
                dirty: Vec::new(),
            })
        });
        Ok(Site {
            workers: sides.collect::<Result<_, String>>()?,
            servers: ServerSet::new(0),
            tenants: Vec::new(),
            version: 1,
            later: BinaryHeap::new(),
            flows: 0,
            now,
            fuel: Fuel::default(),
        })
    }

    /// The servers are now these. A server that has left a slot takes its connections along.
    pub fn set_servers(&mut self, servers: &ServerSet) {
        let slots = servers.slots().len().max(self.servers.slots().len());
        self.tenants.resize(slots.max(self.tenants.len()), 0);
        for side in &mut self.workers {
            side.own.resize(self.tenants.len(), Load::default());
            side.others.resize(self.tenants.len(), Load::default());
        }
        for slot in 0..slots {
            let address = |set: &ServerSet| set.slots().get(slot).map(|server| server.address);
            if address(servers) != address(&self.servers) {
                self.tenants[slot] += 1;
                self.workers.iter_mut().for_each(|side| side.own[slot] = Load::default());
            }
        }
        self.servers = servers.clone();
        self.version += 1;
    }

    /// The servers as they are.
    pub fn servers(&self) -> &ServerSet {
        &self.servers
    }

    /// Bytes of memory that all instances have.
    pub fn memory(&self) -> usize {
        self.workers.iter().map(|side| side.instance.memory()).sum()
    }

    /// The instance of one worker.
    pub fn instance(&mut self, worker: usize) -> &mut dyn Tried {
        &mut *self.workers[worker].instance
    }

    /// Puts another instance in one worker's place, that was told of the servers already.
    pub fn take_over(&mut self, worker: usize, instance: Box<dyn Tried>) -> Box<dyn Tried> {
        self.note_told(worker);
        std::mem::replace(&mut self.workers[worker].instance, instance)
    }

    /// Notes that one worker's instance was told of the servers, and of no connections.
    pub fn note_told(&mut self, worker: usize) {
        self.workers[worker].told = self.version;
        self.workers[worker].loads_due = true;
    }

    /// Asks one worker's instance about a flow. `None`: it declines. The flow then gets a server
    /// that `numbers` name, as it would get one from the director's own fallback. When no server
    /// takes new flows the instance is told so, but not asked, and that is `None`, too: the
    /// dataplane drops such a flow before.
    pub fn ask(
        &mut self,
        worker: usize,
        flow: &NewFlow,
        numbers: &mut Numbers,
    ) -> Result<Option<usize>, Mishap> {
        self.let_time_pass();
        let mishap = |what: String| Mishap { worker, what };
        self.tell(worker).map_err(|reason| mishap(in_update(reason)))?;
        if self.servers.available() == 0 {
            return Ok(None);
        }
        let side = &mut self.workers[worker];
        let answer = side.instance.choose(flow, self.now);
        self.fuel.schedule.push(side.instance.fuel());
        let slot = match answer {
            Ok(slot) => slot,
            Err(Failure::Declined) => {
                if let Some(slot) = any_available(self.servers.slots(), numbers) {
                    self.begin(worker, slot, numbers);
                }
                return Ok(None);
            }
            Err(reason) => return Err(mishap(in_schedule(reason))),
        };
        match self.servers.slots().get(slot) {
            None => Err(mishap(format!(
                "answered {slot}, and there are {} slots",
                self.servers.slots().len()
            ))),
            Some(server) if server.weight == 0 => Err(mishap(format!(
                "answered slot {slot} that has weight 0 (its server is drained or gone)"
            ))),
            Some(_) => {
                self.begin(worker, slot, numbers);
                Ok(Some(slot))
            }
        }
    }

    /// Tells an instance what has changed since it was last asked.
    fn tell(&mut self, worker: usize) -> Result<(), Failure> {
        let others = self.workers.len() > 1;
        let side = &mut self.workers[worker];
        if side.told != self.version {
            side.told = self.version;
            side.loads_due = true;
            side.instance.servers_changed(self.servers.slots(), self.now)?;
            self.fuel.update.push(side.instance.fuel());
        }
        if !side.instance.wants_load() {
            return Ok(());
        }
        let merges = others && side.merged_at != self.now;
        if !side.loads_due && !merges {
            let WorkerSide { instance, own, others, dirty, .. } = side;
            for slot in dirty.drain(..) {
                instance.load_changed(slot, own[slot] + others[slot]);
            }
            return Ok(());
        }
        for slot in 0..self.servers.slots().len() {
            let sides = self.workers.iter().enumerate().filter(|(other, _)| *other != worker);
            let others = sides.fold(Load::default(), |sum, (_, side)| sum + side.own[slot]);
            let side = &mut self.workers[worker];
            side.others[slot] = others;
            side.instance.load_changed(slot, side.own[slot] + others);
        }
        let side = &mut self.workers[worker];
        (side.loads_due, side.merged_at) = (false, self.now);
        side.dirty.clear();
        Ok(())
    }

    /// A flow begins on a server.
    fn begin(&mut self, worker: usize, slot: usize, numbers: &mut Numbers) {
        self.flows += 1;
        self.count(worker, slot, |load| load.active += 1);
        self.later.push(Reverse(Later {
            at: self.now + numbers.below(ACTIVE_MAX) as Millis,
            number: self.flows,
            worker,
            slot,
            tenant: self.tenants[slot],
            was_active: true,
        }));
    }

    /// Ends what is due.
    fn let_time_pass(&mut self) {
        while let Some(&Reverse(later)) = self.later.peek()
            && later.at <= self.now
        {
            self.later.pop();
            let Later { worker, slot, .. } = later;
            if self.tenants[slot] != later.tenant {
                continue;
            }
            if later.was_active {
                self.count(worker, slot, |load| {
                    load.active -= 1;
                    load.inactive += 1;
                });
                let at = later.at + INACTIVE;
                self.later.push(Reverse(Later { at, was_active: false, ..later }));
            } else {
                self.count(worker, slot, |load| load.inactive -= 1);
            }
        }
    }

    fn count(&mut self, worker: usize, slot: usize, change: impl Fn(&mut Load)) {
        let side = &mut self.workers[worker];
        change(&mut side.own[slot]);
        if slot < self.servers.slots().len() && !side.dirty.contains(&slot) {
            side.dirty.push(slot);
        }
    }
}

fn any_available(slots: &[Candidate], numbers: &mut Numbers) -> Option<usize> {
    let from = numbers.below(slots.len().max(1));
    let around = (from..slots.len()).chain(0..from);
    around.into_iter().find(|&slot| slots[slot].weight > 0)
}

fn in_update(reason: Failure) -> String {
    match reason {
        Failure::Trap => "trapped in shunt_update".to_owned(),
        Failure::OutOfFuel => "used up its fuel in shunt_update".to_owned(),
        other => format!("failed in shunt_update ({})", other.name()),
    }
}

fn in_schedule(reason: Failure) -> String {
    match reason {
        Failure::Trap => "trapped in shunt_schedule".to_owned(),
        Failure::OutOfFuel => "used up its fuel in shunt_schedule".to_owned(),
        Failure::Unavailable => {
            "answered a slot that has weight 0 (its server is drained or gone)".to_owned()
        }
        Failure::OutOfRange => "answered a number that is no slot (declining is -1)".to_owned(),
        other => format!("failed in shunt_schedule ({})", other.name()),
    }
}

#[cfg(test)]
mod tests;
