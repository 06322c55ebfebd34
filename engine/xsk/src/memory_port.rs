//! A port over plain memory: the twin of the AF_XDP port for tests, fuzzing and benches.

use crate::port::{BURST_MAX, Census, Packet, Port, PortCounters};
use std::collections::VecDeque;
use std::time::Duration;

const FRAME_SIZE: usize = 2048;
const HEADROOM: usize = 256;

/// A port whose wire is a pair of queues in memory.
///
/// [`inject`](MemoryPort::inject) puts a packet on the wire, [`sent`](MemoryPort::sent) takes the
/// transmitted ones off it. The faults of a real ring can be played: few frames, a TX ring that
/// is short, a kernel that does not complete.
pub struct MemoryPort {
    mac: [u8; 6],
    frames: Vec<u8>,
    free: Vec<u64>,
    fill: VecDeque<u64>,
    rx: VecDeque<(u64, u32)>,
    tx: VecDeque<(u64, u32)>,
    in_flight: VecDeque<(u64, u32)>,
    completion: VecDeque<u64>,
    tx_ring_size: usize,
    stalled: bool,
    held: u32,
    total: u32,
    counters: PortCounters,
}

impl MemoryPort {
    /// A port with `frames` frames of 2 KiB and TX, fill and RX rings that can hold them all.
    pub fn new(mac: [u8; 6], frames: u32) -> MemoryPort {
        let count = frames as usize;
        let mut port = MemoryPort {
            mac,
            frames: vec![0; count * FRAME_SIZE],
            free: (0..u64::from(frames)).rev().map(|n| n * FRAME_SIZE as u64).collect(),
            fill: VecDeque::with_capacity(count),
            rx: VecDeque::with_capacity(count),
            tx: VecDeque::with_capacity(count),
            in_flight: VecDeque::with_capacity(count),
            completion: VecDeque::with_capacity(count),
            tx_ring_size: count,
            stalled: false,
            held: 0,
            total: frames,
            counters: PortCounters::default(),
        };
        port.refill();
        port
    }

    /// Makes the TX ring hold at most `size` packets.
    pub fn limit_tx_ring(&mut self, size: usize) {
        self.tx_ring_size = size;
    }

    /// While stalled, the "kernel" transmits and completes nothing.
    pub fn stall(&mut self, stalled: bool) {
        self.stalled = stalled;
    }

    /// Puts a packet on the wire. Returns false when the fill ring is empty or the packet does
    /// not fit a frame: a NIC would have dropped it too.
    pub fn inject(&mut self, packet: &[u8]) -> bool {
        if packet.len() > FRAME_SIZE - HEADROOM {
            return false;
        }
        let Some(frame) = self.fill.pop_front() else {
            return false;
        };
        let start = frame as usize + HEADROOM;
        self.frames[start..start + packet.len()].copy_from_slice(packet);
        self.rx.push_back((start as u64, packet.len() as u32));
        true
    }

    /// Takes the transmitted packets off the wire, oldest first, and completes their frames.
    pub fn sent(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::with_capacity(self.in_flight.len());
        while let Some((address, length)) = self.in_flight.pop_front() {
            let start = address as usize;
            packets.push(self.frames[start..start + length as usize].to_vec());
            self.completion.push_back(address);
        }
        packets
    }

    /// For benches: completes what was transmitted and receives the same frames again, as they
    /// are. `restore` is given each packet's bytes to undo the rewrite.
    pub fn recycle(&mut self, mut restore: impl FnMut(&mut [u8])) {
        while let Some((address, length)) = self.in_flight.pop_front() {
            let start = address as usize;
            restore(&mut self.frames[start..start + length as usize]);
            self.rx.push_back((address, length));
        }
    }
}

impl Port for MemoryPort {
    fn reclaim(&mut self) {
        while let Some(address) = self.completion.pop_front() {
            self.free.push(address - address % FRAME_SIZE as u64);
        }
    }

    fn receive(&mut self, burst: &mut Vec<Packet>) -> usize {
        let count = self.rx.len().min(BURST_MAX);
        for (address, length) in self.rx.drain(..count) {
            burst.push(Packet { address, length });
        }
        self.held += count as u32;
        count
    }

    #[inline]
    fn bytes(&self, packet: &Packet) -> &[u8] {
        let start = packet.address as usize;
        &self.frames[start..start + packet.len()]
    }

    #[inline]
    fn bytes_mut(&mut self, packet: &Packet) -> &mut [u8] {
        let start = packet.address as usize;
        &mut self.frames[start..start + packet.len()]
    }

    #[inline]
    fn send(&mut self, packet: Packet) -> Result<(), Packet> {
        if self.tx.len() >= self.tx_ring_size {
            self.counters.tx_ring_full += 1;
            return Err(packet);
        }
        self.held -= 1;
        self.tx.push_back((packet.address, packet.length));
        Ok(())
    }

    fn release(&mut self, packet: Packet) {
        self.held -= 1;
        self.free.push(packet.address - packet.address % FRAME_SIZE as u64);
    }

    fn flush(&mut self) {
        if !self.stalled {
            self.in_flight.append(&mut self.tx);
        }
    }

    fn refill(&mut self) {
        if self.fill.is_empty() {
            self.counters.fill_ring_empty += 1;
        }
        self.fill.extend(self.free.drain(..).rev());
    }

    fn wait(&mut self, _timeout: Duration) {}

    fn census(&self) -> Census {
        Census {
            free: self.free.len() as u32,
            fill: self.fill.len() as u32,
            rx: self.rx.len() as u32,
            held: self.held,
            tx: (self.tx.len() + self.in_flight.len()) as u32,
            completion: self.completion.len() as u32,
            total: self.total,
        }
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn mac(&self) -> [u8; 6] {
        self.mac
    }
}
