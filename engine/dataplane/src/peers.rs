//! The other workers: how a flow is recognised whose packets moved to another queue.
//!
//! A NIC's hash can be re-programmed, and on some links a client's retransmissions take another
//! queue. A worker that misses a flow looks into the tables of the others, which costs nothing
//! while flows stay where they are and needs no answer from a worker that may be asleep. It takes
//! the flow over and tells its former owner by a ring, so that the flow is counted once.
//!
//! Until the former owner reads that, both have the flow, and either may get packets of it. Then
//! one copy is kept: the one that saw the last packet, of equals that of the first worker. So no
//! two can give way to each other.

use crate::decision::Select;
use crate::flow_key::Key;
use crate::flow_state::{FlowState, Ticks};
use crate::flow_table::Flow;
use crate::scheduler::Load;
use crate::service_table::ServerIndex;
use crate::worker_memory::WorkerMemory;
use rtrb::{Consumer, Producer, RingBuffer};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

/// Flows that can be on their way from one worker to another. When more move at once, they are
/// followed where they are, and taken over as the former owner gets through its ring.
const MOVED_MAX: usize = 1024;
/// How often the peers are searched for a flow while flows move between them.
const SCANS_MAX: usize = 4;

/// What one worker tells the others that know a flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct News {
    pub key: Key,
    pub what: What,
}

/// What has become of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// The teller has it now.
    Moved,
    /// It was closed, and began anew where there was no room for it. Copies with a later packet
    /// than this are of the new one.
    Ended(Ticks),
    /// The teller has no room for it, but gets its packets: it lives, in this state.
    Lives(FlowState),
}

// Aligned, because an empty ring's reader notes in `in_` how far the writer was, every turn, and the
// workers' vectors of these lie side by side.
#[repr(align(128))]
struct Peer {
    memory: Arc<WorkerMemory>,
    out: Producer<News>,
    in_: Consumer<News>,
}

/// All workers but this one.
#[derive(Default)]
pub(crate) struct Peers {
    peers: Vec<Peer>,
    /// Peers before this worker, which come first in `peers`.
    before: usize,
    /// The peer whose news are read next.
    turn: usize,
    /// Copies that gave way so far, to all workers' knowledge.
    given_up: Arc<GivenUp>,
}

/// On a cache line of its own: every worker reads it for each new flow.
#[derive(Default)]
#[repr(align(128))]
struct GivenUp(AtomicU64);

impl Peers {
    /// For each of these workers its peers, joined by rings.
    pub fn introduce(memories: &[Arc<WorkerMemory>]) -> Vec<Peers> {
        let mut all: Vec<Peers> = memories.iter().map(|_| Peers::default()).collect();
        for left in 0..memories.len() {
            for right in left + 1..memories.len() {
                let (left_out, right_in) = RingBuffer::new(MOVED_MAX);
                let (right_out, left_in) = RingBuffer::new(MOVED_MAX);
                let memory = memories[right].clone();
                all[left].peers.push(Peer { memory, out: left_out, in_: left_in });
                let memory = memories[left].clone();
                all[right].peers.push(Peer { memory, out: right_out, in_: right_in });
            }
        }
        let given_up = Arc::new(GivenUp::default());
        for (before, peers) in all.iter_mut().enumerate() {
            peers.before = before;
            peers.given_up = given_up.clone();
        }
        all
    }

    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// The newest of what the peers know of the flow with this key.
    pub fn find<const KEY: usize, const WORDS: usize>(
        &self,
        select: impl Select<KEY, WORDS>,
        key: &[u64; KEY],
        hash: u64,
    ) -> Option<Flow> {
        Some(self.find_newest(select, key, hash)?.1)
    }

    /// Of equals, that of the first peer.
    fn find_newest<const KEY: usize, const WORDS: usize>(
        &self,
        select: impl Select<KEY, WORDS>,
        key: &[u64; KEY],
        hash: u64,
    ) -> Option<(usize, Flow)> {
        // All first buckets are asked for before the first is looked at.
        self.prefetch(select, hash);
        for _ in 0..SCANS_MAX {
            let before = self.given_up.0.load(Acquire);
            if let Some(newest) = self.scan(select, key, hash) {
                return Some(newest);
            }
            // The flow may have moved to a peer already looked at from one not yet looked at.
            fence(Acquire);
            if self.given_up.0.load(Relaxed) == before {
                break;
            }
        }
        None
    }

    /// Asks for the buckets in which the peers would have a flow with this hash.
    pub fn prefetch<const KEY: usize, const WORDS: usize>(
        &self,
        select: impl Select<KEY, WORDS>,
        hash: u64,
    ) {
        for peer in &self.peers {
            let table = select.of(&peer.memory);
            table.prefetch(table.home(hash));
        }
    }

    fn scan<const KEY: usize, const WORDS: usize>(
        &self,
        select: impl Select<KEY, WORDS>,
        key: &[u64; KEY],
        hash: u64,
    ) -> Option<(usize, Flow)> {
        let known = self.peers.iter().enumerate().filter_map(|(position, peer)| {
            Some((position, select.of(&peer.memory).find_foreign(key, hash)?))
        });
        known.reduce(|newest, other| if other.1.is_newer_than(newest.1) { other } else { newest })
    }

    /// To be called before a copy that gives way is taken out: whoever misses it then looks again.
    pub fn note_given_up(&self) {
        self.given_up.0.fetch_add(1, AcqRel);
        fence(Release);
    }

    /// Whether this worker's copy of a flow gives way to that of a peer; `None` if no peer has one.
    pub fn have_better<const KEY: usize, const WORDS: usize>(
        &self,
        select: impl Select<KEY, WORDS>,
        key: &[u64; KEY],
        hash: u64,
        own: Flow,
    ) -> Option<bool> {
        let (position, theirs) = self.find_newest(select, key, hash)?;
        let first = position < self.before;
        Some(theirs.is_newer_than(own) || (first && !own.is_newer_than(theirs)))
    }

    /// Whether a flow with this hash may have found no room with any of them.
    pub fn have_overflowed<const KEY: usize, const WORDS: usize>(
        &self,
        select: impl Select<KEY, WORDS>,
        hash: u64,
    ) -> bool {
        self.peers.iter().any(|peer| select.of(&peer.memory).has_overflowed(hash))
    }

    /// Whether all peers that know the flow with this key can be told that it moved.
    pub fn can_be_told<const KEY: usize, const WORDS: usize>(
        &self,
        select: impl Select<KEY, WORDS>,
        key: &[u64; KEY],
        hash: u64,
    ) -> bool {
        let mut full = self.peers.iter().filter(|peer| peer.out.is_full());
        full.all(|peer| select.of(&peer.memory).find_foreign(key, hash).is_none())
    }

    /// Tells the peers that know the flow with this key what has become of it.
    pub fn tell<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: impl Select<KEY, WORDS>,
        key: &[u64; KEY],
        hash: u64,
        news: News,
    ) {
        for peer in &mut self.peers {
            if select.of(&peer.memory).find_foreign(key, hash).is_some() {
                // A full ring: see `can_be_told`.
                let _ = peer.out.push(news);
            }
        }
    }

    /// The next that a peer has to tell, each peer in turn.
    pub fn next_news(&mut self) -> Option<News> {
        for _ in 0..self.peers.len() {
            self.turn = if self.turn + 1 < self.peers.len() { self.turn + 1 } else { 0 };
            if let Ok(news) = self.peers[self.turn].in_.pop() {
                return Some(news);
            }
        }
        None
    }

    /// The connections of a server on all of them.
    pub fn load(&self, server: ServerIndex) -> Load {
        self.peers
            .iter()
            .map(|peer| peer.memory.counters.load(server))
            .fold(Load::default(), |sum, load| sum + load)
    }
}
