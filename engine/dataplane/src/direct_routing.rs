//! The rewrite: two MAC addresses, nothing else.

/// Makes the packet the director's own, addressed to the RS. Everything from the VLAN tags or the
/// EtherType on stays as it is.
#[inline]
pub(crate) fn rewrite(packet: &mut [u8], destination: [u8; 6], source: [u8; 6]) {
    if let Some(header) = packet.first_chunk_mut::<12>() {
        header[..6].copy_from_slice(&destination);
        header[6..].copy_from_slice(&source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_mac_addresses_change() {
        let mut packet: Vec<u8> = (0..60).collect();
        rewrite(&mut packet, [0xd; 6], [0x5; 6]);
        assert_eq!(&packet[..12], [0xd, 0xd, 0xd, 0xd, 0xd, 0xd, 5, 5, 5, 5, 5, 5]);
        assert!(packet[12..].iter().copied().eq(12..60));
    }
}
