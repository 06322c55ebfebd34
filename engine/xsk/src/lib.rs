//! AF_XDP queues: UMEM, rings, sockets and the XDP program that steers packets to them.

mod memory_port;
mod port;
mod words;

pub use memory_port::MemoryPort;
pub use port::{BURST_MAX, Census, Packet, Port, PortCounters};
pub use words::Words;
