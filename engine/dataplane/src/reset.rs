//! The RST that answers a TCP packet of no flow.
//!
//! A director of IPVS passes such a packet on to its kernel, which has the VIP, knows nothing of the
//! connection either, and resets it (`tcp_v4_send_reset` in net/ipv4/tcp_ipv4.c): so clients learn
//! that it is over, and connect anew. What AF_XDP has taken cannot go back to the kernel. Without an
//! answer, a client whose real server is gone would repeat itself for a quarter of an hour.

use crate::worker_memory::Millis;
use etherparse::{
    IpNumber, Ipv4Header, Ipv6Header, NetSlice, SlicedPacket, TcpHeader, TcpSlice, TransportSlice,
};
use std::io::Write;
use std::net::IpAddr;

/// RSTs that a worker sends in a millisecond, at most, on average, and ...
const RATE: u64 = 10;
/// ... those of quiet times that it may send later. The kernel's have no such bound, but AF_XDP's
/// share a core with the packets of flows: 10,000 a second are some percent of what it can do.
const SAVED_MAX: u64 = 1_000;

/// Hop limit of what the director sends itself (RFC 1700; the kernel's `ip_default_ttl`).
const HOPS: u8 = 64;
/// The shortest Ethernet frame, without its check sequence (IEEE 802.3).
const SHORTEST: usize = 60;
const ETHERNET_HEADER: usize = 14;
const VLAN_TAG: usize = 4;
/// An IPv6 header and a TCP header.
const HEADERS_MAX: usize = Ipv6Header::LEN + TcpHeader::MIN_LEN;

/// How many RSTs a worker may send.
#[derive(Debug)]
pub(crate) struct Budget {
    left: u64,
    last: Millis,
}

impl Budget {
    pub const FULL: Budget = Budget { left: SAVED_MAX, last: 0 };

    /// Takes one, if there is one.
    pub fn take(&mut self, now: Millis) -> bool {
        let earned = now.saturating_sub(self.last).saturating_mul(RATE);
        self.left = self.left.saturating_add(earned).min(SAVED_MAX);
        self.last = now;
        self.left.checked_sub(1).is_some_and(|left| {
            self.left = left;
            true
        })
    }
}

/// Turns a TCP packet into the RST that answers it, from the VIP and this MAC address to where it
/// came from, and returns the length. `None`, and the packet is as it was, if nobody may be answered.
pub(crate) fn answer(packet: &mut [u8], own_mac: [u8; 6]) -> Option<usize> {
    let Headers { start, bytes, length } = Headers::answering(packet)?;
    let end = start + length;
    let is_from_group = packet.get(6)? & 1 != 0;
    if is_from_group || packet.len() < end {
        return None;
    }
    packet.copy_within(6..12, 0);
    packet[6..12].copy_from_slice(&own_mac);
    packet[start..end].copy_from_slice(&bytes[..length]);
    // Nothing of what the client sent stays behind the answer.
    let filled = packet.len().min(SHORTEST).max(end);
    packet[end..filled].fill(0);
    Some(filled)
}

/// The IP and TCP header of an answer.
struct Headers {
    /// Where they belong: behind the VLAN tags, which stay.
    start: usize,
    bytes: [u8; HEADERS_MAX],
    length: usize,
}

impl Headers {
    fn answering(packet: &[u8]) -> Option<Headers> {
        let sliced = SlicedPacket::from_ethernet(packet).ok()?;
        let TransportSlice::Tcp(tcp) = sliced.transport? else { return None };
        let mut reset = reset(&tcp)?;
        let mut bytes = [0; HEADERS_MAX];
        let mut rest = &mut bytes[..];
        match sliced.net? {
            NetSlice::Ipv4(ip) => {
                let (client, vip) = (ip.header().source(), ip.header().destination());
                is_answered(client.into(), vip.into())?;
                let length = TcpHeader::MIN_LEN as u16;
                let mut ip = Ipv4Header::new(length, HOPS, IpNumber::TCP, vip, client).ok()?;
                ip.header_checksum = ip.calc_header_checksum();
                reset.checksum = reset.calc_checksum_ipv4(&ip, &[]).ok()?;
                ip.write(&mut rest).ok()?;
            }
            NetSlice::Ipv6(ip) => {
                let (client, vip) = (ip.header().source(), ip.header().destination());
                is_answered(client.into(), vip.into())?;
                let ip = Ipv6Header {
                    payload_length: TcpHeader::MIN_LEN as u16,
                    next_header: IpNumber::TCP,
                    hop_limit: HOPS,
                    source: vip,
                    destination: client,
                    ..Ipv6Header::default()
                };
                reset.checksum = reset.calc_checksum_ipv6(&ip, &[]).ok()?;
                ip.write(&mut rest).ok()?;
            }
            NetSlice::Arp(_) => return None,
        }
        rest.write_all(&reset.to_bytes()).ok()?;
        let length = HEADERS_MAX - rest.len();
        let start = ETHERNET_HEADER + sliced.link_exts.len() * VLAN_TAG;
        Some(Headers { start, bytes, length })
    }
}

/// What a closed port answers, to anything but a RST (RFC 9293, 3.10.7.1).
fn reset(tcp: &TcpSlice<'_>) -> Option<TcpHeader> {
    if tcp.rst() {
        return None;
    }
    let mut reset = TcpHeader::new(tcp.destination_port(), tcp.source_port(), 0, 0);
    reset.rst = true;
    if tcp.ack() {
        reset.sequence_number = tcp.acknowledgment_number();
    } else {
        let flags = u32::from(tcp.syn()) + u32::from(tcp.fin());
        let length = tcp.payload().len() as u32 + flags;
        reset.acknowledgment_number = tcp.sequence_number().wrapping_add(length);
        reset.ack = true;
    }
    Some(reset)
}

/// Only one machine is answered, and not this one (RFC 1122, 3.2.1.3 and 4.2.3.10).
fn is_answered(client: IpAddr, vip: IpAddr) -> Option<()> {
    let everyone = match client {
        IpAddr::V4(client) => client.is_broadcast() || client.octets()[0] == 0,
        IpAddr::V6(client) => client.is_unspecified(),
    };
    let answered = !everyone && !client.is_multicast() && !client.is_loopback() && client != vip;
    answered.then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_a_rate_and_a_bounded_stock() {
        let mut budget = Budget::FULL;
        let take = |budget: &mut Budget, now| (0..5_000).filter(|_| budget.take(now)).count();
        assert_eq!(take(&mut budget, 7), 1_000, "the stock");
        assert_eq!(take(&mut budget, 7), 0);
        assert_eq!(take(&mut budget, 10), 30, "three milliseconds");
        assert_eq!(take(&mut budget, 1_000_000), 1_000, "never more than the stock");
        assert_eq!(take(&mut budget, Millis::MAX), 1_000);
    }
}
