//! What the dataplane asks of a scheduler, and what it does when the answer is no use.

use std::net::IpAddr;
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

    pub(crate) fn count_call(&self) {
        self.calls.store(self.calls.load(Relaxed) + 1, Relaxed);
    }

    pub(crate) fn count_failure(&self, reason: Failure) {
        let counter = &self.failures[reason as usize];
        counter.store(counter.load(Relaxed) + 1, Relaxed);
        if reason == Failure::OutOfFuel {
            self.benched.store(true, Relaxed);
        }
    }
}

/// A scheduler instance on its way to, or in use by, a worker.
pub struct Instance {
    /// The scheduler.
    pub scheduler: Box<dyn Scheduler>,
    /// Its counters, which whoever made the instance reads.
    pub counters: Arc<SchedulerCounters>,
}
