//! Which packets the XDP program takes, and by what kind it leaves the others to the kernel.

use crate::frames::*;
use std::net::Ipv6Addr;
use xsk::PassKind::{self, *};

/// A packet and what is to become of it: `None` if a queue's socket takes it.
pub struct Case {
    pub name: &'static str,
    pub frame: Vec<u8>,
    pub kind: Option<PassKind>,
    /// Whether the kernel lets the packet get as far as a packet socket, if it is left to it.
    pub seen: bool,
}

fn case(name: &'static str, kind: impl Into<Option<PassKind>>, frame: Vec<u8>) -> Case {
    Case { name, frame, kind: kind.into(), seen: true }
}

/// All of them, for the services of [`services`].
pub fn cases() -> Vec<Case> {
    [ethernet(), vlans(), ipv4(), ipv6(), icmp_messages(), fragments(), malformed()]
        .into_iter()
        .flatten()
        .collect()
}

fn to_vip4(protocol: u8, port: u16) -> Vec<u8> {
    V4::new(VIP4, protocol, transport(protocol, port)).bytes()
}

fn to_vip6(protocol: u8, port: u16) -> Vec<u8> {
    v6(VIP6, &[], protocol, &transport(protocol, port))
}

fn ethernet() -> Vec<Case> {
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &[0; 20]].concat();
    let web = to_vip4(TCP, 80);
    vec![
        case("ARP to all", Arp, frame_to([0xff; 6], 0x0806, &arp)),
        case("ARP to us", Arp, frame(0x0806, &arp)),
        case("LLDP", OtherProtocol, frame_to([1, 0x80, 0xc2, 0, 0, 0xe], 0x88cc, &[0; 46])),
        case("an 802.3 length", OtherProtocol, frame(46, &[0x42; 46])),
        case("the VIP at another MAC", ForeignMac, frame_to([2, 0, 0, 0, 0, 9], IPV4, &web)),
        case("one bit of the MAC off", ForeignMac, frame_to([0x22, 0, 0, 0, 0, 1], IPV4, &web)),
        case("the VIP at all MACs", Multicast, frame_to([0xff; 6], IPV4, &web)),
        case("multicast", Multicast, frame_to([0x33, 0x33, 0, 0, 0, 1], IPV6, &to_vip6(TCP, 80))),
    ]
}

fn vlans() -> Vec<Case> {
    let (q, ad) = (0x8100, 0x88a8);
    let (web, web6) = (to_vip4(TCP, 80), to_vip6(TCP, 80));
    vec![
        case("one tag", None, tagged(&[(q, 5)], IPV4, &web)),
        case("one tag, IPv6", None, tagged(&[(q, 5)], IPV6, &web6)),
        case("one 802.1ad tag", None, tagged(&[(ad, 5)], IPV4, &web)),
        case("two tags", None, tagged(&[(ad, 7), (q, 5)], IPV4, &web)),
        case("two 802.1Q tags, IPv6", None, tagged(&[(q, 7), (q, 5)], IPV6, &web6)),
        case("three tags", OtherProtocol, tagged(&[(q, 1), (q, 2), (q, 3)], IPV4, &web)),
        case("tagged, another port", OtherPort, tagged(&[(q, 5)], IPV4, &to_vip4(TCP, 81))),
        case("tagged ARP", Arp, tagged(&[(q, 5)], 0x0806, &[0; 28])),
        Case {
            seen: false, // skb_vlan_untag drops it
            ..case("a tag and nothing behind it", Malformed, frame(q, &[0, 5]))
        },
    ]
}

fn ipv4() -> Vec<Case> {
    let options = V4 { options: vec![1; 40], ..V4::new(VIP4, TCP, transport(TCP, 80)) };
    let other_protocol = |protocol| V4::new(VIP4, protocol, transport(TCP, 80)).bytes();
    vec![
        case("TCP service", None, frame(IPV4, &to_vip4(TCP, 80))),
        case("UDP service", None, frame(IPV4, &to_vip4(UDP, 53))),
        case("options", None, frame(IPV4, &options.bytes())),
        case("ports and nothing more", None, {
            frame(IPV4, &V4::new(VIP4, UDP, vec![1, 2, 0, 53]).bytes())
        }),
        case("another TCP port", OtherPort, frame(IPV4, &to_vip4(TCP, 8080))),
        case("the port's bytes exchanged", OtherPort, frame(IPV4, &to_vip4(TCP, 80 << 8))),
        case("UDP to the TCP port", OtherPort, frame(IPV4, &to_vip4(UDP, 80))),
        case("port 0", OtherPort, frame(IPV4, &to_vip4(TCP, 0))),
        case("SCTP", OtherPort, frame(IPV4, &other_protocol(132))),
        case("protocol 0", OtherPort, frame(IPV4, &other_protocol(0))),
        case("IPv6 extension numbers mean nothing", OtherPort, frame(IPV4, &other_protocol(60))),
        case("another address", OtherAddress, {
            frame(IPV4, &V4::new([172, 17, 100, 101].into(), TCP, transport(TCP, 80)).bytes())
        }),
        case("the VIP as the source", OtherAddress, {
            let mut bytes = V4::new(CLIENT4, TCP, transport(TCP, 80)).bytes();
            bytes[12..16].copy_from_slice(&VIP4.octets());
            frame(IPV4, &bytes)
        }),
    ]
}

fn ipv6() -> Vec<Case> {
    let web = transport(TCP, 80);
    let with = |extensions: &[(u8, Vec<u8>)]| frame(IPV6, &v6(VIP6, extensions, TCP, &web));
    let authentication = |words: usize| [vec![words as u8 - 2], vec![0; 4 * words - 2]].concat();
    let to = |address: Ipv6Addr| frame(IPV6, &v6(address, &[], TCP, &web));
    vec![
        case("TCP service, IPv6", None, frame(IPV6, &to_vip6(TCP, 80))),
        case("UDP service, IPv6", None, frame(IPV6, &to_vip6(UDP, 53))),
        case("another port, IPv6", OtherPort, frame(IPV6, &to_vip6(TCP, 81))),
        case("hop-by-hop options", None, with(&[(0, extension(0))])),
        case("long destination options", None, with(&[(60, extension(20))])),
        case("a routing header", None, with(&[(43, extension(2))])),
        case("an authentication header", None, with(&[(51, authentication(6))])),
        case("an odd authentication header", None, with(&[(51, authentication(3))])),
        case("three headers", None, {
            with(&[(0, extension(1)), (43, extension(0)), (60, extension(3))])
        }),
        case("eight headers", None, with(&vec![(60, extension(1)); 8])),
        case("nine headers", Malformed, with(&vec![(60, extension(1)); 9])),
        case("headers to another port", OtherPort, {
            let extensions = [(0, extension(0)), (60, extension(0))];
            frame(IPV6, &v6(VIP6, &extensions, TCP, &transport(TCP, 81)))
        }),
        case("no next header", OtherPort, frame(IPV6, &v6(VIP6, &[], 59, &[]))),
        case("another address, IPv6", OtherAddress, to("fd00:17::101".parse().unwrap())),
        // It looks like the IPv4 VIP in a table of v4-mapped addresses.
        case("the IPv4 VIP, mapped", OtherAddress, to(VIP4.to_ipv6_mapped())),
    ]
}

fn icmp_messages() -> Vec<Case> {
    let message4 = |message| frame(IPV4, &V4::new(VIP4, ICMP, icmp(message)).bytes());
    let message6 = |message| frame(IPV6, &v6(VIP6, &[], ICMP6, &icmp(message)));
    vec![
        case("unreachable", None, message4(3)),
        case("time exceeded", None, message4(11)),
        case("parameter problem", None, message4(12)),
        case("echo request", OtherPort, message4(8)),
        case("echo reply", OtherPort, message4(0)),
        case("redirect", OtherPort, message4(5)),
        case("unreachable, IPv6", None, message6(1)),
        case("packet too big, IPv6", None, message6(2)),
        case("time exceeded, IPv6", None, message6(3)),
        case("parameter problem, IPv6", None, message6(4)),
        case("type 0, IPv6", OtherPort, message6(0)),
        case("type 5, IPv6", OtherPort, message6(5)),
        case("echo request, IPv6", OtherPort, message6(128)),
        case("an error behind a header", None, {
            frame(IPV6, &v6(VIP6, &[(60, extension(0))], ICMP6, &icmp(2)))
        }),
        case("an error to another address", OtherAddress, {
            frame(IPV4, &V4::new(CLIENT4, ICMP, icmp(3)).bytes())
        }),
        case("ICMPv6 in IPv4", OtherPort, frame(IPV4, &V4::new(VIP4, ICMP6, icmp(1)).bytes())),
        case("ICMP in IPv6", OtherPort, frame(IPV6, &v6(VIP6, &[], ICMP, &icmp(3)))),
    ]
}

fn fragments() -> Vec<Case> {
    let fragment4 = |fragment, protocol, payload: Vec<u8>| {
        frame(IPV4, &V4 { fragment, ..V4::new(VIP4, protocol, payload) }.bytes())
    };
    let fragment6 = |offset: u16, before: &[(u8, Vec<u8>)]| {
        let header = [&[0][..], &offset.to_be_bytes(), &[0, 0, 0, 9]].concat();
        let extensions = [before, &[(44, header)]].concat();
        frame(IPV6, &v6(VIP6, &extensions, UDP, &transport(UDP, 53)))
    };
    vec![
        case("the first fragment", Fragment, fragment4(0x2000, TCP, transport(TCP, 80))),
        case("a middle fragment", Fragment, fragment4(0x2010, UDP, vec![0; 64])),
        case("the last fragment", Fragment, fragment4(0x0010, UDP, vec![0; 64])),
        case("a fragment of an ICMP error", Fragment, fragment4(0x2000, ICMP, icmp(3))),
        case("a fragment of two bytes", Fragment, fragment4(0x0010, UDP, vec![0; 2])),
        case("neither flag nor offset", None, fragment4(0, TCP, transport(TCP, 80))),
        case("the reserved flag alone", None, fragment4(0x8000, TCP, transport(TCP, 80))),
        case("the first fragment, IPv6", Fragment, fragment6(1, &[])),
        case("a middle fragment, IPv6", Fragment, fragment6(0x101, &[])),
        case("a fragment behind a header", Fragment, fragment6(1, &[(0, extension(1))])),
        case("a fragment for another address", OtherAddress, {
            frame(IPV4, &V4 { fragment: 0x2000, ..V4::new(CLIENT4, UDP, vec![0; 64]) }.bytes())
        }),
    ]
}

fn malformed() -> Vec<Case> {
    let web = to_vip4(TCP, 80);
    let web6 = to_vip6(TCP, 80);
    let cut = |packet: &[u8], length: usize| packet[..length].to_vec();
    let with_byte = |packet: &[u8], at: usize, byte: u8| {
        let mut packet = packet.to_vec();
        packet[at] = byte;
        packet
    };
    let hop = v6(VIP6, &[(0, extension(3))], TCP, &transport(TCP, 80));
    vec![
        case("no IPv4 header", Malformed, frame(IPV4, &[])),
        case("19 bytes of IPv4", Malformed, frame(IPV4, &cut(&web, 19))),
        case("version 6 as IPv4", Malformed, frame(IPV4, &with_byte(&web, 0, 0x65))),
        case("a header of 16 bytes", Malformed, frame(IPV4, &with_byte(&web, 0, 0x44))),
        case("options beyond the end", Malformed, frame(IPV4, &with_byte(&web, 0, 0x4f))),
        case("half a port", Malformed, frame(IPV4, &cut(&web, 23))),
        case("no ports", Malformed, frame(IPV4, &cut(&web, 20))),
        case("7 bytes of ICMP", Malformed, {
            frame(IPV4, &cut(&V4::new(VIP4, ICMP, icmp(3)).bytes(), 27))
        }),
        case("39 bytes of IPv6", Malformed, frame(IPV6, &cut(&web6, 39))),
        case("version 4 as IPv6", Malformed, frame(IPV6, &with_byte(&web6, 0, 0x40))),
        case("no ports, IPv6", Malformed, frame(IPV6, &cut(&web6, 40))),
        case("a header beyond the end", Malformed, frame(IPV6, &cut(&hop, 60))),
        case("half a header", Malformed, frame(IPV6, &cut(&hop, 44))),
        // Not for a VIP: what is behind the addresses is nobody's business.
        case("no ports, another address", OtherAddress, {
            frame(IPV4, &cut(&V4::new(CLIENT4, TCP, transport(TCP, 80)).bytes(), 20))
        }),
    ]
}
