//! The table beside a map, its work counted, and read while it is written.

use super::*;
use crate::settings::Timeouts;
use frames::Random;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::thread;

thread_local! {
    /// Looks at slots, as [`count_looks`] counts them on this thread.
    pub static LOOKS: Cell<usize> = const { Cell::new(0) };
}

/// The most looks that making room and putting a flow there take: two passes over the
/// neighborhood, each asking twice of a slot, an eviction and an insertion that both change the
/// counts of every bucket on the way, and the entries themselves.
const INSERT_LOOKS_MAX: usize = 4 * PROBE_MAX * BUCKET + 4 * PROBE_MAX + 4;
/// The most looks that a search takes: each bucket's slots, its count, and the value found.
const FIND_LOOKS_MAX: usize = PROBE_MAX * (BUCKET + 1) + 1;
/// The most looks that taking a flow out takes.
const REMOVE_LOOKS_MAX: usize = 2 * PROBE_MAX + 1;

/// The looks that `operation` takes, which must not be more than `limit`.
fn within<T>(limit: usize, operation: impl FnOnce() -> T) -> T {
    let before = LOOKS.get();
    let result = operation();
    let looks = LOOKS.get() - before;
    assert!(looks <= limit, "{looks} looks where {limit} are the most");
    result
}

impl<const KEY: usize, const WORDS: usize> FlowTable<KEY, WORDS> {
    pub fn overflow_mark(&self, bucket: usize) -> u32 {
        Self::value(&self.buckets()[bucket], OVERFLOW).mark() as u32
    }

    pub fn set_overflow_mark(&self, bucket: usize, mark: u32) {
        let bucket = &self.buckets()[bucket];
        let value = Self::value(bucket, OVERFLOW).with_mark(mark.into());
        Self::set_value(bucket, OVERFLOW, value);
    }
}

/// How the tests hash: badly, so that flows meet. Only the high half chooses the home.
#[derive(Clone, Copy)]
struct Homes(u64);

impl Homes {
    fn hash<const KEY: usize>(self, key: &[u64; KEY]) -> u64 {
        let sum = key.iter().fold(0u64, |sum, word| sum.wrapping_mul(31).wrapping_add(*word));
        let home = Random::new(sum % self.0).number();
        home | 0xffff_ffff
    }
}

/// A key out of few: for IPv6, many share their first, second or last word.
fn any_key<const KEY: usize>(random: &mut Random, keys: usize) -> [u64; KEY] {
    let number = random.below(keys) as u64;
    let mut key = [0; KEY];
    for (position, word) in key.iter_mut().enumerate() {
        *word = 1 + (number >> (3 * position)) % 8;
    }
    key[KEY - 1] = 1 + number / if KEY == 1 { 1 } else { 8 };
    key
}

fn any_flow(random: &mut Random) -> Flow {
    let states = [
        FlowState::SynRecv,
        FlowState::Established,
        FlowState::FinWait,
        FlowState::TimeWait,
        FlowState::Close,
        FlowState::Udp,
    ];
    let server = ServerIndex(random.number() as u16);
    Flow::new(server, *random.pick(&states), random.below(1 << 20) as Ticks)
}

/// The table and what must be in it.
struct Twin<const KEY: usize, const WORDS: usize> {
    table: FlowTable<KEY, WORDS>,
    map: HashMap<[u64; KEY], Flow>,
    homes: Homes,
    /// Flows with a greater `seen` are not expired.
    expired: Ticks,
}

fn same(left: Flow, right: Flow) -> bool {
    let parts = |flow: Flow| (flow.server(), flow.state(), flow.seen());
    parts(left) == parts(right)
}

impl<const KEY: usize, const WORDS: usize> Twin<KEY, WORDS> {
    fn new(flows: usize, homes: u64) -> Self {
        let table = FlowTable::new(flows).unwrap();
        Twin { table, map: HashMap::new(), homes: Homes(homes), expired: 1 << 10 }
    }

    fn hash(&self, key: &[u64; KEY]) -> u64 {
        self.homes.hash(key)
    }

    fn insert(&mut self, key: [u64; KEY], flow: Flow) {
        let (hash, homes, expired) = (self.hash(&key), self.homes, self.expired);
        let is_expired = |flow: Flow| flow.seen() <= expired;
        let room = within(INSERT_LOOKS_MAX, || {
            let room = self.table.make_room(hash, is_expired, |key| homes.hash(key));
            if let Room::Free(place) | Room::Evicted(place, _) = room {
                self.table.put(place, &key, hash, flow);
            }
            room
        });
        match room {
            Room::Free(_) => {}
            Room::Evicted(_, evicted) => self.check_eviction(hash, evicted),
            Room::None => {
                let worth = |flow: &Flow| flow.state() != FlowState::SynRecv && !is_expired(*flow);
                assert!(self.neighbors(hash).iter().all(|(_, flow)| worth(flow)));
                assert_eq!(self.neighbors(hash).len(), PROBE_MAX * BUCKET);
                return;
            }
        }
        self.map.insert(key, flow);
    }

    /// What the table held around the home of `hash`, by the map (before an eviction is noted).
    fn neighbors(&self, hash: u64) -> Vec<([u64; KEY], Flow)> {
        let home = self.table.home(hash);
        let mut neighbors = Vec::new();
        for (&key, &flow) in &self.map {
            let at = self.table.find(&key, self.hash(&key)).map(|(place, _)| place.bucket as usize);
            if at.is_none_or(|at| (home..home + PROBE_MAX).contains(&at)) {
                neighbors.push((key, flow));
            }
        }
        neighbors
    }

    fn check_eviction(&mut self, hash: u64, evicted: Flow) {
        let neighbors = self.neighbors(hash);
        let gone: Vec<_> = neighbors
            .iter()
            .filter(|(key, _)| self.table.find(key, self.hash(key)).is_none())
            .collect();
        let &[&(key, flow)] = gone.as_slice() else { panic!("one goes, not {gone:?}") };
        assert!(same(flow, evicted));
        let is_expired = |flow: Flow| flow.seen() <= self.expired;
        if !is_expired(flow) {
            assert_eq!(flow.state(), FlowState::SynRecv);
            for (_, other) in neighbors {
                assert!(!is_expired(other), "expired ones first");
                let older = other.seen() < flow.seen();
                assert!(other.state() != FlowState::SynRecv || !older, "the oldest");
            }
        }
        self.map.remove(&key);
    }

    fn remove(&mut self, key: &[u64; KEY]) {
        let homes = self.homes;
        let found = self.find(key);
        assert_eq!(found.is_some(), self.map.remove(key).is_some());
        if let Some((place, _)) = found {
            within(REMOVE_LOOKS_MAX, || self.table.remove(place, |key| homes.hash(key)));
        }
    }

    fn find(&self, key: &[u64; KEY]) -> Option<(Place, Flow)> {
        let found = within(FIND_LOOKS_MAX, || self.table.find(key, self.hash(key)));
        let foreign = within(2 * FIND_LOOKS_MAX, || self.table.find_foreign(key, self.hash(key)));
        let home = self.table.home(self.hash(key));
        let at_home = self.table.homes().find(key, home).map(|(_, flow)| flow);
        assert!(match (found, foreign) {
            (Some((_, own)), Some(foreign)) => same(own, foreign),
            (None, None) => at_home.is_none(),
            _ => false,
        });
        let is_at_home = found.is_some_and(|(place, _)| place.bucket as usize == home);
        assert_eq!(at_home.is_some(), is_at_home);
        assert!(at_home.is_none_or(|flow| found.is_some_and(|(_, found)| same(flow, found))));
        found
    }

    /// Every flow is found, no other is there, and every bucket's count of passers-by is right.
    fn check(&self) {
        for (key, &flow) in &self.map {
            let (_, found) = self.find(key).unwrap_or_else(|| panic!("{key:?} is lost"));
            assert!(same(found, flow), "{key:?}");
        }
        let listed: HashMap<_, _> = self.table.iter().collect();
        assert_eq!(listed.len(), self.map.len());
        assert!(listed.iter().all(|(key, &flow)| same(self.map[key], flow)));

        let mut passed = vec![0; self.table.bucket_count()];
        let mut entries = 0;
        for at in 0..self.table.bucket_count() {
            for (place, _) in self.table.entries(at) {
                let bucket = &self.table.buckets()[at];
                let key = FlowTable::<KEY, WORDS>::key(bucket, place.slot as usize);
                let home = self.table.home(self.hash(&key));
                assert!((home..home + PROBE_MAX).contains(&at));
                passed[home..at].iter_mut().for_each(|passed| *passed += 1);
                entries += 1;
            }
        }
        assert_eq!(entries, self.map.len());
        for (bucket, passed) in self.table.buckets().iter().zip(passed) {
            assert_eq!(FlowTable::<KEY, WORDS>::value(bucket, PASSED_BY).mark(), passed);
        }
    }
}

/// A random life of a table; how often something was evicted, how often nothing could be.
fn live<const KEY: usize, const WORDS: usize>(seed: u64) {
    let mut random = Random::new(seed);
    let flows = *random.pick(&[0, 1, 100, 400]);
    let mut twin = Twin::<KEY, WORDS>::new(flows, *random.pick(&[1, 2, 5, 50, 1 << 40]));
    let keys = 60 + random.below(400);
    // Marks of overflows that must survive whatever the entries do.
    let marked: HashSet<usize> = (0..5).map(|_| random.below(twin.table.bucket_count())).collect();
    for &bucket in &marked {
        twin.table.set_overflow_mark(bucket, 7);
    }
    for step in 0..4_000 {
        let key = any_key::<KEY>(&mut random, keys);
        match (random.below(10), twin.find(&key)) {
            (0..3, _) => twin.remove(&key),
            (3..5, Some((place, _))) => {
                let flow = any_flow(&mut random);
                twin.table.set(place, flow);
                twin.map.insert(key, flow);
            }
            (_, None) => {
                let flow = any_flow(&mut random);
                twin.insert(key, flow);
            }
            _ => {}
        }
        if step % 100 == 0 {
            twin.check();
        }
    }
    twin.check();
    for index in 0..twin.table.bucket_count() {
        let expected = if marked.contains(&index) { 7 } else { 0 };
        assert_eq!(twin.table.overflow_mark(index), expected);
    }
    let keys: Vec<_> = twin.map.keys().copied().collect();
    keys.iter().for_each(|key| twin.remove(key));
    twin.check();
}

#[test]
fn an_ipv4_table_is_a_map() {
    (0..12).for_each(live::<1, 8>);
}

#[test]
fn an_ipv6_table_is_a_map() {
    (0..12).for_each(live::<3, 16>);
}

#[test]
fn a_full_neighborhood_counts_every_passer_by() {
    let mut twin = Twin::<1, 8>::new(0, 1);
    for number in 0..(PROBE_MAX * BUCKET) as u64 {
        let flow = Flow::new(ServerIndex(0), FlowState::Established, 1 << 15);
        twin.insert([number + 1], flow);
    }
    twin.check();
    let first = &twin.table.buckets()[twin.table.home(twin.hash(&[1]))];
    let passed = FlowsV4::value(first, PASSED_BY).mark();
    assert_eq!(passed, ((PROBE_MAX - 1) * BUCKET) as u64);
    // Counted by 12 bits, of which so the most that is possible uses a few.
    assert!(passed < MARK_MAX / 2);
    twin.insert([1_000], Flow::new(ServerIndex(0), FlowState::SynRecv, 1 << 15));
    assert!(twin.find(&[1_000]).is_none());
    twin.remove(&[5]);
    twin.insert([1_000], Flow::new(ServerIndex(0), FlowState::SynRecv, 1 << 15));
    twin.check();
}

#[test]
fn marks_count_down_to_nothing_and_no_further() {
    let table = FlowsV6::new(10).unwrap();
    let hash = 0xdead_beef_0000_0000;
    let home = table.home(hash);
    assert!(!table.has_overflowed(hash));
    table.mark_overflow(hash, 2);
    table.fade_overflow(home);
    assert!(table.has_overflowed(hash));
    table.fade_overflow(home);
    assert!(!table.has_overflowed(hash));
    table.fade_overflow(home);
    assert!(!table.has_overflowed(hash));
    table.mark_overflow(hash, u32::MAX);
    for _ in 0..MARK_MAX - 1 {
        table.fade_overflow(home);
    }
    assert!(table.has_overflowed(hash));
    table.fade_overflow(home);
    assert!(!table.has_overflowed(hash));
    table.fade_overflow(usize::MAX);
}

#[test]
fn a_flow_is_what_it_was_made_of() {
    for (server, state, seen) in [
        (0, FlowState::SynRecv, 0),
        (u16::MAX, FlowState::Udp, Ticks::MAX),
        (0x1234, FlowState::Close, 0x8000_0001),
    ] {
        let flow = Flow::new(ServerIndex(server), state, seen).with_mark(MARK_MAX);
        assert_eq!((flow.server().0, flow.state(), flow.seen()), (server, state, seen));
        assert_eq!(flow.mark(), MARK_MAX);
        assert_eq!(flow.with_mark(0).mark(), 0);
    }
}

#[test]
fn times_compare_across_the_end_of_ticks() {
    let at = |seen: Ticks| Flow::new(ServerIndex(0), FlowState::Close, seen);
    let lifetimes = Lifetimes::new(&Timeouts::default());
    let life = lifetimes.of(FlowState::Close);
    for seen in [0, 5, Ticks::MAX - 1, Ticks::MAX, 1 << 31] {
        let flow = at(seen);
        assert!(!flow.is_expired(seen, &lifetimes));
        assert!(!flow.is_expired(seen.wrapping_sub(1), &lifetimes), "a clock behind");
        assert!(!flow.is_expired(seen.wrapping_add(life - 1), &lifetimes));
        assert!(flow.is_expired(seen.wrapping_add(life), &lifetimes));
        assert!(at(seen.wrapping_add(1)).is_newer_than(flow));
        assert!(!flow.is_newer_than(flow));
        for now in [seen.wrapping_sub(3), seen, seen.wrapping_add(1), seen.wrapping_add(9)] {
            assert!(flow.taken_over(now).is_newer_than(flow));
            assert!(!flow.taken_over(now).was_seen_before(now));
        }
    }
}

#[test]
fn impossible_tables_are_refused() {
    for flows in [usize::MAX, usize::MAX / 2, 1 << 60, 1 << 40] {
        assert!(FlowsV4::new(flows).is_err(), "{flows}");
        assert!(FlowsV6::new(flows).is_err(), "{flows}");
    }
    for flows in [0, 1, 59, 60, 61, 1_000] {
        let table = FlowsV4::new(flows).unwrap();
        assert!(table.capacity() * LOAD_PERCENT >= flows * 100);
        assert_eq!(table.home(u64::MAX), table.bucket_count() - PROBE_MAX, "the last home");
        assert_eq!(table.home(0), 0);
    }
}

#[test]
fn churn_at_a_million_flows_takes_bounded_work_a_step() {
    churn(1_000_000);
}

/// .ci/run runs it, optimised.
#[test]
#[ignore = "takes 270 MB and, unless optimised, a minute"]
fn churn_at_ten_million_flows_takes_bounded_work_a_step() {
    churn(10_000_000);
}

/// A full table, the state of things for hours: one comes, one goes.
fn churn(flows: u64) {
    let table = FlowsV4::new(flows as usize).unwrap();
    let hash = |key: &[u64; 1]| Random::new(key[0]).number();
    let mut most = [0; 3];
    let mut total = [0; 3];
    let mut step = |kind: usize, limit: usize, operation: &mut dyn FnMut()| {
        let before = LOOKS.get();
        within(limit, operation);
        most[kind] = most[kind].max(LOOKS.get() - before);
        total[kind] += LOOKS.get() - before;
    };
    let flow = Flow::new(ServerIndex(1), FlowState::Established, 1);
    for number in 1..=3 * flows {
        let key = [number];
        step(0, INSERT_LOOKS_MAX, &mut || {
            let Room::Free(place) = table.make_room(hash(&key), |_| false, hash) else {
                panic!("no room for flow {number}");
            };
            table.put(place, &key, hash(&key), flow);
        });
        if number > flows {
            let key = [number - flows];
            let mut found = None;
            step(1, FIND_LOOKS_MAX, &mut || found = table.find(&key, hash(&key)));
            let (place, _) = found.expect("a flow that was put in");
            step(2, REMOVE_LOOKS_MAX, &mut || table.remove(place, hash));
        }
    }
    println!(
        "{flows} flows, looks at most: insert {}, find {}, remove {}",
        most[0], most[1], most[2]
    );
    assert!(total[0] < 12 * 3 * flows as usize, "and few on average: {total:?}");
    assert_eq!(table.iter().count(), flows as usize);
}

/// The server that a key's flow always has here.
fn server_of<const KEY: usize>(key: &[u64; KEY]) -> ServerIndex {
    let sum = key.iter().fold(7u64, |sum, word| sum.wrapping_mul(1_000_003).wrapping_add(*word));
    ServerIndex(Random::new(sum).number() as u16)
}

/// A writer gives and takes the entries of a neighborhood as fast as it can; readers must find
/// what stays, and never another flow's value.
fn read_while_written<const KEY: usize, const WORDS: usize>() {
    let table = FlowTable::<KEY, WORDS>::new(0).unwrap();
    let hash = |_: &[u64; KEY]| 0;
    let flow = |key: &[u64; KEY]| Flow::new(server_of(key), FlowState::Established, 5);
    let put = |key: &[u64; KEY]| {
        let Room::Free(place) = table.make_room(0, |_| false, hash) else { panic!("no room") };
        table.put(place, key, 0, flow(key));
    };
    let stays: Vec<[u64; KEY]> =
        (0..20u64).map(|n| std::array::from_fn(|word| 100 + n * (word as u64 + 1))).collect();
    // Every word is shared with other keys, so that torn ones would be keys, too.
    let comes: Vec<[u64; KEY]> = (0..64usize)
        .map(|n| {
            std::array::from_fn(|word| 1 + ((n >> (word * (6 / KEY))) % (1 << (6 / KEY))) as u64)
        })
        .collect();
    stays.iter().for_each(put);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|seed| {
                let (table, stays, comes, done) = (&table, &stays, &comes, &done);
                scope.spawn(move || {
                    let mut random = Random::new(seed);
                    let mut found = 0u64;
                    while !done.load(Relaxed) {
                        let key = random.pick(stays);
                        let flow = table.find_foreign(key, 0).expect("a flow that stays");
                        assert_eq!(flow.server(), server_of(key));
                        let key = random.pick(comes);
                        if let Some(flow) = table.find_foreign(key, 0) {
                            assert_eq!(flow.server(), server_of(key));
                            found += 1;
                        }
                        if random.once_in(50) {
                            for (key, flow) in table.iter() {
                                assert_eq!(flow.server(), server_of(&key), "listed");
                            }
                        }
                    }
                    found
                })
            })
            .collect();
        let mut random = Random::new(9);
        for _ in 0..150_000 {
            let key = random.pick(&comes);
            match table.find(key, 0) {
                Some((place, _)) => table.remove(place, hash),
                None => put(key),
            }
        }
        done.store(true, Relaxed);
        for reader in readers {
            assert!(reader.join().expect("no reader panics") > 0, "it was read while written");
        }
    });
}

#[test]
fn an_ipv4_table_is_read_while_it_is_written() {
    read_while_written::<1, 8>();
}

#[test]
fn an_ipv6_table_is_read_while_it_is_written() {
    read_while_written::<3, 16>();
}
