//! Attaching an XDP program to an interface as a bpf_link, and in no other way.
//!
//! A program that is attached over netlink stays when its process dies, and takes the packets of
//! the VIPs with it. aya attaches as a link too, but where the kernel answers EINVAL it falls
//! back to netlink without a word; a driver says EINVAL to a native program for reasons of its
//! own (virtio_net's "MTU too large"). So the system call is made here: what it returns is a
//! link or an error.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// linux/bpf.h, linux/if_link.h.
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_XDP: u32 = 37;
const BPF_LINK_TYPE_XDP: u32 = 6;
pub(crate) const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
pub(crate) const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// The part of `union bpf_attr` that BPF_LINK_CREATE reads. The kernel takes what is missing
/// behind it for zero.
#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that BPF_OBJ_GET_INFO_BY_FD reads.
#[repr(C)]
struct ObjectInfo {
    fd: u32,
    length: u32,
    info: u64,
}

/// The beginning of `struct bpf_link_info`, as far as it concerns XDP.
#[derive(Default)]
#[repr(C)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    /// The details are 8-byte aligned.
    padding: u32,
    interface: u32,
    padding_at_end: u32,
}

/// A program on an interface. Closing it, by dropping it or by the end of the process, detaches
/// the program.
#[derive(Debug)]
pub(crate) struct XdpLink {
    _fd: OwnedFd,
}

impl XdpLink {
    /// Attaches `program` to the interface, in the mode that `flags` name.
    pub(crate) fn create(
        program: BorrowedFd<'_>,
        interface: u32,
        flags: u32,
    ) -> io::Result<XdpLink> {
        let mut request = LinkCreate {
            program: program.as_raw_fd().cast_unsigned(),
            interface,
            attach_type: BPF_XDP,
            flags,
        };
        let fd = bpf(BPF_LINK_CREATE, &mut request)?;
        // SAFETY: a descriptor that the kernel just made and that nobody else knows.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut info = LinkInfo::default();
        let mut request = ObjectInfo {
            fd: fd.as_raw_fd().cast_unsigned(),
            length: size_of::<LinkInfo>() as u32,
            info: (&raw mut info) as u64,
        };
        bpf(BPF_OBJ_GET_INFO_BY_FD, &mut request)?;
        if (info.kind, info.interface) != (BPF_LINK_TYPE_XDP, interface) {
            return Err(io::Error::other("the kernel made something else than an XDP link"));
        }
        Ok(XdpLink { _fd: fd })
    }
}

/// `T` must be the beginning of `union bpf_attr` that belongs to the command. Pointers in it
/// must be to live values of the length that it gives.
fn bpf<T>(command: libc::c_int, request: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes of a live value, and what it
    // points to: see above.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(request), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
