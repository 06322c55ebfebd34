//! What the dataplane asks of a scheduler, and what it does when the answer is no use.

use crate::counters::add;
use crate::service_table::{ServerIndex, Service};
use crate::worker_memory::Millis;
use std::any::Any;
use std::net::IpAddr;
use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
    /// The plugin trapped. What it keeps may be torn, so that it is not asked again.
    Trap,
    /// The plugin used up its fuel. It is not asked again for this service.
    OutOfFuel,
    /// The answer is no slot of the table.
    OutOfRange,
    /// The answer is a slot that takes no new flows.
    Unavailable,
    /// The scheduler leaves the choice to the director. That is its right, and no failure of its.
    Declined,
    /// The plugin was not asked: it is benched or torn.
    Benched,
}

impl Failure {
    /// All reasons, in the order of their counters.
    pub const ALL: [Failure; 6] = [
        Failure::Trap,
        Failure::OutOfFuel,
        Failure::OutOfRange,
        Failure::Unavailable,
        Failure::Declined,
        Failure::Benched,
    ];

    /// The metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Failure::Trap => "trap",
            Failure::OutOfFuel => "out_of_fuel",
            Failure::OutOfRange => "out_of_range",
            Failure::Unavailable => "unavailable",
            Failure::Declined => "declined",
            Failure::Benched => "benched",
        }
    }
}

/// Chooses the real server of a new flow. One instance serves one virtual service on one worker.
///
/// Except for [`Instance::prime`], every method is called on the worker's thread and must not
/// allocate, lock or block. `now` is the worker's clock, 0 on the control thread.
pub trait Scheduler: Any + Send {
    /// The servers or their weights are now these. Called before the first `choose` and after
    /// every change; `load_changed` follows for every slot if `wants_load`.
    fn servers_changed(&mut self, servers: &[Candidate], now: Millis) -> Result<(), Failure>;

    /// Whether the scheduler looks at connections at all.
    fn wants_load(&self) -> bool;

    /// The connections of the server in `slot`, over all workers, are now these.
    fn load_changed(&mut self, slot: usize, load: Load);

    /// The slot of the server that `flow` goes to.
    fn choose(&mut self, flow: &NewFlow, now: Millis) -> Result<usize, Failure>;

    /// What the scheduler that takes this one's place should know. `None` if there is nothing, or
    /// if the call fails.
    fn save(&mut self, now: Millis) -> Option<&[u8]> {
        let _ = now;
        None
    }

    /// Takes over what the scheduler saved whose place this one takes. Whether it did: one that
    /// can make nothing of it is as if it had not been asked.
    fn restore(&mut self, state: &[u8], now: Millis) -> Result<bool, Failure> {
        let _ = (state, now);
        Ok(false)
    }
}

/// Why a scheduler is no longer asked: the values of [`SchedulerCounters::state`].
const ASKED: u64 = 0;
const BENCHED: u64 = 1;
const TORN: u64 = 2;

/// Counters of one scheduler instance: one worker writes, the control thread reads.
#[derive(Debug, Default)]
#[repr(align(128))] // no line with another worker's
pub struct SchedulerCounters {
    calls: AtomicU64,
    failures: [AtomicU64; Failure::ALL.len()],
    state: AtomicU64,
    inherited: AtomicU64,
}

impl SchedulerCounters {
    /// Flows for which the scheduler was asked.
    pub fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }

    /// Flows that got the consistent choice instead, by reason. A trap, or the end of the fuel,
    /// before the first flow counts here, too, though no flow waited for it.
    pub fn failures(&self, reason: Failure) -> u64 {
        self.failures[reason as usize].load(Relaxed)
    }

    /// Whether the scheduler is no longer asked, because it used up its fuel.
    pub fn is_benched(&self) -> bool {
        self.state.load(Relaxed) == BENCHED
    }

    /// Whether the scheduler is no longer asked, because it trapped. A fresh instance may take its
    /// place.
    pub fn is_torn(&self) -> bool {
        self.state.load(Relaxed) == TORN
    }

    /// Whether the scheduler took over what its predecessor handed to it.
    pub fn has_inherited(&self) -> bool {
        self.inherited.load(Relaxed) != 0
    }

    fn is_asked(&self) -> bool {
        self.state.load(Relaxed) == ASKED
    }

    fn count_call(&self) {
        add(&self.calls, 1);
    }

    fn count_failure(&self, reason: Failure) {
        add(&self.failures[reason as usize], 1);
        match reason {
            Failure::OutOfFuel => self.state.store(BENCHED, Relaxed),
            Failure::Trap => self.state.store(TORN, Relaxed),
            _ => {}
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
    /// Whether it takes over the state of the instance whose place it takes.
    inherits: bool,
    /// The scheduler has not been told of all connections since it was told of the servers.
    loads_due: bool,
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
            inherits: false,
            loads_due: true,
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

    /// The scheduler, for whoever knows more of it than the dataplane does.
    pub fn into_scheduler(self: Box<Self>) -> Box<dyn Scheduler> {
        self.scheduler
    }

    /// Tells the scheduler of the servers of the service that it is for, on the control thread, so
    /// that the worker need not do it with its first flow. An error if it fails on them, which
    /// counts as on a worker; such an instance is better not sent to one.
    pub fn prime(&mut self, service: &Service) -> Result<(), Failure> {
        self.told_version = Some(service.version);
        let told = self.scheduler.servers_changed(&service.candidates, 0);
        self.note_end(told)
    }

    /// The instance whose place this one takes hands its state over, when a worker swaps them.
    pub fn inherit(&mut self) {
        self.inherits = true;
    }

    /// Whether the instance takes state over when it is swapped in.
    pub(crate) fn inherits(&self) -> bool {
        self.inherits
    }

    /// Takes over the state of the instance that worked in its place so far.
    pub(crate) fn take_over(&mut self, former: &mut Instance, now: Millis) {
        self.inherits = false;
        if !former.counters.is_asked() || !self.counters.is_asked() {
            return;
        }
        let Some(state) = former.scheduler.save(now) else { return };
        match self.scheduler.restore(state, now) {
            Ok(taken) => self.counters.inherited.store(u64::from(taken), Relaxed),
            Err(reason) => drop(self.note_end(Err(reason))),
        }
    }

    /// Notes how a call ended that no flow waited for, if it ends the instance's work.
    fn note_end(&self, end: Result<(), Failure>) -> Result<(), Failure> {
        if let Err(reason @ (Failure::Trap | Failure::OutOfFuel)) = end {
            self.counters.count_failure(reason);
        }
        end
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
        if !self.counters.is_asked() {
            return Err(Failure::Benched);
        }
        self.counters.count_call();
        if self.told_version != Some(service.version) {
            // Noted first: a scheduler that fails on its servers is not told again for each flow.
            self.told_version = Some(service.version);
            self.loads_due = true;
            self.scheduler.servers_changed(&service.candidates, now)?;
        }
        if self.wants_load {
            if self.loads_due || (self.merged_at != now && loads.has_others()) {
                self.loads_due = false;
                self.merged_at = now;
                self.tell_all_loads(service, loads);
            } else {
                self.tell_dirty_loads(service, loads);
            }
        }
        let slot = self.scheduler.choose(flow, now)?;
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
