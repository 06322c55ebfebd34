//! A port over an AF_XDP socket.

use crate::error::{Error, ZeroCopyRefusal, system};
use crate::monitor::{Monitor, Waker};
use crate::nic::Nic;
use crate::port::{BURST_MAX, Census, Packet, Port, PortCounters};
use crate::queue::Queue;
use crate::shedding::Shedding;
use crate::socket::Socket;
use crate::steer::Steer;
use crate::umem::Umem;
use crate::{InterfaceOptions, Mode, ModeRequest};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a bind is tried again while the queue is taken: a socket lets go of its queue some
/// time after it was closed.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// What one sendto is to send in copy mode: a burst, and one that was left behind.
const SEND_BUDGET: u32 = 2 * BURST_MAX as u32;

/// TX_BATCH_SIZE in net/xdp/xsk.c: what one sendto sends if the kernel knows no budget.
const SEND_BUDGET_FIXED: u32 = 32;

/// How long a worker sleeps at most while the kernel still has to be asked to send something.
const UNSENT_PATIENCE: Duration = Duration::from_millis(1);

/// After how many turns a driver that was woken is woken again for the same packets: some 10 µs of
/// empty turns. More than an interrupt takes; not much, should the link have been down just then.
const WAKE_AGAIN: u32 = 256;

/// When to wake the kernel for what is in the TX ring.
#[derive(Debug)]
struct Doorbell {
    /// The TX ring's index when it was rung last.
    rung_at: u32,
    /// Flushes until it may be rung again for the same packets.
    pause: u32,
    pauses: bool,
}

impl Doorbell {
    /// Copying, the kernel sends from within the wake-up, and what it leaves it was not able to
    /// send: it is to be woken until it has. With zero-copy a wake-up may be an interrupt, after
    /// which the driver takes all that is there; waking it in every turn until then would cost a
    /// system call and a write to the NIC each time. With busy polling it runs in the wake-ups only.
    fn new(mode: Mode, busy_poll: bool) -> Doorbell {
        Doorbell { rung_at: 0, pause: 0, pauses: mode == Mode::ZeroCopy && !busy_poll }
    }

    /// Whether to ring, if the ring holds packets and asks for it. `next` is its index.
    #[inline]
    fn is_due(&mut self, next: u32) -> bool {
        if self.pause > 0 && self.rung_at == next {
            self.pause -= 1;
            return false;
        }
        self.rung_at = next;
        self.pause = if self.pauses { WAKE_AGAIN } else { 0 };
        true
    }
}

/// One queue of a NIC. Owned by one worker; the control thread has its [`crate::Monitor`].
#[derive(Debug)]
pub struct XskPort {
    queue: Queue,
    socket: Arc<Socket>,
    waker: Waker,
    number: u32,
    mac: [u8; 6],
    mode: Mode,
    refusal: Option<Arc<ZeroCopyRefusal>>,
    /// The most sendto calls that one flush makes.
    kicks: u32,
    busy_poll: bool,
    shedding: Option<Shedding>,
    doorbell: Doorbell,
}

impl XskPort {
    /// Opens a queue of an interface. Nothing arrives before the XDP program is attached.
    pub(crate) fn open(
        nic: &Nic,
        number: u32,
        frame_size: u32,
        options: &InterfaceOptions,
    ) -> Result<XskPort, Error> {
        let failed = |doing| system(format!("queue {number} of {}", nic.name), doing);
        let socket = Socket::new().map_err(Error::from_socket)?;
        let umem = Umem::new(options.frames, frame_size).map_err(failed("map the UMEM"))?;
        socket.register(&umem).map_err(|error| match error.raw_os_error() {
            // xdp_umem_account_pages in net/xdp/xdp_umem.c.
            Some(libc::ENOBUFS) => Error::NoPermission {
                doing: "lock the UMEM's memory",
                capability: "CAP_IPC_LOCK or a larger RLIMIT_MEMLOCK",
            },
            _ => failed("register the UMEM")(error),
        })?;
        let rings = socket.rings(options.ring_size).map_err(failed("map the rings"))?;
        let mut queue = Queue::new(umem, rings);
        // Before the bind: a driver takes its first frames from the fill ring then.
        queue.refill();
        queue.counters = PortCounters::default();
        let refusal = bind(&socket, nic, number, options.mode)?.map(Arc::new);
        let mode = socket.mode().map_err(failed("read XDP_OPTIONS"))?;
        let budget = SEND_BUDGET.min(options.ring_size);
        let sent_at_once = match socket.set_send_budget(budget) {
            Ok(()) => budget,
            Err(_) => SEND_BUDGET_FIXED,
        };
        if let Some(busy_poll) = &options.busy_poll {
            socket.set_busy_poll(busy_poll).map_err(failed("set up busy polling"))?;
        }
        Ok(XskPort {
            queue,
            socket: Arc::new(socket),
            waker: Waker::new().map_err(failed("make an eventfd"))?,
            number,
            mac: nic.mac,
            mode,
            refusal,
            kicks: (BURST_MAX as u32).div_ceil(sent_at_once),
            busy_poll: options.busy_poll.is_some(),
            shedding: None,
            doorbell: Doorbell::new(mode, options.busy_poll.is_some()),
        })
    }

    /// The queue's number.
    pub fn queue(&self) -> u32 {
        self.number
    }

    /// Lets the XDP program drop what this port cannot take, where that is worth something.
    pub(crate) fn shed_by(&mut self, steer: &Steer, ring_size: u32) {
        if self.mode == Mode::Copy {
            self.shedding = Some(Shedding::new(steer.shedding(), self.number, ring_size));
        }
    }

    /// What the control thread sees of this port.
    pub fn monitor(&self) -> Monitor {
        Monitor {
            queue: self.number,
            mode: self.mode,
            refusal: self.refusal.clone(),
            huge_pages: self.queue.umem.is_huge(),
            waker: self.waker.clone(),
            socket: Arc::downgrade(&self.socket),
        }
    }
}

impl AsFd for XskPort {
    /// The socket, for the XSKMAP.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Binds in the better mode that is asked for and possible. Returns why it is not zero-copy, if
/// that was asked for first.
fn bind(
    socket: &Socket,
    nic: &Nic,
    queue: u32,
    mode: ModeRequest,
) -> Result<Option<ZeroCopyRefusal>, Error> {
    let deadline = Instant::now() + BUSY_PATIENCE;
    let mut refusal = None;
    if mode != ModeRequest::Copy {
        match bind_patiently(socket, nic, queue, libc::XDP_ZEROCOPY, deadline) {
            Ok(()) => return Ok(None),
            Err(source) if source.raw_os_error() == Some(libc::EBUSY) => {
                return Err(Error::QueueBusy { interface: nic.name.clone(), queue });
            }
            Err(answer) => {
                let refused = ZeroCopyRefusal { driver: nic.driver.clone(), answer };
                if mode == ModeRequest::ZeroCopy {
                    let interface = nic.name.clone();
                    return Err(Error::NoZeroCopy { interface, queue, refusal: refused });
                }
                // Whatever stood in the way may stand in the way of copy mode too: that says so.
                refusal = Some(refused);
            }
        }
    }
    bind_patiently(socket, nic, queue, libc::XDP_COPY, deadline).map_err(|error| {
        match error.raw_os_error() {
            Some(libc::EBUSY) => Error::QueueBusy { interface: nic.name.clone(), queue },
            _ => system(format!("queue {queue} of {}", nic.name), "bind the socket")(error),
        }
    })?;
    Ok(refusal)
}

fn bind_patiently(
    socket: &Socket,
    nic: &Nic,
    queue: u32,
    mode: u16,
    deadline: Instant,
) -> io::Result<()> {
    loop {
        match socket.bind(nic.index, queue, mode) {
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
            {
                std::thread::sleep(BUSY_PAUSE);
            }
            result => return result,
        }
    }
}

impl Port for XskPort {
    #[inline]
    fn reclaim(&mut self) {
        self.queue.reclaim();
    }

    #[inline]
    fn receive(&mut self, burst: &mut Vec<Packet>) -> usize {
        let count = self.queue.receive(burst);
        if count == 0 && self.busy_poll {
            // The interrupts are off: without this call nobody looks at the NIC.
            self.queue.counters.wakeups += 1;
            self.socket.kick_rx();
            return self.queue.receive(burst);
        }
        // Only a full burst can have left so many behind.
        if let Some(shedding) = &mut self.shedding
            && (count == BURST_MAX || shedding.is_on())
        {
            shedding.adjust(self.queue.rings.rx.visible());
        }
        count
    }

    #[inline]
    fn prefetch(&self, packet: &Packet) {
        self.queue.umem.prefetch(packet);
    }

    #[inline]
    fn bytes(&self, packet: &Packet) -> &[u8] {
        self.queue.umem.bytes(packet)
    }

    #[inline]
    fn bytes_mut(&mut self, packet: &Packet) -> &mut [u8] {
        self.queue.umem.bytes_mut(packet)
    }

    #[inline]
    fn send(&mut self, burst: &mut Vec<Packet>) -> usize {
        self.queue.send(burst, usize::MAX)
    }

    fn make(&mut self, length: usize) -> Option<Packet> {
        self.queue.make(length)
    }

    #[inline]
    fn release(&mut self, packet: Packet) {
        self.queue.release(packet);
    }

    #[inline]
    fn flush(&mut self) {
        if self.queue.sending() == 0 {
            return;
        }
        self.queue.rings.tx.publish();
        for _ in 0..self.kicks {
            // Not what was queued just now but what is still in the ring: an earlier flush may
            // have left some behind.
            let tx = &self.queue.rings.tx;
            let asked = self.busy_poll || tx.needs_wakeup();
            if tx.is_drained() || !asked || !self.doorbell.is_due(tx.next()) {
                return;
            }
            self.queue.counters.wakeups += 1;
            if !self.socket.kick_tx() {
                return;
            }
        }
    }

    #[inline]
    fn refill(&mut self) {
        self.queue.refill();
        // Also when there was nothing to refill: the flag stays until the kernel was asked.
        if self.queue.rings.fill.needs_wakeup() {
            self.queue.counters.wakeups += 1;
            self.socket.kick_rx();
        }
    }

    fn wait(&mut self, timeout: Duration) {
        self.doorbell.pause = 0;
        let timeout =
            if self.queue.rings.tx.is_drained() { timeout } else { timeout.min(UNSENT_PATIENCE) };
        // Rounded up: rounded down, the end of a wait would be spun away.
        let millis = timeout.as_nanos().div_ceil(1_000_000);
        let millis = libc::c_int::try_from(millis).unwrap_or(libc::c_int::MAX);
        let event = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut events = [event(self.socket.as_raw_fd()), event(self.waker.as_raw_fd())];
        // SAFETY: the array is a live local of the length that is given. Whatever ends the call,
        // a signal included, the worker's next turn is due.
        unsafe { libc::poll(events.as_mut_ptr(), events.len() as libc::nfds_t, millis) };
        if events[1].revents & libc::POLLIN != 0 {
            self.waker.clear();
        }
    }

    fn census(&self) -> Census {
        self.queue.census()
    }

    fn counters(&self) -> PortCounters {
        self.queue.counters
    }

    fn mac(&self) -> [u8; 6] {
        self.mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_was_woken_is_left_in_peace_until_there_is_more() {
        let mut doorbell = Doorbell::new(Mode::ZeroCopy, false);
        for next in [64, 128, 129] {
            assert!(doorbell.is_due(next));
            assert!((0..WAKE_AGAIN).all(|_| !doorbell.is_due(next)));
            assert!(doorbell.is_due(next), "the link may have been down");
        }
    }

    #[test]
    fn who_sends_from_within_the_wake_up_is_woken_until_all_is_sent() {
        for mut doorbell in [Doorbell::new(Mode::Copy, false), Doorbell::new(Mode::ZeroCopy, true)]
        {
            assert!((0..3).all(|_| doorbell.is_due(64)));
        }
    }
}
