//! The end of flows: a sweep that never stops the worker.
//!
//! Entries are looked at bucket by bucket, so many in a turn that the whole table is seen every
//! [`PASS`] milliseconds. A look-up does not rely on it: it recognises an expired flow itself. The
//! sweep keeps the counts true and the table clear.

use crate::decision::{Decider, Moment, Select};
use crate::flow_state::{TICK_SHIFT, Ticks};
use crate::flow_table::FlowTable;
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
pub(crate) struct Sweep<S, const KEY: usize, const WORDS: usize> {
    select: S,
    position: usize,
    /// Buckets that are due, times PASS: no division, and no remainder lost.
    due: u64,
    last: Millis,
    /// Buckets left of a pass outside the rhythm.
    hurry: usize,
}

impl<S: Select<KEY, WORDS>, const KEY: usize, const WORDS: usize> Sweep<S, KEY, WORDS> {
    pub fn new(select: S) -> Self {
        Sweep { select, position: 0, due: 0, last: 0, hurry: 0 }
    }

    /// Starts one pass at once, because a server was expired.
    pub fn hurry(&mut self, decider: &Decider) {
        self.hurry = self.buckets(decider);
    }

    fn buckets(&self, decider: &Decider) -> usize {
        self.select.of(&decider.memory).bucket_count()
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
        // Held by itself, since the decider changes what it counts meanwhile.
        let memory = decider.memory.clone();
        let table = self.select.of(&memory);
        for _ in 0..limit {
            let in_rhythm = self.due >= PASS;
            if in_rhythm {
                self.due -= PASS;
            } else if self.hurry == 0 {
                break;
            }
            self.hurry = self.hurry.saturating_sub(1);
            self.visit_bucket(table, decider, now, in_rhythm);
        }
    }

    /// `in_rhythm`: the visit counts as time passed for the memory of an overflow.
    fn visit_bucket(
        &mut self,
        table: &FlowTable<KEY, WORDS>,
        decider: &mut Decider,
        now: Moment,
        in_rhythm: bool,
    ) {
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
                    .route(flow.server())
                    .is_none_or(|route| matches!(route.state, None | Some(ServerState::Expired)));
            if expired {
                decider.counts.flows_expired += 1;
                decider.end(self.select, place, flow);
            }
        }
        self.position += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::V4;
    use crate::flow_key::{FlowHasher, Seeds, key_v4};
    use crate::flow_state::FlowState;
    use crate::flow_table::{Flow, Room, tests::LOOKS};
    use crate::peers::Peers;
    use crate::worker_memory::{Capacity, WorkerMemory};
    use crate::{ServerIndex, ServiceIndex};
    use std::sync::Arc;

    const FLOWS: u32 = 1_000_000;

    /// A decider whose table holds a million flows that end after 60 s.
    fn full() -> Decider {
        let memory = WorkerMemory::new(Capacity { flows_v4: FLOWS as usize, flows_v6: 0 }).unwrap();
        let hasher = FlowHasher::new(Seeds([3, 4]));
        let mut decider = Decider::new(Arc::new(memory), Peers::default(), hasher);
        let flow = Flow::new(ServerIndex(0), FlowState::SynRecv, 0);
        for number in 0..FLOWS {
            let key = key_v4(number.to_be_bytes(), [0, 7], ServiceIndex(0).into());
            let (hash, table) = (hasher.hash(&key), &decider.memory.flows_v4);
            let room = table.make_room(hash, |_| false, |key| hasher.hash(key));
            let Room::Free(place) = room else { panic!("no room") };
            table.put(place, &key, hash, flow);
        }
        decider.counts.flows_v4 = FLOWS.into();
        decider
    }

    /// The most looks that a step over so many buckets takes if every entry ends: to see which
    /// there are and their values, to fade an overflow, and to take all out.
    fn looks_max(buckets: usize) -> usize {
        let remove = 2 * crate::flow_table::PROBE_MAX + 1;
        buckets * (4 * (2 + remove) + 2)
    }

    #[test]
    fn a_million_flows_that_end_at_once_end_step_by_step() {
        for (idle, buckets) in [(false, BUCKETS_BUSY), (true, BUCKETS_IDLE)] {
            let mut decider = full();
            let mut sweep = Sweep::new(V4);
            let mut now = 61_000;
            let mut steps = 0;
            while decider.counts.flows_v4 != 0 {
                let (ended, before) = (decider.counts.flows_expired, LOOKS.get());
                sweep.step(&mut decider, Moment::new(now), idle);
                let ended = decider.counts.flows_expired - ended;
                assert!(ended <= 4 * buckets as u64, "{ended} flows in a step");
                assert!(LOOKS.get() - before <= looks_max(buckets));
                now += 1;
                steps += 1;
                assert!(steps < PASS, "a turn a millisecond is enough");
            }
            assert_eq!(decider.counts.flows_expired, FLOWS.into());
        }
    }

    #[test]
    fn an_overflow_fades_once_a_pass_and_at_most_as_often_as_said() {
        const MARK: u32 = 4_000;
        const PASSES: Millis = 10;
        let memory = WorkerMemory::new(Capacity { flows_v4: 500, flows_v6: 0 }).unwrap();
        let hasher = FlowHasher::new(Seeds([3, 4]));
        let mut decider = Decider::new(Arc::new(memory), Peers::default(), hasher);
        let memory = decider.memory.clone();
        let table = &memory.flows_v4;
        for start in (0..table.bucket_count()).step_by(9) {
            for bucket in 0..table.bucket_count() {
                table.set_overflow_mark(bucket, MARK);
            }
            let mut sweep = Sweep::new(V4);
            sweep.position = start;
            // A whole pass is due at first, as after a long sleep, and passes out of the rhythm
            // come in between.
            for now in (PASS..=PASS * (PASSES + 1)).step_by(40) {
                if now % 10_000 == 0 {
                    sweep.hurry(&decider);
                }
                sweep.step(&mut decider, Moment::new(now), now % 3 == 0);
            }
            let most = sweeps_in(((PASSES * PASS) >> TICK_SHIFT) as Ticks);
            for bucket in 0..table.bucket_count() {
                let fades = MARK - table.overflow_mark(bucket);
                assert!((PASSES as u32..=most).contains(&fades), "{fades}, {most} at most");
            }
        }
    }
}
