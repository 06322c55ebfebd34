//! What the dataplane asks of a scheduler, and what it does when the answer is no use.

use crate::counters::add;
use crate::service_table::{ServerIndex, Service};
use crate::worker_memory::Millis;
use std::net::IpAddr;
use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The most real servers that one virtual service can have.
pub const SERVERS_PER_SERVICE_MAX: usize = 1024;

/// A real server as a scheduler sees it. Its position in the slice is its slot: it keeps it for
/// as long as it exists, and the scheduler answers with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The real server's address.
    pub address: IpAddr,
    /// Weight of new flows. 0: takes none now, whatever the reason (drained, removed, no
    /// neighbor, an empty slot).
    pub weight: u32,
}

/// A real server's connections as IPVS counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Established TCP flows and living UDP flows.
    pub active: u32,
    /// All other flows.
    pub inactive: u32,
}

impl Add for Load {
    type Output = Load;

    fn add(self, other: Load) -> Load {
        Load {
            active: self.active.wrapping_add(other.active),
            inactive: self.inactive.wrapping_add(other.inactive),
        }
    }
}

/// A flow that needs a real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewFlow {
    /// The client's address; IPv4 as an IPv4-mapped IPv6 address (RFC 4291, 2.5.5.2).
    pub source: [u8; 16],
    /// The VIP, written likewise.
    pub destination: [u8; 16],
    /// The client's port.
    pub source_port: u16,
    /// The service's port.
    pub destination_port: u16,
    /// IP protocol number: 6 TCP, 17 UDP.
    pub protocol: u8,
}

/// Why a scheduler's answer was of no use. The flow gets the consistent choice instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The plugin trapped.
    Trap,
    /// The plugin used up its fuel. It is not asked again for this service.
    OutOfFuel,
    /// The answer is no slot of the table.
    OutOfRange,
    /// The answer is a slot that takes no new flows.
    Unavailable,
    /// The plugin was not asked: it is benched.
    Benched,
}

impl Failure {
    /// All reasons, in the order of their counters.
    pub const ALL: [Failure; 5] = [
        Failure::Trap,
        Failure::OutOfFuel,
        Failure::OutOfRange,
        Failure::Unavailable,
        Failure::Benched,
    ];

    /// The metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Failure::Trap => "trap",
            Failure::OutOfFuel => "out_of_fuel",
            Failure::OutOfRange => "out_of_range",
            Failure::Unavailable => "unavailable",
            Failure::Benched => "benched",
        }
    }
}

/// Chooses the real server of a new flow. One instance serves one virtual service on one worker.
///
/// Every method is called on the worker's thread and must not allocate, lock or block.
pub trait Scheduler: Send {
    /// The servers or their weights are now these. Called before the first `choose` and after
    /// every change; `load_changed` follows for every slot if `wants_load`.
    fn servers_changed(&mut self, servers: &[Candidate]) -> Result<(), Failure>;

    /// Whether the scheduler looks at connections at all.
    fn wants_load(&self) -> bool;

    /// The connections of the server in `slot`, over all workers, are now these.
    fn load_changed(&mut self, slot: usize, load: Load);

    /// The slot of the server that `flow` goes to.
    fn choose(&mut self, flow: &NewFlow) -> Result<usize, Failure>;
}

/// Counters of one scheduler instance: one worker writes, the control thread reads.
#[derive(Debug, Default)]
#[repr(align(128))] // no line with another worker's
pub struct SchedulerCounters {
    calls: AtomicU64,
    failures: [AtomicU64; Failure::ALL.len()],
    benched: AtomicBool,
}

impl SchedulerCounters {
    /// Flows for which the scheduler was asked.
    pub fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }

    /// Flows that got the consistent choice instead, by reason.
    pub fn failures(&self, reason: Failure) -> u64 {
        self.failures[reason as usize].load(Relaxed)
    }

    /// Whether the scheduler is no longer asked, because it used up its fuel.
    pub fn is_benched(&self) -> bool {
        self.benched.load(Relaxed)
    }

    fn count_call(&self) {
        add(&self.calls, 1);
    }

    fn count_failure(&self, reason: Failure) {
        add(&self.failures[reason as usize], 1);
        if reason == Failure::OutOfFuel {
            self.benched.store(true, Relaxed);
        }
    }
}

/// A scheduler on its way to, or in use by, a worker, with what the worker keeps beside it.
#[repr(align(128))] // no line with another worker's
pub struct Instance {
    scheduler: Box<dyn Scheduler>,
    counters: Arc<SchedulerCounters>,
    /// What the scheduler said when the instance was made: `others` is sized by it.
    wants_load: bool,
    /// [`Service::version`] that the scheduler was last told of.
    told_version: Option<u64>,
    /// Bit by slot: connections changed since the scheduler was last told.
    dirty: [u64; SERVERS_PER_SERVICE_MAX / 64],
    /// When the connections of the other workers were last read.
    merged_at: Millis,
    /// By slot: connections on the other workers, as last read.
    others: Vec<Load>,
}

impl Instance {
    /// An instance of `scheduler` that was never asked. On the control thread, since it allocates.
    pub fn new(scheduler: Box<dyn Scheduler>) -> Box<Instance> {
        let wants_load = scheduler.wants_load();
        let slots = if wants_load { SERVERS_PER_SERVICE_MAX } else { 0 };
        Box::new(Instance {
            scheduler,
            counters: Arc::default(),
            wants_load,
            told_version: None,
            dirty: [0; SERVERS_PER_SERVICE_MAX / 64],
            merged_at: 0,
            others: vec![Load::default(); slots],
        })
    }

    /// The counters, for whoever watches the instance.
    pub fn counters(&self) -> &Arc<SchedulerCounters> {
        &self.counters
    }

    /// The connections of the server in `slot` changed on this worker.
    #[inline]
    pub(crate) fn mark_dirty(&mut self, slot: u16) {
        self.dirty[usize::from(slot) / 64] |= 1 << (slot % 64);
    }

    /// Asks for the slot of a new flow, after telling the scheduler what has changed since it was
    /// last asked. The answer is a slot that takes new flows.
    pub(crate) fn schedule(
        &mut self,
        service: &Service,
        flow: &NewFlow,
        loads: &impl Loads,
        now: Millis,
    ) -> Result<usize, Failure> {
        let answer = self.ask(service, flow, loads, now);
        if let Err(reason) = answer {
            self.counters.count_failure(reason);
        }
        answer
    }

    fn ask(
        &mut self,
        service: &Service,
        flow: &NewFlow,
        loads: &impl Loads,
        now: Millis,
    ) -> Result<usize, Failure> {
        if self.counters.is_benched() {
            return Err(Failure::Benched);
        }
        self.counters.count_call();
        let changed = self.told_version != Some(service.version);
        if changed {
            // Noted first: a scheduler that fails on its servers is not told again for each flow.
            self.told_version = Some(service.version);
            self.scheduler.servers_changed(&service.candidates)?;
        }
        if self.wants_load {
            if changed || (self.merged_at != now && loads.has_others()) {
                self.merged_at = now;
                self.tell_all_loads(service, loads);
            } else {
                self.tell_dirty_loads(service, loads);
            }
        }
        let slot = self.scheduler.choose(flow)?;
        match service.candidates.get(slot) {
            None => Err(Failure::OutOfRange),
            Some(candidate) if candidate.weight == 0 => Err(Failure::Unavailable),
            Some(_) => Ok(slot),
        }
    }

    fn tell_all_loads(&mut self, service: &Service, loads: &impl Loads) {
        for (slot, server) in service.servers.iter().enumerate() {
            let Some(server) = *server else { continue };
            self.others[slot] = loads.others(server);
            self.scheduler.load_changed(slot, loads.own(server) + self.others[slot]);
        }
        self.dirty = [0; SERVERS_PER_SERVICE_MAX / 64];
    }

    fn tell_dirty_loads(&mut self, service: &Service, loads: &impl Loads) {
        for (word, bits) in self.dirty.iter_mut().enumerate() {
            while *bits != 0 {
                let slot = word * 64 + bits.trailing_zeros() as usize;
                *bits &= *bits - 1;
                if let Some(Some(server)) = service.servers.get(slot) {
                    self.scheduler.load_changed(slot, loads.own(*server) + self.others[slot]);
                }
            }
        }
    }
}

/// Where an instance reads connections from.
pub(crate) trait Loads {
    /// Whether there are other workers.
    fn has_others(&self) -> bool;
    /// Connections of a server on this worker.
    fn own(&self, server: ServerIndex) -> Load;
    /// Connections of a server on all other workers.
    fn others(&self, server: ServerIndex) -> Load;
}
