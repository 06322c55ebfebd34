//! A worker: one queue's packets from arrival to departure.

use crate::decision::{Arrival, Decider, Moment, V4, V6};
use crate::direct_routing::rewrite;
use crate::drop_reason::DropReason;
use crate::expiry::Sweep;
use crate::flow_key::{FlowHasher, Key, Seeds};
use crate::peers::Peers;
use crate::reset::{Budget, answer};
use crate::scheduler::Instance;
use crate::update::{Adoption, ControlEnd, WorkerEnd, mailbox};
use crate::worker_memory::{Capacity, Millis, WorkerMemory};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use xsk::{BURST_MAX, Packet, Port};

/// Room for a burst, and for what no other worker's memory may share a cache line with.
const VECTOR: usize = BURST_MAX + 128 / size_of::<Packet>();

/// News about flows that a worker hears from others in one turn, at most.
const NEWS_IN_TURN: usize = 256;

/// Packets between asking for the peers' parts of the flow table and looking at them.
const PEERS_AHEAD: usize = 3;

/// What a worker pays for swaps of schedulers between two bursts, at most, in prices of one. A
/// swap takes a fraction of a microsecond, most of it for memory that no cache has.
const SWAPS_IN_TURN: usize = 16;

/// What a swap costs in which state is handed over: a copy, and two calls of plugins, one of them
/// the first of an instance.
const PRICE_OF_INHERITING: usize = 8;

/// One turn after another, a worker takes the packets of its port to the real servers.
// Aligned, and with a vector that ends behind what is ever written, so that no two workers write
// to one cache line wherever the allocator puts them.
#[repr(align(128))]
pub struct Worker<P> {
    port: P,
    mailbox: WorkerEnd,
    decider: Decider,
    sweep_v4: Sweep<V4, 1, 8>,
    sweep_v6: Sweep<V6, 3, 16>,
    burst: Vec<Packet>,
    /// RSTs for clients, and how many more there may be.
    resets: Vec<Packet>,
    resets_budget: Budget,
    /// Of the packets in `burst`, one each.
    arrivals: [Arrival; BURST_MAX],
}

/// What the control thread keeps of a worker.
pub struct Handle {
    /// Sends it updates.
    pub mailbox: ControlEnd,
    /// Reads its flows and counters.
    pub memory: Arc<WorkerMemory>,
}

/// Makes one worker a port, each knowing the others, so that a flow that turns up on another
/// queue is recognised there.
pub fn workers<P: Port>(
    ports: Vec<P>,
    capacity: Capacity,
    seeds: Seeds,
) -> io::Result<Vec<(Worker<P>, Handle)>> {
    let memories = ports
        .iter()
        .map(|_| Ok(Arc::new(WorkerMemory::new(capacity)?)))
        .collect::<io::Result<Vec<_>>>()?;
    let peers = Peers::introduce(&memories);
    let workers = ports.into_iter().zip(memories).zip(peers).map(|((port, memory), peers)| {
        let (control, mailbox) = mailbox();
        let worker = Worker {
            port,
            mailbox,
            decider: Decider::new(memory.clone(), peers, FlowHasher::new(seeds)),
            sweep_v4: Sweep::new(V4),
            sweep_v6: Sweep::new(V6),
            burst: Vec::with_capacity(VECTOR),
            resets: Vec::with_capacity(VECTOR),
            resets_budget: Budget::FULL,
            arrivals: [Arrival::Unwanted(DropReason::Malformed); BURST_MAX],
        };
        (worker, Handle { mailbox: control, memory })
    });
    Ok(workers.collect())
}

impl<P: Port> Worker<P> {
    /// One turn: adopts updates, receives a burst, decides, rewrites, transmits, and takes one
    /// step of the expiry. `now` never goes back. Returns the packets received.
    pub fn turn(&mut self, now: Millis) -> usize {
        self.adopt_updates(now);
        let now = Moment::new(now);
        self.hear_news(now);
        self.port.reclaim();
        // Before the packets of flows, which may leave no room in the TX ring ...
        if !self.mailbox.probes.is_empty() {
            self.send_probes();
        }
        let received = self.port.receive(&mut self.burst);
        if received != 0 {
            self.forward(now);
        }
        // ... and again behind them, where frames may have become free.
        if !self.mailbox.probes.is_empty() {
            self.send_probes();
        }
        self.port.flush();
        self.port.refill();
        self.sweep_v4.step(&mut self.decider, now, received == 0);
        self.sweep_v6.step(&mut self.decider, now, received == 0);
        self.publish(received);
        received
    }

    /// Sleeps until a packet or an update arrives, at most for `timeout`; not at all while an
    /// update is only adopted in part or a probe waits for its place.
    pub fn sleep(&mut self, timeout: Duration) {
        if self.mailbox.under_way.is_some() || !self.mailbox.probes.is_empty() {
            return;
        }
        self.decider.counts.sleeps += 1;
        self.port.wait(timeout);
    }

    /// Whether any flow is in the worker's tables.
    pub fn has_flows(&self) -> bool {
        self.decider.counts.flows_v4 + self.decider.counts.flows_v6 != 0
    }

    /// The port.
    pub fn port(&self) -> &P {
        &self.port
    }

    /// The port, for tests that play its other end.
    pub fn port_mut(&mut self) -> &mut P {
        &mut self.port
    }

    /// Swaps in what the control thread prepared and sends back what it replaced.
    #[inline]
    fn adopt_updates(&mut self, now: Millis) {
        if self.mailbox.has_work() {
            let began = Instant::now();
            self.adopt_some(now);
            self.decider.memory.counters.pauses().record(began.elapsed());
        }
    }

    /// Adopts as much as the packets can wait for. The tables and settings of an update are all in
    /// place at once, its schedulers one after the other in as many turns as it takes.
    #[cold]
    fn adopt_some(&mut self, now: Millis) {
        let decider = &mut self.decider;
        let mut swaps = SWAPS_IN_TURN;
        loop {
            let mut adoption = match self.mailbox.under_way.take() {
                Some(adoption) => adoption,
                None => {
                    let Some(mut update) = self.mailbox.next() else { return };
                    if let Some(table) = &mut update.table {
                        decider.swap_table(table);
                        if decider.table.expires() {
                            self.sweep_v4.hurry(decider);
                            self.sweep_v6.hurry(decider);
                        }
                    }
                    if let Some(settings) = update.settings {
                        decider.set(settings);
                    }
                    Adoption { update, swapped: 0 }
                }
            };
            while let Some((service, instance)) = adoption.next() {
                let price = price_of_swap(instance);
                if price > swaps {
                    self.mailbox.under_way = Some(adoption);
                    return;
                }
                swaps -= price;
                if let Some(place) = decider.schedulers.get_mut(usize::from(service.0)) {
                    swap(instance, place, now);
                }
                adoption.swapped += 1;
            }
            decider.counts.updates += 1;
            self.mailbox.send_back(adoption.update);
        }
    }

    /// Reads what the other workers have to tell.
    fn hear_news(&mut self, now: Moment) {
        let decider = &mut self.decider;
        for _ in 0..NEWS_IN_TURN {
            let Some(news) = decider.peers.next_news() else { break };
            match news.key {
                Key::V4(key) => decider.hear(V4, &key, news, now),
                Key::V6(key) => decider.hear(V6, &key, news, now),
            }
        }
    }

    /// Stage by stage over the whole burst, so that the cache misses of its packets overlap.
    fn forward(&mut self, now: Moment) {
        let received = self.burst.len();
        let arrivals = &mut self.arrivals[..received];
        self.decider.recognise_burst(&self.port, &self.burst, arrivals);
        let bytes: u64 = self.burst.iter().map(|packet| packet.len() as u64).sum();
        // A bit a packet.
        let (mut dropped, mut answered) = (0u64, 0u64);
        let mut next = 0;
        while next < received {
            if !self.arrivals[next].is_special() {
                let (burst, arrivals) = (&self.burst[next..], &self.arrivals[next..received]);
                next += self.decider.continue_flows(&mut self.port, burst, arrivals, now);
                if next == received {
                    break;
                }
            }
            if let Some(ahead) = self.arrivals[..received].get(next + PEERS_AHEAD) {
                self.decider.prefetch_from_peers(ahead);
            }
            if let Err(reason) = self.decide(next, now) {
                self.decider.counts.dropped[reason as usize] += 1;
                dropped |= 1 << next;
                answered |= u64::from(self.decider.settings.answers(reason)) << next;
            }
            next += 1;
        }
        if dropped != 0 {
            self.release(dropped, answered, now);
        }
        let forwarded = self.port.send(&mut self.burst);
        for packet in self.burst.drain(..) {
            self.port.release(packet);
            self.decider.counts.dropped[DropReason::TxRingFull as usize] += 1;
        }
        let counts = &mut self.decider.counts;
        counts.received += received as u64;
        counts.received_bytes += bytes;
        counts.forwarded += forwarded as u64;
        if !self.resets.is_empty() {
            self.send_resets();
        }
    }

    /// Sends what was made of packets that are dropped. Those that a full TX ring has no room for
    /// are not missed: clients that hear nothing repeat themselves.
    #[cold]
    fn send_resets(&mut self) {
        self.decider.counts.resets += self.port.send(&mut self.resets) as u64;
        for packet in self.resets.drain(..) {
            self.port.release(packet);
        }
    }

    /// Sends a burst of probes, or as many as there are free frames and places in the TX ring for;
    /// the rest waits. One whose real server has no neighbor is lost: whoever sent it hears no
    /// answer.
    #[cold]
    fn send_probes(&mut self) {
        debug_assert!(self.burst.is_empty(), "received packets have been dealt with");
        let source = self.port.mac().into();
        for _ in 0..BURST_MAX {
            let Ok(probe) = self.mailbox.probes.peek() else { break };
            if let Some(destination) = self.decider.table.destination(probe.server()) {
                let Some(packet) = self.port.make(probe.packet().len()) else { break };
                let bytes = self.port.bytes_mut(&packet);
                bytes.copy_from_slice(probe.packet());
                rewrite(bytes, destination, source);
                self.burst.push(packet);
                self.port.send(&mut self.burst);
                if let Some(packet) = self.burst.pop() {
                    self.port.release(packet);
                    break;
                }
            }
            let _ = self.mailbox.probes.pop();
        }
    }

    /// Decides about one packet of the burst, whatever it is.
    fn decide(&mut self, index: usize, now: Moment) -> Result<(), DropReason> {
        let source = self.port.mac().into();
        let packet = self.port.bytes_mut(&self.burst[index]);
        match &self.arrivals[index] {
            Arrival::V4(arrival) => self.decider.decide(V4, arrival, packet, source, now),
            Arrival::V6(arrival) => self.decider.decide(V6, arrival, packet, source, now),
            Arrival::Unwanted(reason) => Err(*reason),
        }
    }

    /// Takes those packets out of the burst whose bit is set in `dropped`; the others keep their
    /// order. Those whose bit is set in `answered` become RSTs, as far as there may be any.
    #[cold]
    fn release(&mut self, mut dropped: u64, answered: u64, now: Moment) {
        let own_mac = self.port.mac();
        let mut bits = dropped;
        let released = self.burst.extract_if(.., |_| {
            let bit = bits & 1;
            bits >>= 1;
            bit != 0
        });
        for mut packet in released {
            let bit = dropped & dropped.wrapping_neg();
            dropped ^= bit;
            if answered & bit != 0
                && self.resets_budget.take(now.millis)
                && let Some(length) = answer(self.port.bytes_mut(&packet), own_mac)
            {
                packet.truncate(length);
                self.resets.push(packet);
            } else {
                self.port.release(packet);
            }
        }
    }

    fn publish(&mut self, received: usize) {
        let counts = &mut self.decider.counts;
        if received == 0 {
            counts.empty_polls += 1;
        } else {
            counts.bursts += 1;
        }
        let port = self.port.counters();
        counts.fill_ring_empty = port.fill_ring_empty;
        counts.wakeups = port.wakeups;
        self.decider.memory.counters.publish(counts);
    }
}

/// What a swap costs that brings in this instance.
fn price_of_swap(coming: &Option<Box<Instance>>) -> usize {
    match coming {
        Some(coming) if coming.inherits() => PRICE_OF_INHERITING,
        _ => 1,
    }
}

/// Swaps two instances, the first of which may take over the state of the other.
fn swap(coming: &mut Option<Box<Instance>>, place: &mut Option<Box<Instance>>, now: Millis) {
    if let (Some(coming), Some(going)) = (&mut *coming, &mut *place)
        && coming.inherits()
    {
        coming.take_over(going, now);
    }
    std::mem::swap(coming, place);
}
