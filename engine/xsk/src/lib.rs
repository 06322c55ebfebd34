//! AF_XDP queues: UMEM, rings, sockets and the XDP program that steers packets to them.

mod error;
mod interface;
mod interrupts;
mod mapping;
mod memory_port;
mod monitor;
mod nic;
mod options;
mod port;
mod queue;
mod ring;
mod socket;
mod steer;
mod umem;
mod words;
mod xdp_link;
mod xsk_port;

pub use error::Error;
pub use interface::{Interface, open};
pub use memory_port::MemoryPort;
pub use monitor::{Monitor, Waker, XdpStatistics};
pub use options::{BusyPoll, InterfaceOptions, Mode, ModeRequest, Queues};
pub use port::{BURST_MAX, Census, Packet, Port, PortCounters};
pub use steer::{AttachMode, PassKind, Steer, SteerCounts, SteerKey};
pub use words::Words;
pub use xsk_port::XskPort;
