//! Who drops when more comes than a worker can take.
//!
//! In copy mode a packet that finds its socket's ring full has cost the kernel a copy, and counting
//! it writes to a cache line that the worker's `sendto` reads for each packet: at three times what
//! a worker can take, a fifth of what it forwarded is gone. So the worker tells the XDP program,
//! which drops the packet before all that and counts it. A zero-copy driver drops at an empty fill
//! ring, which costs nobody anything: its queues do without.

use crate::mapping::Mapping;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of a queue's entry in the map `shedding` of steer.bpf.c: a cache line.
pub(crate) const ENTRY: usize = 64;

/// A queue's entry in the map.
#[derive(Debug)]
pub(crate) struct Shedding {
    map: Arc<Mapping>,
    offset: usize,
    /// Waiting packets from which on more are dropped, and down to which.
    begin: u32,
    end: u32,
    on: bool,
}

impl Shedding {
    /// The entry of a queue whose RX ring has this size.
    ///
    /// # Panics
    /// If the map has no such entry.
    pub(crate) fn new(map: Arc<Mapping>, queue: u32, ring_size: u32) -> Shedding {
        let offset = queue as usize * ENTRY;
        assert!(offset + ENTRY <= map.length(), "queue {queue} has no entry");
        // Room is left for what arrives until the worker looks again.
        let (begin, end) = (ring_size / 8 * 7, ring_size / 8 * 5);
        Shedding { map, offset, begin, end, on: false }
    }

    /// Whether packets are dropped.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// Begins or ends, by how many packets wait in the RX ring.
    #[inline]
    pub(crate) fn adjust(&mut self, waiting: u32) {
        let on = if self.on { waiting > self.end } else { waiting >= self.begin };
        if on != self.on {
            self.on = on;
            self.tell(on);
        }
    }

    fn tell(&self, on: bool) {
        // SAFETY: the entry is within the mapping (`new`), which starts on a page, so that it is
        // aligned; it is only ever used as an atomic.
        let entry = unsafe { self.map.start().add(self.offset).cast::<AtomicU32>().as_ref() };
        // Relaxed: nothing else is told by it, and a packet earlier or later does not matter.
        entry.store(on.into(), Ordering::Relaxed);
    }
}

impl Drop for Shedding {
    /// Without a worker packets go where they go without a socket: to the kernel.
    fn drop(&mut self) {
        self.tell(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_sheds_from_seven_eighths_down_to_five() {
        let map = Arc::new(Mapping::anonymous(2 * ENTRY).unwrap());
        let told = |map: &Mapping| {
            // SAFETY: two words within the mapping, read by the thread that writes them.
            unsafe { [0, ENTRY].map(|offset| map.start().add(offset).cast::<u32>().read()) }
        };
        let mut shedding = Shedding::new(map.clone(), 1, 4096);
        for (waiting, on) in
            [(0, 0), (3583, 0), (3584, 1), (4096, 1), (2561, 1), (2560, 0), (3000, 0), (3584, 1)]
        {
            shedding.adjust(waiting);
            assert_eq!(told(&map), [0, on], "{waiting}");
            assert_eq!(shedding.is_on(), on == 1);
        }
        drop(shedding);
        assert_eq!(told(&map), [0, 0]);
    }
}
