//! The other workers: how a flow is recognised whose packets moved to another queue.
//!
//! A NIC's hash can be re-programmed, and on some links a client's retransmissions take another
//! queue. A worker that misses a flow looks into the tables of the others, which costs nothing
//! while flows stay where they are and needs no answer from a worker that may be asleep. It takes
//! the flow over and tells its former owner by a ring, so that the flow is counted once.

use crate::decision::Select;
use crate::flow_key::Key;
use crate::flow_table::Flow;
use crate::scheduler::Load;
use crate::service_table::ServerIndex;
use crate::worker_memory::WorkerMemory;
use rtrb::{Consumer, Producer, RingBuffer};
use std::sync::Arc;

/// Flows that can be on their way from one worker to another. When more move at once, they are
/// followed where they are, and taken over as the former owner gets through its ring.
const MOVED_MAX: usize = 1024;

struct Peer {
    memory: Arc<WorkerMemory>,
    taken: Producer<Key>,
    given: Consumer<Key>,
}

/// All workers but this one.
#[derive(Default)]
pub(crate) struct Peers(Vec<Peer>);

impl Peers {
    /// For each of these workers its peers, joined by rings.
    pub fn introduce(memories: &[Arc<WorkerMemory>]) -> Vec<Peers> {
        let mut all: Vec<Peers> = memories.iter().map(|_| Peers::default()).collect();
        for left in 0..memories.len() {
            for right in left + 1..memories.len() {
                let (taken_left, given_right) = RingBuffer::new(MOVED_MAX);
                let (taken_right, given_left) = RingBuffer::new(MOVED_MAX);
                let memory = memories[right].clone();
                all[left].0.push(Peer { memory, taken: taken_left, given: given_left });
                let memory = memories[left].clone();
                all[right].0.push(Peer { memory, taken: taken_right, given: given_right });
            }
        }
        all
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The newest of what the peers know of the flow with this key.
    pub fn find<const KEY: usize, const WORDS: usize>(
        &self,
        select: Select<KEY, WORDS>,
        key: &[u64; KEY],
        hash: u64,
    ) -> Option<Flow> {
        // All first buckets are asked for before the first is looked at.
        let touched = self.0.iter().fold(0, |sum, peer| {
            let table = select(&peer.memory);
            sum ^ table.touch(table.home(hash))
        });
        std::hint::black_box(touched);
        let known = self.0.iter().filter_map(|peer| select(&peer.memory).find_foreign(key, hash));
        known.reduce(|newest, flow| if flow.is_newer_than(newest) { flow } else { newest })
    }

    /// Whether a flow with this hash may have found no room with any of them.
    pub fn have_overflowed<const KEY: usize, const WORDS: usize>(
        &self,
        select: Select<KEY, WORDS>,
        hash: u64,
    ) -> bool {
        self.0.iter().any(|peer| select(&peer.memory).has_overflowed(hash))
    }

    /// Whether all peers that know the flow with this key can be told that it moved.
    pub fn can_be_told<const KEY: usize, const WORDS: usize>(
        &self,
        select: Select<KEY, WORDS>,
        key: &[u64; KEY],
        hash: u64,
    ) -> bool {
        let mut full = self.0.iter().filter(|peer| peer.taken.is_full());
        full.all(|peer| select(&peer.memory).find_foreign(key, hash).is_none())
    }

    /// Tells the peers that know the flow with this key that it is this worker's now.
    pub fn tell_moved<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: Select<KEY, WORDS>,
        key: &[u64; KEY],
        hash: u64,
        moved: Key,
    ) {
        for peer in &mut self.0 {
            if select(&peer.memory).find_foreign(key, hash).is_some() {
                // A full ring: see `can_be_told`.
                let _ = peer.taken.push(moved);
            }
        }
    }

    /// A flow that a peer has taken over from this worker.
    pub fn next_moved(&mut self) -> Option<Key> {
        self.0.iter_mut().find_map(|peer| peer.given.pop().ok())
    }

    /// The connections of a server on all of them.
    pub fn load(&self, server: ServerIndex) -> Load {
        self.0
            .iter()
            .map(|peer| peer.memory.counters.load(server))
            .fold(Load::default(), |sum, load| sum + load)
    }
}
