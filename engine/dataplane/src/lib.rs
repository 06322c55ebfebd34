//! The packet path of shunt: parse, find the flow, decide, rewrite.
//!
//! No I/O, no clock, no randomness of its own: time and seeds are parameters, packets come and go
//! through [`xsk::Port`], so the same packets in give the same packets out, over a NIC's queue as
//! over memory.

#![forbid(unsafe_code)]

mod consistent;
mod counters;
mod decision;
mod scheduler;
mod service_table;
mod settings;
mod update;
mod worker;

pub use consistent::ConsistentTable;
pub use counters::{Counters, ServerCounts, WorkerCounts};
pub use decision::DropReason;
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
pub use worker::{
    Capacity, FlowRecord, FlowState, Handle, Millis, Seeds, Worker, WorkerMemory, workers,
};
