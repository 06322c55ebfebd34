//! A packet(7) socket: whole frames of one protocol on one link, beside the queues. For the little
//! that a director says and hears itself: who has an address, and that it has one.

use crate::socket::set_option;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// One step of a filter in classic BPF, as `Documentation/networking/filter.rst` describes it. The
/// frame begins with its Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterStep {
    /// What is done.
    pub code: u16,
    /// Steps to skip if a comparison holds.
    pub yes: u8,
    /// Steps to skip if it does not.
    pub no: u8,
    /// What is loaded, compared with, or returned.
    pub value: u32,
}

/// A socket that never blocks. Closed when it is dropped.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens a socket for the frames with this EtherType (in the host's byte order; 3 is all of
    /// them) that the link with this index receives. Those that this machine sends are not among
    /// them. An empty filter lets all of these through.
    ///
    /// Needs CAP_NET_RAW: without it this is a [`io::ErrorKind::PermissionDenied`].
    pub fn open(link: u32, protocol: u16, filter: &[FilterStep]) -> io::Result<PacketSocket> {
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // Protocol 0 receives nothing: no frame slips in before the filter and the link are set.
        // SAFETY: no pointers; the descriptor is checked below.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that the kernel just made and that nobody else knows.
        let socket = PacketSocket { fd: unsafe { OwnedFd::from_raw_fd(fd) } };
        let yes: libc::c_int = 1;
        set_option(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &yes)?;
        if !filter.is_empty() {
            socket.set_filter(filter)?;
        }
        socket.bind(link, protocol)?;
        Ok(socket)
    }

    fn set_filter(&self, filter: &[FilterStep]) -> io::Result<()> {
        let mut steps: Vec<libc::sock_filter> = filter
            .iter()
            .map(|step| libc::sock_filter {
                code: step.code,
                jt: step.yes,
                jf: step.no,
                k: step.value,
            })
            .collect();
        let len = u16::try_from(steps.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // The kernel copies the steps: they need not live longer than this call.
        let program = libc::sock_fprog { len, filter: steps.as_mut_ptr() };
        set_option(self.as_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
    }

    fn bind(&self, link: u32, protocol: u16) -> io::Result<()> {
        // SAFETY: all fields are integers or arrays of them, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = link.cast_signed();
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

    /// Sends a frame, from its Ethernet header on, out of the link.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and the length are those of a live slice, which is only read.
        let sent =
            unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Takes the next frame and returns its length. What does not fit into the buffer is lost.
    /// [`io::ErrorKind::WouldBlock`] when nothing waits, [`io::ErrorKind::NetworkDown`] once when
    /// the link went down: the socket hears again when it is up.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the pointer and the length are those of a live slice that is ours to write.
        let received =
            unsafe { libc::recv(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
