//! Packets as readable text, and a director in memory to send them to.
//!
//! The tests of the dataplane, its fuzz target and its benches take their packets, services and
//! checks from here, so that none is written twice. The tables in `tables/` are read by people as
//! much as by tests: see [`table`] for their language.

mod answer;
mod director;
mod packet;
mod plan;
mod random;
mod schedulers;
pub mod table;
mod text;

pub use answer::check_reset;
pub use director::{Director, SEEDS, Verdict};
pub use packet::{ETHERTYPE_VLAN, Layer, Layers, build, flags};
pub use plan::{Member, Plan, PlannedService, address_of, mac_of};
pub use random::Random;
pub use schedulers::{Heard, RoundRobin, Scripted};
pub use text::parse_layers;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

/// The packet that `text` describes in the language of [`table`], which must be right.
pub fn frame(text: &str) -> Vec<u8> {
    let layers = parse_layers(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    build(&layers)
}

/// The client's address and port of flow `number`: another one for every number.
pub fn client_of(number: u32, ipv6: bool) -> (IpAddr, u16) {
    let port = 1024 + (number % 60_000) as u16;
    let host = number / 60_000 + 1;
    if ipv6 {
        let base = u128::from(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0));
        (Ipv6Addr::from(base + u128::from(host)).into(), port)
    } else {
        (Ipv4Addr::from(0x0a00_0000 + host).into(), port)
    }
}

/// A TCP packet of flow `number` with these flags to port 80 of the VIP.
pub fn tcp_of(number: u32, flags: &str) -> Vec<u8> {
    build(&tcp_layers(number, flags, false))
}

/// The same over IPv6.
pub fn tcp6_of(number: u32, flags: &str) -> Vec<u8> {
    build(&tcp_layers(number, flags, true))
}

/// A UDP packet of flow `number` to port 53 of the VIP.
pub fn udp_of(number: u32) -> Vec<u8> {
    let (client, port) = client_of(number, false);
    build(&[ip(client), Layer::udp(port, 53), Layer::Data(vec![0xda; 12])])
}

/// The ICMP error that a router sends about a packet of TCP flow `number`.
pub fn icmp_of(number: u32) -> Vec<u8> {
    let (client, port) = client_of(number, false);
    let (IpAddr::V4(client), Ok(vip)) = (client, VIP.parse()) else { unreachable!("both IPv4") };
    build(&[
        Layer::ipv4(Ipv4Addr::new(192, 168, 100, 253), vip),
        Layer::Icmp { kind: [3, 4] },
        Layer::ipv4(vip, client),
        Layer::tcp(80, port, flags("A")),
    ])
}

fn tcp_layers(number: u32, letters: &str, ipv6: bool) -> Layers {
    let (client, port) = client_of(number, ipv6);
    vec![ip(client), Layer::tcp(port, 80, flags(letters))]
}

/// An IP header from this client to the VIP.
fn ip(client: IpAddr) -> Layer {
    let addressed = "the VIPs are addresses";
    match client {
        IpAddr::V4(client) => Layer::ipv4(client, VIP.parse().expect(addressed)),
        IpAddr::V6(client) => Layer::ipv6(client, VIP6.parse().expect(addressed)),
    }
}
