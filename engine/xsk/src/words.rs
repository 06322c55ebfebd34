//! Zeroed memory for tables that one thread writes and others read.

use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

const HUGE_PAGE: usize = 2 << 20;

/// Anonymous zeroed memory, seen as atomic 64-bit words.
///
/// Pages become resident when they are first written, so a large table costs what it holds.
/// Mapped on its own (not from the heap) so that it can be on huge pages, and later be handed to
/// another process by file descriptor.
#[derive(Debug)]
pub struct Words {
    start: NonNull<AtomicU64>,
    length: usize,
    mapped: usize,
    huge: bool,
}

// SAFETY: the mapping is owned by this value alone and only ever seen as atomics.
unsafe impl Send for Words {}
// SAFETY: as above; atomics may be shared between threads.
unsafe impl Sync for Words {}

impl Words {
    /// Maps `length` zeroed words: on reserved huge pages if there are any and the table fills
    /// one, else on ordinary pages with transparent huge pages asked for.
    pub fn new(length: usize) -> io::Result<Words> {
        let bytes = length
            .checked_mul(8)
            .filter(|bytes| (1..=isize::MAX as usize - HUGE_PAGE).contains(bytes))
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        let whole = bytes.next_multiple_of(HUGE_PAGE);
        if bytes >= HUGE_PAGE
            && let Ok(start) = map(whole, libc::MAP_HUGETLB)
        {
            return Ok(Words { start, length, mapped: whole, huge: true });
        }
        // Without a reservation: most of a large table may never be written. Huge pages, on the
        // other hand, must be reserved, or a write to a missing one is a SIGBUS.
        let start = map(bytes, libc::MAP_NORESERVE)?;
        if bytes >= HUGE_PAGE {
            // SAFETY: the range was mapped just above. Advice only: a refusal changes nothing.
            unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        Ok(Words { start, length, mapped: bytes, huge: false })
    }

    /// Whether the words are on reserved huge pages.
    pub fn is_huge(&self) -> bool {
        self.huge
    }
}

fn map(bytes: usize, flags: libc::c_int) -> io::Result<NonNull<AtomicU64>> {
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches no memory
    // that anything else refers to.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}

impl Deref for Words {
    type Target = [AtomicU64];

    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: `start` points to `length` words that were zeroed by mmap, are aligned to a
        // page, and stay mapped until `drop`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: `start` and `mapped` are what `map` returned and was asked for; the borrow
        // checker ends every slice before the drop.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.mapped) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn words_are_zero_and_writable_to_the_last() {
        for length in [1, 512, 1 << 18, (1 << 18) + 1] {
            let words = Words::new(length).unwrap();
            assert_eq!(words.len(), length);
            assert!(words.iter().all(|word| word.load(Relaxed) == 0));
            words[length - 1].store(7, Relaxed);
            assert_eq!(words[length - 1].load(Relaxed), 7);
        }
    }

    #[test]
    fn no_words_or_too_many_are_refused() {
        assert!(Words::new(0).is_err());
        assert!(Words::new(usize::MAX / 4).is_err());
    }
}
