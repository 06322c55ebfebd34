//! Every order in which another worker can see what the table's owner writes:
//! `RUSTFLAGS='--cfg loom' cargo test -p dataplane --lib orders`.
//!
//! The words are loom's, which hand a reader every value that the memory model allows, not only
//! those that this machine's caches happen to.

use super::{FlowTable, Room};
use crate::flow_state::FlowState;
use crate::flow_table::Flow;
use crate::service_table::ServerIndex;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64 as Word, Ordering};
use loom::thread;
use std::io;
use std::ops::Deref;

/// A word, and another one that is written whenever this one is used.
///
/// loom switches threads where two of them use the same word and one writes it, but of each word
/// it remembers the last use only. The owner reads what it is about to write, which hides the
/// reader's use before: the second word, which nobody reads, makes loom switch everywhere.
pub struct AtomicU64 {
    word: Word,
    used: Arc<Word>,
}

impl AtomicU64 {
    pub fn load(&self, order: Ordering) -> u64 {
        self.used.store(0, Ordering::Relaxed);
        self.word.load(order)
    }

    pub fn store(&self, value: u64, order: Ordering) {
        self.used.store(0, Ordering::Relaxed);
        self.word.store(value, order);
    }
}

/// What [`xsk::Words`] is, over loom's words.
pub struct Words(Vec<AtomicU64>);

impl Words {
    pub fn new(length: usize) -> io::Result<Words> {
        let used = Arc::new(Word::new(0));
        let word = || AtomicU64 { word: Word::new(0), used: used.clone() };
        Ok(Words((0..length).map(|_| word()).collect()))
    }

    /// No cache, nothing to ask for.
    pub fn prefetch(&self, _index: usize) {}
}

/// Every order with so many switches from one thread to the other at a place of loom's choice.
fn in_every_order(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

impl Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        &self.0
    }
}

/// All flows of these tests have one home.
const HASH: u64 = 0;

fn put<const KEY: usize, const WORDS: usize>(
    table: &FlowTable<KEY, WORDS>,
    key: &[u64; KEY],
    server: u16,
) {
    let flow = Flow::new(ServerIndex(server), FlowState::Established, 1);
    match table.make_room(HASH, |_| false, |_| HASH) {
        Room::Free(place) => table.put(place, key, HASH, flow),
        _ => panic!("no room"),
    }
}

fn remove<const KEY: usize, const WORDS: usize>(table: &FlowTable<KEY, WORDS>, key: &[u64; KEY]) {
    let (place, _) = table.find(key, HASH).expect("a flow that was put in");
    table.remove(place, |_| HASH);
}

fn found<const KEY: usize, const WORDS: usize>(
    table: &FlowTable<KEY, WORDS>,
    key: &[u64; KEY],
) -> Option<u16> {
    table.find_foreign(key, HASH).map(|flow| flow.server().0)
}

/// An entry is given to another flow while a reader looks for either.
fn an_entry_changes_hands<const KEY: usize, const WORDS: usize>(
    first: [u64; KEY],
    second: [u64; KEY],
) {
    in_every_order(move || {
        let table = Arc::new(FlowTable::<KEY, WORDS>::new(0).unwrap());
        put(&table, &first, 1);
        let writer = thread::spawn({
            let table = table.clone();
            move || {
                remove(&table, &first);
                put(&table, &second, 2);
            }
        });
        assert!(matches!(found(&table, &first), None | Some(1)));
        assert!(matches!(found(&table, &second), None | Some(2)));
        writer.join().unwrap();
        assert_eq!((found(&table, &first), found(&table, &second)), (None, Some(2)));
    });
}

#[test]
fn an_ipv4_entry_changes_hands() {
    an_entry_changes_hands::<1, 8>([5], [6]);
}

#[test]
fn an_ipv6_entry_changes_hands() {
    // Each pair shares words, so that what is read in part could be taken for the other.
    an_entry_changes_hands::<3, 16>([5, 5, 5], [6, 6, 5]);
    an_entry_changes_hands::<3, 16>([5, 5, 5], [5, 6, 5]);
    an_entry_changes_hands::<3, 16>([5, 5, 5], [5, 5, 6]);
}

#[test]
fn a_listing_shows_no_flow_with_anothers_server() {
    in_every_order(|| {
        let table = Arc::new(FlowTable::<3, 16>::new(0).unwrap());
        put(&table, &[5, 5, 5], 1);
        let writer = thread::spawn({
            let table = table.clone();
            move || {
                remove(&table, &[5, 5, 5]);
                put(&table, &[6, 6, 5], 2);
            }
        });
        for (key, flow) in table.iter() {
            let expected = if key == [5, 5, 5] { 1 } else { 2 };
            assert!([[5, 5, 5], [6, 6, 5]].contains(&key), "{key:?}");
            assert_eq!(flow.server().0, expected);
        }
        writer.join().unwrap();
    });
}

/// A flow beyond a full bucket is found while others come and go in both.
#[test]
fn what_stays_is_found() {
    in_every_order(|| {
        let table = Arc::new(FlowTable::<1, 8>::new(0).unwrap());
        for key in 1..=5 {
            put(&table, &[key], key as u16);
        }
        let writer = thread::spawn({
            let table = table.clone();
            move || {
                put(&table, &[6], 6);
                remove(&table, &[2]);
                remove(&table, &[6]);
            }
        });
        assert_eq!(found(&table, &[5]), Some(5));
        writer.join().unwrap();
        assert_eq!(found(&table, &[5]), Some(5));
        assert_eq!((found(&table, &[2]), found(&table, &[6])), (None, None));
    });
}

/// The state and the time of a flow change in one word.
#[test]
fn what_changes_is_seen_before_or_after() {
    in_every_order(|| {
        let table = Arc::new(FlowTable::<1, 8>::new(0).unwrap());
        put(&table, &[5], 1);
        let writer = thread::spawn({
            let table = table.clone();
            move || {
                let (place, _) = table.find(&[5], HASH).unwrap();
                table.set(place, Flow::new(ServerIndex(1), FlowState::Close, 9));
                table.mark_overflow(HASH, 3);
            }
        });
        let flow = table.find_foreign(&[5], HASH).expect("it stays");
        let seen = (flow.state(), flow.seen());
        assert!([(FlowState::Established, 1), (FlowState::Close, 9)].contains(&seen));
        writer.join().unwrap();
    });
}
