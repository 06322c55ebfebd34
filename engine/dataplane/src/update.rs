//! The mailbox between the control thread and one worker.
//!
//! The control thread prepares everything; the worker only swaps. An update comes back with what
//! it replaced, so that whatever has to be freed is freed on the control thread.

use crate::probe::{PROBES_MAX, Probe};
use crate::scheduler::Instance;
use crate::service_table::{ServiceIndex, ServiceTable};
use crate::settings::Settings;
use rtrb::{Consumer, Producer, RingBuffer};
use std::sync::Arc;

/// Updates that can wait for one worker.
const MAILBOX_SIZE: usize = 64;

/// A change for one worker. The table and the settings take effect together, between two bursts.
/// The schedulers follow, in the same turn if they are few, and otherwise over the next ones; the
/// update comes back when the last of them is in place.
#[derive(Default)]
pub struct Update {
    /// The services and servers.
    pub table: Option<Arc<ServiceTable>>,
    /// The settings.
    pub settings: Option<Settings>,
    /// Scheduler instances to put in place; `None` takes the service's instance away.
    pub schedulers: Vec<(ServiceIndex, Option<Box<Instance>>)>,
}

/// The control thread's end.
pub struct ControlEnd {
    updates: Producer<Box<Update>>,
    adopted: Consumer<Box<Update>>,
    probes: Producer<Probe>,
    /// Probes that were put into the ring.
    probed: u64,
}

impl ControlEnd {
    /// Sends an update. A full mailbox (a worker that has not turned for 64 updates) gives it back.
    pub fn send(&mut self, update: Box<Update>) -> Result<(), Box<Update>> {
        self.updates.push(update).map_err(|rtrb::PushError::Full(update)| update)
    }

    /// Has the worker send a probe in its next turn. Returns its number; `None`: there is no room.
    pub fn probe(&mut self, probe: Probe) -> Option<u64> {
        self.probes.push(probe).ok()?;
        self.probed += 1;
        Some(self.probed)
    }

    /// Whether the worker has come to the probe with this number, and so has sent it, or knows
    /// nowhere to send it to.
    pub fn has_taken(&self, number: u64) -> bool {
        let waiting = PROBES_MAX - self.probes.slots();
        number + waiting as u64 <= self.probed
    }

    /// Takes back an update that the worker has adopted, with what it replaced inside.
    pub fn reap(&mut self) -> Option<Box<Update>> {
        self.adopted.pop().ok()
    }
}

/// The worker's end.
pub struct WorkerEnd {
    updates: Consumer<Box<Update>>,
    adopted: Producer<Box<Update>>,
    /// The update that is adopted in part.
    pub(crate) under_way: Option<Adoption>,
    /// The probes to send.
    pub(crate) probes: Consumer<Probe>,
}

/// An update whose table and settings are in place, and some of its schedulers.
pub(crate) struct Adoption {
    pub update: Box<Update>,
    /// Schedulers that are in place.
    pub swapped: usize,
}

impl Adoption {
    /// The next scheduler to put in place.
    pub fn next(&mut self) -> Option<(ServiceIndex, &mut Option<Box<Instance>>)> {
        let (service, instance) = self.update.schedulers.get_mut(self.swapped)?;
        Some((*service, instance))
    }
}

impl WorkerEnd {
    /// Whether there is anything to adopt.
    #[inline]
    pub(crate) fn has_work(&self) -> bool {
        self.under_way.is_some() || (!self.updates.is_empty() && !self.adopted.is_full())
    }

    /// The next update. One that could not be sent back would have to be freed here: it waits
    /// instead.
    pub(crate) fn next(&mut self) -> Option<Box<Update>> {
        if self.adopted.is_full() { None } else { self.updates.pop().ok() }
    }

    /// Sends an update back that is adopted.
    pub(crate) fn send_back(&mut self, update: Box<Update>) {
        let returned = self.adopted.push(update);
        debug_assert!(returned.is_ok(), "only this thread fills the ring");
    }
}

/// A mailbox.
pub fn mailbox() -> (ControlEnd, WorkerEnd) {
    let (updates_in, updates_out) = RingBuffer::new(MAILBOX_SIZE);
    let (adopted_in, adopted_out) = RingBuffer::new(MAILBOX_SIZE);
    let (probes_in, probes_out) = RingBuffer::new(PROBES_MAX);
    (
        ControlEnd { updates: updates_in, adopted: adopted_out, probes: probes_in, probed: 0 },
        WorkerEnd {
            updates: updates_out,
            adopted: adopted_in,
            under_way: None,
            probes: probes_out,
        },
    )
}
