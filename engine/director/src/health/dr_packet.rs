//! The packets of a `dr` check: the SYN for the VIP, what answers it, and the RST that leaves
//! nothing behind on the real server.

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpSlice, TransportSlice};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use xsk::FilterStep;

/// A router takes one off and throws away what has none left: only a real server that is on the
/// link gets the SYN. So one behind a router, which packets of flows would not reach either, does
/// not look healthy because the router sent the SYN back to the VIP, and so to another.
const HOPS: u8 = 1;
/// Nobody sends more than this before the RST, which comes at once.
const WINDOW: u16 = 1_024;
/// The maximum segment size of Ethernet over IPv6: a SYN without one looks odd to some firewalls.
const SEGMENT: u16 = 1_440;
/// TPID of a VLAN tag (IEEE 802.1Q).
const TAG: [u8; 2] = [0x81, 0x00];
/// The shortest Ethernet frame, without its check sequence (IEEE 802.3). Not every NIC fills up
/// what it is told to send.
const SHORTEST: usize = 60;
/// Behind both MAC addresses.
const TAGS_AT: usize = 12;
/// Ports that no service has a name for (RFC 6335, 6).
const FIRST_PORT: u16 = 49_152;

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A SYN-ACK: the real server serves the VIP.
    Accepted,
    /// An RST: it has the VIP, and nothing listens there.
    Refused,
}

/// The two ends of a SYN-ACK or RST, the director's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ends {
    pub own: SocketAddr,
    pub vip: SocketAddr,
}

/// One SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question {
    pub ends: Ends,
    /// Its sequence number, which only who received it can acknowledge.
    number: u32,
}

/// How frames reach the real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    pub own_mac: [u8; 6],
    pub server_mac: [u8; 6],
    /// VLAN ids that the frame carries itself, outermost first; 0: none.
    pub vlans: [u16; 2],
}

impl Question {
    /// A SYN from this address of the director, with a port and a number that nobody can guess.
    pub fn new(source: IpAddr, vip: SocketAddr) -> Question {
        let random = RandomState::new().build_hasher().finish();
        let port = FIRST_PORT | random as u16;
        Question { ends: Ends { own: (source, port).into(), vip }, number: (random >> 32) as u32 }
    }

    /// The SYN, from the Ethernet header on.
    pub fn syn(&self, way: &Way) -> Option<Vec<u8>> {
        self.packet(way, self.number, |tcp| tcp.syn().options_raw(&maximum_segment_size()).ok())
    }

    /// The RST that ends what the SYN began (RFC 9293, 3.5.3: its number is the next one).
    pub fn reset(&self, way: &Way) -> Option<Vec<u8>> {
        self.packet(way, self.number.wrapping_add(1), |tcp| Some(tcp.rst()))
    }

    fn packet(
        &self,
        way: &Way,
        number: u32,
        flags: impl FnOnce(Builder) -> Option<Builder>,
    ) -> Option<Vec<u8>> {
        let Ends { own, vip } = self.ends;
        let ethernet = PacketBuilder::ethernet2(way.own_mac, way.server_mac);
        let ip = match (own.ip(), vip.ip()) {
            (IpAddr::V4(own), IpAddr::V4(vip)) => ethernet.ipv4(own.octets(), vip.octets(), HOPS),
            (IpAddr::V6(own), IpAddr::V6(vip)) => ethernet.ipv6(own.octets(), vip.octets(), HOPS),
            _ => return None,
        };
        let tcp = flags(ip.tcp(own.port(), vip.port(), number, WINDOW))?;
        let mut packet = Vec::with_capacity(dataplane::PROBE_MAX);
        tcp.write_to_vec(&mut packet, &[]).ok()?;
        for vlan in way.vlans.into_iter().rev().filter(|&vlan| vlan != 0) {
            let [high, low] = vlan.to_be_bytes();
            packet.splice(TAGS_AT..TAGS_AT, [TAG[0], TAG[1], high, low]);
        }
        packet.resize(packet.len().max(SHORTEST), 0);
        Some(packet)
    }

    /// What a frame with these ends says to the question. Nothing if it acknowledges another SYN.
    pub fn answer(&self, reply: &Reply) -> Option<Answer> {
        let mine = reply.acknowledges == self.number.wrapping_add(1);
        (mine && reply.ends == self.ends).then_some(reply.answer)
    }
}

type Builder = etherparse::PacketBuilderStep<etherparse::TcpHeader>;

/// RFC 9293, 3.7.1.
fn maximum_segment_size() -> [u8; 4] {
    let [high, low] = SEGMENT.to_be_bytes();
    [2, 4, high, low]
}

/// A frame that may answer a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reply {
    pub ends: Ends,
    answer: Answer,
    acknowledges: u32,
}

impl Reply {
    /// Reads a frame. Nothing if it is no SYN-ACK and no RST.
    pub fn read(frame: &[u8]) -> Option<Reply> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let (from, to): (IpAddr, IpAddr) = match packet.net? {
            NetSlice::Ipv4(ip) => {
                let header = ip.header();
                (header.source_addr().into(), header.destination_addr().into())
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header();
                (header.source_addr().into(), header.destination_addr().into())
            }
            NetSlice::Arp(_) => return None,
        };
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else { return None };
        let ends = Ends {
            own: (to, tcp.destination_port()).into(),
            vip: (from, tcp.source_port()).into(),
        };
        let acknowledges = tcp.acknowledgment_number();
        Some(Reply { ends, answer: answer(&tcp)?, acknowledges })
    }
}

fn answer(tcp: &TcpSlice<'_>) -> Option<Answer> {
    match (tcp.syn(), tcp.ack(), tcp.rst()) {
        (true, true, false) => Some(Answer::Accepted),
        // A RST that answers a SYN acknowledges it (RFC 9293, 3.5.2).
        (false, true, true) => Some(Answer::Refused),
        _ => None,
    }
}

/// EtherType of a family.
pub(crate) fn ether_type(address: IpAddr) -> u16 {
    if address.is_ipv4() { 0x0800 } else { 0x86dd }
}

/// A filter that lets SYN-ACKs and RSTs through, so that the socket hears little else of what the
/// kernel gets. IPv6 with extension headers is not among it: none answers like that.
pub(crate) fn filter(address: IpAddr) -> Vec<FilterStep> {
    // linux/bpf_common.h: what is loaded into the accumulator or the index register, and how it is
    // compared.
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_BYTE_FROM_INDEX: u16 = 0x50;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_HEADER_LENGTH: u16 = 0xb1;
    const EQUAL: u16 = 0x15;
    const ANY_BIT: u16 = 0x45;
    const AND: u16 = 0x54;
    const RETURN: u16 = 0x06;
    const TCP: u32 = 6;
    const SYN_RST_ACK: u32 = 0x16;
    const SYN_ACK: u32 = 0x12;
    const RST: u32 = 0x04;
    const WHOLE: u32 = 0x4_0000;

    let step = |code, value| FilterStep { code, yes: 0, no: 0, value };
    // Jumps over so many steps.
    let jump = |code, value, yes, no| FilterStep { code, yes, no, value };
    let flags = if address.is_ipv4() {
        vec![
            step(LOAD_BYTE, 23),
            jump(EQUAL, TCP, 0, 8),
            // A fragment that is not the first has no TCP header.
            step(LOAD_HALF, 20),
            jump(ANY_BIT, 0x1fff, 6, 0),
            step(LOAD_HEADER_LENGTH, 14),
            step(LOAD_BYTE_FROM_INDEX, 14 + 13),
        ]
    } else {
        vec![step(LOAD_BYTE, 20), jump(EQUAL, TCP, 0, 5), step(LOAD_BYTE, 14 + 40 + 13)]
    };
    let judge = [
        step(AND, SYN_RST_ACK),
        jump(EQUAL, SYN_ACK, 1, 0),
        jump(ANY_BIT, RST, 0, 1),
        step(RETURN, WHOLE),
        step(RETURN, 0),
    ];
    flags.into_iter().chain(judge).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    const OWN_MAC: [u8; 6] = [2, 0, 172, 17, 100, 3];
    const RS_MAC: [u8; 6] = [2, 0, 172, 17, 100, 1];
    const WAY: Way = Way { own_mac: OWN_MAC, server_mac: RS_MAC, vlans: [0, 0] };

    fn question(ipv6: bool) -> Question {
        if ipv6 {
            let of = |host| Ipv6Addr::new(0xfd00, 0x172, 0x17, 0x100, 0, 0, 0, host);
            return Question::new(of(3).into(), (of(0x100), 80).into());
        }
        Question::new([172, 17, 100, 3].into(), ([172, 17, 100, 100], 80).into())
    }

    /// What the real server answers, flags and acknowledged number as given.
    fn reply(question: &Question, flags: &str, acknowledges: u32) -> Vec<u8> {
        let Ends { own, vip } = question.ends;
        let ethernet = PacketBuilder::ethernet2(RS_MAC, OWN_MAC);
        let ip = match (vip.ip(), own.ip()) {
            (IpAddr::V4(vip), IpAddr::V4(own)) => ethernet.ipv4(vip.octets(), own.octets(), 64),
            (IpAddr::V6(vip), IpAddr::V6(own)) => ethernet.ipv6(vip.octets(), own.octets(), 64),
            _ => panic!("two families"),
        };
        let mut tcp = ip.tcp(vip.port(), own.port(), 7, 64_240);
        for flag in flags.chars() {
            tcp = match flag {
                'S' => tcp.syn(),
                'R' => tcp.rst(),
                'A' => tcp.ack(acknowledges),
                other => panic!("no flag {other}"),
            };
        }
        let mut frame = Vec::new();
        tcp.write_to_vec(&mut frame, &[]).unwrap();
        frame
    }

    #[test]
    fn the_syn_is_for_the_vip_and_goes_one_hop() {
        for ipv6 in [false, true] {
            let question = question(ipv6);
            let frame = question.syn(&WAY).unwrap();
            assert_eq!(frame[..12], [RS_MAC, OWN_MAC].concat());
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            let hops = match packet.net.unwrap() {
                NetSlice::Ipv4(ip) => ip.header().ttl(),
                NetSlice::Ipv6(ip) => ip.header().hop_limit(),
                NetSlice::Arp(_) => panic!("ARP"),
            };
            assert_eq!(hops, 1);
            let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
            assert!(tcp.syn() && !tcp.ack() && !tcp.rst());
            assert_eq!((tcp.destination_port(), tcp.sequence_number()), (80, question.number));
            assert!(tcp.source_port() >= FIRST_PORT);
            let reset = question.reset(&WAY).unwrap();
            let packet = SlicedPacket::from_ethernet(&reset).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
            assert!(tcp.rst() && tcp.sequence_number() == question.number.wrapping_add(1));
        }
    }

    #[test]
    fn tags_stand_between_the_addresses_and_the_packet() {
        let question = question(true);
        let plain = question.syn(&WAY).unwrap();
        for (vlans, tags) in
            [([5, 0], vec![0x81, 0, 0, 5]), ([0x123, 7], vec![0x81, 0, 1, 0x23, 0x81, 0, 0, 7])]
        {
            let tagged = question.syn(&Way { vlans, ..WAY }).unwrap();
            assert_eq!(tagged, [&plain[..12], &tags[..], &plain[12..]].concat());
            let probe = dataplane::Probe::new(dataplane::ServerIndex(0), &tagged);
            assert!(probe.is_some(), "{} bytes", tagged.len());
        }
        assert_eq!(question.reset(&WAY).unwrap().len(), 74);
    }

    #[test]
    fn what_answers_is_told_from_what_does_not() {
        for ipv6 in [false, true] {
            let question = question(ipv6);
            let next = question.number.wrapping_add(1);
            let judge = |flags, acknowledges| {
                let reply = Reply::read(&reply(&question, flags, acknowledges))?;
                question.answer(&reply)
            };
            assert_eq!(judge("SA", next), Some(Answer::Accepted));
            assert_eq!(judge("RA", next), Some(Answer::Refused));
            assert_eq!(judge("SA", question.number), None, "of another SYN");
            for flags in ["S", "A", "R", "SRA"] {
                assert_eq!(judge(flags, next), None, "{flags}");
            }
            let mut other = question;
            other.ends.vip.set_port(81);
            let reply = Reply::read(&reply(&question, "SA", next)).unwrap();
            assert_eq!(other.answer(&reply), None);
        }
    }

    #[test]
    fn damaged_frames_are_no_replies() {
        let question = question(false);
        let frame = reply(&question, "SA", question.number.wrapping_add(1));
        for length in 0..frame.len() {
            assert_eq!(Reply::read(&frame[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn two_questions_are_not_alike() {
        let (one, other) = (question(false), question(false));
        assert_ne!((one.ends.own.port(), one.number), (other.ends.own.port(), other.number));
    }

    #[test]
    fn families_are_not_mixed() {
        let mixed = Question::new([172, 17, 100, 3].into(), (Ipv6Addr::LOCALHOST, 80).into());
        assert_eq!(mixed.syn(&WAY), None);
    }
}
