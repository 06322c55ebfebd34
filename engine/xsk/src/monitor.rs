//! What the control thread sees of a port that a worker owns.

use crate::{Error, Mode};

/// A view of a port for the control thread. Needs no lock and never holds the worker up.
#[derive(Debug, Clone)]
pub struct Monitor {
    queue: u32,
    mode: Mode,
    huge_pages: bool,
    waker: Waker,
}

impl Monitor {
    /// The queue's number.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// The mode that the kernel reports (`XDP_OPTIONS`).
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether the UMEM is on huge pages.
    pub fn huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// The kernel's own counters of the queue's socket.
    pub fn statistics(&self) -> Result<XdpStatistics, Error> {
        Err(Error::Closed { queue: self.queue })
    }

    /// What ends the port's [`wait`](crate::Port::wait).
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

/// Ends a port's [`wait`](crate::Port::wait), now or, if it does not wait, the next one.
#[derive(Debug, Clone)]
pub struct Waker {}

impl Waker {
    /// Wakes the port's worker.
    pub fn wake(&self) {}
}

/// `struct xdp_statistics` of `linux/if_xdp.h`: what the kernel counts for a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct XdpStatistics {
    /// Packets dropped for other reasons than the ones below.
    pub rx_dropped: u64,
    /// Fill-ring entries that the kernel refused.
    pub rx_invalid_descs: u64,
    /// TX-ring entries that the kernel refused.
    pub tx_invalid_descs: u64,
    /// Packets dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Times that the kernel found the fill ring empty.
    pub rx_fill_ring_empty_descs: u64,
    /// Times that the kernel found the TX ring empty.
    pub tx_ring_empty_descs: u64,
}
