//! Packets as readable text, and a director in memory to send them to.
//!
//! The tests of the dataplane, its fuzz target and its benches take their packets, services and
//! checks from here, so that none is written twice. The tables in `tables/` are read by people as
//! much as by tests: see [`table`] for their language.

mod director;
mod packet;
mod plan;
mod schedulers;
pub mod table;
mod text;

pub use director::{Director, SEEDS, Verdict};
pub use packet::{ETHERTYPE_VLAN, Layer, Layers, build, flags};
pub use plan::{Member, Plan, PlannedService, address_of, mac_of};
pub use schedulers::{Heard, RoundRobin, Scripted};
pub use text::parse_layers;

/// The director's MAC address, to which clients' packets are addressed.
pub const DIRECTOR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The MAC address of the router that the packets come from.
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// The client's address.
pub const CLIENT: &str = "192.168.100.11";
/// The VIP.
pub const VIP: &str = "172.17.100.100";
/// The client's IPv6 address.
pub const CLIENT6: &str = "fd00:1::11";
/// The IPv6 VIP.
pub const VIP6: &str = "fd00:2::100";
