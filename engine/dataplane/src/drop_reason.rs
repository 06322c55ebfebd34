//! Why packets are dropped. Every reason is counted, none is silent (invariant 5).

/// Why a packet was dropped. The name is the metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// Too short for its headers, or headers that contradict each other.
    Malformed,
    /// Not IPv4 or IPv6 over Ethernet with at most two VLAN tags, or not TCP, UDP or an ICMP error.
    UnknownProtocol,
    /// A fragment: only the first carries ports.
    Fragment,
    /// No virtual service has this address, port and protocol.
    NoService,
    /// The virtual service was removed and takes no new flows.
    ServiceRemoved,
    /// A TCP packet that is neither a SYN nor of a known flow.
    UnknownFlow,
    /// An ICMP error that quotes no known flow.
    UnknownIcmp,
    /// No real server of the virtual service takes new flows.
    NoServer,
    /// The flow's real server was removed with `--expire`.
    ServerExpired,
    /// The MAC address of the flow's real server is not known on this interface.
    NoNeighbor,
    /// The packet's VLAN tags are not those of the real server's network.
    OtherVlan,
    /// The TX ring was full.
    TxRingFull,
}

impl DropReason {
    /// All reasons, in the order of their counters.
    pub const ALL: [DropReason; 12] = [
        DropReason::Malformed,
        DropReason::UnknownProtocol,
        DropReason::Fragment,
        DropReason::NoService,
        DropReason::ServiceRemoved,
        DropReason::UnknownFlow,
        DropReason::UnknownIcmp,
        DropReason::NoServer,
        DropReason::ServerExpired,
        DropReason::NoNeighbor,
        DropReason::OtherVlan,
        DropReason::TxRingFull,
    ];

    /// The metric's label.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::Malformed => "malformed",
            DropReason::UnknownProtocol => "unknown_protocol",
            DropReason::Fragment => "fragment",
            DropReason::NoService => "no_service",
            DropReason::ServiceRemoved => "service_removed",
            DropReason::UnknownFlow => "unknown_flow",
            DropReason::UnknownIcmp => "unknown_icmp",
            DropReason::NoServer => "no_server",
            DropReason::ServerExpired => "server_expired",
            DropReason::NoNeighbor => "no_neighbor",
            DropReason::OtherVlan => "other_vlan",
            DropReason::TxRingFull => "tx_ring_full",
        }
    }
}
