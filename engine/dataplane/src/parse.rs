//! From bytes to the few fields that decide.
//!
//! Ethernet with up to two VLAN tags, IPv4 with options, IPv6 with extension headers, TCP, UDP,
//! and the ICMP errors, of which the quoted packet counts. Nothing here trusts a length.

use crate::drop_reason::DropReason;
use crate::flow_state::Event;
use crate::service_table::Protocol;

const ETHERNET_HEADER: usize = 14;
const VLAN_TAG: usize = 4;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Customer tag (IEEE 802.1Q) and service tag (802.1ad).
const ETHERTYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];
const VLAN_ID: u16 = 0x0fff;

const IPV4_HEADER: usize = 20;
/// More-fragments flag and fragment offset (RFC 791, 3.1).
const IPV4_FRAGMENT: u16 = 0x3fff;
const IPV4_FRAGMENT_OFFSET: u16 = 0x1fff;
const IPV6_HEADER: usize = 40;
/// Extension headers that are followed before giving up; real packets carry one or two.
const IPV6_EXTENSIONS_MAX: usize = 8;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// Type, code, checksum and four bytes that depend on the type (RFC 792, RFC 4443).
const ICMP_HEADER: usize = 8;
/// Destination unreachable (fragmentation needed among them), time exceeded, parameter problem.
const ICMP_ERRORS: [u8; 3] = [3, 11, 12];
/// Destination unreachable, packet too big, time exceeded, parameter problem.
const ICMPV6_ERRORS: [u8; 4] = [1, 2, 3, 4];

/// Who talks to which VIP. IPv6 addresses stay where they are in the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Addresses<'a> {
    V4 { client: [u8; 4], vip: [u8; 4] },
    V6 { client: &'a [u8; 16], vip: &'a [u8; 16] },
}

/// A port as on the wire.
type Port = [u8; 2];

/// A packet, as far as the director cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Headers<'a> {
    /// VLAN ids, outermost first; 0 where there is no tag.
    pub vlans: [u16; 2],
    pub addresses: Addresses<'a>,
    pub transport: Transport,
}

/// The ports of a packet, and what it is to its flow. Of an ICMP error these are the flow's, that
/// is the quoted ones swapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transport {
    pub client_port: Port,
    pub service_port: Port,
    pub event: Event,
}

#[inline]
fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<&[u8; N], DropReason> {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).ok_or(DropReason::Malformed)
}

#[inline]
fn word(bytes: &[u8], at: usize) -> Result<u16, DropReason> {
    array(bytes, at).copied().map(u16::from_be_bytes)
}

#[inline]
fn byte(bytes: &[u8], at: usize) -> Result<u8, DropReason> {
    bytes.get(at).copied().ok_or(DropReason::Malformed)
}

/// What most packets are: untagged, without IP options or extension headers, TCP or UDP. For each
/// of these there is a parser that takes nothing else: offsets and protocol are constants in it, so
/// that little but the lengths is checked. What it does not take is left to [`parse_any`], which
/// would say the same of every packet that it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plain {
    TcpIpv4,
    UdpIpv4,
    TcpIpv6,
    UdpIpv6,
}

impl Plain {
    /// What the packet looks like.
    #[inline]
    pub fn kind_of(packet: &[u8]) -> Option<Plain> {
        let header = packet.first_chunk::<{ ETHERNET_HEADER + IPV4_HEADER }>()?;
        let ethertype = [header[ETHERNET_HEADER - 2], header[ETHERNET_HEADER - 1]];
        match (
            u16::from_be_bytes(ethertype),
            header[ETHERNET_HEADER + 9],
            header[ETHERNET_HEADER + 6],
        ) {
            (ETHERTYPE_IPV4, TCP, _) => Some(Plain::TcpIpv4),
            (ETHERTYPE_IPV4, UDP, _) => Some(Plain::UdpIpv4),
            (ETHERTYPE_IPV6, _, TCP) => Some(Plain::TcpIpv6),
            (ETHERTYPE_IPV6, _, UDP) => Some(Plain::UdpIpv6),
            _ => None,
        }
    }
}

/// Addresses, client first, and transport header of a plain IPv4 packet of this protocol.
#[inline]
pub(crate) fn parse_plain_ipv4<const PROTOCOL: u8>(
    packet: &[u8],
) -> Option<([[u8; 4]; 2], Transport)> {
    const IP: usize = ETHERNET_HEADER;
    const TRANSPORT: usize = IP + IPV4_HEADER;
    if packet.len() < TRANSPORT + header_length(PROTOCOL) {
        return None;
    }
    let ip = packet.first_chunk::<TRANSPORT>()?;
    let total_length = u32::from(u16::from_be_bytes([ip[IP + 2], ip[IP + 3]]));
    let is_plain = u16::from_be_bytes([ip[IP - 2], ip[IP - 1]]) == ETHERTYPE_IPV4
        && ip[IP] == 0x45
        && ip[IP + 9] == PROTOCOL
        && u16::from_ne_bytes([ip[IP + 6], ip[IP + 7]]) & IPV4_FRAGMENT.to_be() == 0
        && total_length + IP as u32 <= packet.len() as u32;
    if !is_plain {
        return None;
    }
    let client = [ip[IP + 12], ip[IP + 13], ip[IP + 14], ip[IP + 15]];
    let vip = [ip[IP + 16], ip[IP + 17], ip[IP + 18], ip[IP + 19]];
    let transport = plain_transport::<TRANSPORT, IPV4_HEADER, PROTOCOL>(packet, total_length)?;
    Some(([client, vip], transport))
}

/// Addresses, client first, and transport header of a plain IPv6 packet of this protocol.
#[inline]
pub(crate) fn parse_plain_ipv6<const PROTOCOL: u8>(
    packet: &[u8],
) -> Option<([&[u8; 16]; 2], Transport)> {
    const IP: usize = ETHERNET_HEADER;
    const TRANSPORT: usize = IP + IPV6_HEADER;
    if packet.len() < TRANSPORT + header_length(PROTOCOL) {
        return None;
    }
    let ip = packet.first_chunk::<TRANSPORT>()?;
    let length = u32::from(u16::from_be_bytes([ip[IP + 4], ip[IP + 5]]));
    let is_plain = u16::from_be_bytes([ip[IP - 2], ip[IP - 1]]) == ETHERTYPE_IPV6
        && ip[IP] >> 4 == 6
        && ip[IP + 6] == PROTOCOL
        && length + TRANSPORT as u32 <= packet.len() as u32;
    if !is_plain {
        return None;
    }
    let (client, rest) = ip[IP + 8..].split_first_chunk()?;
    let vip = rest.first_chunk()?;
    let transport = plain_transport::<TRANSPORT, 0, PROTOCOL>(packet, length)?;
    Some(([client, vip], transport))
}

const fn header_length(protocol: u8) -> usize {
    if protocol == TCP { TCP_HEADER } else { UDP_HEADER }
}

/// The transport header at `AT`, if what it says of its length fits `length` bytes, of which those
/// of a header `BEFORE` it are a part.
#[inline]
fn plain_transport<const AT: usize, const BEFORE: usize, const PROTOCOL: u8>(
    packet: &[u8],
    length: u32,
) -> Option<Transport> {
    let before = BEFORE as u32;
    let (header, event) = if PROTOCOL == TCP {
        let header = packet.get(AT..)?.first_chunk::<TCP_HEADER>()?;
        let header_length = u32::from(header[12] >> 4) * 4;
        if header_length < TCP_HEADER as u32 || before + header_length > length {
            return None;
        }
        (header.first_chunk::<4>()?, Event::tcp(header[13]))
    } else {
        let header = packet.get(AT..)?.first_chunk::<UDP_HEADER>()?;
        let udp_length = u32::from(u16::from_be_bytes([header[4], header[5]]));
        if udp_length < UDP_HEADER as u32 || before + udp_length > length {
            return None;
        }
        (header.first_chunk::<4>()?, Event::UDP)
    };
    let &[a, b, c, d] = header;
    Some(Transport { client_port: [a, b], service_port: [c, d], event })
}

/// Parses whatever the director understands, from the Ethernet header on.
pub(crate) fn parse_any(packet: &[u8]) -> Result<Headers<'_>, DropReason> {
    let mut ethertype = word(packet, ETHERNET_HEADER - 2)?;
    let mut start = ETHERNET_HEADER;
    let mut vlans = [0; 2];
    for vlan in &mut vlans {
        if !ETHERTYPES_VLAN.contains(&ethertype) {
            break;
        }
        *vlan = word(packet, start)? & VLAN_ID;
        ethertype = word(packet, start + 2)?;
        start += VLAN_TAG;
    }
    let packet = packet.get(start..).ok_or(DropReason::Malformed)?;
    match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(packet, vlans),
        ETHERTYPE_IPV6 => parse_ipv6(packet, vlans),
        _ => Err(DropReason::UnknownProtocol),
    }
}

/// An IPv4 header: its addresses and what comes behind it.
struct Ipv4<'a> {
    source: [u8; 4],
    destination: [u8; 4],
    protocol: u8,
    fragment: u16,
    payload: &'a [u8],
}

/// `whole`: the packet must be all there. A quoted one may be cut short.
#[inline]
fn ipv4_header(packet: &[u8], whole: bool) -> Result<Ipv4<'_>, DropReason> {
    let header: &[u8; IPV4_HEADER] = array(packet, 0)?;
    let header_length = usize::from(header[0] & 0x0f) * 4;
    let total_length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] >> 4 != 4 || header_length < IPV4_HEADER || total_length < header_length {
        return Err(DropReason::Malformed);
    }
    // Short packets are padded to the Ethernet minimum: only total_length bytes count.
    let end = if whole { total_length } else { total_length.min(packet.len()) };
    Ok(Ipv4 {
        source: [header[12], header[13], header[14], header[15]],
        destination: [header[16], header[17], header[18], header[19]],
        protocol: header[9],
        fragment: u16::from_be_bytes([header[6], header[7]]),
        payload: packet.get(header_length..end).ok_or(DropReason::Malformed)?,
    })
}

#[inline]
fn parse_ipv4(packet: &[u8], vlans: [u16; 2]) -> Result<Headers<'_>, DropReason> {
    let ip = ipv4_header(packet, true)?;
    if ip.fragment & IPV4_FRAGMENT != 0 {
        return Err(DropReason::Fragment);
    }
    if ip.protocol == ICMP {
        return parse_icmp_error(ip.payload, vlans);
    }
    let transport = parse_transport(ip.protocol, ip.payload)?;
    let addresses = Addresses::V4 { client: ip.source, vip: ip.destination };
    Ok(Headers { vlans, addresses, transport })
}

#[inline]
fn parse_transport(protocol: u8, payload: &[u8]) -> Result<Transport, DropReason> {
    let event = match protocol {
        TCP => {
            let header: &[u8; TCP_HEADER] = array(payload, 0)?;
            let header_length = usize::from(header[12] >> 4) * 4;
            if header_length < TCP_HEADER || header_length > payload.len() {
                return Err(DropReason::Malformed);
            }
            Event::tcp(header[13])
        }
        UDP => {
            let length = usize::from(word(payload, 4)?);
            if length < UDP_HEADER || length > payload.len() {
                return Err(DropReason::Malformed);
            }
            Event::UDP
        }
        _ => return Err(DropReason::UnknownProtocol),
    };
    Ok(Transport { client_port: *array(payload, 0)?, service_port: *array(payload, 2)?, event })
}

/// The ports of a quoted packet, of which only eight bytes behind the IP header are certain
/// (RFC 792; RFC 4443 quotes more).
fn quoted_transport(protocol: u8, payload: &[u8]) -> Result<Transport, DropReason> {
    let protocol = match protocol {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return Err(DropReason::UnknownProtocol),
    };
    let (service_port, client_port) = (*array(payload, 0)?, *array(payload, 2)?);
    Ok(Transport { client_port, service_port, event: Event::error(protocol) })
}

fn parse_icmp_error(message: &[u8], vlans: [u16; 2]) -> Result<Headers<'_>, DropReason> {
    if !ICMP_ERRORS.contains(&byte(message, 0)?) {
        return Err(DropReason::UnknownProtocol);
    }
    let quoted = message.get(ICMP_HEADER..).ok_or(DropReason::Malformed)?;
    let ip = ipv4_header(quoted, false)?;
    if ip.fragment & IPV4_FRAGMENT_OFFSET != 0 {
        return Err(DropReason::Fragment);
    }
    let transport = quoted_transport(ip.protocol, ip.payload)?;
    Ok(Headers {
        vlans,
        addresses: Addresses::V4 { client: ip.destination, vip: ip.source },
        transport,
    })
}

/// An IPv6 header with its extension headers: the addresses and what comes behind.
struct Ipv6<'a> {
    source: &'a [u8; 16],
    destination: &'a [u8; 16],
    protocol: u8,
    payload: &'a [u8],
}

#[inline]
fn ipv6_header(packet: &[u8], whole: bool) -> Result<Ipv6<'_>, DropReason> {
    let header: &[u8; IPV6_HEADER] = array(packet, 0)?;
    if header[0] >> 4 != 6 {
        return Err(DropReason::Malformed);
    }
    let length = IPV6_HEADER + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let end = if whole { length } else { length.min(packet.len()) };
    let payload = packet.get(IPV6_HEADER..end).ok_or(DropReason::Malformed)?;
    let (protocol, payload) = skip_extensions(header[6], payload, whole)?;
    Ok(Ipv6 { source: array(packet, 8)?, destination: array(packet, 24)?, protocol, payload })
}

/// Follows the extension headers (RFC 8200, 4; AH: RFC 4302, 2.2) to the transport header.
fn skip_extensions(first: u8, payload: &[u8], whole: bool) -> Result<(u8, &[u8]), DropReason> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION_OPTIONS: u8 = 60;

    let (mut next, mut rest) = (first, payload);
    // As many as steer.bpf.c follows, and one look at what comes behind them.
    for _ in 0..=IPV6_EXTENSIONS_MAX {
        let length = match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => (usize::from(byte(rest, 1)?) + 1) * 8,
            AUTHENTICATION => (usize::from(byte(rest, 1)?) + 2) * 4,
            FRAGMENT => {
                let offset = word(rest, 2)? >> 3;
                if whole || offset != 0 {
                    return Err(DropReason::Fragment);
                }
                8
            }
            _ => return Ok((next, rest)),
        };
        next = byte(rest, 0)?;
        rest = rest.get(length..).ok_or(DropReason::Malformed)?;
    }
    Err(DropReason::UnknownProtocol)
}

fn parse_ipv6(packet: &[u8], vlans: [u16; 2]) -> Result<Headers<'_>, DropReason> {
    let ip = ipv6_header(packet, true)?;
    if ip.protocol == ICMPV6 {
        return parse_icmpv6_error(ip.payload, vlans);
    }
    let transport = parse_transport(ip.protocol, ip.payload)?;
    let addresses = Addresses::V6 { client: ip.source, vip: ip.destination };
    Ok(Headers { vlans, addresses, transport })
}

fn parse_icmpv6_error(message: &[u8], vlans: [u16; 2]) -> Result<Headers<'_>, DropReason> {
    if !ICMPV6_ERRORS.contains(&byte(message, 0)?) {
        return Err(DropReason::UnknownProtocol);
    }
    let quoted = message.get(ICMP_HEADER..).ok_or(DropReason::Malformed)?;
    let ip = ipv6_header(quoted, false)?;
    let transport = quoted_transport(ip.protocol, ip.payload)?;
    Ok(Headers {
        vlans,
        addresses: Addresses::V6 { client: ip.destination, vip: ip.source },
        transport,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_plain(packet: &[u8]) -> Option<Headers<'_>> {
        let parsed = match Plain::kind_of(packet)? {
            Plain::TcpIpv4 => parse_plain_ipv4::<TCP>(packet).map(of_ipv4),
            Plain::UdpIpv4 => parse_plain_ipv4::<UDP>(packet).map(of_ipv4),
            Plain::TcpIpv6 => parse_plain_ipv6::<TCP>(packet).map(of_ipv6),
            Plain::UdpIpv6 => parse_plain_ipv6::<UDP>(packet).map(of_ipv6),
        };
        let (addresses, transport) = parsed?;
        Some(Headers { vlans: [0, 0], addresses, transport })
    }

    type Parsed<'a> = (Addresses<'a>, Transport);

    fn of_ipv4(([client, vip], transport): ([[u8; 4]; 2], Transport)) -> Parsed<'static> {
        (Addresses::V4 { client, vip }, transport)
    }

    fn of_ipv6<'a>(([client, vip], transport): ([&'a [u8; 16]; 2], Transport)) -> Parsed<'a> {
        (Addresses::V6 { client, vip }, transport)
    }

    /// The short cut may only be short, never different.
    fn check_every_change_of_a_byte(packet: &[u8]) {
        assert!(parse_plain(packet).is_some());
        for length in 0..=packet.len() {
            for position in 0..length {
                for value in 0..=255 {
                    let mut changed = packet[..length].to_vec();
                    changed[position] = value;
                    if let Some(headers) = parse_plain(&changed) {
                        assert_eq!(Ok(headers), parse_any(&changed), "{changed:02x?}");
                    }
                }
            }
        }
    }

    const TCP_ACK: [u8; 32] = [
        0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x80, 0x10, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1,
        1, 1, 1, 1, 1, 1,
    ];
    const UDP_DATA: [u8; 12] = [0x30, 0x39, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4];

    fn ipv4(protocol: u8, transport: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 12];
        packet.extend([8, 0, 0x45, 0, 0, 20 + transport.len() as u8, 0, 1, 0x40, 0, 64, protocol]);
        packet.extend([0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend(transport);
        packet
    }

    fn ipv6(protocol: u8, transport: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 12];
        packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, transport.len() as u8, protocol, 64]);
        packet.extend([[0xfd; 16], [0xfe; 16]].concat());
        packet.extend(transport);
        packet
    }

    #[test]
    fn plain_packets_are_parsed_like_any() {
        for build in [ipv4, ipv6] {
            check_every_change_of_a_byte(&build(TCP, &TCP_ACK));
            check_every_change_of_a_byte(&build(UDP, &UDP_DATA));
        }
    }
}
