//! User space's half of a queue: the frames, the four rings, and who has which frame.
//!
//! The packet path of every port is here. A port adds the other half: the kernel
//! ([`crate::XskPort`]) or its twin in memory ([`crate::MemoryPort`]).

use crate::port::{BURST_MAX, Census, Packet, PortCounters};
use crate::ring::{Consumer, Producer};
use crate::umem::Umem;

/// The four rings of a queue, from user space's side.
#[derive(Debug)]
pub(crate) struct Rings {
    pub(crate) fill: Producer<u64>,
    pub(crate) rx: Consumer<Packet>,
    pub(crate) tx: Producer<Packet>,
    pub(crate) completion: Consumer<u64>,
}

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) umem: Umem,
    pub(crate) rings: Rings,
    /// Addresses of frames that are neither in a ring nor with a packet. The frame that came
    /// back last goes out first: it is the likeliest to be in a cache.
    free: Vec<u64>,
    /// Frames that are with a packet.
    held: u32,
    /// Frames that a twin in memory received again as they were sent, by no ring. A kernel never
    /// does.
    recycled: u32,
    pub(crate) counters: PortCounters,
    #[cfg(debug_assertions)]
    ledger: Ledger,
}

impl Queue {
    /// All frames free. The rings must be empty, and each one's counterpart at the same index
    /// (fill and RX, TX and completion), as the kernel makes them.
    pub(crate) fn new(umem: Umem, rings: Rings) -> Queue {
        assert_eq!(rings.fill.next(), rings.rx.next(), "fill and RX ring must start alike");
        assert_eq!(rings.tx.next(), rings.completion.next(), "TX and completion ring likewise");
        let size = u64::from(umem.frame_size());
        let frames = u64::from(umem.frames());
        Queue {
            free: (0..frames).rev().map(|frame| frame * size).collect(),
            held: 0,
            recycled: 0,
            counters: PortCounters::default(),
            #[cfg(debug_assertions)]
            ledger: Ledger::new(&umem),
            umem,
            rings,
        }
    }

    #[inline]
    pub(crate) fn reclaim(&mut self) {
        let count = self.rings.completion.peek(u32::MAX);
        if count == 0 {
            return;
        }
        let mask = self.umem.frame_mask();
        for part in self.rings.completion.entries(count) {
            #[cfg(debug_assertions)]
            for address in part {
                self.ledger.change(address & mask, Place::Transmit, Place::Free);
            }
            // Within the capacity: no more frames exist.
            self.free.extend(part.iter().map(|address| address & mask));
        }
        self.rings.completion.release(count);
    }

    #[inline]
    pub(crate) fn receive(&mut self, burst: &mut Vec<Packet>) -> usize {
        let count = self.rings.rx.peek(BURST_MAX as u32);
        if count == 0 {
            return 0;
        }
        for part in self.rings.rx.entries(count) {
            #[cfg(debug_assertions)]
            for received in part {
                let frame = received.address & self.umem.frame_mask();
                assert_eq!(received.options, 0, "a packet of several frames, which nobody wants");
                self.ledger.change(frame, Place::Receive, Place::Held);
            }
            burst.extend(part.iter().map(|&Packet { address, length, options }| Packet {
                address,
                length,
                options,
            }));
        }
        self.rings.rx.release(count);
        self.held += count;
        count as usize
    }

    /// Sends no more than `most` packets.
    #[inline]
    pub(crate) fn send(&mut self, burst: &mut Vec<Packet>, most: usize) -> usize {
        if burst.is_empty() {
            return 0;
        }
        let sent = self.rings.tx.push_all(&burst[..burst.len().min(most)]);
        #[cfg(debug_assertions)]
        for packet in &burst[..sent] {
            let frame = packet.address & self.umem.frame_mask();
            self.ledger.change(frame, Place::Held, Place::Transmit);
        }
        self.held -= sent as u32;
        burst.drain(..sent);
        self.counters.tx_ring_full += burst.len() as u64;
        sent
    }

    pub(crate) fn make(&mut self, length: usize) -> Option<Packet> {
        if length > self.umem.frame_size() as usize {
            return None;
        }
        let address = self.free.pop()?;
        #[cfg(debug_assertions)]
        self.ledger.change(address, Place::Free, Place::Held);
        self.held += 1;
        Some(Packet { address, length: length as u32, options: 0 })
    }

    #[inline]
    pub(crate) fn release(&mut self, packet: Packet) {
        let frame = packet.address & self.umem.frame_mask();
        #[cfg(debug_assertions)]
        self.ledger.change(frame, Place::Held, Place::Free);
        self.held -= 1;
        self.free.push(frame);
    }

    /// Moves free frames to the fill ring. Returns how many.
    #[inline]
    pub(crate) fn refill(&mut self) -> usize {
        let room = self.rings.fill.room();
        if room == self.rings.fill.size() {
            self.counters.fill_ring_empty += 1;
        }
        if self.free.is_empty() {
            return 0;
        }
        let kept = self.free.len().saturating_sub(room as usize);
        #[cfg(debug_assertions)]
        for &frame in &self.free[kept..] {
            self.ledger.change(frame, Place::Free, Place::Receive);
        }
        let count = self.rings.fill.push_all(&self.free[kept..]);
        self.free.truncate(kept);
        self.rings.fill.publish();
        count
    }

    /// Frames that were sent and have not been reclaimed.
    #[inline]
    pub(crate) fn sending(&self) -> u32 {
        let completed = self.rings.completion.next().wrapping_add(self.recycled);
        self.rings.tx.next().wrapping_sub(completed)
    }

    /// Frames that were given to receive into and have not been received.
    fn receiving(&self) -> u32 {
        let given = self.rings.fill.next().wrapping_add(self.recycled);
        given.wrapping_sub(self.rings.rx.next())
    }

    /// Notes that a twin puts a sent frame into the RX ring.
    pub(crate) fn recycle(&mut self, packet: &Packet) {
        self.recycled = self.recycled.wrapping_add(1);
        #[cfg(debug_assertions)]
        self.ledger.change(
            packet.address & self.umem.frame_mask(),
            Place::Transmit,
            Place::Receive,
        );
        #[cfg(not(debug_assertions))]
        let _ = packet;
    }

    pub(crate) fn census(&self) -> Census {
        let rx = self.rings.rx.visible();
        let completion = self.rings.completion.visible();
        Census {
            free: self.free.len() as u32,
            fill: self.receiving() - rx,
            rx,
            held: self.held,
            tx: self.sending() - completion,
            completion,
            total: self.umem.frames(),
        }
    }
}

/// Where each single frame is, in builds with debug assertions: the census only counts, and two
/// faults could cancel each other out.
#[cfg(debug_assertions)]
#[derive(Debug)]
struct Ledger {
    places: Vec<Place>,
    frame_size: u64,
}

#[cfg(debug_assertions)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Free,
    /// In the fill ring, with the kernel or in the RX ring.
    Receive,
    Held,
    /// In the TX ring, with the kernel or in the completion ring.
    Transmit,
}

#[cfg(debug_assertions)]
impl Ledger {
    fn new(umem: &Umem) -> Ledger {
        Ledger {
            places: vec![Place::Free; umem.frames() as usize],
            frame_size: umem.frame_size().into(),
        }
    }

    fn change(&mut self, frame: u64, from: Place, to: Place) {
        let place = &mut self.places[(frame / self.frame_size) as usize];
        assert_eq!(*place, from, "frame at {frame}, on its way to {to:?}");
        *place = to;
    }
}
