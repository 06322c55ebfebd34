//! The mailbox between the control thread and one worker.
//!
//! The control thread prepares everything; the worker only swaps. An update comes back with what
//! it replaced, so that whatever has to be freed is freed on the control thread.

use crate::scheduler::Instance;
use crate::service_table::{ServiceIndex, ServiceTable};
use crate::settings::Settings;
use rtrb::{Consumer, Producer, RingBuffer};
use std::sync::Arc;

/// Updates that can wait for one worker.
const MAILBOX_SIZE: usize = 64;

/// A change for one worker. All of it takes effect between two bursts.
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
}

impl ControlEnd {
    /// Sends an update. A full mailbox (a worker that has not turned for 64 updates) gives it back.
    pub fn send(&mut self, update: Box<Update>) -> Result<(), Box<Update>> {
        self.updates.push(update).map_err(|rtrb::PushError::Full(update)| update)
    }

    /// Takes back an update that the worker has adopted, with what it replaced inside.
    pub fn reap(&mut self) -> Option<Box<Update>> {
        self.adopted.pop().ok()
    }
}

/// The worker's end.
pub struct WorkerEnd {
    pub(crate) updates: Consumer<Box<Update>>,
    pub(crate) adopted: Producer<Box<Update>>,
}

/// A mailbox.
pub fn mailbox() -> (ControlEnd, WorkerEnd) {
    let (updates_in, updates_out) = RingBuffer::new(MAILBOX_SIZE);
    let (adopted_in, adopted_out) = RingBuffer::new(MAILBOX_SIZE);
    (
        ControlEnd { updates: updates_in, adopted: adopted_out },
        WorkerEnd { updates: updates_out, adopted: adopted_in },
    )
}
