//! AF_XDP queues: UMEM, rings, sockets and the XDP program that steers packets to them.
//!
//! [`open`] gives one [`XskPort`] per queue of an interface, a [`Monitor`] of each for the control
//! thread, and the [`Steer`] that decides which packets come. The packet path knows only the
//! trait [`Port`], which [`MemoryPort`] has too, with the same rings and frames over plain memory.
//!
//! ```no_run
//! use xsk::{BURST_MAX, InterfaceOptions, Port, SteerKey};
//!
//! # fn main() -> Result<(), xsk::Error> {
//! let mut interface = xsk::open(&InterfaceOptions::new("eth0"))?;
//! let web = SteerKey { address: [172, 17, 100, 100].into(), port: 80, protocol: 6 };
//! interface.steer.set_services(&[web])?;
//! interface.steer.attach()?;
//! let port = &mut interface.ports[0];
//! let mut burst = Vec::with_capacity(BURST_MAX);
//! loop {
//!     port.reclaim();
//!     port.receive(&mut burst);
//!     for packet in &burst {
//!         port.bytes_mut(packet)[..6].copy_from_slice(&[2, 0, 172, 17, 100, 1]);
//!     }
//!     port.send(&mut burst);
//!     burst.drain(..).for_each(|packet| port.release(packet));
//!     port.flush();
//!     port.refill();
//! }
//! # }
//! ```

mod error;
mod interface;
mod interrupts;
mod mapping;
mod memory_port;
mod monitor;
mod nic;
mod options;
mod packet_socket;
mod port;
mod queue;
mod ring;
mod shedding;
mod socket;
mod steer;
mod survey;
mod umem;
mod words;
mod xdp_link;
mod xsk_port;

pub use error::{Error, ZeroCopyRefusal};
pub use interface::{Interface, open};
pub use memory_port::MemoryPort;
pub use monitor::{Monitor, Waker, XdpStatistics};
pub use nic::HashedKind;
pub use options::{BusyPoll, InterfaceOptions, Mode, ModeRequest, Queues};
pub use packet_socket::{FilterStep, PacketSocket};
pub use port::{BURST_MAX, Census, Packet, Port, PortCounters};
pub use steer::{AttachMode, PassKind, Steer, SteerCounts, SteerKey};
pub use survey::{Survey, can_open_socket, hashes_ports, program_name, rss_table, survey};
pub use words::Words;
pub use xsk_port::XskPort;
