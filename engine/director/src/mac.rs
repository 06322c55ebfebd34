//! MAC addresses.

/// A MAC address.
pub type Mac = [u8; 6];

/// As it is written: six bytes in hexadecimal, colons between.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
