//! The end of flows: a sweep that never stops the worker.
//!
//! Entries are looked at bucket by bucket, so many in a turn that the whole table is seen every
//! [`PASS`] milliseconds. A look-up does not rely on it: it recognises an expired flow itself. The
//! sweep keeps the counts true and the table clear.

use crate::decision::{Decider, Moment, Select};
use crate::flow_state::{TICK_SHIFT, Ticks};
use crate::service_table::ServerState;
use crate::worker_memory::Millis;

/// Milliseconds in which every entry is looked at once.
const PASS: Millis = 16_000;
/// Buckets looked at in a turn that received packets.
const BUCKETS_BUSY: usize = 64;
/// Buckets looked at in a turn that received none.
const BUCKETS_IDLE: usize = 4096;

/// The most sweeps that can look at one bucket within this time: one for each pass, one because
/// the first may come at once, and one that was due before.
pub(crate) fn sweeps_in(time: Ticks) -> u32 {
    (u64::from(time) << TICK_SHIFT).div_ceil(PASS) as u32 + 2
}

/// The sweep through the table of one address family.
pub(crate) struct Sweep<const KEY: usize, const WORDS: usize> {
    select: Select<KEY, WORDS>,
    position: usize,
    /// Buckets that are due, times PASS: no division, and no remainder lost.
    due: u64,
    last: Millis,
    /// Buckets left of a pass outside the rhythm.
    hurry: usize,
}

impl<const KEY: usize, const WORDS: usize> Sweep<KEY, WORDS> {
    pub fn new(select: Select<KEY, WORDS>) -> Self {
        Sweep { select, position: 0, due: 0, last: 0, hurry: 0 }
    }

    /// Starts one pass at once, because a server was expired.
    pub fn hurry(&mut self, decider: &Decider) {
        self.hurry = self.buckets(decider);
    }

    fn buckets(&self, decider: &Decider) -> usize {
        (self.select)(&decider.memory).bucket_count()
    }

    /// Looks at the buckets that are due, at most `BUCKETS_BUSY` or `BUCKETS_IDLE` of them.
    #[inline]
    pub fn step(&mut self, decider: &mut Decider, now: Moment, idle: bool) {
        if self.last != now.millis {
            let buckets = self.buckets(decider) as u64;
            let elapsed = now.millis.saturating_sub(self.last).min(PASS);
            self.due = (self.due + buckets * elapsed).min(buckets * PASS);
            self.last = now.millis;
        }
        if self.due < PASS && self.hurry == 0 {
            return;
        }
        self.visit(decider, now, if idle { BUCKETS_IDLE } else { BUCKETS_BUSY });
    }

    fn visit(&mut self, decider: &mut Decider, now: Moment, limit: usize) {
        for _ in 0..limit {
            let in_rhythm = self.due >= PASS;
            if in_rhythm {
                self.due -= PASS;
            } else if self.hurry == 0 {
                break;
            }
            self.hurry = self.hurry.saturating_sub(1);
            self.visit_bucket(decider, now, in_rhythm);
        }
    }

    /// `in_rhythm`: the visit counts as time passed for the memory of an overflow.
    fn visit_bucket(&mut self, decider: &mut Decider, now: Moment, in_rhythm: bool) {
        let memory = decider.memory.clone();
        let table = (self.select)(&memory);
        if self.position >= table.bucket_count() {
            self.position = 0;
        }
        if in_rhythm {
            table.fade_overflow(self.position);
        }
        for (place, flow) in table.entries(self.position) {
            let expired = flow.is_expired(now.ticks, &decider.lifetimes)
                || decider
                    .table
                    .server(flow.server())
                    .is_none_or(|server| server.state == ServerState::Expired);
            if expired {
                decider.counts.flows_expired += 1;
                decider.end(self.select, place, flow);
            }
        }
        self.position += 1;
    }
}
