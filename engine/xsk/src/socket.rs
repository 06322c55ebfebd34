//! An AF_XDP socket: the system calls of `Documentation/networking/af_xdp.rst`, one by one.

use crate::mapping::Mapping;
use crate::queue::Rings;
use crate::ring::{Consumer, Layout, Producer};
use crate::umem::Umem;
use crate::{BusyPoll, Mode, XdpStatistics};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// linux/if_xdp.h since Linux 6.17: how many packets one sendto may send in copy mode.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// An AF_XDP socket. Closed when it is dropped; its UMEM's pages stay with the kernel until then.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
}

impl Socket {
    pub(crate) fn new() -> io::Result<Socket> {
        // SAFETY: no pointers; the descriptor is checked below.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that the kernel just made and that nobody else knows.
        Ok(Socket { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Registers the frames. They must stay mapped while packets are to be seen in them.
    pub(crate) fn register(&self, umem: &Umem) -> io::Result<()> {
        // SAFETY: all fields are integers, for which zero is a value. (The struct has grown: a
        // literal would have to name fields that an older kernel does not know.)
        let mut request: libc::xdp_umem_reg = unsafe { std::mem::zeroed() };
        request.addr = umem.start().as_ptr() as u64;
        request.len = umem.length() as u64;
        request.chunk_size = umem.frame_size();
        self.set(libc::SOL_XDP, libc::XDP_UMEM_REG, &request)
    }

    /// Makes and maps the four rings, of `size` entries each.
    pub(crate) fn rings(&self, size: u32) -> io::Result<Rings> {
        for ring in [
            libc::XDP_UMEM_FILL_RING,
            libc::XDP_UMEM_COMPLETION_RING,
            libc::XDP_RX_RING,
            libc::XDP_TX_RING,
        ] {
            self.set(libc::SOL_XDP, ring, &size)?;
        }
        let offsets: libc::xdp_mmap_offsets = self.get(libc::XDP_MMAP_OFFSETS)?;
        let layout = |offset: libc::xdp_ring_offset| Layout {
            producer: offset.producer as usize,
            consumer: offset.consumer as usize,
            flags: offset.flags as usize,
            entries: offset.desc as usize,
            size,
        };
        let [fill, completion] = [offsets.fr, offsets.cr].map(layout);
        let [rx, tx] = [offsets.rx, offsets.tx].map(layout);
        let map = |bytes: usize, page: u64| {
            Mapping::shared(self.fd.as_fd(), page as libc::off_t, bytes).map(Arc::new)
        };
        Ok(Rings {
            fill: Producer::new(map(fill.bytes::<u64>(), libc::XDP_UMEM_PGOFF_FILL_RING)?, fill),
            completion: Consumer::new(
                map(completion.bytes::<u64>(), libc::XDP_UMEM_PGOFF_COMPLETION_RING)?,
                completion,
            ),
            rx: Consumer::new(map(descriptor_bytes(&rx), libc::XDP_PGOFF_RX_RING as u64)?, rx),
            tx: Producer::new(map(descriptor_bytes(&tx), libc::XDP_PGOFF_TX_RING as u64)?, tx),
        })
    }

    /// Binds the socket to a queue. `copy_or_zero_copy` is XDP_COPY or XDP_ZEROCOPY: without
    /// one of them the kernel would choose silently.
    pub(crate) fn bind(&self, index: u32, queue: u32, copy_or_zero_copy: u16) -> io::Result<()> {
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: copy_or_zero_copy | libc::XDP_USE_NEED_WAKEUP,
            sxdp_ifindex: index,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: 0,
        };
        // SAFETY: the address is a live local of the size that is given.
        let result = unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The mode that the kernel reports.
    pub(crate) fn mode(&self) -> io::Result<Mode> {
        let options: libc::xdp_options = self.get(libc::XDP_OPTIONS)?;
        let zero_copy = options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0;
        Ok(if zero_copy { Mode::ZeroCopy } else { Mode::Copy })
    }

    pub(crate) fn statistics(&self) -> io::Result<XdpStatistics> {
        let kernel: libc::xdp_statistics = self.get(libc::XDP_STATISTICS)?;
        Ok(XdpStatistics {
            rx_dropped: kernel.rx_dropped,
            rx_invalid_descs: kernel.rx_invalid_descs,
            tx_invalid_descs: kernel.tx_invalid_descs,
            rx_ring_full: kernel.rx_ring_full,
            rx_fill_ring_empty_descs: kernel.rx_fill_ring_empty_descs,
            tx_ring_empty_descs: kernel.tx_ring_empty_descs,
        })
    }

    /// Lets one sendto send `packets` packets in copy mode. Kernels before 6.17 refuse: theirs
    /// sends 32.
    pub(crate) fn set_send_budget(&self, packets: u32) -> io::Result<()> {
        self.set(libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &packets)
    }

    /// Makes this socket's system calls run the driver's NAPI.
    pub(crate) fn set_busy_poll(&self, options: &BusyPoll) -> io::Result<()> {
        let micros = options.duration.as_nanos().div_ceil(1000);
        let micros = libc::c_int::try_from(micros).unwrap_or(libc::c_int::MAX);
        self.set(libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, &1i32)?;
        self.set(libc::SOL_SOCKET, libc::SO_BUSY_POLL, &micros)?;
        self.set(libc::SOL_SOCKET, libc::SO_BUSY_POLL_BUDGET, &i32::from(options.budget))
    }

    /// Wakes the kernel to take from the TX ring. Returns whether it says that it left some
    /// there (EAGAIN). Other refusals are of the moment: no memory, the link is down.
    #[inline]
    pub(crate) fn kick_tx(&self) -> bool {
        // SAFETY: no buffer and no address.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                std::ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null(),
                0,
            )
        };
        sent < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
    }

    /// Wakes the kernel to take from the fill ring, or lets it look for packets (busy polling).
    #[inline]
    pub(crate) fn kick_rx(&self) {
        // SAFETY: no buffer and no address. The answer says nothing that the rings do not say.
        unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                std::ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            );
        }
    }

    fn set<T: Copy>(&self, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
        set_option(self.as_fd(), level, name, value)
    }

    /// `T` must be one of linux/if_xdp.h's structs of integers.
    fn get<T: Copy>(&self, name: libc::c_int) -> io::Result<T> {
        // SAFETY: for a struct of integers zero is a value.
        let mut value: T = unsafe { std::mem::zeroed() };
        let mut length = size_of::<T>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes, the size of a live local.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_XDP,
                name,
                (&raw mut value).cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        if length as usize != size_of::<T>() {
            // A kernel before 5.9, whose structs lack fields.
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        Ok(value)
    }
}

/// setsockopt(2). Pointers in `value` must be to live values of the length that it gives.
pub(crate) fn set_option<T: Copy>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a live value, and what it points to: see
    // above.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn descriptor_bytes(layout: &Layout) -> usize {
    layout.bytes::<crate::Packet>()
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}
