//! A port over plain memory: the twin of the AF_XDP port for tests, fuzzing and benches.

use crate::port::{Census, Packet, Port, PortCounters};
use crate::queue::{Queue, Rings};
use crate::ring::{Consumer, Producer, pair};
use crate::umem::{HEADROOM, Umem};
use std::time::Duration;

const FRAME_SIZE: u32 = 2048;

/// Where the rings' indices start: near the end of u32, so that whatever runs on a memory port
/// soon sees them wrap.
const FIRST_INDEX: u32 = u32::MAX - 100;

/// A port whose wire is a pair of queues in memory.
///
/// The packet path is the AF_XDP port's own, rings and frames included; in the kernel's place
/// are the rings' other ends. [`inject`](MemoryPort::inject) puts a packet on the wire,
/// [`sent`](MemoryPort::sent) takes the transmitted ones off it. The faults of a real queue can
/// be played: few frames, a TX ring that is short, a kernel that does not complete.
#[derive(Debug)]
pub struct MemoryPort {
    queue: Queue,
    kernel: Twin,
    mac: [u8; 6],
    tx_ring_size: u32,
    stalled: bool,
}

/// The kernel's ends of the rings.
#[derive(Debug)]
struct Twin {
    fill: Consumer<u64>,
    rx: Producer<Packet>,
    tx: Consumer<Packet>,
    completion: Producer<u64>,
    /// Packets taken from the TX ring and not yet completed: the ones just before its index.
    /// Their entries are not written again before that, since the ring holds all frames.
    in_flight: u32,
}

impl Twin {
    /// Takes the oldest transmitted packet off the wire.
    fn transmitted(&mut self) -> Option<Packet> {
        if self.in_flight == 0 {
            return None;
        }
        let packet = self.tx.reread(self.tx.next().wrapping_sub(self.in_flight));
        self.in_flight -= 1;
        Some(packet)
    }
}

impl MemoryPort {
    /// A port with `frames` frames of 2 KiB and TX, fill and RX rings that can hold them all.
    ///
    /// # Panics
    /// If there is no memory for them.
    pub fn new(mac: [u8; 6], frames: u32) -> MemoryPort {
        let size = frames.next_power_of_two();
        let memory = "memory for the port";
        let (fill, kernel_fill) = pair(size, FIRST_INDEX).expect(memory);
        let (kernel_rx, rx) = pair(size, FIRST_INDEX).expect(memory);
        let (tx, kernel_tx) = pair(size, FIRST_INDEX).expect(memory);
        let (kernel_completion, completion) = pair(size, FIRST_INDEX).expect(memory);
        let umem = Umem::new(frames, FRAME_SIZE).expect(memory);
        let mut queue = Queue::new(umem, Rings { fill, rx, tx, completion });
        queue.refill();
        queue.counters = PortCounters::default();
        let kernel = Twin {
            fill: kernel_fill,
            rx: kernel_rx,
            tx: kernel_tx,
            completion: kernel_completion,
            in_flight: 0,
        };
        MemoryPort { queue, kernel, mac, tx_ring_size: size, stalled: false }
    }

    /// Makes the TX ring hold at most `size` packets.
    pub fn limit_tx_ring(&mut self, size: usize) {
        self.tx_ring_size = size.min(self.queue.rings.tx.size() as usize) as u32;
    }

    /// While stalled, the "kernel" transmits and completes nothing.
    pub fn stall(&mut self, stalled: bool) {
        self.stalled = stalled;
    }

    /// Puts a packet on the wire. Returns false when the fill ring is empty or the packet does
    /// not fit a frame: a NIC would have dropped it too.
    pub fn inject(&mut self, packet: &[u8]) -> bool {
        if packet.len() > (FRAME_SIZE - HEADROOM) as usize || self.kernel.fill.peek(1) == 0 {
            return false;
        }
        let frame = self.kernel.fill.reread(self.kernel.fill.next());
        self.kernel.fill.release(1);
        let address = frame + u64::from(HEADROOM);
        let received = Packet { address, length: packet.len() as u32, options: 0 };
        self.queue.umem.bytes_mut(&received).copy_from_slice(packet);
        self.show(received);
        self.kernel.rx.publish();
        true
    }

    /// Takes the transmitted packets off the wire, oldest first, and completes their frames.
    pub fn sent(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::with_capacity(self.kernel.in_flight as usize);
        while let Some(packet) = self.kernel.transmitted() {
            packets.push(self.queue.umem.bytes(&packet).to_vec());
            let placed = self.kernel.completion.push(packet.address);
            assert!(placed, "the completion ring holds all frames");
        }
        self.kernel.completion.publish();
        packets
    }

    /// For benches: completes what was transmitted and receives the same frames again, as they
    /// are. `restore` is given each packet's bytes to undo the rewrite.
    pub fn recycle(&mut self, mut restore: impl FnMut(&mut [u8])) {
        while let Some(packet) = self.kernel.transmitted() {
            restore(self.queue.umem.bytes_mut(&packet));
            self.queue.recycle(&packet);
            self.show(packet);
        }
        self.kernel.rx.publish();
    }

    fn show(&mut self, packet: Packet) {
        let placed = self.kernel.rx.push(packet);
        assert!(placed, "the RX ring holds all frames");
    }
}

impl Port for MemoryPort {
    #[inline]
    fn reclaim(&mut self) {
        self.queue.reclaim();
    }

    #[inline]
    fn receive(&mut self, burst: &mut Vec<Packet>) -> usize {
        self.queue.receive(burst)
    }

    #[inline]
    fn prefetch(&self, packet: &Packet) {
        self.queue.umem.prefetch(packet);
    }

    #[inline]
    fn bytes(&self, packet: &Packet) -> &[u8] {
        self.queue.umem.bytes(packet)
    }

    #[inline]
    fn bytes_mut(&mut self, packet: &Packet) -> &mut [u8] {
        self.queue.umem.bytes_mut(packet)
    }

    #[inline]
    fn send(&mut self, burst: &mut Vec<Packet>) -> usize {
        // What the kernel has taken is in the ring's memory and not in the ring.
        let queued = self.queue.rings.tx.next().wrapping_sub(self.kernel.tx.next());
        self.queue.send(burst, self.tx_ring_size.saturating_sub(queued) as usize)
    }

    fn make(&mut self, length: usize) -> Option<Packet> {
        self.queue.make(length)
    }

    #[inline]
    fn release(&mut self, packet: Packet) {
        self.queue.release(packet);
    }

    #[inline]
    fn flush(&mut self) {
        self.queue.rings.tx.publish();
        if !self.stalled {
            let taken = self.kernel.tx.peek(u32::MAX);
            self.kernel.tx.release(taken);
            self.kernel.in_flight += taken;
        }
    }

    #[inline]
    fn refill(&mut self) {
        self.queue.refill();
    }

    fn wait(&mut self, _timeout: Duration) {}

    fn census(&self) -> Census {
        self.queue.census()
    }

    fn counters(&self) -> PortCounters {
        self.queue.counters
    }

    fn mac(&self) -> [u8; 6] {
        self.mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BURST_MAX;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    /// One turn of a worker that sends back what it gets, and drops every `drop_every`th packet.
    fn turn(port: &mut MemoryPort, drop_every: usize) -> usize {
        let mut burst = Vec::with_capacity(BURST_MAX);
        port.reclaim();
        let count = port.receive(&mut burst);
        let mut n = 0;
        let dropped = |_: &mut Packet| {
            n += 1;
            n % drop_every == 0
        };
        burst.extract_if(.., dropped).for_each(|packet| port.release(packet));
        burst.iter().for_each(|packet| port.bytes_mut(packet)[0] ^= 0xff);
        port.send(&mut burst);
        burst.drain(..).for_each(|packet| port.release(packet));
        port.flush();
        port.refill();
        assert!(port.census().is_conserved(), "{:?}", port.census());
        assert_eq!(port.census().held, 0);
        count
    }

    #[test]
    fn a_packet_goes_out_in_the_frame_that_it_came_in_with() {
        let mut port = MemoryPort::new(MAC, 4);
        assert_eq!(port.census(), Census { fill: 4, total: 4, ..Census::default() });
        assert!(port.inject(b"hello"));
        let mut burst = Vec::with_capacity(BURST_MAX);
        assert_eq!(port.receive(&mut burst), 1);
        let before = port.bytes(&burst[0]).as_ptr();
        port.bytes_mut(&burst[0])[0] = b'j';
        assert_eq!((port.send(&mut burst), burst.len()), (1, 0));
        assert_eq!(port.census().tx, 1);
        port.flush();
        assert_eq!(port.sent(), [b"jello"]);
        assert_eq!(port.census().completion, 1);
        port.reclaim();
        port.refill();
        assert_eq!(port.census().fill, 4);
        // The four frames go round; the fourth packet from here is in the first one's place.
        for _ in 0..4 {
            assert!(port.inject(b"again"));
        }
        port.receive(&mut burst);
        let last = burst.pop().unwrap();
        assert_eq!(port.bytes(&last).as_ptr(), before);
        port.release(last);
        burst.into_iter().for_each(|packet| port.release(packet));
    }

    #[test]
    fn frames_are_conserved_under_every_fault() {
        // 300 is not a power of two: the rings are larger than the frames are many.
        let mut port = MemoryPort::new(MAC, 300);
        let (mut injected, mut received, mut sent) = (0, 0, 0);
        for n in 0..4000usize {
            port.stall(n % 200 > 150);
            port.limit_tx_ring(if n % 300 > 200 { 10 } else { 512 });
            for _ in 0..n % 100 {
                injected += usize::from(port.inject(&[n as u8; 60]));
            }
            received += turn(&mut port, 3 + n % 4);
            if n % 3 == 0 {
                sent += port.sent().len();
            }
        }
        let census = port.census();
        assert_eq!(injected, received + census.rx as usize);
        assert!(sent > 10_000 && port.counters().tx_ring_full > 0, "{sent} {:?}", port.counters());
        assert!(port.counters().fill_ring_empty > 0);
    }

    #[test]
    fn a_stalled_kernel_fills_the_tx_ring_and_empties_the_fill_ring() {
        let mut port = MemoryPort::new(MAC, 8);
        port.stall(true);
        for _ in 0..8 {
            assert!(port.inject(&[0; 60]));
        }
        assert!(!port.inject(&[0; 60]));
        assert_eq!(turn(&mut port, usize::MAX), 8);
        assert_eq!(port.census().tx, 8);
        assert!(!port.inject(&[0; 60]), "no frame is left to receive into");
        assert_eq!((port.sent().len(), turn(&mut port, usize::MAX)), (0, 0));
        assert!(port.counters().fill_ring_empty >= 2);
        port.stall(false);
        port.flush();
        assert_eq!(port.sent().len(), 8);
        turn(&mut port, usize::MAX);
        assert!(port.inject(&[0; 60]));
    }

    #[test]
    fn a_full_tx_ring_gives_the_packet_back() {
        let mut port = MemoryPort::new(MAC, 8);
        port.limit_tx_ring(2);
        for _ in 0..3 {
            port.inject(&[0; 60]);
        }
        let mut burst = Vec::with_capacity(BURST_MAX);
        port.receive(&mut burst);
        assert_eq!((port.send(&mut burst), burst.len()), (2, 1));
        assert_eq!(port.counters().tx_ring_full, 1);
        burst.into_iter().for_each(|packet| port.release(packet));
        assert!(port.census().is_conserved());
    }

    #[test]
    fn recycled_packets_are_received_as_they_were_restored() {
        let mut port = MemoryPort::new(MAC, 128);
        for n in 0..100u8 {
            assert!(port.inject(&[n; 60]));
        }
        for _ in 0..50 {
            while turn(&mut port, usize::MAX) > 0 {}
            let mut restored = 0;
            port.recycle(|bytes| {
                bytes[0] ^= 0xff;
                assert!(bytes.iter().all(|byte| *byte == bytes[0]));
                restored += 1;
            });
            assert_eq!((restored, port.census().rx), (100, 100));
            assert!(port.census().is_conserved());
        }
    }

    #[test]
    fn what_does_not_fit_a_frame_is_dropped_by_the_wire() {
        let mut port = MemoryPort::new(MAC, 2);
        assert!(port.inject(&[0; 1792]));
        assert!(!port.inject(&[0; 1793]));
    }

    #[test]
    fn a_burst_is_bounded() {
        let mut port = MemoryPort::new(MAC, 256);
        for _ in 0..200 {
            port.inject(&[0; 60]);
        }
        let sizes: Vec<usize> = (0..5).map(|_| turn(&mut port, usize::MAX)).collect();
        assert_eq!(sizes, [64, 64, 64, 8, 0]);
    }

    #[test]
    #[should_panic(expected = "beyond its UMEM")]
    fn a_packet_of_a_larger_port_is_refused() {
        let mut large = MemoryPort::new(MAC, 64);
        let mut burst = Vec::with_capacity(BURST_MAX);
        for _ in 0..64 {
            large.inject(&[0; 60]);
        }
        large.receive(&mut burst);
        let small = MemoryPort::new(MAC, 2);
        burst.iter().for_each(|packet| assert_eq!(small.bytes(packet).len(), 60));
    }
}
