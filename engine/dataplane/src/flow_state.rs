//! The states of a flow, as a director sees them that is passed by in one direction only.
//!
//! In direct routing the replies do not come by, so IPVS runs its INPUT_ONLY table
//! (`tcp_states` in net/netfilter/ipvs/ip_vs_proto_tcp.c), of which only these states are reached.

use crate::service_table::Protocol;
use crate::settings::Timeouts;

/// State of a flow, named as in `ipvsadm -Lnc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowState {
    /// A SYN was seen.
    SynRecv,
    /// The client acknowledged.
    Established,
    /// The client sent a FIN.
    FinWait,
    /// The client sent a FIN before it acknowledged.
    TimeWait,
    /// The client sent a RST.
    Close,
    /// A UDP flow.
    Udp,
}

const STATES: [FlowState; 6] = [
    FlowState::SynRecv,
    FlowState::Established,
    FlowState::FinWait,
    FlowState::TimeWait,
    FlowState::Close,
    FlowState::Udp,
];

/// The bits that a state takes up.
pub(crate) const STATE_BITS: u64 = 0xf;

/// Every pattern of those bits, so that reading one needs no branch. Only the first are written.
static BY_BITS: [FlowState; STATE_BITS as usize + 1] = {
    let mut states = [FlowState::Close; STATE_BITS as usize + 1];
    let mut bits = 0;
    while bits < STATES.len() {
        states[bits] = STATES[bits];
        bits += 1;
    }
    states
};

/// The flags of a TCP header (RFC 9293, 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpFlags(pub u8);

impl TcpFlags {
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    /// The bits up to ACK, of which PSH (0x08) says nothing.
    const DECISIVE: u8 = 0x1f;

    /// Whether the packet opens a connection: SYN and nothing that contradicts it. IPVS takes any
    /// SYN (`is_new_conn`), for the sake of active FTP: a SYN-ACK that nobody asked for is one.
    #[inline]
    pub fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }

    /// Whether SYN is among the flags.
    #[inline]
    pub fn has_syn(self) -> bool {
        self.0 & Self::SYN != 0
    }

    /// Whether the packet resets a connection.
    #[inline]
    pub fn resets(self) -> bool {
        self.0 & Self::RST != 0
    }
}

/// [`FlowState::after`] for every combination of the decisive flags and every state.
static AFTER: [[FlowState; STATES.len()]; TcpFlags::DECISIVE as usize + 1] = {
    let mut table = [STATES; TcpFlags::DECISIVE as usize + 1];
    let mut flags = 0;
    while flags < table.len() {
        let mut state = 0;
        while state < STATES.len() {
            table[flags][state] = transition(STATES[state], flags as u8);
            state += 1;
        }
        flags += 1;
    }
    table
};

/// RST goes before SYN, SYN before FIN, FIN before ACK (`tcp_state_idx`). A packet with none of
/// them, which no TCP sends, changes nothing; IPVS closes the flow, which anyone could abuse.
const fn transition(state: FlowState, flags: u8) -> FlowState {
    use FlowState::*;
    if matches!(state, Udp) {
        Udp
    } else if flags & TcpFlags::RST != 0 {
        if matches!(state, SynRecv) { SynRecv } else { Close }
    } else if flags & TcpFlags::SYN != 0 {
        if matches!(state, Established) { Established } else { SynRecv }
    } else if flags & TcpFlags::FIN != 0 {
        match state {
            SynRecv | TimeWait => TimeWait,
            Established | FinWait => FinWait,
            Close | Udp => state,
        }
    } else if flags & TcpFlags::ACK != 0 && matches!(state, SynRecv) {
        Established
    } else {
        state
    }
}

impl FlowState {
    /// The name that `ipvsadm -Lnc` prints.
    pub fn name(self) -> &'static str {
        match self {
            FlowState::SynRecv => "SYN_RECV",
            FlowState::Established => "ESTABLISHED",
            FlowState::FinWait => "FIN_WAIT",
            FlowState::TimeWait => "TIME_WAIT",
            FlowState::Close => "CLOSE",
            FlowState::Udp => "UDP",
        }
    }

    /// The protocol whose state this is.
    pub fn protocol(self) -> Protocol {
        if self == FlowState::Udp { Protocol::Udp } else { Protocol::Tcp }
    }

    /// Whether IPVS counts the flow as an active connection.
    #[inline]
    pub fn is_active(self) -> bool {
        matches!(self, FlowState::Established | FlowState::Udp)
    }

    /// Whether a SYN for the flow is a new connection that reuses its ports
    /// (`is_new_conn_expected` in net/netfilter/ipvs/ip_vs_core.c with conn_reuse_mode=1).
    #[inline]
    pub(crate) fn is_over(self) -> bool {
        matches!(self, FlowState::TimeWait | FlowState::Close)
    }

    /// The state after a packet with these flags.
    #[inline]
    pub(crate) fn after(self, flags: TcpFlags) -> FlowState {
        AFTER[usize::from(flags.0 & TcpFlags::DECISIVE)][self as usize]
    }

    /// The first state of a TCP flow whose first packet has these flags (the column NONE).
    pub(crate) fn first(flags: TcpFlags) -> FlowState {
        if flags.0 & TcpFlags::SYN != 0 {
            FlowState::SynRecv
        } else if flags.0 & (TcpFlags::FIN | TcpFlags::RST) != 0 {
            FlowState::Close
        } else {
            FlowState::Established
        }
    }

    #[inline]
    pub(crate) fn to_bits(self) -> u64 {
        self as u64
    }

    #[inline]
    pub(crate) fn from_bits(bits: u64) -> FlowState {
        BY_BITS[(bits & STATE_BITS) as usize]
    }
}

/// Time as flow entries hold it: 128 ms, so that most packets of a busy flow need not rewrite it.
pub type Ticks = u32;

/// Milliseconds in one tick, as a shift.
pub(crate) const TICK_SHIFT: u32 = 7;

/// The longest lifetime: half of what [`Ticks`] can tell apart, 8.7 years.
const LIFETIME_MAX: u64 = Ticks::MAX as u64 / 2;

/// The timeouts in ticks, by state: never shorter than what was asked for, though the last packet
/// may have come at the end of its tick, and at most two ticks longer.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes([Ticks; STATES.len()]);

impl Lifetimes {
    pub fn new(timeouts: &Timeouts) -> Lifetimes {
        let ticks = |seconds: u32| {
            let ticks = (u64::from(seconds) * 1000).div_ceil(1 << TICK_SHIFT) + 1;
            ticks.min(LIFETIME_MAX) as Ticks
        };
        Lifetimes([
            ticks(timeouts.syn_recv),
            ticks(timeouts.established),
            ticks(timeouts.fin_wait),
            ticks(timeouts.time_wait),
            ticks(timeouts.close),
            ticks(timeouts.udp),
        ])
    }

    #[inline]
    pub fn of(&self, state: FlowState) -> Ticks {
        self.0[state as usize]
    }

    /// The longest time for which a packet may still belong to a flow that has no entry.
    pub fn longest(&self) -> Ticks {
        self.of(FlowState::Established).max(self.of(FlowState::Udp))
    }
}

#[cfg(test)]
mod tests {
    use super::FlowState::*;
    use super::*;

    /// The INPUT_ONLY rows of `tcp_states`, columns SR, ES, FW, TW, CL.
    #[test]
    fn the_transitions_are_those_of_ipvs() {
        let columns = [SynRecv, Established, FinWait, TimeWait, Close];
        let rows = [
            ("syn", 0x02, [SynRecv, Established, SynRecv, SynRecv, SynRecv]),
            ("fin", 0x11, [TimeWait, FinWait, FinWait, TimeWait, Close]),
            ("ack", 0x10, [Established, Established, FinWait, TimeWait, Close]),
            ("rst", 0x04, [SynRecv, Close, Close, Close, Close]),
            ("none", 0x08, columns),
        ];
        for (name, flags, expected) in rows {
            for (before, after) in columns.into_iter().zip(expected) {
                assert_eq!(before.after(TcpFlags(flags)), after, "{name} in {}", before.name());
            }
        }
    }

    #[test]
    fn the_strongest_flag_decides() {
        assert_eq!(Established.after(TcpFlags(0x04 | 0x02 | 0x01 | 0x10)), Close);
        assert_eq!(FinWait.after(TcpFlags(0x02 | 0x01 | 0x10)), SynRecv);
        assert!(TcpFlags(0x02 | 0xc0).opens(), "ECN bits do not matter");
        for contradiction in [0x12, 0x03, 0x06] {
            assert!(!TcpFlags(contradiction).opens());
        }
    }

    #[test]
    fn bits_survive_the_round_trip() {
        for state in STATES {
            assert_eq!(FlowState::from_bits(state.to_bits()), state);
        }
    }
}
