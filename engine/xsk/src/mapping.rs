//! Memory from mmap(2), owned by one value.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// The size of a huge page that is asked for: the default of x86-64 and of arm64 with 4 KiB pages.
const HUGE_PAGE: usize = 2 << 20;

/// A mapping, unmapped when it is dropped. Zeroed at first if it is anonymous.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    length: usize,
    huge: bool,
}

// SAFETY: the mapping belongs to this value alone, not to the thread that made it. Access to the
// bytes is the business of those who take the pointer.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` gives away nothing but the address and the length.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `bytes` zeroed bytes: on reserved huge pages if there are any and one is filled, else on
    /// ordinary pages with transparent huge pages asked for.
    pub(crate) fn anonymous(bytes: usize) -> io::Result<Mapping> {
        if bytes == 0 || bytes > isize::MAX as usize - HUGE_PAGE {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        if bytes >= HUGE_PAGE
            && let Ok(mut mapping) =
                map(bytes.next_multiple_of(HUGE_PAGE), flags | libc::MAP_HUGETLB, None)
        {
            mapping.huge = true;
            return Ok(mapping);
        }
        // Without a reservation: most of a large table may never be written. Huge pages, on the
        // other hand, must be reserved, or a write to a missing one is a SIGBUS.
        // The kernel puts a mapping of whole huge pages where they fit from its first byte on.
        let bytes = if bytes >= HUGE_PAGE { bytes.next_multiple_of(HUGE_PAGE) } else { bytes };
        let mapping = map(bytes, flags | libc::MAP_NORESERVE, None)?;
        if bytes >= HUGE_PAGE {
            // SAFETY: the range was mapped just above. Advice only: a refusal changes nothing.
            unsafe { libc::madvise(mapping.start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        Ok(mapping)
    }

    /// `bytes` bytes of what `file` has at `offset`, shared with the kernel and present at once.
    pub(crate) fn shared(
        file: BorrowedFd<'_>,
        offset: libc::off_t,
        bytes: usize,
    ) -> io::Result<Mapping> {
        map(bytes, libc::MAP_SHARED | libc::MAP_POPULATE, Some((file, offset)))
    }

    /// The first byte. Aligned to a page.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Mapped bytes; for huge pages more than were asked for.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Whether the memory is on reserved huge pages.
    pub(crate) fn is_huge(&self) -> bool {
        self.huge
    }
}

/// Asks for the cache line at `address`, which may be any: whoever reads it later waits less.
/// Nothing comes of it on processors whose instruction for that is not known here.
#[inline]
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: PREFETCHT0 reads nothing that a program could see and faults on no address
    // (Intel SDM, volume 2, PREFETCHh).
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

fn map(
    length: usize,
    flags: libc::c_int,
    file: Option<(BorrowedFd<'_>, libc::off_t)>,
) -> io::Result<Mapping> {
    let (file, offset) = file.map_or((-1, 0), |(file, offset)| (file.as_raw_fd(), offset));
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory that
    // anything else refers to.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), length, access, flags, file, offset) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let start =
        NonNull::new(address.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
    Ok(Mapping { start, length, huge: false })
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `start` and `length` are what mmap returned and was asked for. Whoever keeps a
        // pointer into the mapping owns the mapping too, and drops it last.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}
