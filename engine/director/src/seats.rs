//! Where packets are taken in: the served interfaces and the workers on their queues, as the
//! control thread has them.

use crate::tables::TableMaker;
use dataplane::{Handle, Instance, ServiceIndex, Update};
use std::collections::VecDeque;
use xsk::{AttachMode, Monitor, Steer};

/// A served interface.
pub struct ServedInterface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its MAC address: that of packets that come, and of those that leave.
    pub mac: [u8; 6],
    /// Its XDP program; `None` where packets come from memory.
    pub steer: Option<Steer>,
    /// How the program is attached; `None` while it is not.
    pub attached: Option<AttachMode>,
    /// Whether the link has a carrier, as last heard.
    pub carrier: bool,
    pub(crate) tables: TableMaker,
}

impl ServedInterface {
    /// An interface whose program is not attached.
    pub fn new(name: String, index: u32, mac: [u8; 6], steer: Option<Steer>) -> ServedInterface {
        let tables = TableMaker::default();
        ServedInterface { name, index, mac, steer, attached: None, carrier: true, tables }
    }
}

/// A worker, as the control thread has it.
pub struct WorkerSeat {
    /// Position of its interface.
    pub interface: usize,
    /// Its queue.
    pub queue: u32,
    /// The core that it is pinned to.
    pub core: usize,
    /// Its mailbox and memory.
    pub handle: Handle,
    /// Its socket; `None` where packets come from memory.
    pub monitor: Option<Monitor>,
    /// Updates sent, or waiting to be, and not yet adopted.
    pub(crate) pending: usize,
    /// Updates that the mailbox had no room for: a worker that hangs must not miss one when it
    /// comes back.
    waiting: VecDeque<Box<Update>>,
    /// Instances that were replaced, since the last change.
    pub(crate) returned: Vec<(ServiceIndex, Box<Instance>)>,
}

impl WorkerSeat {
    /// A worker that was told nothing yet.
    pub fn new(
        interface: usize,
        queue: u32,
        core: usize,
        handle: Handle,
        monitor: Option<Monitor>,
    ) -> WorkerSeat {
        WorkerSeat {
            interface,
            queue,
            core,
            handle,
            monitor,
            pending: 0,
            waiting: VecDeque::new(),
            returned: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, update: Update) {
        self.pending += 1;
        self.waiting.push_back(Box::new(update));
        self.deliver();
    }

    fn deliver(&mut self) {
        while let Some(update) = self.waiting.pop_front() {
            if let Err(update) = self.handle.mailbox.send(update) {
                self.waiting.push_front(update);
                break;
            }
        }
        self.wake();
    }

    /// Ends the worker's sleep, if it sleeps.
    pub fn wake(&self) {
        if let Some(monitor) = &self.monitor {
            monitor.waker().wake();
        }
    }

    pub(crate) fn reap(&mut self) {
        while let Some(adopted) = self.handle.mailbox.reap() {
            self.pending -= 1;
            // What else it replaced is freed here, off the packet path.
            let replaced = adopted.schedulers.into_iter();
            self.returned.extend(replaced.filter_map(|(index, instance)| Some((index, instance?))));
        }
        if !self.waiting.is_empty() {
            self.deliver();
        }
    }
}
