//! What the packet path needs of a queue, whether a NIC's or one in memory.

use std::time::Duration;

/// The most packets that one turn of a worker takes.
pub const BURST_MAX: usize = 64;

/// A packet in a frame that the worker holds.
///
/// It is the only key to the frame's bytes and can be neither copied nor made outside this
/// crate, so that a frame has one holder at a time: it goes back with [`Port::send`] or
/// [`Port::release`].
///
/// As the rings hold it: `struct xdp_desc` in linux/if_xdp.h.
#[derive(Debug)]
#[repr(C)]
#[must_use = "a packet that is neither sent nor released loses its frame"]
pub struct Packet {
    /// Offset of the packet's first byte in the UMEM.
    pub(crate) address: u64,
    /// Bytes.
    pub(crate) length: u32,
    /// Nothing that a port of single-frame packets uses: 0.
    pub(crate) options: u32,
}

impl Packet {
    /// Length of the packet in bytes, Ethernet header included.
    #[inline]
    #[allow(clippy::len_without_is_empty)] // a descriptor: emptiness is the parser's question
    pub fn len(&self) -> usize {
        self.length as usize
    }

    /// Leaves the packet's first `length` bytes only. One that is no longer stays as it is.
    pub fn truncate(&mut self, length: usize) {
        self.length = u32::try_from(length).map_or(self.length, |length| length.min(self.length));
    }
}

/// Where all frames of a UMEM are. The sum is always the total (invariant 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// In user space's list of free frames.
    pub free: u32,
    /// Given to the kernel to receive into.
    pub fill: u32,
    /// Received and not yet taken from the RX ring, as far as user space can see.
    pub rx: u32,
    /// Handed out as [`Packet`]s.
    pub held: u32,
    /// Given to the kernel to transmit, or waiting in the TX ring.
    pub tx: u32,
    /// Transmitted and not yet reclaimed.
    pub completion: u32,
    /// All frames of the UMEM.
    pub total: u32,
}

impl Census {
    /// Whether every frame is accounted for exactly once.
    pub fn is_conserved(&self) -> bool {
        self.free + self.fill + self.rx + self.held + self.tx + self.completion == self.total
    }
}

/// What a port counts itself. All only ever grow, from the start of the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortCounters {
    /// Packets that [`Port::send`] could not place because the TX ring was full.
    pub tx_ring_full: u64,
    /// Turns that found the fill ring empty before refilling it.
    pub fill_ring_empty: u64,
    /// System calls made to wake the kernel.
    pub wakeups: u64,
}

/// One receive and transmit queue with its frames.
///
/// The order in one turn is `reclaim`, `receive`, then `send` or `release` for every packet,
/// `flush`, `refill`.
pub trait Port {
    /// Moves transmitted frames from the completion ring to the free frames.
    fn reclaim(&mut self);

    /// Appends at most [`BURST_MAX`] received packets to `burst` and returns how many.
    /// `burst` must be empty and have room for [`BURST_MAX`], so that nothing is allocated.
    fn receive(&mut self, burst: &mut Vec<Packet>) -> usize;

    /// Asks for the packet's first cache line, so that it is there when the packet's turn comes.
    fn prefetch(&self, packet: &Packet);

    /// The packet's bytes, from the Ethernet header on.
    fn bytes(&self, packet: &Packet) -> &[u8];

    /// The packet's bytes, to be rewritten in place.
    fn bytes_mut(&mut self, packet: &Packet) -> &mut [u8];

    /// Queues the packets for transmission, in order and from the frames that they were received
    /// in, and returns how many. Those that a full TX ring has no room for stay in `burst`, counted
    /// in [`PortCounters::tx_ring_full`].
    fn send(&mut self, burst: &mut Vec<Packet>) -> usize;

    /// A packet that was not received, of `length` bytes that are yet to be written. `None` if no
    /// frame is free, or none is that long.
    fn make(&mut self, length: usize) -> Option<Packet>;

    /// Gives the frame back without sending the packet.
    fn release(&mut self, packet: Packet);

    /// Makes the queued packets visible to the kernel and wakes it once, if the ring asks for it.
    fn flush(&mut self);

    /// Moves free frames to the fill ring.
    fn refill(&mut self);

    /// Sleeps until a packet arrives, the port's waker is rung or `timeout` has passed.
    fn wait(&mut self, timeout: Duration);

    /// Where the frames are.
    fn census(&self) -> Census;

    /// What was counted so far.
    fn counters(&self) -> PortCounters;

    /// The MAC address that transmitted frames carry as their source.
    fn mac(&self) -> [u8; 6];
}
