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

const TCP: u8 = 6;
const UDP: u8 = 17;
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
    pub client_port: Port,
    pub service_port: Port,
    /// What the packet is to its flow. Of an ICMP error, addresses and ports are those of the
    /// flow, that is the quoted ones swapped.
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

/// What most packets are: untagged, IPv4 without options, a whole TCP segment. All offsets are
/// constants here, so nothing but the lengths is checked. `None` leaves it to [`parse_any`], which
/// would say the same of every packet that this function takes.
#[inline]
pub(crate) fn parse_plain(packet: &[u8]) -> Option<Headers<'_>> {
    const IP: usize = ETHERNET_HEADER;
    const TRANSPORT: usize = IP + IPV4_HEADER;
    let header = packet.first_chunk::<{ TRANSPORT + TCP_HEADER }>()?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let total_length = u32::from(word(IP + 2));
    let tcp_length = u32::from(header[TRANSPORT + 12] >> 4) * 4;
    let plain = word(IP - 2) == ETHERTYPE_IPV4
        && header[IP] == 0x45
        && header[IP + 9] == TCP
        && u16::from_ne_bytes([header[IP + 6], header[IP + 7]]) & IPV4_FRAGMENT.to_be() == 0
        && total_length + IP as u32 <= packet.len() as u32
        && tcp_length >= TCP_HEADER as u32
        && tcp_length + IPV4_HEADER as u32 <= total_length;
    plain.then(|| Headers {
        vlans: [0, 0],
        addresses: Addresses::V4 {
            client: [header[IP + 12], header[IP + 13], header[IP + 14], header[IP + 15]],
            vip: [header[IP + 16], header[IP + 17], header[IP + 18], header[IP + 19]],
        },
        client_port: [header[TRANSPORT], header[TRANSPORT + 1]],
        service_port: [header[TRANSPORT + 2], header[TRANSPORT + 3]],
        event: Event::tcp(header[TRANSPORT + 13]),
    })
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
    let (client_port, service_port, event) = parse_transport(ip.protocol, ip.payload)?;
    let addresses = Addresses::V4 { client: ip.source, vip: ip.destination };
    Ok(Headers { vlans, addresses, client_port, service_port, event })
}

#[inline]
fn parse_transport(protocol: u8, payload: &[u8]) -> Result<(Port, Port, Event), DropReason> {
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
    Ok((*array(payload, 0)?, *array(payload, 2)?, event))
}

/// The ports of a quoted packet, of which only eight bytes behind the IP header are certain
/// (RFC 792; RFC 4443 quotes more).
fn quoted_ports(protocol: u8, payload: &[u8]) -> Result<(Port, Port, Protocol), DropReason> {
    let protocol = match protocol {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return Err(DropReason::UnknownProtocol),
    };
    Ok((*array(payload, 0)?, *array(payload, 2)?, protocol))
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
    let (service_port, client_port, protocol) = quoted_ports(ip.protocol, ip.payload)?;
    Ok(Headers {
        vlans,
        addresses: Addresses::V4 { client: ip.destination, vip: ip.source },
        client_port,
        service_port,
        event: Event::error(protocol),
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
    let (client_port, service_port, event) = parse_transport(ip.protocol, ip.payload)?;
    let addresses = Addresses::V6 { client: ip.source, vip: ip.destination };
    Ok(Headers { vlans, addresses, client_port, service_port, event })
}

fn parse_icmpv6_error(message: &[u8], vlans: [u16; 2]) -> Result<Headers<'_>, DropReason> {
    if !ICMPV6_ERRORS.contains(&byte(message, 0)?) {
        return Err(DropReason::UnknownProtocol);
    }
    let quoted = message.get(ICMP_HEADER..).ok_or(DropReason::Malformed)?;
    let ip = ipv6_header(quoted, false)?;
    let (service_port, client_port, protocol) = quoted_ports(ip.protocol, ip.payload)?;
    Ok(Headers {
        vlans,
        addresses: Addresses::V6 { client: ip.destination, vip: ip.source },
        client_port,
        service_port,
        event: Event::error(protocol),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The short cut may only be short, never different.
    #[test]
    fn the_plain_packet_is_parsed_like_any() {
        let mut packet = [0u8; 66];
        packet[12..14].copy_from_slice(&[8, 0]);
        packet[14..34].copy_from_slice(&[
            0x45, 0, 0, 52, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        packet[34..48].copy_from_slice(&[0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x80, 0x10]);
        assert!(parse_plain(&packet).is_some());
        for length in 0..=packet.len() {
            for position in 0..length {
                for value in 0..=255 {
                    let mut changed = packet;
                    changed[position] = value;
                    let changed = &changed[..length];
                    if let Some(plain) = parse_plain(changed) {
                        assert_eq!(Ok(plain), parse_any(changed), "{changed:02x?}");
                    }
                }
            }
        }
    }
}
