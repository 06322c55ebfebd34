//! The name of a flow inside the table, and its hash.
//!
//! The key is relative to the virtual service: client address, client port and service index say
//! it all, so that an IPv4 key is one word.

use crate::service_table::ServiceIndex;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Secret numbers that make the flow hash unpredictable. Shared by all workers of a director.
#[derive(Clone, Copy)]
pub struct Seeds(pub [u64; 2]);

/// The hash: two rounds of folded multiplication with two secret seeds (one round, or a CRC, can
/// be steered by whoever chooses the ports).
#[derive(Clone, Copy)]
pub struct FlowHasher {
    first: u64,
    second: u64,
    last: u64,
}

/// An odd number without a pattern (the fractional digits of the golden ratio).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

#[inline]
fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    product as u64 ^ (product >> 64) as u64
}

impl FlowHasher {
    /// The hash with these seeds.
    pub fn new(seeds: Seeds) -> FlowHasher {
        // Odd, so that no seed multiplies everything to zero.
        let [first, second] = seeds.0.map(|seed| seed | 1);
        FlowHasher { first, second, last: MULTIPLIER ^ second }
    }

    /// The hash of a key. The table's place is its high half, the consistent choice its low bits.
    #[inline]
    pub fn hash<const KEY: usize>(&self, key: &[u64; KEY]) -> u64 {
        let mut hash = self.first;
        for word in key {
            hash = fold(hash ^ word, self.second);
        }
        fold(hash ^ self.first, self.last)
    }
}

/// A virtual service in 16 bits, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceTag(u64);

impl ServiceTag {
    /// No service's.
    pub const NONE: ServiceTag = ServiceTag(0);

    /// The service with the low 16 bits of this word.
    #[inline]
    pub fn of_word(word: u64) -> ServiceTag {
        ServiceTag(word & 0xffff)
    }

    /// The tag in the low bits of a word.
    #[inline]
    pub fn word(self) -> u64 {
        self.0
    }

    /// The service.
    #[inline]
    pub fn service(self) -> ServiceIndex {
        ServiceIndex((self.0 as u16).wrapping_sub(1))
    }
}

impl From<ServiceIndex> for ServiceTag {
    #[inline]
    fn from(service: ServiceIndex) -> ServiceTag {
        ServiceTag(u64::from(service.0) + 1)
    }
}

/// Port and service in one word, never 0. Ports and addresses stay in the order of the wire: a
/// key need only be told from others.
#[inline]
fn tag(client_port: [u8; 2], service: ServiceTag) -> u64 {
    u64::from(u16::from_ne_bytes(client_port)) << 16 | service.0
}

#[inline]
fn untag(word: u64) -> (u16, ServiceIndex) {
    let port = ((word >> 16) as u16).to_ne_bytes();
    (u16::from_be_bytes(port), ServiceTag::of_word(word).service())
}

/// The key of an IPv4 flow.
#[inline]
pub fn key_v4(client: [u8; 4], client_port: [u8; 2], service: ServiceTag) -> [u64; 1] {
    [u64::from(u32::from_ne_bytes(client)) << 32 | tag(client_port, service)]
}

/// The key of an IPv6 flow.
#[inline]
pub(crate) fn key_v6(client: &[u8; 16], client_port: [u8; 2], service: ServiceTag) -> [u64; 3] {
    let client = u128::from_be_bytes(*client);
    [(client >> 64) as u64, client as u64, tag(client_port, service)]
}

/// The key of a flow of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    V4([u64; 1]),
    V6([u64; 3]),
}

impl Key {
    /// The key with these words: one for IPv4, three for IPv6.
    pub fn new<const WORDS: usize>(words: &[u64; WORDS]) -> Key {
        match *words.as_slice() {
            [word] => Key::V4([word]),
            [high, low, last] => Key::V6([high, low, last]),
            _ => unreachable!("a key of {WORDS} words"),
        }
    }

    /// The client's address (IPv4-mapped for IPv4) and port.
    pub fn client(&self) -> ([u8; 16], u16) {
        let (address, port, _) = match *self {
            Key::V4(key) => read_v4(key),
            Key::V6(key) => read_v6(key),
        };
        (mapped(address), port)
    }
}

/// An address as sixteen bytes, IPv4 mapped (RFC 4291, 2.5.5.2).
pub(crate) fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// What an IPv4 key says.
pub(crate) fn read_v4([word]: [u64; 1]) -> (IpAddr, u16, ServiceIndex) {
    let (client_port, service) = untag(word);
    (Ipv4Addr::from(((word >> 32) as u32).to_ne_bytes()).into(), client_port, service)
}

/// What an IPv6 key says.
pub(crate) fn read_v6([high, low, last]: [u64; 3]) -> (IpAddr, u16, ServiceIndex) {
    let (client_port, service) = untag(last);
    let client = u128::from(high) << 64 | u128::from(low);
    (Ipv6Addr::from_bits(client).into(), client_port, service)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back() {
        let key = key_v4([192, 168, 100, 11], [0xff, 0xfe], ServiceIndex(4095).into());
        let address = IpAddr::from([192, 168, 100, 11]);
        assert_eq!(read_v4(key), (address, 0xfffe, ServiceIndex(4095)));
        let client: Ipv6Addr = "fd00:1::11".parse().unwrap();
        let key = key_v6(&client.octets(), [0, 0], ServiceIndex(0).into());
        assert_eq!(read_v6(key), (client.into(), 0, ServiceIndex(0)));
        assert_ne!(key[2], 0, "an all-zero tag would mean a free entry");
    }

    #[test]
    fn neighboring_keys_spread_over_both_halves_of_the_hash() {
        let hasher = FlowHasher::new(Seeds([0, 0]));
        let mut high = [0u32; 64];
        let mut low = [0u32; 64];
        for port in 0..64_000u16 {
            let service = ServiceIndex(0).into();
            let hash = hasher.hash(&key_v4([10, 0, 0, 1], port.to_be_bytes(), service));
            high[(hash >> 58) as usize] += 1;
            low[(hash % 64) as usize] += 1;
        }
        for share in high.into_iter().chain(low) {
            assert!((850..1150).contains(&share), "{share} of an expected 1000");
        }
    }
}
