//! The rings that user space and the kernel share: one writes entries, the other takes them.
//!
//! The kernel's half is `net/xdp/xsk_queue.h`; the comments name its functions. Both indices run
//! freely over all of u32 and are masked only to find an entry, so all arithmetic on them wraps.
//! Each side keeps a copy of the other's index and reads the shared one only when the copy does
//! not suffice: a shared cache line is fetched once a burst, not once a packet.

use crate::mapping::Mapping;
use crate::port::Packet;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What a ring can hold.
///
/// # Safety
/// Every bit pattern must be a value, since the other side writes what it likes, and a value must
/// be no more than its bits, since writing one leaves the original behind.
pub(crate) unsafe trait Entry {}
// SAFETY: any eight bytes are a u64.
unsafe impl Entry for u64 {}
// SAFETY: `struct xdp_desc`, integers without padding between them and without `Drop`.
unsafe impl Entry for Packet {}

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

    /// Writes as many of `entries` as there is room for, the first ones, and returns how many.
    #[inline]
    pub(crate) fn push_all(&mut self, entries: &[T]) -> usize {
        let mut room = self.limit.wrapping_sub(self.next) as usize;
        if room < entries.len() {
            room = self.room() as usize;
        }
        let entries = &entries[..entries.len().min(room)];
        let (ring, place) = (&self.ring, self.next & self.ring.mask);
        let until_end = (ring.size() - place) as usize;
        let (head, tail) = entries.split_at(entries.len().min(until_end));
        // SAFETY: from `next` on, `room` entries are ours until they are published. `head` ends
        // where the ring does at the latest, `tail` goes on at its start, and both together are
        // no longer than `room`, which is no longer than the ring. `entries` is not in the ring:
        // nobody has references to a producer's entries.
        unsafe {
            ring.entry(place).copy_from_nonoverlapping(NonNull::from(head).cast(), head.len());
            // Once a round of the ring: else a call for nothing.
            if !tail.is_empty() {
                ring.entry(0).copy_from_nonoverlapping(NonNull::from(tail).cast(), tail.len());
            }
        }
        self.next = self.next.wrapping_add(entries.len() as u32);
        entries.len()
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

    /// The first `count` entries, which must have been [`peek`](Self::peek)ed at: up to the end of
    /// the ring, and from its start on.
    #[inline]
    pub(crate) fn entries(&self, count: u32) -> [&[T]; 2] {
        assert!(count <= self.limit.wrapping_sub(self.next), "ring underrun");
        let place = self.next & self.ring.mask;
        let head = count.min(self.ring.size() - place);
        let slice = |place, length: u32| {
            // SAFETY: the mask keeps `place` in the ring, whose end `head` does not pass, and
            // there are no more entries to look at than the ring has. By the assertion the other
            // side has written them, and it writes them again only after `release`, for which the
            // borrow of `self` that the slices hold has to end.
            unsafe { std::slice::from_raw_parts(self.ring.entry(place).as_ptr(), length as usize) }
        };
        [slice(place, head), slice(0, count - head)]
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the indices start: at the beginning, as the kernel's, and where they wrap.
    const FIRST: [u32; 4] = [0, u32::MAX, u32::MAX - 3, u32::MAX - 1000];

    fn taken(consumer: &mut Consumer<u64>, most: u32) -> Vec<u64> {
        let count = consumer.peek(most);
        let entries = consumer.entries(count).concat();
        consumer.release(count);
        entries
    }

    #[test]
    fn entries_arrive_in_order_across_the_end_of_the_ring_and_of_u32() {
        for first in FIRST {
            let (mut producer, mut consumer) = pair::<u64>(8, first).unwrap();
            let mut sent = 0;
            let mut received = Vec::new();
            for turn in 0..1000u64 {
                for _ in 0..turn % 7 {
                    if producer.push(sent) {
                        sent += 1;
                    }
                }
                producer.publish();
                received.extend(taken(&mut consumer, (turn % 5) as u32));
            }
            received.extend(taken(&mut consumer, u32::MAX));
            assert!(sent > 1500, "{sent}");
            assert!(received.iter().copied().eq(0..sent), "first index {first}");
        }
    }

    #[test]
    fn nothing_is_seen_before_it_is_published() {
        let (mut producer, mut consumer) = pair::<u64>(8, u32::MAX).unwrap();
        assert!(producer.push(7) && producer.push(8));
        assert_eq!((consumer.peek(9), consumer.visible()), (0, 0));
        assert!(producer.is_drained());
        producer.publish();
        assert!(!producer.is_drained());
        assert_eq!((consumer.peek(9), consumer.visible()), (2, 2));
        assert_eq!(consumer.entries(2).concat(), [7, 8]);
        consumer.release(2);
        assert!(producer.is_drained());
    }

    #[test]
    fn a_full_ring_takes_nothing_until_a_place_is_given_back() {
        for first in FIRST {
            let (mut producer, mut consumer) = pair::<u64>(4, first).unwrap();
            assert!((0..4).all(|entry| producer.push(entry)));
            assert!(!producer.push(4));
            producer.publish();
            // Looking at entries does not free their places.
            assert_eq!(consumer.peek(2), 2);
            assert!(!producer.push(4));
            consumer.release(2);
            assert!(producer.push(4) && producer.push(5) && !producer.push(6));
            assert_eq!(producer.room(), 0);
            producer.publish();
            assert_eq!(taken(&mut consumer, 9), [2, 3, 4, 5], "first index {first}");
            assert_eq!(producer.room(), 4);
        }
    }

    #[test]
    fn many_entries_at_once_wrap_too() {
        for first in FIRST {
            let (mut producer, mut consumer) = pair::<u64>(8, first).unwrap();
            let mut expected = 0;
            for _ in 0..100 {
                let entries = [expected, expected + 1, expected + 2];
                assert_eq!(producer.push_all(&entries), 3);
                producer.publish();
                assert_eq!(taken(&mut consumer, 8), entries);
                expected += 3;
            }
        }
    }

    #[test]
    fn of_more_entries_than_there_is_room_for_the_first_are_taken() {
        for first in FIRST {
            let (mut producer, mut consumer) = pair::<u64>(4, first).unwrap();
            assert_eq!(producer.push_all(&[1, 2, 3]), 3);
            assert_eq!(producer.push_all(&[4, 5, 6]), 1);
            assert_eq!(producer.push_all(&[5, 6]), 0);
            producer.publish();
            assert_eq!(taken(&mut consumer, 2), [1, 2]);
            assert_eq!(producer.push_all(&[5, 6, 7]), 2);
            producer.publish();
            assert_eq!(taken(&mut consumer, 8), [3, 4, 5, 6]);
        }
    }

    #[test]
    #[should_panic(expected = "ring underrun")]
    fn entries_that_were_not_seen_are_refused() {
        let (mut producer, consumer) = pair::<u64>(2, 0).unwrap();
        producer.push(1);
        producer.publish();
        let _ = consumer.entries(1);
    }

    #[test]
    fn the_wakeup_flag_is_the_kernels() {
        let (producer, consumer) = pair::<u64>(2, 0).unwrap();
        assert!(!producer.needs_wakeup());
        // SAFETY: the flags are an aligned u32 in the ring's memory, which both ends keep.
        let flags = unsafe { consumer.ring.flags.as_ref() };
        flags.store(libc::XDP_RING_NEED_WAKEUP, Ordering::Relaxed);
        assert!(producer.needs_wakeup());
        flags.store(!libc::XDP_RING_NEED_WAKEUP, Ordering::Relaxed);
        assert!(!producer.needs_wakeup());
    }

    #[test]
    fn a_ring_beyond_its_memory_is_refused() {
        let memory = Arc::new(Mapping::anonymous(4096).unwrap());
        let layout = Layout::in_memory(512);
        let made = std::panic::catch_unwind(|| Producer::<u64>::new(memory, layout));
        assert!(made.is_err());
    }

    /// Both ends at once, on two threads: what a weaker order than release and acquire would
    /// break (on a machine that reorders) is an entry that is read before it is written.
    #[test]
    fn two_threads_agree_on_every_entry() {
        const COUNT: u64 = 200_000;
        let (mut producer, mut consumer) = pair::<u64>(64, u32::MAX - 100_000).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut next = 0;
                while next < COUNT {
                    let before = next;
                    while next < COUNT && producer.push(next) {
                        next += 1;
                    }
                    producer.publish();
                    if next == before {
                        std::thread::yield_now();
                    }
                }
            });
            let mut next = 0;
            while next < COUNT {
                let entries = taken(&mut consumer, 16);
                if entries.is_empty() {
                    std::thread::yield_now();
                }
                for entry in entries {
                    assert_eq!(entry, next);
                    next += 1;
                }
            }
        });
    }
}
