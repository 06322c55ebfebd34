//! The rewrite: two MAC addresses, nothing else.

/// Bytes at the start of a frame: destination and source MAC address.
const ADDRESSES: usize = 12;

/// The first word of a frame: destination address, and the start of the source address or zeros.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Destination(u64);

impl From<[u8; 6]> for Destination {
    fn from([a, b, c, d, e, f]: [u8; 6]) -> Destination {
        Destination(u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]))
    }
}

/// A source address: what it adds to the first word of a frame, and what follows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source(u64, u32);

impl From<[u8; 6]> for Source {
    fn from([a, b, c, d, e, f]: [u8; 6]) -> Source {
        let start = u64::from_ne_bytes([0, 0, 0, 0, 0, 0, a, b]);
        Source(start, u32::from_ne_bytes([c, d, e, f]))
    }
}

/// Makes the packet the director's own, addressed to the RS. Everything from the VLAN tags or the
/// EtherType on stays as it is.
#[inline]
pub(crate) fn rewrite(packet: &mut [u8], destination: Destination, source: Source) {
    if let Some(addresses) = packet.first_chunk_mut::<ADDRESSES>() {
        let (word, rest) = addresses.split_at_mut(size_of::<u64>());
        word.copy_from_slice(&(destination.0 | source.0).to_ne_bytes());
        rest.copy_from_slice(&source.1.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_mac_addresses_change() {
        let mut packet: Vec<u8> = (0..60).collect();
        rewrite(&mut packet, [0xd; 6].into(), [1, 2, 3, 4, 5, 6].into());
        assert_eq!(&packet[..12], [0xd, 0xd, 0xd, 0xd, 0xd, 0xd, 1, 2, 3, 4, 5, 6]);
        assert!(packet[12..].iter().copied().eq(12..60));
    }
}
