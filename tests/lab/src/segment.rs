//! Frames made by hand, for what a well-behaved kernel does not send when it is asked to.

use std::net::{IpAddr, SocketAddr};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const TTL: u8 = 61;

/// TCP header flags.
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// A connection begins.
    pub const SYN: u8 = 0x02;
    /// A connection is broken off.
    pub const RST: u8 = 0x04;
    /// The acknowledgment number counts.
    pub const ACK: u8 = 0x10;
}

/// A TCP segment or UDP datagram in an Ethernet frame.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Source and destination MAC addresses.
    pub macs: ([u8; 6], [u8; 6]),
    /// The client.
    pub source: SocketAddr,
    /// The virtual service.
    pub destination: SocketAddr,
    /// TCP flags; `None` makes it UDP.
    pub tcp_flags: Option<u8>,
    /// TCP sequence number.
    pub sequence: u32,
    /// VLAN ids, outermost first.
    pub vlans: Vec<u16>,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Segment {
    /// The frame, with correct lengths and checksums.
    pub fn frame(&self) -> Vec<u8> {
        let (source_mac, destination_mac) = self.macs;
        let mut frame = [destination_mac, source_mac].concat();
        for id in &self.vlans {
            frame.extend(ETHERTYPE_VLAN.to_be_bytes());
            frame.extend(id.to_be_bytes());
        }
        let transport = self.transport();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                frame.extend(ETHERTYPE_IPV4.to_be_bytes());
                frame.extend(ipv4_header(from.octets(), to.octets(), self.protocol(), &transport));
            }
            _ => {
                frame.extend(ETHERTYPE_IPV6.to_be_bytes());
                frame.extend([0x60, 0, 0, 0]);
                frame.extend((transport.len() as u16).to_be_bytes());
                frame.extend([self.protocol(), TTL]);
                frame.extend(octets(self.source.ip()));
                frame.extend(octets(self.destination.ip()));
            }
        }
        frame.extend(transport);
        frame
    }

    fn protocol(&self) -> u8 {
        if self.tcp_flags.is_some() { 6 } else { 17 }
    }

    /// The TCP or UDP header and the payload (RFC 9293, RFC 768).
    fn transport(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.source.port().to_be_bytes());
        bytes.extend(self.destination.port().to_be_bytes());
        let checksum_at = match self.tcp_flags {
            Some(flags) => {
                bytes.extend(self.sequence.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
                16
            }
            None => {
                bytes.extend((8 + self.payload.len() as u16).to_be_bytes());
                bytes.extend([0, 0]);
                6
            }
        };
        bytes.extend(&self.payload);
        let mut pseudo = octets(self.source.ip());
        pseudo.extend(octets(self.destination.ip()));
        pseudo.extend([0, self.protocol()]);
        pseudo.extend((bytes.len() as u16).to_be_bytes());
        pseudo.extend(&bytes);
        bytes[checksum_at..checksum_at + 2].copy_from_slice(&checksum(&pseudo).to_be_bytes());
        bytes
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// RFC 791, without options.
fn ipv4_header(from: [u8; 4], to: [u8; 4], protocol: u8, transport: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((20 + transport.len() as u16).to_be_bytes());
    header.extend([0, 0, 0x40, 0, TTL, protocol, 0, 0]);
    header.extend(from);
    header.extend(to);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 1071, section 3.
    #[test]
    fn the_checksum_is_the_internets() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn a_header_with_its_checksum_sums_to_zero() {
        let header = ipv4_header([192, 168, 100, 11], [172, 17, 100, 100], 6, &[0; 20]);
        assert_eq!(checksum(&header), 0);
    }
}
