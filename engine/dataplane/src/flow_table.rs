//! The flows of one worker: a hash table of fixed size that never stops to tidy up.
//!
//! Buckets of four entries, each a cache line (IPv6: two). A flow lives in the bucket that its
//! hash names, its home, or in one of the [`PROBE_MAX`] - 1 that follow. Each bucket counts the
//! entries that passed it by because it was full, so a search ends at the first bucket that nobody
//! passed, and a removal leaves no tombstone behind.
//!
//! One worker writes. Others read, to recognise a flow whose packets moved to their queue, and the
//! control thread reads, to list flows: every word is an atomic, an entry is taken out by clearing
//! its key first and put in by writing its key last, and a reader that finds the key unchanged
//! after reading the value has a consistent entry.

use crate::flow_state::{Event, FlowState, Lifetimes, Ticks};
use crate::service_table::ServerIndex;
use std::io;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

// Under `--cfg loom` the tests try every order in which a reader can see the writer's words.
#[cfg(all(test, loom))]
use {loom::sync::atomic::fence, orders::AtomicU64, orders::Words};
#[cfg(not(all(test, loom)))]
use {std::sync::atomic::AtomicU64, std::sync::atomic::fence, xsk::Words};

#[cfg(all(test, loom))]
mod orders;
#[cfg(test)]
pub(crate) mod tests;

/// Entries in a bucket.
const BUCKET: usize = 4;
/// Buckets in which a flow may live. Bounds every search, insertion and removal.
///
/// Ten million flows need 16 of them at the load that tables are made for: the others are for more.
pub(crate) const PROBE_MAX: usize = if cfg!(all(test, loom)) { 2 } else { 24 };
/// How full a table is when it holds what it was made for. Then one flow in 25 lives behind its
/// home bucket (at 60, one in 14), where it costs a branch that nobody foresees.
const LOAD_PERCENT: usize = 50;

/// What the table remembers of a flow, in one word: when its last packet came 32 bits, server 16,
/// mark 12, state 4.
///
/// The mark belongs to the bucket and not to the flow: in entry 0 it counts the entries that
/// passed the bucket by, in entry 1 it counts down the sweeps until an overflow is forgotten.
#[derive(Debug, Clone, Copy)]
pub struct Flow(u64);

const SEEN_SHIFT: u32 = 32;
const SERVER_SHIFT: u32 = 16;
const MARK_SHIFT: u32 = 4;
const MARK_MAX: u64 = 0xfff;
const MARK_BITS: u64 = MARK_MAX << MARK_SHIFT;
const PASSED_BY: usize = 0;
const OVERFLOW: usize = 1;

impl Flow {
    /// A flow of `server` in `state`, whose last packet came at `seen`. Without a mark.
    #[inline]
    pub fn new(server: ServerIndex, state: FlowState, seen: Ticks) -> Flow {
        let (seen, server) = (u64::from(seen), u64::from(server.0));
        Flow(seen << SEEN_SHIFT | server << SERVER_SHIFT | state.to_bits())
    }

    /// Its real server.
    #[inline]
    pub fn server(self) -> ServerIndex {
        ServerIndex((self.0 >> SERVER_SHIFT) as u16)
    }

    /// Its state.
    #[inline]
    pub fn state(self) -> FlowState {
        FlowState::from_bits(self.0)
    }

    /// When its last packet came.
    #[inline]
    pub fn seen(self) -> Ticks {
        (self.0 >> SEEN_SHIFT) as Ticks
    }

    /// Whether its state's timeout has passed.
    #[inline]
    pub fn is_expired(self, now: Ticks, lifetimes: &Lifetimes) -> bool {
        // Signed: another worker's clock, which `seen` may come from, can be a tick ahead.
        now.wrapping_sub(self.seen()) as i32 >= lifetimes.of(self.state()) as i32
    }

    /// Whether its last packet came before `now`.
    #[inline]
    pub fn was_seen_before(self, now: Ticks) -> bool {
        (self.seen().wrapping_sub(now) as i32) < 0
    }

    /// Whether a packet of this event changes nothing but the time of its last packet, and may: its
    /// timeout has not passed, and it was not seen in the future (`is_expired`).
    #[inline]
    pub(crate) fn goes_on(self, event: Event, now: Ticks, lifetimes: &Lifetimes) -> bool {
        now.wrapping_sub(self.seen()) < lifetimes.unchanged(self.0, event)
    }

    /// The same flow and mark, with its last packet at `now`.
    #[inline]
    fn seen_at(self, now: Ticks) -> Flow {
        Flow(self.0 & u64::from(u32::MAX) | u64::from(now) << SEEN_SHIFT)
    }

    /// Whether the last packet of this flow came after that of `other`.
    pub fn is_newer_than(self, other: Flow) -> bool {
        other.was_seen_before(self.seen())
    }

    /// This worker's copy of another worker's flow: newer than the original, be it by a tick.
    pub fn taken_over(self, now: Ticks) -> Flow {
        let next = self.seen().wrapping_add(1);
        Flow::new(self.server(), self.state(), if self.was_seen_before(now) { now } else { next })
    }

    #[inline]
    fn mark(self) -> u64 {
        (self.0 & MARK_BITS) >> MARK_SHIFT
    }

    #[inline]
    fn with_mark(self, mark: u64) -> Flow {
        Flow(self.0 & !MARK_BITS | mark << MARK_SHIFT)
    }
}

/// Where an entry is. Good until the entry is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    bucket: u32,
    slot: u32,
}

/// What making room for a flow took.
#[derive(Debug)]
pub enum Room {
    /// There was a free entry.
    Free(Place),
    /// An expired flow, or else the half-open one that was idle for the longest, had to go.
    Evicted(Place, Flow),
    /// Every entry that the flow could have holds a flow that is worth more.
    None,
}

/// The table. `KEY` words of key an entry, the last of which is never 0 for a flow, and `WORDS`
/// words a bucket, which is `4 * (KEY + 1)`: the keys first, word by word, then the values.
pub struct FlowTable<const KEY: usize, const WORDS: usize> {
    words: Words,
}

/// IPv4 flows: 16 bytes each.
pub type FlowsV4 = FlowTable<1, 8>;
/// IPv6 flows: 32 bytes each.
pub type FlowsV6 = FlowTable<3, 16>;

type Bucket<const WORDS: usize> = [AtomicU64; WORDS];

/// Called where slots are looked at, so that the tests can bound the work of every operation.
#[inline(always)]
fn count_looks(slots: usize) {
    #[cfg(test)]
    tests::LOOKS.set(tests::LOOKS.get() + slots);
    let _ = slots;
}

/// The buckets of a table, looked up once a burst, to find flows where most are: at home.
pub struct Homes<'a, const KEY: usize, const WORDS: usize> {
    words: &'a Words,
    buckets: &'a [Bucket<WORDS>],
    /// Buckets that are the home of some flow.
    count: u64,
}

/// What the table remembers of a flow that was found at home.
pub struct Remembered<'a>(&'a AtomicU64);

impl<'a, const KEY: usize, const WORDS: usize> Homes<'a, KEY, WORDS> {
    /// The bucket that `hash` names, by its high half.
    #[inline]
    pub fn of(&self, hash: u64) -> usize {
        (((hash >> 32) * self.count) >> 32) as usize
    }

    /// Asks for the bucket `home`, so that it is in the cache when its turn comes.
    #[inline]
    pub fn prefetch(&self, home: usize) {
        self.words.prefetch(home * WORDS);
    }

    /// Finds the flow with this key if it is in its home bucket.
    #[inline]
    pub fn find(&self, key: &[u64; KEY], home: usize) -> Option<(Remembered<'a>, Flow)> {
        let bucket = self.buckets.get(home)?;
        let slot = FlowTable::<KEY, WORDS>::match_slot(bucket, key)?;
        let value = &bucket[FlowTable::<KEY, WORDS>::VALUES + slot];
        Some((Remembered(value), Flow(value.load(Relaxed))))
    }
}

impl<'a, const KEY: usize, const WORDS: usize> Homes<'a, KEY, WORDS> {
    /// Finds the flow with this key behind its home bucket, if flows passed that by.
    #[inline(never)]
    pub fn find_further(&self, key: &[u64; KEY], home: usize) -> Option<(Remembered<'a>, Flow)> {
        for at in home..home + PROBE_MAX - 1 {
            let bucket = self.buckets.get(at)?;
            if FlowTable::<KEY, WORDS>::value(bucket, PASSED_BY).mark() == 0 {
                break;
            }
            let found = self.find(key, at + 1);
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

impl Remembered<'_> {
    /// Notes that `flow`, which was found here, had its last packet at `now`.
    #[inline]
    pub fn note(&self, flow: Flow, now: Ticks) {
        self.0.store(flow.seen_at(now).0, Relaxed);
    }
}

impl<const KEY: usize, const WORDS: usize> FlowTable<KEY, WORDS> {
    const VALUES: usize = {
        assert!(WORDS == BUCKET * (KEY + 1));
        BUCKET * KEY
    };
    const TAGS: usize = BUCKET * (KEY - 1);

    /// A table in which `flows` flows fit comfortably.
    pub fn new(flows: usize) -> io::Result<Self> {
        let entries = flows.div_ceil(LOAD_PERCENT).saturating_mul(100);
        // The last homes need neighbors to probe as well.
        let buckets = entries.div_ceil(BUCKET).max(1) + PROBE_MAX - 1;
        if buckets > u32::MAX as usize {
            let message = format!("a flow table for {flows} flows: the hash names no such bucket");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(FlowTable { words: Words::new(buckets * WORDS)? })
    }

    /// Entries that the table has.
    pub fn capacity(&self) -> usize {
        self.buckets().len() * BUCKET
    }

    #[inline]
    fn buckets(&self) -> &[Bucket<WORDS>] {
        self.words.as_chunks().0
    }

    /// The bucket that `hash` names.
    #[inline]
    pub fn home(&self, hash: u64) -> usize {
        self.homes().of(hash)
    }

    /// The buckets in which a flow with this hash may live.
    #[inline]
    fn neighborhood(&self, hash: u64) -> (usize, &[Bucket<WORDS>]) {
        let home = self.home(hash);
        (home, self.buckets().get(home..home + PROBE_MAX).unwrap_or(&[]))
    }

    /// Asks for the bucket `home`, so that it is in the cache when its turn comes.
    #[inline]
    pub fn prefetch(&self, home: usize) {
        self.homes().prefetch(home);
    }

    /// The table as the packets of a burst look at it first.
    #[inline]
    pub fn homes(&self) -> Homes<'_, KEY, WORDS> {
        let buckets = self.buckets();
        let count = buckets.len() - (PROBE_MAX - 1);
        Homes { words: &self.words, buckets, count: count as u64 }
    }

    /// Finds the flow with this key.
    pub fn find(&self, key: &[u64; KEY], hash: u64) -> Option<(Place, Flow)> {
        let (home, neighborhood) = self.neighborhood(hash);
        for (distance, bucket) in neighborhood.iter().enumerate() {
            if let Some(slot) = Self::match_slot(bucket, key) {
                let place = Place { bucket: (home + distance) as u32, slot: slot as u32 };
                return Some((place, Self::value(bucket, slot)));
            }
            if Self::value(bucket, PASSED_BY).mark() == 0 {
                break;
            }
        }
        None
    }

    /// Finds the flow with this key in the table of another worker, who may be writing to it.
    ///
    /// If the entry is given to another flow meanwhile, its tag was cleared before the value read
    /// here was written (`remove`), so that the second look finds the tag cleared or a later one.
    pub fn find_foreign(&self, key: &[u64; KEY], hash: u64) -> Option<Flow> {
        let (_, neighborhood) = self.neighborhood(hash);
        for bucket in neighborhood {
            for slot in 0..BUCKET {
                if Self::holds(bucket, slot, key) {
                    let flow = Self::value(bucket, slot);
                    fence(Acquire);
                    if Self::holds(bucket, slot, key) {
                        return Some(flow);
                    }
                }
            }
            if Self::value(bucket, PASSED_BY).mark() == 0 {
                break;
            }
        }
        None
    }

    /// Whether the entry holds `key`, for another thread than the writer's. The tag comes first:
    /// `put` writes it last, so the words read behind it are those that it was written with.
    fn holds(bucket: &Bucket<WORDS>, slot: usize, key: &[u64; KEY]) -> bool {
        count_looks(1);
        (0..KEY).rev().all(|word| bucket[BUCKET * word + slot].load(Acquire) == key[word])
    }

    /// The slot of the bucket that holds `key`. Since no two do, three comparisons without a branch
    /// say which it could be, and a fourth whether it is.
    #[inline]
    fn match_slot(bucket: &Bucket<WORDS>, key: &[u64; KEY]) -> Option<usize> {
        count_looks(BUCKET);
        let equal = |slot: usize| {
            (0..KEY).fold(true, |equal, word| {
                equal & (bucket[BUCKET * word + slot].load(Relaxed) == key[word])
            })
        };
        let slot = usize::from(equal(1)) + 2 * usize::from(equal(2)) + 3 * usize::from(equal(3));
        // Never more than 3, which the compiler does not see.
        let slot = slot % BUCKET;
        equal(slot).then_some(slot)
    }

    #[inline]
    fn value(bucket: &Bucket<WORDS>, slot: usize) -> Flow {
        count_looks(1);
        Flow(bucket[Self::VALUES + slot].load(Relaxed))
    }

    #[inline]
    fn set_value(bucket: &Bucket<WORDS>, slot: usize, value: Flow) {
        count_looks(1);
        bucket[Self::VALUES + slot].store(value.0, Relaxed);
    }

    fn is_free(bucket: &Bucket<WORDS>, slot: usize) -> bool {
        count_looks(1);
        bucket[Self::TAGS + slot].load(Relaxed) == 0
    }

    /// Replaces what is remembered of the flow at `place`.
    #[inline]
    pub fn set(&self, place: Place, flow: Flow) {
        let slot = place.slot as usize % BUCKET;
        if let Some(bucket) = self.buckets().get(place.bucket as usize) {
            Self::set_value(bucket, slot, flow.with_mark(Self::value(bucket, slot).mark()));
        }
    }

    /// Finds an entry for a new flow with this hash. If that takes an eviction, it is done.
    /// Looks at no more than [`PROBE_MAX`] buckets.
    pub fn make_room(
        &self,
        hash: u64,
        is_expired: impl Fn(Flow) -> bool,
        hash_of: impl Fn(&[u64; KEY]) -> u64,
    ) -> Room {
        let (home, neighborhood) = self.neighborhood(hash);
        let mut oldest: Option<(Place, Flow)> = None;
        for (distance, bucket) in neighborhood.iter().enumerate() {
            for slot in 0..BUCKET {
                let place = Place { bucket: (home + distance) as u32, slot: slot as u32 };
                if Self::is_free(bucket, slot) {
                    return Room::Free(place);
                }
                let flow = Self::value(bucket, slot);
                if flow.state() == FlowState::SynRecv
                    && oldest.is_none_or(|(_, oldest)| oldest.is_newer_than(flow))
                {
                    oldest = Some((place, flow));
                }
            }
        }
        // A second look, since most neighborhoods have room and need none.
        let mut entries = (home..home + PROBE_MAX).flat_map(|bucket| self.entries(bucket));
        match entries.find(|&(_, flow)| is_expired(flow)).or(oldest) {
            Some((place, flow)) => {
                self.remove(place, hash_of);
                Room::Evicted(place, flow)
            }
            None => Room::None,
        }
    }

    /// Puts a flow into the free entry at `place`, which `make_room` found for this hash.
    pub fn put(&self, place: Place, key: &[u64; KEY], hash: u64, flow: Flow) {
        let home = self.home(hash);
        let at = place.bucket as usize;
        for bucket in self.buckets().get(home..at).unwrap_or(&[]) {
            let value = Self::value(bucket, PASSED_BY);
            Self::set_value(bucket, PASSED_BY, value.with_mark(value.mark() + 1));
        }
        let Some(bucket) = self.buckets().get(at) else { return };
        let slot = place.slot as usize % BUCKET;
        Self::set_value(bucket, slot, flow.with_mark(Self::value(bucket, slot).mark()));
        for word in 0..KEY {
            bucket[BUCKET * word + slot].store(key[word], Release);
        }
    }

    /// Takes the flow at `place` out. `hash_of` is the hash that it was put in under.
    pub fn remove(&self, place: Place, hash_of: impl Fn(&[u64; KEY]) -> u64) {
        let at = place.bucket as usize;
        let slot = place.slot as usize % BUCKET;
        let Some(bucket) = self.buckets().get(at) else { return };
        let key = Self::key(bucket, slot);
        bucket[Self::TAGS + slot].store(0, Relaxed);
        fence(Release);
        let home = self.home(hash_of(&key));
        for passed in self.buckets().get(home..at).unwrap_or(&[]) {
            let value = Self::value(passed, PASSED_BY);
            Self::set_value(passed, PASSED_BY, value.with_mark(value.mark().saturating_sub(1)));
        }
    }

    #[inline]
    fn key(bucket: &Bucket<WORDS>, slot: usize) -> [u64; KEY] {
        let mut key = [0; KEY];
        // The tag first, as in `holds`.
        for word in (0..KEY).rev() {
            key[word] = bucket[BUCKET * word + slot].load(Acquire);
        }
        key
    }

    /// Remembers for `sweeps` sweeps that a flow with this hash found no room.
    pub fn mark_overflow(&self, hash: u64, sweeps: u32) {
        if let Some(bucket) = self.buckets().get(self.home(hash)) {
            let mark = u64::from(sweeps).min(MARK_MAX);
            Self::set_value(bucket, OVERFLOW, Self::value(bucket, OVERFLOW).with_mark(mark));
        }
    }

    /// Whether a flow with this hash may have found no room lately.
    pub fn has_overflowed(&self, hash: u64) -> bool {
        let bucket = self.buckets().get(self.home(hash));
        bucket.is_some_and(|bucket| Self::value(bucket, OVERFLOW).mark() != 0)
    }

    /// Buckets of the table.
    pub fn bucket_count(&self) -> usize {
        self.buckets().len()
    }

    /// An overflow in the bucket at `index` comes one sweep closer to being forgotten.
    pub fn fade_overflow(&self, index: usize) {
        if let Some(bucket) = self.buckets().get(index) {
            let value = Self::value(bucket, OVERFLOW);
            if value.mark() != 0 {
                Self::set_value(bucket, OVERFLOW, value.with_mark(value.mark() - 1));
            }
        }
    }

    /// The flows in the bucket at `index`.
    pub fn entries(&self, index: usize) -> impl Iterator<Item = (Place, Flow)> + '_ {
        self.buckets().get(index).into_iter().flat_map(move |bucket| {
            (0..BUCKET).filter(|&slot| !Self::is_free(bucket, slot)).map(move |slot| {
                let place = Place { bucket: index as u32, slot: slot as u32 };
                (place, Self::value(bucket, slot))
            })
        })
    }

    /// Every flow of the table with its key, for readers on other threads: each entry as it was
    /// at some moment, flows that move meanwhile twice or not at all.
    pub fn iter(&self) -> impl Iterator<Item = ([u64; KEY], Flow)> + '_ {
        self.buckets().iter().flat_map(|bucket| {
            (0..BUCKET).filter_map(move |slot| {
                let key = Self::key(bucket, slot);
                let flow = Self::value(bucket, slot);
                fence(Acquire);
                (key[KEY - 1] != 0 && Self::key(bucket, slot) == key).then_some((key, flow))
            })
        })
    }
}
