//! What one worker writes and everyone may read: its flow tables and its counters.

use crate::counters::Counters;
use crate::flow_key::{read_v4, read_v6};
use crate::flow_state::{FlowState, TICK_SHIFT, Ticks};
use crate::flow_table::{Flow, FlowsV4, FlowsV6};
use crate::service_table::{ServerIndex, ServiceIndex};
use std::io;
use std::net::IpAddr;

/// Milliseconds since some moment before the first packet: the dataplane's only clock.
pub type Millis = u64;

#[inline]
pub(crate) fn ticks(now: Millis) -> Ticks {
    (now >> TICK_SHIFT) as Ticks
}

/// How many flows a worker can remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// IPv4 flows.
    pub flows_v4: usize,
    /// IPv6 flows.
    pub flows_v6: usize,
}

/// A flow as a listing shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowRecord {
    /// The client's address.
    pub source: IpAddr,
    /// The client's port.
    pub source_port: u16,
    /// The virtual service.
    pub service: ServiceIndex,
    /// The real server.
    pub server: ServerIndex,
    /// The state.
    pub state: FlowState,
    /// Seconds since its last packet.
    pub idle: u32,
}

/// What one worker writes and everyone may read.
pub struct WorkerMemory {
    pub(crate) counters: Counters,
    pub(crate) flows_v4: FlowsV4,
    pub(crate) flows_v6: FlowsV6,
}

impl WorkerMemory {
    /// Empty tables in which that many flows fit comfortably.
    pub fn new(capacity: Capacity) -> io::Result<WorkerMemory> {
        Ok(WorkerMemory {
            counters: Counters::new()?,
            flows_v4: FlowsV4::new(capacity.flows_v4)?,
            flows_v6: FlowsV6::new(capacity.flows_v6)?,
        })
    }

    /// The worker's counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Entries of the tables. Rather more than was asked for: the last fifth fills with difficulty.
    pub fn capacity(&self) -> Capacity {
        Capacity { flows_v4: self.flows_v4.capacity(), flows_v6: self.flows_v6.capacity() }
    }

    /// The flows in the tables. Takes its time over a large table; the worker does not wait.
    pub fn flows(&self, now: Millis) -> impl Iterator<Item = FlowRecord> + '_ {
        let now = ticks(now);
        let v4 = self.flows_v4.iter().map(move |(key, flow)| record(read_v4(key), flow, now));
        let v6 = self.flows_v6.iter().map(move |(key, flow)| record(read_v6(key), flow, now));
        v4.chain(v6)
    }
}

fn record(key: (IpAddr, u16, ServiceIndex), flow: Flow, now: Ticks) -> FlowRecord {
    let (source, source_port, service) = key;
    // The worker's clock may be a tick ahead of the reader's.
    let idle = u64::from(now.saturating_sub(flow.seen())) << TICK_SHIFT;
    FlowRecord {
        source,
        source_port,
        service,
        server: flow.server(),
        state: flow.state(),
        idle: (idle / 1000) as u32,
    }
}
