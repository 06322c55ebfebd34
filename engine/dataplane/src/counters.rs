//! What a worker counts. One thread writes, any thread reads.
//!
//! A counter is a relaxed load and store by its only writer, which costs what a plain addition
//! does; a locked addition would cost ten times that.

use crate::drop_reason::DropReason;
use crate::latency::Latency;
use crate::scheduler::Load;
use crate::service_table::{SERVERS_MAX, ServerIndex};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use xsk::Words;

/// Adds to a counter that only the calling thread writes.
#[inline]
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// Counters of one real server of one virtual service on one worker. All since the index was
/// first used by anyone: a reader keeps its own zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServerCounts {
    /// Flows created.
    pub connections: u64,
    /// Packets addressed to the server. Those that then found the TX ring full are among them.
    pub packets: u64,
    /// Bytes of these packets, Ethernet header included.
    pub bytes: u64,
    /// Flows in the table now.
    pub load: Load,
}

const WORDS_PER_SERVER: usize = 8;
const CONNECTIONS: usize = 0;
const PACKETS: usize = 1;
const BYTES: usize = 2;
const ACTIVE: usize = 3;
const INACTIVE: usize = 4;

macro_rules! worker_counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one worker, in packets unless they say otherwise. All but the gauges only
        /// ever grow.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct WorkerCounts {
            $($(#[$doc])* pub $name: u64,)*
            /// Packets dropped, by reason (index: `DropReason as usize`).
            pub dropped: [u64; DropReason::ALL.len()],
        }

        // On cache lines of its own (two: processors fetch them in pairs), because the worker
        // writes it every turn: what lies beside it, others read for every new flow.
        #[derive(Default)]
        #[repr(align(128))]
        struct Published {
            $($name: AtomicU64,)*
            dropped: [AtomicU64; DropReason::ALL.len()],
        }

        impl Published {
            fn store(&self, counts: &WorkerCounts) {
                $(self.$name.store(counts.$name, Relaxed);)*
                for (published, count) in self.dropped.iter().zip(counts.dropped) {
                    published.store(count, Relaxed);
                }
            }

            fn load(&self) -> WorkerCounts {
                WorkerCounts {
                    $($name: self.$name.load(Relaxed),)*
                    dropped: std::array::from_fn(|reason| self.dropped[reason].load(Relaxed)),
                }
            }
        }
    };
}

worker_counts! {
    /// Packets received.
    received,
    /// Bytes received.
    received_bytes,
    /// Packets queued for transmission to a real server.
    forwarded,
    /// RSTs queued for transmission to clients. The packets that they answer count as dropped.
    resets,
    /// Turns that received at least one packet.
    bursts,
    /// Turns that received nothing.
    empty_polls,
    /// Times the worker slept in poll(2).
    sleeps,
    /// Turns that found the fill ring empty.
    fill_ring_empty,
    /// System calls made to wake the kernel.
    wakeups,
    /// Flows created by a SYN or a UDP packet (or, with `unknown_flow = "schedule"`, any packet).
    flows_created,
    /// Flows that ended: by their timeout, because their server was expired or is gone, or because
    /// a SYN opened a new connection on their ports.
    flows_expired,
    /// Half-open flows that were evicted to make room in a full bucket.
    flows_evicted,
    /// Flows taken over from another worker, because their packets now arrive here.
    flows_adopted,
    /// Flows given up to another worker.
    flows_moved,
    /// Packets that got the consistent choice because the flow table had no room.
    overflowed,
    /// Packets of unknown flows that got the consistent choice because of an earlier overflow.
    overflow_followers,
    /// Updates adopted from the control thread.
    updates,
    /// IPv4 flows in the table now (gauge).
    flows_v4,
    /// IPv6 flows in the table now (gauge).
    flows_v6,
}

/// All counters of one worker.
pub struct Counters {
    published: Published,
    servers: Words,
    pauses: Latency,
}

impl Counters {
    /// Counters at zero.
    pub fn new() -> io::Result<Counters> {
        Ok(Counters {
            published: Published::default(),
            servers: Words::new((SERVERS_MAX + 1) * WORDS_PER_SERVER)?,
            pauses: Latency::default(),
        })
    }

    /// What the worker counted up to its last turn.
    pub fn read(&self) -> WorkerCounts {
        self.published.load()
    }

    /// How long the worker's packets waited for each turn in which it adopted something from the
    /// control thread.
    pub fn pauses(&self) -> &Latency {
        &self.pauses
    }

    /// What the worker counted for one server.
    pub fn server(&self, index: ServerIndex) -> ServerCounts {
        let words = self.server_words(index);
        ServerCounts {
            connections: words[CONNECTIONS].load(Relaxed),
            packets: words[PACKETS].load(Relaxed),
            bytes: words[BYTES].load(Relaxed),
            load: self.load(index),
        }
    }

    /// The flows in the worker's table that go to one server.
    #[inline]
    pub fn load(&self, index: ServerIndex) -> Load {
        let words = self.server_words(index);
        Load {
            active: words[ACTIVE].load(Relaxed) as u32,
            inactive: words[INACTIVE].load(Relaxed) as u32,
        }
    }

    pub(crate) fn publish(&self, counts: &WorkerCounts) {
        self.published.store(counts);
    }

    #[inline]
    pub(crate) fn count_packet(&self, index: ServerIndex, bytes: usize) {
        self.servers().count_packet(index, bytes);
    }

    pub(crate) fn count_connection(&self, index: ServerIndex) {
        add(&self.server_words(index)[CONNECTIONS], 1);
    }

    /// A flow of this server came (`change` 1) or went (`change` -1).
    pub(crate) fn count_flow(&self, index: ServerIndex, active: bool, change: i64) {
        let word = if active { ACTIVE } else { INACTIVE };
        add(&self.server_words(index)[word], change as u64);
    }

    /// The counters of all servers, looked up once a burst.
    #[inline]
    pub(crate) fn servers(&self) -> Servers<'_> {
        let (servers, _) = self.servers.as_chunks();
        Servers(servers.try_into().expect("words for every index that there can be"))
    }

    #[inline]
    fn server_words(&self, index: ServerIndex) -> &[AtomicU64; WORDS_PER_SERVER] {
        &self.servers().0[usize::from(index.0)]
    }
}

/// The counters of all servers, by index: as many as there are indices, so none is out of range.
pub(crate) struct Servers<'a>(&'a [[AtomicU64; WORDS_PER_SERVER]; SERVERS_MAX + 1]);

impl Servers<'_> {
    /// A packet was addressed to the server.
    #[inline]
    pub fn count_packet(&self, index: ServerIndex, bytes: usize) {
        let words = &self.0[usize::from(index.0)];
        add(&words[PACKETS], 1);
        add(&words[BYTES], bytes as u64);
    }
}
