//! A worker: one queue's packets from arrival to departure.

use crate::counters::Counters;
use crate::service_table::{Protocol, ServerIndex, ServiceIndex};
use crate::update::{ControlEnd, WorkerEnd, mailbox};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use xsk::{Port, Words};

/// Milliseconds since some moment before the first packet: the dataplane's only clock.
pub type Millis = u64;

/// How much each worker can remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// IPv4 flows, each worker.
    pub flows_v4: usize,
    /// IPv6 flows, each worker.
    pub flows_v6: usize,
}

/// Secret numbers that make the flow hash unpredictable. Shared by all workers of a director.
#[derive(Clone, Copy)]
pub struct Seeds(pub [u64; 2]);

/// State of a flow, as IPVS names them (INPUT_ONLY of net/netfilter/ipvs/ip_vs_proto_tcp.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowState {
    /// A SYN was seen.
    SynRecv,
    /// The client acknowledged.
    Established,
    /// The client sent a FIN.
    FinWait,
    /// The client sent a FIN before it acknowledged.
    TimeWait,
    /// The client sent a RST.
    Close,
    /// A UDP flow.
    Udp,
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

/// What one worker writes and everyone may read: its flow tables and its counters.
pub struct WorkerMemory {
    counters: Counters,
    flows_v4: Words,
    flows_v6: Words,
}

impl WorkerMemory {
    /// The worker's counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Places in the tables: (IPv4, IPv6).
    pub fn capacity(&self) -> Capacity {
        todo()
    }

    /// Every flow in the tables at some moment during the iteration.
    pub fn flows(&self, now: Millis) -> impl Iterator<Item = FlowRecord> + '_ {
        let _ = (now, &self.flows_v4, &self.flows_v6);
        std::iter::empty()
    }
}

fn todo() -> ! {
    unreachable!("written next")
}

/// One turn after another, a worker takes the packets of its port to the real servers.
pub struct Worker<P> {
    port: P,
    #[allow(dead_code)]
    mailbox: WorkerEnd,
    #[allow(dead_code)]
    memory: Arc<WorkerMemory>,
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
    let _ = seeds;
    ports
        .into_iter()
        .map(|port| {
            let memory = Arc::new(WorkerMemory {
                counters: Counters::new()?,
                flows_v4: Words::new(capacity.flows_v4 * 2)?,
                flows_v6: Words::new(capacity.flows_v6 * 4)?,
            });
            let (control, worker) = mailbox();
            let handle = Handle { mailbox: control, memory: memory.clone() };
            Ok((Worker { port, mailbox: worker, memory }, handle))
        })
        .collect()
}

impl<P: Port> Worker<P> {
    /// One turn: adopts updates, receives a burst, decides, rewrites, transmits, and takes one
    /// step of the expiry. Returns the packets received.
    pub fn turn(&mut self, now: Millis) -> usize {
        let _ = now;
        todo()
    }

    /// Sleeps until a packet or an update arrives, at most for `timeout`. Counted.
    pub fn sleep(&mut self, timeout: Duration) {
        self.port.wait(timeout);
    }

    /// The port.
    pub fn port(&self) -> &P {
        &self.port
    }

    /// The port, for tests that play its other end.
    pub fn port_mut(&mut self) -> &mut P {
        &mut self.port
    }
}

impl FlowState {
    /// The name that `ipvsadm -Lnc` prints.
    pub fn name(self) -> &'static str {
        match self {
            FlowState::SynRecv => "SYN_RECV",
            FlowState::Established => "ESTABLISHED",
            FlowState::FinWait => "FIN_WAIT",
            FlowState::TimeWait => "TIME_WAIT",
            FlowState::Close => "CLOSE",
            FlowState::Udp => "UDP",
        }
    }

    /// The protocol whose state this is.
    pub fn protocol(self) -> Protocol {
        if self == FlowState::Udp { Protocol::Udp } else { Protocol::Tcp }
    }
}
