//! What can be told of an interface, and of this machine, before anything is opened.

use crate::interface::{check, choose_queues, frame_size, largest_mtu};
use crate::nic::{self, HashedKind, Nic};
use crate::socket::Socket;
use crate::{Error, InterfaceOptions};
use aya::programs::loaded_programs;

/// An interface as [`open`](crate::open) would find it.
#[derive(Debug)]
pub struct Survey {
    /// The interface's index.
    pub index: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The largest MTU that is taken, in bytes.
    pub mtu_max: u32,
    /// The driver's name, as ethtool says it.
    pub driver: String,
    /// Receive queues in use.
    pub rx_queues: u32,
    /// The most queues that `ethtool -L` would set, 0 where it is not known.
    pub queues_max: u32,
    /// The queues that would be opened, or why none.
    pub queues: Result<Vec<u32>, Error>,
    /// Bytes of a frame, or why no frame holds the largest packet.
    pub frame_size: Result<u32, Error>,
}

/// Looks at an interface and changes nothing.
pub fn survey(options: &InterfaceOptions) -> Result<Survey, Error> {
    check(options)?;
    let nic = Nic::look_up(&options.name)?;
    Ok(Survey {
        index: nic.index,
        mac: nic.mac,
        mtu: nic.mtu,
        mtu_max: largest_mtu(&nic.driver),
        rx_queues: nic.channels.rx,
        queues_max: nic.channels.max,
        queues: choose_queues(&nic.name, nic.channels, &options.queues),
        frame_size: frame_size(&nic),
        driver: nic.driver,
    })
}

/// The queue of each entry of a NIC's RSS indirection table; none if it has no such table.
pub fn rss_table(name: &str) -> Result<Vec<u32>, Error> {
    nic::rss_table(name)
}

/// Whether the hash by which a NIC spreads such packets counts their ports in; nothing: its driver
/// does not say.
pub fn hashes_ports(name: &str, kind: HashedKind) -> Result<Option<bool>, Error> {
    nic::hashes_ports(name, kind)
}

/// Whether this kernel has AF_XDP sockets and lets this thread open one; it is closed at once.
pub fn can_open_socket() -> Result<(), Error> {
    Socket::new().map(drop).map_err(Error::from_socket)
}

/// The name of a loaded BPF program, by the id that `ip link` shows. `None` if there is none, or
/// if this thread may not know (CAP_SYS_ADMIN is needed).
pub fn program_name(id: u32) -> Option<String> {
    // One that is unloaded meanwhile is an error in the list, not its end.
    let program = loaded_programs().flatten().find(|program| program.id() == id)?;
    program.name_as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_does_not_exist_is_named() {
        let error = survey(&InterfaceOptions::new("no-such")).unwrap_err();
        assert!(matches!(error, Error::NoInterface { .. }), "{error}");
        assert!(error.to_string().contains("\"no-such\""), "{error}");
    }

    #[test]
    fn an_interface_that_spreads_nothing_is_told_from_none() {
        assert_eq!(rss_table("lo").unwrap(), []);
        assert_eq!(hashes_ports("lo", HashedKind::Udp4).unwrap(), None);
        assert!(rss_table("no-such").is_err());
        assert!(hashes_ports("no-such", HashedKind::Tcp6).is_err());
    }

    #[test]
    fn the_loopback_interface_is_not_suitable() {
        assert!(matches!(
            survey(&InterfaceOptions::new("lo")),
            Err(Error::Unsuitable { interface, .. }) if interface == "lo"
        ));
    }
}
