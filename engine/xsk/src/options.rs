//! What can be asked of an interface, and what it answers.

use std::time::Duration;

/// What to open, and how. [`InterfaceOptions::new`] has the defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceOptions {
    /// The interface's name.
    pub name: String,
    /// The queues to take packets from.
    pub queues: Queues,
    /// Zero-copy, copy, or the better of the two that the driver can.
    pub mode: ModeRequest,
    /// Frames of each queue's UMEM. At least twice `ring_size` avoids stalls.
    pub frames: u32,
    /// Entries of each of a queue's four rings; a power of two.
    pub ring_size: u32,
    /// Whether workers drive the driver's NAPI themselves instead of its interrupts.
    pub busy_poll: Option<BusyPoll>,
}

impl InterfaceOptions {
    /// All queues, zero-copy if the driver can, 8192 frames, rings of 4096, no busy poll.
    pub fn new(name: impl Into<String>) -> InterfaceOptions {
        InterfaceOptions {
            name: name.into(),
            queues: Queues::All,
            mode: ModeRequest::Auto,
            frames: 8192,
            ring_size: 4096,
            busy_poll: None,
        }
    }
}

/// The queues of an interface to take packets from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Queues {
    /// Every receive queue that the interface has.
    All,
    /// Exactly these. They must be all that the interface has: a packet for a virtual service
    /// that arrives on a queue without a worker would be answered by the kernel with a reset.
    List(Vec<u32>),
}

/// How frames are to get from the NIC into the UMEM and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModeRequest {
    /// Zero-copy if the driver can, else copy. What it became is [`Mode`].
    Auto,
    /// Zero-copy or an error.
    ZeroCopy,
    /// Copy, even where the driver could do without.
    Copy,
}

/// How frames get from the NIC into the UMEM and back, as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The NIC reads and writes the UMEM itself.
    ZeroCopy,
    /// The kernel copies every packet in and out of the UMEM.
    Copy,
}

impl Mode {
    /// The name, as in the configuration and the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::ZeroCopy => "zero-copy",
            Mode::Copy => "copy",
        }
    }
}

/// Busy polling: the worker runs the driver's NAPI from its own system calls, and the NIC's
/// interrupts stay off as long as it does. Needed when driver and worker share a core.
///
/// `Documentation/networking/napi.rst` in the Linux sources, sections on busy polling and IRQ
/// mitigation. The last two are settings of the interface; they are put back when its
/// [`Steer`](crate::Steer) is dropped, and stay when the process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusyPoll {
    /// Packets that one poll of the NIC may take (`SO_BUSY_POLL_BUDGET`).
    pub budget: u16,
    /// How long one poll may look for packets (`SO_BUSY_POLL`, rounded up to microseconds).
    pub duration: Duration,
    /// Empty polls before interrupts are turned on again (`napi_defer_hard_irqs`).
    pub defer_hard_irqs: u32,
    /// How long interrupts stay off without a poll (`gro_flush_timeout`).
    pub gro_flush_timeout: Duration,
}

impl Default for BusyPoll {
    fn default() -> BusyPoll {
        BusyPoll {
            budget: 64,
            duration: Duration::from_micros(20),
            defer_hard_irqs: 2,
            gro_flush_timeout: Duration::from_micros(200),
        }
    }
}
