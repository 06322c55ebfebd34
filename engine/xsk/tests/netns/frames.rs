//! Frames made by hand, header by header, so that each can be wrong in its own way.

use crate::pair::{FAR_MAC, NEAR_MAC};
use std::net::{Ipv4Addr, Ipv6Addr};
use xsk::SteerKey;

pub const VIP4: Ipv4Addr = Ipv4Addr::new(172, 17, 100, 100);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x17, 0, 0, 0, 0, 0, 0x100);
pub const CLIENT4: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 11);
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x192, 0, 0, 0, 0, 0, 0x11);

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMP6: u8 = 58;

pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;

/// TCP port 80 and UDP port 53 of both VIPs.
pub fn services() -> Vec<SteerKey> {
    [VIP4.into(), VIP6.into()]
        .into_iter()
        .flat_map(|address| {
            [(80, TCP), (53, UDP)].map(|(port, protocol)| SteerKey { address, port, protocol })
        })
        .collect()
}

/// An Ethernet frame to the near end.
pub fn frame(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    frame_to(NEAR_MAC, ethertype, payload)
}

pub fn frame_to(destination: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &FAR_MAC, &ethertype.to_be_bytes(), payload].concat()
}

/// A frame with tags between its MAC addresses and its type: (tag's protocol, VLAN id).
pub fn tagged(tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [&NEAR_MAC[..], &FAR_MAC].concat();
    for (protocol, id) in tags {
        bytes.extend(protocol.to_be_bytes());
        bytes.extend(id.to_be_bytes());
    }
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// An IPv4 packet (RFC 791).
#[derive(Clone)]
pub struct V4 {
    pub to: Ipv4Addr,
    pub protocol: u8,
    pub options: Vec<u8>,
    /// The flags and the fragment offset.
    pub fragment: u16,
    pub payload: Vec<u8>,
}

impl V4 {
    pub fn new(to: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> V4 {
        V4 { to, protocol, options: Vec::new(), fragment: 0x4000, payload }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut bytes = vec![0x40 | (header / 4) as u8, 0];
        bytes.extend(((header + self.payload.len()) as u16).to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([64, self.protocol, 0, 0]);
        bytes.extend(CLIENT4.octets());
        bytes.extend(self.to.octets());
        bytes.extend(&self.options);
        let sum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }
}

/// An IPv6 packet (RFC 8200) with extension headers: (number, bytes without the next header).
pub fn v6(to: Ipv6Addr, extensions: &[(u8, Vec<u8>)], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let numbers: Vec<u8> = extensions.iter().map(|(number, _)| *number).chain([protocol]).collect();
    let length = payload.len() + extensions.iter().map(|(_, rest)| 1 + rest.len()).sum::<usize>();
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((length as u16).to_be_bytes());
    bytes.extend([numbers[0], 64]);
    bytes.extend(CLIENT6.octets());
    bytes.extend(to.octets());
    for ((_, rest), next) in extensions.iter().zip(&numbers[1..]) {
        bytes.push(*next);
        bytes.extend(rest);
    }
    bytes.extend(payload);
    bytes
}

/// Hop-by-hop, routing or destination options of 8 * (1 + `more`) bytes, without the first.
pub fn extension(more: u8) -> Vec<u8> {
    let mut bytes = vec![more];
    bytes.resize(8 * (1 + usize::from(more)) - 1, 0);
    bytes
}

/// A TCP SYN or the head of a UDP datagram, far enough for its ports.
pub fn transport(protocol: u8, port: u16) -> Vec<u8> {
    let mut bytes = 40000u16.to_be_bytes().to_vec();
    bytes.extend(port.to_be_bytes());
    if protocol == TCP {
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 2, 0xff, 0xff, 0, 0, 0, 0]);
    } else {
        bytes.extend([0, 8, 0, 0]);
    }
    bytes
}

/// An ICMP message of this type that quotes 28 bytes.
pub fn icmp(message: u8) -> Vec<u8> {
    let mut bytes = vec![message];
    bytes.resize(8 + 28, 0);
    bytes
}

/// A TCP segment to the IPv4 VIP's port 80 with this source port and sequence number, padded to
/// `length` bytes of frame.
pub fn numbered(source_port: u16, number: u32, length: usize) -> Vec<u8> {
    let mut segment = transport(TCP, 80);
    segment[..2].copy_from_slice(&source_port.to_be_bytes());
    segment[4..8].copy_from_slice(&number.to_be_bytes());
    segment.resize(length - 34, number as u8);
    frame(IPV4, &V4::new(VIP4, TCP, segment).bytes())
}

/// The number in a frame made by `numbered`.
pub fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[38..42].try_into().unwrap())
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
