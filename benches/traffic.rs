//! The virtual service and the packets that the benches send it.

use dataplane::{
    Candidate, ConsistentTable, Neighbor, Protocol, Seeds, Server, ServerIndex, ServerState,
    Service, ServiceIndex, ServiceKey, ServiceTable,
};
use std::net::IpAddr;
use std::sync::Arc;

pub const DIRECTOR: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Almost any would do (every flow of every bench has room in its table); the same ones make runs
/// comparable.
pub const SEEDS: Seeds = Seeds([0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89]);
pub const ACK: u8 = 0x10;
pub const SYN: u8 = 0x02;
/// Frames that are filled and taken again and again, as with a real ring.
pub const FRAMES_IN_USE: usize = 4096;
const VIP: [u8; 4] = [172, 17, 100, 100];
pub const SERVERS: u16 = 16;

/// One service with sixteen servers.
pub fn service_table() -> ServiceTable {
    let address = |n: u16| IpAddr::from([172, 17, 100, 1 + n as u8]);
    let candidates: Vec<_> =
        (0..SERVERS).map(|n| Candidate { address: address(n), weight: 1 }).collect();
    let service = Service {
        key: ServiceKey { address: VIP.into(), port: 80, protocol: Protocol::Tcp },
        servers: (0..SERVERS).map(|n| Some(ServerIndex(n))).collect(),
        consistent: Arc::new(ConsistentTable::new(&candidates)),
        candidates,
        version: 1,
        removed: false,
    };
    let servers = (0..SERVERS).map(|n| {
        Some(Server {
            service: ServiceIndex(0),
            slot: n,
            address: address(n),
            state: ServerState::Serving,
            neighbor: Some(Neighbor { mac: [2, 0, 0, 0, 1, n as u8], vlans: [0, 0] }),
        })
    });
    ServiceTable::new(vec![Some(service)], servers.collect())
}

/// A TCP packet to the VIP's port 80, 60 bytes as on the wire without its checksum sequence.
pub fn template() -> Vec<u8> {
    let mut packet = vec![0; 60];
    packet[..6].copy_from_slice(&DIRECTOR);
    packet[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 9, 8, 0]);
    packet[14..26].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
    packet[30..34].copy_from_slice(&VIP);
    packet[36..38].copy_from_slice(&80u16.to_be_bytes());
    packet[46] = 0x50;
    address(&mut packet, 0, ACK);
    packet
}

/// Makes the packet one of this flow: 60,000 ports a client.
pub fn address(packet: &mut [u8], flow: u64, flags: u8) {
    let client = 0x0a00_0000 + (flow / 60_000) as u32;
    packet[26..30].copy_from_slice(&client.to_be_bytes());
    packet[34..36].copy_from_slice(&(1024 + (flow % 60_000) as u16).to_be_bytes());
    packet[47] = flags;
}
