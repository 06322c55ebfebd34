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

/// What a packet is to its flow, in a byte: the flags of a TCP header (RFC 9293, 3.1) up to ACK, a
/// UDP packet, or an ICMP error about a packet that a real server sent from the VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event(u8);

impl Event {
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    /// The bits up to ACK, of which PSH (0x08) says nothing.
    const TCP: u8 = 0x1f;
    /// One more than the largest.
    const COUNT: usize = 0x23;

    pub const UDP: Event = Event(0x20);
    const ERROR_TCP: Event = Event(0x21);
    const ERROR_UDP: Event = Event(0x22);

    /// A TCP packet with these flags.
    #[inline]
    pub fn tcp(flags: u8) -> Event {
        Event(flags & Self::TCP)
    }

    /// An ICMP error about a packet of this protocol.
    pub fn error(protocol: Protocol) -> Event {
        match protocol {
            Protocol::Tcp => Self::ERROR_TCP,
            Protocol::Udp => Self::ERROR_UDP,
        }
    }

    /// The protocol of the flow.
    #[inline]
    pub fn protocol(self) -> Protocol {
        if self.is_tcp() || self == Self::ERROR_TCP { Protocol::Tcp } else { Protocol::Udp }
    }

    /// Whether it is a TCP packet.
    #[inline]
    pub fn is_tcp(self) -> bool {
        self.0 <= Self::TCP
    }

    /// Whether it is an ICMP error.
    #[inline]
    pub fn is_error(self) -> bool {
        self == Self::ERROR_TCP || self == Self::ERROR_UDP
    }

    /// Whether the packet opens a connection: SYN and nothing that contradicts it. IPVS takes any
    /// SYN (`is_new_conn`), for the sake of active FTP: a SYN-ACK that nobody asked for is one.
    #[inline]
    pub fn opens(self) -> bool {
        self.is_tcp() && self.0 & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }

    /// Whether the packet resets a connection.
    #[inline]
    pub fn resets(self) -> bool {
        self.is_tcp() && self.0 & Self::RST != 0
    }

    /// Whether the packet may begin a flow or end one, whatever the state of its own.
    pub const fn is_special(self) -> bool {
        self.0 > Self::UDP.0 || self.0 <= Self::TCP && self.0 & Self::SYN != 0
    }
}

/// [`FlowState::after`] for every event and every state.
static AFTER: [[FlowState; STATES.len()]; Event::COUNT] = {
    let mut table = [STATES; Event::COUNT];
    let mut event = 0;
    while event <= Event::TCP as usize {
        let mut state = 0;
        while state < STATES.len() {
            table[event][state] = transition(STATES[state], event as u8);
            state += 1;
        }
        event += 1;
    }
    table
};

/// RST goes before SYN, SYN before FIN, FIN before ACK (`tcp_state_idx`). A packet with none of
/// them, which no TCP sends, changes nothing; IPVS closes the flow, which anyone could abuse.
const fn transition(state: FlowState, flags: u8) -> FlowState {
    use FlowState::*;
    if matches!(state, Udp) {
        Udp
    } else if flags & Event::RST != 0 {
        if matches!(state, SynRecv) { SynRecv } else { Close }
    } else if flags & Event::SYN != 0 {
        if matches!(state, Established) { Established } else { SynRecv }
    } else if flags & Event::FIN != 0 {
        match state {
            SynRecv | TimeWait => TimeWait,
            Established | FinWait => FinWait,
            Close | Udp => state,
        }
    } else if flags & Event::ACK != 0 && matches!(state, SynRecv) {
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

    /// The state after a packet. UDP packets and ICMP errors change none.
    #[inline]
    pub(crate) fn after(self, event: Event) -> FlowState {
        AFTER.get(usize::from(event.0)).map_or(self, |after| after[self as usize])
    }

    /// The first state of a flow whose first packet is this (for TCP, the column NONE).
    pub(crate) fn first(event: Event) -> FlowState {
        if !event.is_tcp() {
            FlowState::Udp
        } else if event.0 & Event::SYN != 0 {
            FlowState::SynRecv
        } else if event.0 & (Event::FIN | Event::RST) != 0 {
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

/// The timeouts in ticks: never shorter than what was asked for, though the last packet may have
/// come at the end of its tick, and at most two ticks longer.
#[derive(Debug, Clone)]
pub struct Lifetimes {
    by_state: [Ticks; STATES.len()],
    /// By event and by the bits of a state: the lifetime if such a packet leaves a flow in that
    /// state as it is, else 0. As many rows as an event has values, so that none is out of range.
    unchanged: Box<[[Ticks; STATE_BITS as usize + 1]; 256]>,
}

impl Lifetimes {
    pub fn new(timeouts: &Timeouts) -> Lifetimes {
        let mut lifetimes =
            Lifetimes { by_state: [0; STATES.len()], unchanged: Box::new([[0; 16]; 256]) };
        lifetimes.set(timeouts);
        lifetimes
    }

    /// Takes these timeouts over. Allocates nothing.
    pub fn set(&mut self, timeouts: &Timeouts) {
        let ticks = |seconds: u32| {
            let ticks = (u64::from(seconds) * 1000).div_ceil(1 << TICK_SHIFT) + 1;
            ticks.min(LIFETIME_MAX) as Ticks
        };
        self.by_state = [
            ticks(timeouts.syn_recv),
            ticks(timeouts.established),
            ticks(timeouts.fin_wait),
            ticks(timeouts.time_wait),
            ticks(timeouts.close),
            ticks(timeouts.udp),
        ];
        for event in (0..Event::COUNT as u8).map(Event).filter(|event| !event.is_special()) {
            for (state, lifetime) in STATES.into_iter().zip(self.by_state) {
                let unchanged = state.after(event) == state;
                self.unchanged[usize::from(event.0)][state as usize] =
                    if unchanged { lifetime } else { 0 };
            }
        }
    }

    #[inline]
    pub fn of(&self, state: FlowState) -> Ticks {
        self.by_state[state as usize]
    }

    /// How long a flow whose state has these bits may have been idle for the packet to change
    /// nothing but the time of its last packet: 0 when the packet changes more in any case.
    #[inline]
    pub(crate) fn unchanged(&self, bits: u64, event: Event) -> Ticks {
        self.unchanged[usize::from(event.0)][(bits & STATE_BITS) as usize]
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
                assert_eq!(before.after(Event::tcp(flags)), after, "{name} in {}", before.name());
            }
        }
    }

    #[test]
    fn the_strongest_flag_decides() {
        assert_eq!(Established.after(Event::tcp(0x04 | 0x02 | 0x01 | 0x10)), Close);
        assert_eq!(FinWait.after(Event::tcp(0x02 | 0x01 | 0x10)), SynRecv);
        assert!(Event::tcp(0x02 | 0xc0).opens(), "ECN bits do not matter");
        for contradiction in [0x12, 0x03, 0x06] {
            assert!(!Event::tcp(contradiction).opens());
        }
    }

    #[test]
    fn bits_survive_the_round_trip() {
        for state in STATES {
            assert_eq!(FlowState::from_bits(state.to_bits()), state);
        }
    }
}
