//! What a NIC, or a veth that plays one, does in the kernel's place, and how many queues it has.
//! Set by the ioctl SIOCETHTOOL, so that no `ethtool` program is needed.

use crate::error::{Doing, Result};
use crate::netns::Netns;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

// include/uapi/linux/ethtool.h
const ETHTOOL_SRXCSUM: u32 = 0x15;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGSO: u32 = 0x24;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETHTOOL_SGRO: u32 = 0x2c;
const ETHTOOL_SCHANNELS: u32 = 0x3d;
const ETH_FLAG_TXVLAN: u32 = 1 << 7;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// Makes an interface send and receive packets as they are on a wire: checksums computed, one
/// packet a segment, VLAN tags in the packet.
///
/// A veth hands a packet over with its checksum still to be computed and its VLAN tag beside it,
/// because the receiver is the same kernel. A packet that shunt forwards goes on to a receiver
/// that does not know this, and drops it for its wrong checksum.
pub(crate) fn offloads_off(netns: &Netns, interface: &str) -> Result<()> {
    let off = [
        (ETHTOOL_STXCSUM, "tx-checksum"),
        (ETHTOOL_SRXCSUM, "rx-checksum"),
        (ETHTOOL_STSO, "tso"),
        (ETHTOOL_SGSO, "gso"),
    ];
    for (command, feature) in off {
        switch(netns, interface, command, 0, feature)?;
    }
    let flags = switch(netns, interface, ETHTOOL_GFLAGS, 0, "flags")?;
    let flags = flags & !(ETH_FLAG_TXVLAN | ETH_FLAG_RXVLAN);
    switch(netns, interface, ETHTOOL_SFLAGS, flags, "vlan offload")?;
    Ok(())
}

/// Switches generic receive offload.
pub(crate) fn gro(netns: &Netns, interface: &str, on: bool) -> Result<()> {
    switch(netns, interface, ETHTOOL_SGRO, on.into(), "gro").map(drop)
}

/// Carries out one command and returns the value that the kernel leaves.
fn switch(netns: &Netns, interface: &str, command: u32, data: u32, feature: &str) -> Result<u32> {
    let outcome = netns.run(|| {
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        // struct ethtool_value: command, data.
        let mut words = [command, data];
        ethtool(&socket, interface, &mut words)?;
        Ok::<_, io::Error>(words[1])
    })?;
    outcome.doing(|| format!("setting {feature} of {interface} in {}", netns.name()))
}

/// Sets the number of receive and transmit queues, within what the interface was made with.
pub(crate) fn channels(netns: &Netns, interface: &str, rx: u32, tx: u32) -> Result<()> {
    let outcome = netns.run(|| {
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        // struct ethtool_channels: command, four maxima, which are not read, then the counts of
        // receive, transmit, other and combined queues.
        let mut words = [ETHTOOL_SCHANNELS, 0, 0, 0, 0, rx, tx, 0, 0];
        ethtool(&socket, interface, &mut words)
    })?;
    outcome.doing(|| format!("setting the queues of {interface} in {}", netns.name()))
}

/// Carries out a command. `words` is its structure of include/uapi/linux/ethtool.h, all of whose
/// members are 32 bits wide, the command first.
fn ethtool<const WORDS: usize>(
    socket: &OwnedFd,
    interface: &str,
    words: &mut [u32; WORDS],
) -> io::Result<()> {
    let expected = if words[0] == ETHTOOL_SCHANNELS { 9 } else { 2 };
    assert_eq!(WORDS, expected, "the structure of command {:#x}", words[0]);
    let mut ifr_name = [0; libc::IFNAMSIZ];
    if interface.len() >= ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidFilename));
    }
    for (place, byte) in ifr_name.iter_mut().zip(interface.bytes()) {
        *place = byte.cast_signed();
    }
    let ifru_data = words.as_mut_ptr().cast();
    let mut request =
        libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data } };
    // No crate offers this call with a safe signature.
    // SAFETY: SIOCETHTOOL reads a `struct ifreq` at its argument, which `request` is, and whose
    // name ends with a zero because it is shorter than the field. The kernel then reads and
    // writes the command's structure at `ifru_data`: struct ethtool_channels (nine words) for
    // ETHTOOL_SCHANNELS, struct ethtool_value (two words) for every other command of this file,
    // as the assertion above holds `words` to. Both live until the call has returned, and
    // nothing else refers to them meanwhile.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if status == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Netns {
    /// Makes an interface send and receive packets as they are on a wire.
    pub fn offloads_off(&self, interface: &str) -> Result<()> {
        offloads_off(self, interface)
    }

    /// Sets the number of queues of an interface, within what it was made with.
    pub fn channels(&self, interface: &str, rx: u32, tx: u32) -> Result<()> {
        channels(self, interface, rx, tx)
    }

    /// Switches generic receive offload of an interface.
    pub fn gro(&self, interface: &str, on: bool) -> Result<()> {
        gro(self, interface, on)
    }
}
