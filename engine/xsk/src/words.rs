//! Zeroed memory for tables that one thread writes and others read.

use crate::mapping::{Mapping, prefetch};
use std::io;
use std::ops::Deref;
use std::sync::atomic::AtomicU64;

/// Anonymous zeroed memory, seen as atomic 64-bit words.
///
/// Pages become resident when they are first written, so a large table costs what it holds.
/// Mapped on its own (not from the heap) so that it can be on huge pages, and later be handed to
/// another process by file descriptor.
#[derive(Debug)]
pub struct Words {
    memory: Mapping,
    length: usize,
}

impl Words {
    /// Maps `length` zeroed words: on reserved huge pages if there are any and the table fills
    /// one, else on ordinary pages with transparent huge pages asked for.
    pub fn new(length: usize) -> io::Result<Words> {
        let bytes = length
            .checked_mul(size_of::<AtomicU64>())
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        Ok(Words { memory: Mapping::anonymous(bytes)?, length })
    }

    /// Asks for the cache line that holds the word at `index`, if there is one.
    #[inline]
    pub fn prefetch(&self, index: usize) {
        prefetch(self.memory.start().as_ptr().cast::<AtomicU64>().wrapping_add(index));
    }

    /// Whether the words are on reserved huge pages.
    pub fn is_huge(&self) -> bool {
        self.memory.is_huge()
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping holds at least `length` words (`new`), zeroed, aligned to a page,
        // mapped as long as `self`, and only ever seen as atomics.
        unsafe { std::slice::from_raw_parts(self.memory.start().as_ptr().cast(), self.length) }
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
