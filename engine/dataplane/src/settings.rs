//! What the operator sets for all services at once.

use crate::drop_reason::DropReason;

/// Seconds without a packet after which a flow ends, by state.
///
/// The names and defaults are those of IPVS (`tcp_timeouts` in net/netfilter/ipvs/ip_vs_proto_tcp.c,
/// `udp_timeouts` in ip_vs_proto_udp.c); the first three are set by `ipvsadm --set`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// An established TCP flow.
    pub established: u32,
    /// A TCP flow after the client's FIN.
    pub fin_wait: u32,
    /// A UDP flow.
    pub udp: u32,
    /// A TCP flow of which only the SYN was seen.
    pub syn_recv: u32,
    /// A TCP flow that the client closed before it was established.
    pub time_wait: u32,
    /// A TCP flow after a RST.
    pub close: u32,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            established: 900,
            fin_wait: 120,
            udp: 300,
            syn_recv: 60,
            time_wait: 120,
            close: 10,
        }
    }
}

/// What happens to a TCP packet that is not a SYN and belongs to no known flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownFlow {
    /// It is dropped and answered by a RST: what a client of IPVS gets with `sloppy_tcp=0`, from the
    /// director's kernel. So it is with packets of flows whose real server was expired.
    #[default]
    Reset,
    /// It is dropped.
    Drop,
    /// It is scheduled like a SYN, unless it is a RST.
    Schedule,
}

impl UnknownFlow {
    /// All there are.
    pub const ALL: [UnknownFlow; 3] =
        [UnknownFlow::Reset, UnknownFlow::Drop, UnknownFlow::Schedule];
}

/// Settings of all services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// When flows end.
    pub timeouts: Timeouts,
    /// TCP packets of unknown flows.
    pub unknown_flow: UnknownFlow,
}

impl Settings {
    /// Whether a packet that is dropped for this reason is answered.
    pub(crate) fn answers(&self, reason: DropReason) -> bool {
        self.unknown_flow == UnknownFlow::Reset
            && matches!(reason, DropReason::UnknownFlow | DropReason::ServerExpired)
    }
}
