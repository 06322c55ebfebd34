//! The packet path of shunt: parse, find the flow, decide, rewrite.
//!
//! No I/O, no clock, no randomness of its own: time and seeds are parameters, packets come and go
//! through [`xsk::Port`], so the same packets in give the same packets out, over a NIC's queue as
//! over memory. (A clock is read to tell how long a worker pauses for an update. Nothing is
//! decided by it.)

#![forbid(unsafe_code)]

mod consistent;
mod counters;
mod decision;
mod direct_routing;
mod drop_reason;
mod expiry;
mod flow_books;
mod flow_key;
mod flow_state;
mod flow_table;
mod latency;
mod parse;
mod peers;
mod probe;
mod reset;
mod scheduler;
mod service_table;
mod settings;
mod short_cut;
mod update;
mod worker;
mod worker_memory;

pub use consistent::ConsistentTable;
pub use counters::{Counters, ServerCounts, WorkerCounts};
pub use drop_reason::DropReason;
pub use flow_key::Seeds;
pub use flow_state::FlowState;
pub use latency::{Latency, LatencyCounts};
pub use probe::{PROBE_MAX, Probe};
pub use scheduler::{
    Candidate, Failure, Instance, Load, NewFlow, SERVERS_PER_SERVICE_MAX, Scheduler,
    SchedulerCounters,
};
pub use service_table::{
    Neighbor, Protocol, SERVERS_MAX, SERVICES_MAX, Server, ServerIndex, ServerState, Service,
    ServiceIndex, ServiceKey, ServiceTable,
};
pub use settings::{Settings, Timeouts, UnknownFlow};
pub use update::{ControlEnd, Update, WorkerEnd, mailbox};
pub use worker::{Handle, Worker, workers};
pub use worker_memory::{Capacity, FlowRecord, Millis, WorkerMemory};

/// The flow table by itself, for the bench that compares it with another.
#[doc(hidden)]
pub mod table_bench {
    pub use crate::flow_key::{FlowHasher, ServiceTag, key_v4};
    pub use crate::flow_table::{Flow, FlowsV4, Room};
}
