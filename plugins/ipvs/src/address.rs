//! Addresses as IPVS hashes them.

use shunt_sdk::Server;

/// What an IPv4 address begins with where an IPv6 address is expected (RFC 4291, 2.5.5.2).
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// 2^32 divided by the golden ratio (`GOLDEN_RATIO_32` in the kernel's include/linux/hash.h).
const GOLDEN_RATIO: u32 = 0x61c8_8647;

/// An address as one number: an IPv4 address is itself, of an IPv6 address the four words are
/// combined by exclusive or.
#[inline]
pub fn fold(address: &[u8; 16]) -> u32 {
    let (words, _) = address.as_chunks::<4>();
    let folded = words.iter().fold(0, |folded, word| folded ^ u32::from_be_bytes(*word));
    // The prefix of a mapped address is one word of ones in its lower half.
    if address.starts_with(&MAPPED) { folded ^ 0xffff } else { folded }
}

/// Multiplicative hash of `bits` bits, 1 to 32 (`hash_32` in the kernel's include/linux/hash.h,
/// which these schedulers use since Linux 4.18).
#[inline]
pub fn hash_32(value: u32, bits: u32) -> u32 {
    value.wrapping_mul(GOLDEN_RATIO) >> (32 - bits)
}

/// Whether nobody is in this slot, rather than a server that takes no new flows.
#[inline]
pub fn is_nobody(server: &Server) -> bool {
    server.weight == 0 && (server.address == [0; 16] || server.address == UNSPECIFIED)
}

/// 0.0.0.0, mapped.
const UNSPECIFIED: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn an_ipv4_address_folds_to_itself() {
        let address = Ipv4Addr::new(192, 168, 100, 11);
        assert_eq!(fold(&address.to_ipv6_mapped().octets()), u32::from(address));
    }

    #[test]
    fn the_words_of_an_ipv6_address_are_combined() {
        let address: Ipv6Addr = "2001:db8:1:2:3:4:5:6".parse().unwrap();
        let expected = 0x2001_0db8 ^ 0x0001_0002 ^ 0x0003_0004 ^ 0x0005_0006;
        assert_eq!(fold(&address.octets()), expected);
    }

    /// Worked out by hand: the product modulo 2^32, and its highest bits.
    #[test]
    fn the_hash_is_the_top_of_the_product() {
        assert_eq!(hash_32(1, 8), 0x61);
        assert_eq!(hash_32(2, 8), 0xc3);
        assert_eq!(hash_32(3, 10), 0x95);
        assert_eq!(hash_32(1, 32), 0x61c8_8647);
    }

    #[test]
    fn a_drained_server_is_somebody() {
        let mapped = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets();
        assert!(!is_nobody(&Server { address: mapped, ..Server::default() }));
        assert!(is_nobody(&Server::default()));
        let unspecified = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets();
        assert!(is_nobody(&Server { address: unspecified, ..Server::default() }));
    }
}
