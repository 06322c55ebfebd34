//! Packets that the control thread has a worker send to a real server.
//!
//! They leave as packets of flows do: to the MAC address in the worker's own table, from one of its
//! frames, by its TX ring. So what comes back tells of the worker, too.

use crate::service_table::ServerIndex;

/// The longest packet of a probe: a TCP SYN over IPv6 with two VLAN tags and ten bytes of options.
pub const PROBE_MAX: usize = 92;

/// Probes that can wait for one worker.
pub(crate) const PROBES_MAX: usize = 1024;

/// A packet for a real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    server: ServerIndex,
    length: u8,
    packet: [u8; PROBE_MAX],
}

impl Probe {
    /// A probe of `server`. `packet` starts with the Ethernet header; its destination is left to
    /// the worker, and so is its source. `None` if it is longer than [`PROBE_MAX`].
    pub fn new(server: ServerIndex, packet: &[u8]) -> Option<Probe> {
        let mut probe = Probe { server, length: packet.len() as u8, packet: [0; PROBE_MAX] };
        probe.packet.get_mut(..packet.len())?.copy_from_slice(packet);
        Some(probe)
    }

    /// The real server that it is for.
    pub fn server(&self) -> ServerIndex {
        self.server
    }

    /// The packet.
    pub fn packet(&self) -> &[u8] {
        &self.packet[..usize::from(self.length)]
    }
}
