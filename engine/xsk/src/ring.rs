//! The rings that user space and the kernel share: one writes entries, the other takes them.
//!
//! The kernel's half is `net/xdp/xsk_queue.h`; the comments name its functions. Both indices run
//! freely over all of u32 and are masked only to find an entry, so all arithmetic on them wraps.
//! Each side keeps a copy of the other's index and reads the shared one only when the copy does
//! not suffice: a shared cache line is fetched once a burst, not once a packet.

use crate::mapping::Mapping;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// `struct xdp_desc`: a packet in the UMEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Descriptor {
    /// Offset of the packet's first byte in the UMEM.
    pub(crate) address: u64,
    /// Bytes.
    pub(crate) length: u32,
    /// Nothing that a port of single-frame packets uses: 0.
    pub(crate) options: u32,
}

/// What a ring can hold.
///
/// # Safety
/// Every bit pattern must be a value, since the other side writes what it likes.
pub(crate) unsafe trait Entry: Copy {}
// SAFETY: any eight bytes are a u64.
unsafe impl Entry for u64 {}
// SAFETY: integers without padding between them.
unsafe impl Entry for Descriptor {}

/// Where a ring's parts are in its memory: `struct xdp_ring_offset`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) producer: usize,
    pub(crate) consumer: usize,
    pub(crate) flags: usize,
    pub(crate) entries: usize,
    /// Entries; a power of two.
    pub(crate) size: u32,
}

impl Layout {
    /// A ring of `size` entries that no kernel has a part in.
    pub(crate) fn in_memory(size: u32) -> Layout {
        Layout { producer: 0, consumer: 64, flags: 128, entries: 192, size }
    }

    /// The bytes that the ring takes, from the start of its memory.
    pub(crate) fn bytes<T>(&self) -> usize {
        let indices = self.producer.max(self.consumer).max(self.flags) + size_of::<AtomicU32>();
        indices.max(self.entries + self.size as usize * size_of::<T>())
    }
}

/// The shared part of a ring.
#[derive(Debug)]
struct Ring<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    mask: u32,
    /// Keeps what the pointers point to.
    _memory: Arc<Mapping>,
}

// SAFETY: the pointers lead into `_memory`, which may change threads. The indices are atomic,
// and which side may touch an entry follows from them.
unsafe impl<T: Entry> Send for Ring<T> {}

impl<T: Entry> Ring<T> {
    /// # Panics
    /// If the layout does not fit the memory: the kernel gave both.
    fn new(memory: Arc<Mapping>, layout: Layout) -> Ring<T> {
        assert!(layout.size.is_power_of_two(), "a ring of {} entries", layout.size);
        assert!(layout.bytes::<T>() <= memory.length(), "a ring beyond its memory");
        for index in [layout.producer, layout.consumer, layout.flags] {
            assert!(index.is_multiple_of(align_of::<AtomicU32>()), "an unaligned ring index");
        }
        assert!(layout.entries.is_multiple_of(align_of::<T>()), "unaligned ring entries");
        let start = memory.start();
        // SAFETY: all four offsets, and `size` entries from the last one, are within the mapping
        // (second assertion). A mapping starts on a page, so the other assertions suffice for
        // the alignment.
        unsafe {
            Ring {
                producer: start.add(layout.producer).cast(),
                consumer: start.add(layout.consumer).cast(),
                flags: start.add(layout.flags).cast(),
                entries: start.add(layout.entries).cast(),
                mask: layout.size - 1,
                _memory: memory,
            }
        }
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: points into `_memory`, aligned (`new`), and only ever used as an atomic.
        unsafe { self.producer.as_ref() }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.consumer.as_ref() }
    }

    #[inline]
    fn entry(&self, index: u32) -> NonNull<T> {
        // SAFETY: the mask keeps the offset below `size`, and `size` entries are mapped (`new`).
        unsafe { self.entries.add((index & self.mask) as usize) }
    }

    /// `xsk_set_rx_need_wakeup`, `xsk_set_tx_need_wakeup` in net/xdp/xsk.c.
    #[inline]
    fn needs_wakeup(&self) -> bool {
        // SAFETY: as for `producer`.
        let flags = unsafe { self.flags.as_ref() };
        // Relaxed: a flag that is seen too late is seen in the next turn.
        flags.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    fn size(&self) -> u32 {
        self.mask + 1
    }
}

/// The side of a ring that writes entries: of the fill and TX rings, user space.
#[derive(Debug)]
pub(crate) struct Producer<T> {
    ring: Ring<T>,
    /// The index of the entry that is written next; published by `publish`.
    next: u32,
    /// The index that must not be written yet: the consumer's, as last seen, and the ring's size.
    limit: u32,
}

impl<T: Entry> Producer<T> {
    pub(crate) fn new(memory: Arc<Mapping>, layout: Layout) -> Producer<T> {
        let ring: Ring<T> = Ring::new(memory, layout);
        let next = ring.producer().load(Ordering::Relaxed);
        let limit = ring.consumer().load(Ordering::Acquire).wrapping_add(layout.size);
        Producer { ring, next, limit }
    }

    /// The index of the entry that is written next.
    #[inline]
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// Looks how far the other side is. Returns how many entries can be written.
    #[inline]
    pub(crate) fn room(&mut self) -> u32 {
        // Acquire: the other side has read an entry before it is written again. Pairs with
        // __xskq_cons_release (smp_store_release).
        let consumer = self.ring.consumer().load(Ordering::Acquire);
        self.limit = consumer.wrapping_add(self.ring.size());
        self.limit.wrapping_sub(self.next)
    }

    /// Writes an entry, unless the ring is full. The other side sees it after `publish`.
    #[inline]
    pub(crate) fn push(&mut self, entry: T) -> bool {
        if self.next == self.limit && self.room() == 0 {
            return false;
        }
        // SAFETY: `next` is below `limit`, so the entry is ours until it is published.
        unsafe { self.ring.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Writes all of `entries`, for which there must be [`room`](Self::room).
    #[inline]
    pub(crate) fn push_all(&mut self, entries: &[T]) {
        assert!(entries.len() <= self.limit.wrapping_sub(self.next) as usize, "ring overrun");
        for &entry in entries {
            // SAFETY: by the assertion, `next` stays below `limit`.
            unsafe { self.ring.entry(self.next).write(entry) };
            self.next = self.next.wrapping_add(1);
        }
    }

    /// Shows the written entries to the other side.
    #[inline]
    pub(crate) fn publish(&mut self) {
        // Release: the entries are there before the index says so. Pairs with the
        // smp_load_acquire in __xskq_cons_peek.
        self.ring.producer().store(self.next, Ordering::Release);
    }

    /// Whether the other side has taken all that was published, as far as it has said.
    #[inline]
    pub(crate) fn is_drained(&self) -> bool {
        self.ring.consumer().load(Ordering::Relaxed) == self.ring.producer().load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }

    pub(crate) fn size(&self) -> u32 {
        self.ring.size()
    }
}

/// The side of a ring that takes entries: of the RX and completion rings, user space.
#[derive(Debug)]
pub(crate) struct Consumer<T> {
    ring: Ring<T>,
    /// The index of the entry that is taken next.
    next: u32,
    /// The producer's index, as last seen.
    limit: u32,
}

impl<T: Entry> Consumer<T> {
    pub(crate) fn new(memory: Arc<Mapping>, layout: Layout) -> Consumer<T> {
        let ring: Ring<T> = Ring::new(memory, layout);
        let next = ring.consumer().load(Ordering::Relaxed);
        let limit = ring.producer().load(Ordering::Acquire);
        Consumer { ring, next, limit }
    }

    /// The index of the entry that is taken next.
    #[inline]
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// How many entries there are, at most `most`. They stay until [`release`](Self::release).
    #[inline]
    pub(crate) fn peek(&mut self, most: u32) -> u32 {
        let seen = self.limit.wrapping_sub(self.next);
        if seen >= most {
            return most;
        }
        // Acquire: the entries are there if the index says so. Pairs with the smp_store_release
        // in __xskq_prod_submit.
        self.limit = self.ring.producer().load(Ordering::Acquire);
        self.limit.wrapping_sub(self.next).min(most)
    }

    /// The first `count` entries, which must have been [`peek`](Self::peek)ed at.
    #[inline]
    pub(crate) fn entries(&self, count: u32) -> impl Iterator<Item = T> {
        assert!(count <= self.limit.wrapping_sub(self.next), "ring underrun");
        // SAFETY: by the assertion the other side has written these entries, and it writes them
        // again only after `release`, for which this borrow has to end.
        (0..count).map(|n| unsafe { self.ring.entry(self.next.wrapping_add(n)).read() })
    }

    /// Gives the first `count` entries' places back to the other side.
    #[inline]
    pub(crate) fn release(&mut self, count: u32) {
        debug_assert!(count <= self.limit.wrapping_sub(self.next), "ring underrun");
        self.next = self.next.wrapping_add(count);
        // Release: the entries were read before their places are free. Pairs with the control
        // dependency on READ_ONCE(ring->consumer) in xskq_prod_nb_free.
        self.ring.consumer().store(self.next, Ordering::Release);
    }

    /// How many entries there are.
    pub(crate) fn visible(&self) -> u32 {
        self.ring.producer().load(Ordering::Acquire).wrapping_sub(self.next)
    }

    /// Reads an entry that was released before and that nobody has written since.
    pub(crate) fn reread(&self, index: u32) -> T {
        // SAFETY: the mask keeps the index in the ring, and every bit pattern is a value.
        unsafe { self.ring.entry(index).read() }
    }
}

/// Both ends of a ring that no kernel has a part in.
pub(crate) fn pair<T: Entry>(size: u32, first: u32) -> std::io::Result<(Producer<T>, Consumer<T>)> {
    let layout = Layout::in_memory(size);
    let memory = Arc::new(Mapping::anonymous(layout.bytes::<T>())?);
    let ring: Ring<T> = Ring::new(Arc::clone(&memory), layout);
    ring.producer().store(first, Ordering::Relaxed);
    ring.consumer().store(first, Ordering::Relaxed);
    Ok((Producer::new(Arc::clone(&memory), layout), Consumer::new(memory, layout)))
}
