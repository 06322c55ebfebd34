//! The frames by which machines on a link tell who has an address, built and read.

use etherparse::icmpv6::{
    Icmpv6PayloadSlice, NdpOptionSlice, NeighborAdvertisementHeader, NeighborSolicitationPayload,
};
use etherparse::{
    ArpEthIpv4Packet, ArpOperation, Icmpv6Slice, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket,
    TransportSlice,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use xsk::FilterStep;

/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
const BROADCAST: [u8; 6] = [0xff; 6];
const NOBODY: [u8; 6] = [0; 6];
/// What a neighbor message must arrive with, so that it has crossed no router (RFC 4861, 7.1).
const HOP_LIMIT: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// The options of neighbor discovery that hold a link-layer address (RFC 4861, 4.6.1).
const SOURCE_OPTION: u8 = 1;
const TARGET_OPTION: u8 = 2;

/// Somebody says that they have an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// The address.
    pub address: IpAddr,
    /// Theirs, as their message has it.
    pub mac: [u8; 6],
}

/// Asks who has an address without claiming one, so that nobody learns anything from the question:
/// the ARP Probe of RFC 5227.
pub fn arp_probe(own_mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    arp(own_mac, Ipv4Addr::UNSPECIFIED, NOBODY, address)
}

/// Tells everybody that the address is here: the ARP Announcement of RFC 5227.
pub fn gratuitous_arp(own_mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    arp(own_mac, address, NOBODY, address)
}

fn arp(own_mac: [u8; 6], sender: Ipv4Addr, target_mac: [u8; 6], target: Ipv4Addr) -> Vec<u8> {
    let packet = ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: own_mac,
        sender_ipv4: sender.octets(),
        target_mac,
        target_ipv4: target.octets(),
    };
    let packet = PacketBuilder::ethernet2(own_mac, BROADCAST).arp(packet.to_arp_packet());
    let mut frame = Vec::with_capacity(packet.size());
    packet.write(&mut frame).expect("a Vec takes everything");
    frame
}

/// Tells everybody that the address is here: RFC 4861, 7.2.6.
pub fn unsolicited_advertisement(own_mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let header = NeighborAdvertisementHeader { router: false, solicited: false, r#override: true };
    let content = [&address.octets()[..], &[TARGET_OPTION, 1], &own_mac].concat();
    let kind = Icmpv6Type::NeighborAdvertisement(header);
    icmp(own_mac, address, ALL_NODES, kind, &content)
}

/// Asks who has an address without claiming one, as duplicate address detection does (RFC 4862,
/// 5.4.2). The answer goes to everybody.
pub fn duplicate_solicitation(own_mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    solicitation(own_mac, Ipv6Addr::UNSPECIFIED, address)
}

/// Asks who has an address, from an own one: the answer goes to that alone, so that nobody else
/// learns from it (RFC 4861, 7.2.2).
pub fn solicitation(own_mac: [u8; 6], source: Ipv6Addr, address: Ipv6Addr) -> Vec<u8> {
    let mut content = NeighborSolicitationPayload { target_address: address }.to_bytes().to_vec();
    if !source.is_unspecified() {
        content.extend([SOURCE_OPTION, 1]);
        content.extend(own_mac);
    }
    let [.., high, middle, low] = address.octets();
    let everybody_like_it = Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(high),
        u16::from_be_bytes([middle, low]),
    );
    icmp(own_mac, source, everybody_like_it, Icmpv6Type::NeighborSolicitation, &content)
}

fn icmp(
    own_mac: [u8; 6],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    kind: Icmpv6Type,
    content: &[u8],
) -> Vec<u8> {
    let [.., a, b, c, d] = destination.octets();
    // RFC 2464, 7.
    let packet = PacketBuilder::ethernet2(own_mac, [0x33, 0x33, a, b, c, d])
        .ipv6(source.octets(), destination.octets(), HOP_LIMIT)
        .icmpv6(kind);
    let mut frame = Vec::with_capacity(packet.size(content.len()));
    packet.write(&mut frame, content).expect("a Vec takes everything");
    frame
}

/// Who says in this frame that they have an address: the sender of an ARP request or reply, the
/// target of a neighbor advertisement, the source of a neighbor solicitation that tells its
/// link-layer address. A probe claims nothing.
pub fn read_claim(frame: &[u8]) -> Option<Claim> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    if !packet.link_exts.is_empty() {
        return None;
    }
    let claim = match packet.net? {
        NetSlice::Arp(arp) => {
            let arp = arp.to_packet().try_eth_ipv4().ok()?;
            if !matches!(arp.operation, ArpOperation::REQUEST | ArpOperation::REPLY) {
                return None;
            }
            Claim { address: arp.sender_ipv4_addr().into(), mac: arp.sender_mac }
        }
        NetSlice::Ipv6(ipv6) if ipv6.header().hop_limit() == HOP_LIMIT => {
            let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else { return None };
            let from = frame.get(6..12)?.try_into().ok()?;
            read_neighbor_message(&icmp, ipv6.header().source_addr(), from)?
        }
        _ => return None,
    };
    let possible = !claim.address.is_unspecified()
        && !claim.address.is_multicast()
        && claim.mac != NOBODY
        && claim.mac[0] & 1 == 0;
    possible.then_some(claim)
}

fn read_neighbor_message(icmp: &Icmpv6Slice, source: Ipv6Addr, from: [u8; 6]) -> Option<Claim> {
    if icmp.code_u8() != 0 {
        return None;
    }
    match icmp.payload_slice().ok()? {
        Icmpv6PayloadSlice::NeighborAdvertisement(advertisement) => {
            let told = advertisement.options_iterator().find_map(|option| match option.ok()? {
                NdpOptionSlice::TargetLinkLayerAddress(option) => {
                    option.link_layer_address().try_into().ok()
                }
                _ => None,
            });
            // The answer to a unicast question may leave it out (RFC 4861, 4.4).
            let mac = told.unwrap_or(from);
            Some(Claim { address: advertisement.target_address().into(), mac })
        }
        Icmpv6PayloadSlice::NeighborSolicitation(solicitation) => {
            let told = solicitation.options_iterator().find_map(|option| match option.ok()? {
                NdpOptionSlice::SourceLinkLayerAddress(option) => {
                    option.link_layer_address().try_into().ok()
                }
                _ => None,
            });
            Some(Claim { address: source.into(), mac: told? })
        }
        _ => None,
    }
}

/// BPF_LD | BPF_B | BPF_ABS.
const LOAD: u16 = 0x30;
/// BPF_JMP | BPF_JEQ | BPF_K.
const EQUAL: u16 = 0x15;
/// BPF_RET | BPF_K.
const RETURN: u16 = 0x06;
/// SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT of include/uapi/linux/filter.h.
const VLAN_TAG_PRESENT: u32 = 0xffff_f000 + 48;

/// Lets ARP through, but nothing of another VLAN than the link's own.
pub fn arp_filter() -> Vec<FilterStep> {
    filter(&[(VLAN_TAG_PRESENT, 0)])
}

/// Lets neighbor solicitations and advertisements through, but nothing of another VLAN.
pub fn neighbor_filter() -> Vec<FilterStep> {
    const ICMPV6: u32 = 58;
    const SOLICITATION: u32 = 135;
    const ADVERTISEMENT: u32 = 136;
    let mut steps = filter(&[(VLAN_TAG_PRESENT, 0), (20, ICMPV6), (54, SOLICITATION)]);
    // Another type may do, too.
    let at = steps.len() - 3;
    steps[at].no = 0;
    steps[at].yes = 1;
    steps.insert(at + 1, FilterStep { code: EQUAL, yes: 0, no: 1, value: ADVERTISEMENT });
    for step in &mut steps[..at] {
        if step.code == EQUAL {
            step.no += 1;
        }
    }
    steps
}

/// Lets a frame through in which each of these bytes has its value.
fn filter(wanted: &[(u32, u32)]) -> Vec<FilterStep> {
    let mut steps = Vec::new();
    for (position, &(offset, value)) in wanted.iter().enumerate() {
        // To the last step, over what is left of the comparisons and the step that accepts.
        let no = ((wanted.len() - position - 1) * 2 + 1) as u8;
        steps.push(FilterStep { code: LOAD, yes: 0, no: 0, value: offset });
        steps.push(FilterStep { code: EQUAL, yes: 0, no, value });
    }
    steps.push(FilterStep { code: RETURN, yes: 0, no: 0, value: u32::MAX });
    steps.push(FilterStep { code: RETURN, yes: 0, no: 0, value: 0 });
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const V4: Ipv4Addr = Ipv4Addr::new(172, 17, 100, 100);
    const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x17, 0x100, 0, 0, 0x12, 0x3456);

    fn claim(address: impl Into<IpAddr>, mac: [u8; 6]) -> Option<Claim> {
        Some(Claim { address: address.into(), mac })
    }

    #[test]
    fn an_arp_probe_is_as_rfc_5227_has_it() {
        let expected = [
            &[0xff; 6][..],
            &OWN,
            &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1],
            &OWN,
            &[0; 4],
            &[0; 6],
            &[172, 17, 100, 100],
        ]
        .concat();
        assert_eq!(arp_probe(OWN, V4), expected);
        assert_eq!(read_claim(&expected), None, "nobody learns from a probe");
    }

    #[test]
    fn an_announcement_claims_the_address() {
        let frame = gratuitous_arp(OWN, V4);
        assert_eq!(frame[28..32], [172, 17, 100, 100]);
        assert_eq!(frame[38..42], [172, 17, 100, 100]);
        assert_eq!(read_claim(&frame), claim(V4, OWN));
        let padded = [&frame[..], &[0; 18]].concat();
        assert_eq!(read_claim(&padded), claim(V4, OWN));

        let frame = unsolicited_advertisement(OWN, V6);
        assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(frame[58], 0x20, "override, and nothing else");
        assert_eq!(read_claim(&frame), claim(V6, OWN));
    }

    #[test]
    fn a_reply_claims_the_address_and_other_operations_do_not() {
        let mut frame = arp(OTHER, V4, OWN, Ipv4Addr::UNSPECIFIED);
        frame[21] = 2;
        assert_eq!(read_claim(&frame), claim(V4, OTHER));
        // Reverse ARP.
        frame[21] = 3;
        assert_eq!(read_claim(&frame), None);
        frame[21] = 2;
        frame[22] = 1;
        assert_eq!(read_claim(&frame), None, "a multicast address is nobody's");
    }

    #[test]
    fn a_solicitation_goes_to_those_like_the_target() {
        let frame = duplicate_solicitation(OWN, V6);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        assert_eq!(frame[22..38], [0; 16], "from nobody");
        assert_eq!(frame[38..54], "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(frame.len(), 14 + 40 + 24, "without its link-layer address (RFC 4861, 4.3)");
        assert_eq!(read_claim(&frame), None);
        let link_local = "fe80::1".parse().unwrap();
        let frame = solicitation(OWN, link_local, V6);
        assert_eq!(read_claim(&frame), claim(link_local, OWN));
    }

    #[test]
    fn checksums_are_right() {
        for frame in [unsolicited_advertisement(OWN, V6), duplicate_solicitation(OWN, V6)] {
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(NetSlice::Ipv6(ipv6)) = &packet.net else { panic!() };
            let Some(TransportSlice::Icmpv6(icmp)) = &packet.transport else { panic!() };
            let header = ipv6.header();
            assert!(icmp.is_checksum_valid(header.source(), header.destination()));
        }
    }

    #[test]
    fn an_advertisement_without_its_option_claims_for_its_sender() {
        let header =
            NeighborAdvertisementHeader { router: false, solicited: true, r#override: false };
        let kind = Icmpv6Type::NeighborAdvertisement(header);
        let frame = icmp(OTHER, V6, ALL_NODES, kind, &V6.octets());
        assert_eq!(read_claim(&frame), claim(V6, OTHER));
        let mut routed = frame;
        routed[21] = 64;
        assert_eq!(read_claim(&routed), None, "it has crossed a router");
    }

    #[test]
    fn tagged_frames_are_another_networks() {
        let frame = gratuitous_arp(OWN, V4);
        let tagged = [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat();
        assert_eq!(read_claim(&tagged), None);
    }

    /// What the kernel does with a filter, for the steps that are used here.
    fn passes(filter: &[FilterStep], frame: &[u8], tagged: bool) -> bool {
        let mut loaded = 0;
        let mut at = 0;
        loop {
            let step = filter[at];
            at += 1;
            match step.code {
                LOAD if step.value == VLAN_TAG_PRESENT => loaded = u32::from(tagged),
                LOAD => match frame.get(step.value as usize) {
                    Some(&byte) => loaded = byte.into(),
                    None => return false,
                },
                EQUAL => at += usize::from(if loaded == step.value { step.yes } else { step.no }),
                _ => return step.value != 0,
            }
        }
    }

    #[test]
    fn filters_let_through_what_can_hold_a_claim() {
        let arp = gratuitous_arp(OWN, V4);
        assert!(passes(&arp_filter(), &arp, false));
        assert!(!passes(&arp_filter(), &arp, true));
        for (frame, expected) in [
            (unsolicited_advertisement(OWN, V6), true),
            (duplicate_solicitation(OWN, V6), true),
            (
                icmp(
                    OWN,
                    V6,
                    V6,
                    Icmpv6Type::EchoRequest(etherparse::IcmpEchoHeader { id: 1, seq: 1 }),
                    &[],
                ),
                false,
            ),
        ] {
            assert_eq!(passes(&neighbor_filter(), &frame, false), expected);
            assert!(!passes(&neighbor_filter(), &frame, true));
            let mut tcp = frame.clone();
            tcp[20] = 6;
            assert!(!passes(&neighbor_filter(), &tcp, false));
            assert!(!passes(&neighbor_filter(), &frame[..40], false));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            kind in 0..4_usize,
        ) {
            let mut frame = match kind {
                0 => gratuitous_arp(OWN, V4),
                1 => unsolicited_advertisement(OWN, V6),
                2 => solicitation(OWN, V6, V6),
                _ => Vec::new(),
            };
            for (position, byte) in bytes.iter().enumerate() {
                match frame.get_mut(position * 7 % 97) {
                    Some(at) => *at ^= byte & 3,
                    None => frame.push(*byte),
                }
            }
            let _ = read_claim(&frame);
        }
    }
}
