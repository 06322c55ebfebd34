//! What the control thread sees of a port that a worker owns.

use crate::Mode;
use crate::error::{Error, ZeroCopyRefusal, system};
use crate::socket::Socket;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Weak};

/// A view of a port for the control thread. Needs no lock and never holds the worker up.
#[derive(Debug, Clone)]
pub struct Monitor {
    pub(crate) queue: u32,
    pub(crate) mode: Mode,
    pub(crate) refusal: Option<Arc<ZeroCopyRefusal>>,
    pub(crate) huge_pages: bool,
    pub(crate) waker: Waker,
    /// Weak, so that the queue is free again as soon as its port is dropped.
    pub(crate) socket: Weak<Socket>,
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

    /// Why the mode is not zero-copy, where that was asked for first.
    pub fn zero_copy_refusal(&self) -> Option<&ZeroCopyRefusal> {
        self.refusal.as_deref()
    }

    /// Whether the UMEM is on huge pages.
    pub fn huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// The kernel's own counters of the queue's socket.
    pub fn statistics(&self) -> Result<XdpStatistics, Error> {
        let socket = self.socket.upgrade().ok_or(Error::Closed { queue: self.queue })?;
        socket.statistics().map_err(system(format!("queue {}", self.queue), "read XDP_STATISTICS"))
    }

    /// What ends the port's [`wait`](crate::Port::wait).
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

/// Ends a port's [`wait`](crate::Port::wait), now or, if it does not wait, the next one.
#[derive(Debug, Clone)]
pub struct Waker {
    event: Arc<OwnedFd>,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Waker> {
        // SAFETY: no pointers; the descriptor is checked below.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that the kernel just made and that nobody else knows.
        Ok(Waker { event: Arc::new(unsafe { OwnedFd::from_raw_fd(fd) }) })
    }

    /// Wakes the port's worker.
    pub fn wake(&self) {
        let one = 1u64;
        // SAFETY: eight bytes of a live local. It fails only when 2^64 - 2 calls were not heard,
        // and then the worker wakes up anyway.
        unsafe { libc::write(self.event.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    }

    /// Forgets the calls so far.
    pub(crate) fn clear(&self) {
        let mut calls = 0u64;
        // SAFETY: eight bytes of a live local. Without a call there is nothing to read: EAGAIN.
        unsafe { libc::read(self.event.as_raw_fd(), (&raw mut calls).cast(), size_of::<u64>()) };
    }
}

impl AsRawFd for Waker {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
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
