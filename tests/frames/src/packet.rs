//! Packets, layer by layer.

use crate::{DIRECTOR_MAC, ROUTER_MAC};
use std::net::{Ipv4Addr, Ipv6Addr};

/// EtherType of a customer VLAN tag (IEEE 802.1Q).
pub const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Set aside for experiments (RFC 5342 and RFC 3692): nobody speaks them.
const ETHERTYPE_EXPERIMENTAL: u16 = 0x88b5;
const PROTOCOL_EXPERIMENTAL: u8 = 253;

const AUTHENTICATION: u8 = 51;

/// A packet's layers, outermost first. The Ethernet header may be left out.
pub type Layers = Vec<Layer>;

/// One layer. What is `None` is filled in truthfully.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// An Ethernet header.
    Ethernet {
        /// Destination, then source.
        macs: [[u8; 6]; 2],
        /// EtherType.
        ethertype: Option<u16>,
    },
    /// A VLAN tag.
    Vlan {
        /// VLAN id, or the whole tag control information.
        id: u16,
        /// The EtherType by which the layer before announces the tag.
        announced: u16,
    },
    /// An IPv4 header.
    Ipv4 {
        /// Source and destination.
        addresses: [Ipv4Addr; 2],
        /// Bytes of options, a multiple of 4, filled with no-operations.
        options: usize,
        /// Flags and fragment offset, as in the header.
        fragment: u16,
        /// Total length.
        total: Option<u16>,
        /// Length of the header in words of four bytes.
        words: Option<u8>,
        /// Version.
        version: u8,
        /// Protocol.
        protocol: Option<u8>,
    },
    /// An IPv6 header.
    Ipv6 {
        /// Source and destination.
        addresses: [Ipv6Addr; 2],
        /// Payload length.
        length: Option<u16>,
        /// Version.
        version: u8,
        /// Next header.
        next: Option<u8>,
    },
    /// An IPv6 extension header other than the fragment header.
    Extension {
        /// Its number.
        number: u8,
        /// Units that it has beyond the least: of eight bytes, or four (authentication header).
        units: u8,
    },
    /// An IPv6 fragment header.
    Fragment {
        /// In units of eight bytes.
        offset: u16,
        /// More fragments follow.
        more: bool,
    },
    /// A TCP header.
    Tcp {
        /// Source and destination.
        ports: [u16; 2],
        /// Flags, see [`flags`].
        flags: u8,
        /// Bytes of options, a multiple of 4.
        options: usize,
        /// Length of the header in words of four bytes.
        words: Option<u8>,
    },
    /// A UDP header.
    Udp {
        /// Source and destination.
        ports: [u16; 2],
        /// Length.
        length: Option<u16>,
    },
    /// An ICMP or ICMPv6 header of eight bytes.
    Icmp {
        /// Type and code.
        kind: [u8; 2],
    },
    /// Bytes.
    Data(Vec<u8>),
    /// Of all that follows, only so many bytes.
    Keep(usize),
}

/// The TCP flags that these letters name: `F S R P A U E C`, in any order; anything else is none.
pub fn flags(letters: &str) -> u8 {
    letters
        .bytes()
        .filter_map(|letter| b"FSRPAUEC".iter().position(|&l| l == letter))
        .fold(0, |flags, bit| flags | 1 << bit)
}

impl Layer {
    /// A plain IPv4 header.
    pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr) -> Layer {
        Layer::Ipv4 {
            addresses: [source, destination],
            options: 0,
            fragment: 0,
            total: None,
            words: None,
            version: 4,
            protocol: None,
        }
    }

    /// A plain IPv6 header.
    pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr) -> Layer {
        Layer::Ipv6 { addresses: [source, destination], length: None, version: 6, next: None }
    }

    /// A plain TCP header.
    pub fn tcp(source: u16, destination: u16, flags: u8) -> Layer {
        Layer::Tcp { ports: [source, destination], flags, options: 0, words: None }
    }

    /// A plain UDP header.
    pub fn udp(source: u16, destination: u16) -> Layer {
        Layer::Udp { ports: [source, destination], length: None }
    }

    fn ethertype(&self) -> u16 {
        match self {
            Layer::Vlan { announced, .. } => *announced,
            Layer::Ipv4 { .. } => ETHERTYPE_IPV4,
            Layer::Ipv6 { .. } => ETHERTYPE_IPV6,
            _ => ETHERTYPE_EXPERIMENTAL,
        }
    }

    /// The number by which an IP header announces this layer.
    fn protocol(&self, ipv6: bool) -> u8 {
        match self {
            Layer::Tcp { .. } => 6,
            Layer::Udp { .. } => 17,
            Layer::Icmp { .. } => {
                if ipv6 {
                    58
                } else {
                    1
                }
            }
            Layer::Extension { number, .. } => *number,
            Layer::Fragment { .. } => 44,
            Layer::Ipv4 { .. } => 4,
            Layer::Ipv6 { .. } => 41,
            _ => PROTOCOL_EXPERIMENTAL,
        }
    }

    /// This layer around `payload`, whose first layer is `next`.
    fn wrap(&self, next: &Layer, payload: Vec<u8>) -> Vec<u8> {
        let header = match self {
            Layer::Ethernet { macs, ethertype } => {
                let ethertype = ethertype.unwrap_or(next.ethertype());
                [&macs.concat()[..], &ethertype.to_be_bytes()].concat()
            }
            Layer::Vlan { id, .. } => [id.to_be_bytes(), next.ethertype().to_be_bytes()].concat(),
            Layer::Ipv4 { .. } => self.ipv4_header(next, payload.len()),
            Layer::Ipv6 { addresses, length, version, next: number } => {
                let length = length.unwrap_or(payload.len() as u16).to_be_bytes();
                let number = number.unwrap_or(next.protocol(true));
                let first = [version << 4, 0, 0, 0, length[0], length[1], number, 64];
                [&first[..], &addresses[0].octets(), &addresses[1].octets()].concat()
            }
            Layer::Extension { number, units } => {
                let units_of_4 = usize::from(*units);
                let bytes =
                    if *number == AUTHENTICATION { 8 + units_of_4 * 4 } else { 8 + units_of_4 * 8 };
                let mut header = vec![0; bytes];
                header[..2].copy_from_slice(&[next.protocol(true), *units]);
                header
            }
            Layer::Fragment { offset, more } => {
                let word = (offset << 3 | u16::from(*more)).to_be_bytes();
                vec![next.protocol(true), 0, word[0], word[1], 0, 0, 0, 7]
            }
            Layer::Tcp { ports, flags, options, words } => {
                let mut header = vec![0; 20 + options];
                header[..2].copy_from_slice(&ports[0].to_be_bytes());
                header[2..4].copy_from_slice(&ports[1].to_be_bytes());
                header[12] = words.unwrap_or((header.len() / 4) as u8) << 4;
                header[13] = *flags;
                header[20..].fill(1);
                header
            }
            Layer::Udp { ports, length } => {
                let length = length.unwrap_or(8 + payload.len() as u16);
                [ports[0], ports[1], length, 0].map(u16::to_be_bytes).concat()
            }
            Layer::Icmp { kind } => vec![kind[0], kind[1], 0, 0, 0, 0, 0, 0],
            Layer::Data(bytes) => bytes.clone(),
            Layer::Keep(bytes) => {
                return payload.into_iter().take(*bytes).collect();
            }
        };
        [header, payload].concat()
    }

    fn ipv4_header(&self, next: &Layer, payload: usize) -> Vec<u8> {
        let Layer::Ipv4 { addresses, options, fragment, total, words, version, protocol } = self
        else {
            return Vec::new();
        };
        let mut header = vec![0; 20 + options];
        let total = total.unwrap_or((header.len() + payload) as u16);
        header[0] = version << 4 | words.unwrap_or((header.len() / 4) as u8);
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[6..8].copy_from_slice(&fragment.to_be_bytes());
        header[8] = 64;
        header[9] = protocol.unwrap_or(next.protocol(false));
        header[12..16].copy_from_slice(&addresses[0].octets());
        header[16..20].copy_from_slice(&addresses[1].octets());
        header[20..].fill(1);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }
}

/// The Internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The packet with these layers, from router to director if it has no Ethernet layer of its own.
pub fn build(layers: &[Layer]) -> Vec<u8> {
    let ethernet = Layer::Ethernet { macs: [DIRECTOR_MAC, ROUTER_MAC], ethertype: None };
    let nothing = Layer::Data(Vec::new());
    let has_own = layers.iter().any(|layer| matches!(layer, Layer::Ethernet { .. }));
    let layers: Vec<&Layer> = (!has_own).then_some(&ethernet).into_iter().chain(layers).collect();
    let mut packet = Vec::new();
    for (index, layer) in layers.iter().enumerate().rev() {
        let behind = &layers[index + 1..];
        let next = behind.iter().find(|layer| !matches!(layer, Layer::Keep(_)));
        packet = layer.wrap(next.unwrap_or(&&nothing), packet);
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syn_is_what_a_capture_shows() {
        let layers = [
            Layer::ipv4([192, 168, 100, 11].into(), [172, 17, 100, 100].into()),
            Layer::tcp(12345, 80, flags("S")),
        ];
        let expected = [
            &DIRECTOR_MAC[..],
            &ROUTER_MAC,
            &[8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0x45, 0xa7, 192, 168, 100, 11],
            &[172, 17, 100, 100, 0x30, 0x39, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2],
            &[0, 0, 0, 0, 0, 0],
        ]
        .concat();
        assert_eq!(build(&layers), expected);
    }

    #[test]
    fn extension_headers_chain() {
        let layers = [
            Layer::ipv6([1; 8].into(), [2; 8].into()),
            Layer::Extension { number: 0, units: 1 },
            Layer::Extension { number: 51, units: 4 },
            Layer::Fragment { offset: 3, more: true },
            Layer::udp(1, 2),
            Layer::Data(vec![7; 5]),
        ];
        let packet = build(&layers);
        let ip = &packet[14..];
        assert_eq!((ip[6], u16::from_be_bytes([ip[4], ip[5]])), (0, 16 + 24 + 8 + 13));
        assert_eq!((ip[40], ip[56], ip[80]), (51, 44, 17));
        assert_eq!(&ip[82..84], [0, 3 << 3 | 1]);
        assert_eq!(&ip[88..], [0, 1, 0, 2, 0, 13, 0, 0, 7, 7, 7, 7, 7]);
    }

    #[test]
    fn outer_lengths_follow_what_is_kept() {
        let layers = [
            Layer::ipv4([1; 4].into(), [2; 4].into()),
            Layer::Icmp { kind: [3, 4] },
            Layer::Keep(28),
            Layer::ipv4([2; 4].into(), [1; 4].into()),
            Layer::tcp(80, 4000, flags("A")),
        ];
        let packet = build(&layers);
        assert_eq!(packet.len(), 14 + 20 + 8 + 28);
        assert_eq!(packet[16..18], [0, 56]);
        assert_eq!(packet[44..46], [0, 40], "the quoted header says what the packet was");
    }

    #[test]
    fn letters_name_flags() {
        assert_eq!(flags("FSRPAUEC"), 0xff);
        assert_eq!(flags("SA"), 0x12);
        assert_eq!(flags("-"), 0);
    }
}
