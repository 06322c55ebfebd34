//! Whether what went back to a client is the RST that it must be.

use crate::DIRECTOR_MAC;
use crate::packet::checksum;

const TCP: u8 = 6;
const TCP_HEADER: usize = 20;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Where a packet without IPv6 extension headers has what counts.
struct Places {
    ip: usize,
    /// Source address, then destination.
    addresses: [usize; 2],
    address_length: usize,
    tcp: usize,
}

impl Places {
    fn of(packet: &[u8]) -> Option<Places> {
        let is_tag = |at: &usize| matches!(packet[*at..*at + 2], [0x81, 0] | [0x88, 0xa8]);
        let ip = (12..).step_by(4).find(|at| !is_tag(at))? + 2;
        match packet[ip] >> 4 {
            4 => Some(Places {
                ip,
                addresses: [ip + 12, ip + 16],
                address_length: 4,
                tcp: ip + usize::from(packet[ip] & 0xf) * 4,
            }),
            _ => (packet[ip + 6] == TCP).then_some(Places {
                ip,
                addresses: [ip + 8, ip + 24],
                address_length: 16,
                tcp: ip + 40,
            }),
        }
    }

    /// Address and port of the source (0) or the destination (1).
    fn end<'a>(&self, packet: &'a [u8], which: usize) -> [&'a [u8]; 2] {
        let (address, port) = (self.addresses[which], self.tcp + 2 * which);
        [&packet[address..address + self.address_length], &packet[port..port + 2]]
    }
}

/// Whether the answer goes to whom the packet came from. Nothing is said of a packet with IPv6
/// extension headers.
pub(crate) fn is_answered_by(packet: &[u8], answer: &[u8]) -> bool {
    let (Some(asked), Some(answered)) = (Places::of(packet), Places::of(answer)) else {
        return true;
    };
    (0..2).all(|which| asked.end(packet, which) == answered.end(answer, 1 - which))
}

/// Panics unless `answer` is the director's RST to whom `packet` came from.
pub fn check_reset(packet: &[u8], answer: &[u8]) {
    assert_eq!(
        answer[..12],
        [&packet[6..12], &DIRECTOR_MAC].concat(),
        "back to where it came from"
    );
    assert!(is_answered_by(packet, answer));
    let places = Places::of(answer).expect("no extension headers");
    let Places { ip, tcp, .. } = places;
    assert_eq!(answer[12..ip], packet[12..ip], "tags and EtherType stay");
    let length = if answer[ip] == 0x45 {
        assert_eq!(answer[ip + 9], TCP);
        assert_eq!(checksum(&answer[ip..tcp]), 0, "of the IP header");
        u16::from_be_bytes([answer[ip + 2], answer[ip + 3]])
    } else {
        40 + u16::from_be_bytes([answer[ip + 4], answer[ip + 5]])
    };
    let end = tcp + TCP_HEADER;
    assert_eq!(ip + usize::from(length), end, "a TCP header and nothing behind it");
    assert_eq!(answer.len(), end.max(packet.len().min(60)));
    assert!(answer[end..].iter().all(|&byte| byte == 0), "nothing of the client's is left");

    let header = &answer[tcp..end];
    let [from, to] = [0, 1].map(|which| places.end(answer, which)[0]);
    let covered = [from, to, &[0, TCP, 0, TCP_HEADER as u8], header].concat();
    assert_eq!(checksum(&covered), 0, "of the TCP header");
    assert_eq!((header[12], header[13] & !ACK), (0x50, RST));
    if let Some(asked) = Places::of(packet) {
        let asked = &packet[asked.tcp..];
        assert_eq!(asked[13] & RST, 0, "a RST is not answered");
        if asked[13] & ACK != 0 {
            assert_eq!((header[13], &header[4..8]), (RST, &asked[8..12]), "the number it expects");
        } else {
            assert_eq!((header[13], &header[4..8]), (RST | ACK, &[0; 4][..]));
        }
    }
}
