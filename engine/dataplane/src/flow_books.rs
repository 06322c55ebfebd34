//! The books of a worker: its flows, and what is counted of them. Entries of the table and counts
//! change together, here and nowhere else.

use crate::decision::{Decider, Moment, Select};
use crate::flow_state::FlowState;
use crate::flow_table::{Flow, Place, Room};
use crate::peers::{News, What};
use crate::service_table::ServerIndex;

impl Decider {
    /// The flow at `place` lives, in this state.
    #[inline]
    pub fn note<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: impl Select<KEY, WORDS>,
        place: Place,
        flow: Flow,
        state: FlowState,
        now: Moment,
    ) {
        // An entry just taken over can be ahead of the clock, and never goes back.
        let is_late = flow.was_seen_before(now.ticks);
        if state == flow.state() && !is_late {
            return;
        }
        let seen = if is_late { now.ticks } else { flow.seen() };
        select.of(&self.memory).set(place, Flow::new(flow.server(), state, seen));
        if state.is_active() != flow.state().is_active() {
            self.count_flow(flow.server(), flow.state(), -1);
            self.count_flow(flow.server(), state, 1);
        }
    }

    /// An entry for a new flow with this hash; what has to go for it is counted.
    pub fn make_room<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: impl Select<KEY, WORDS>,
        hash: u64,
        now: Moment,
    ) -> Option<Place> {
        let (hasher, lifetimes) = (self.hasher, &self.lifetimes);
        let expired = |flow: Flow| flow.is_expired(now.ticks, lifetimes);
        match select.of(&self.memory).make_room(hash, expired, |key| hasher.hash(key)) {
            Room::Free(place) => Some(place),
            Room::Evicted(place, flow) => {
                if expired(flow) {
                    self.counts.flows_expired += 1;
                } else {
                    self.counts.flows_evicted += 1;
                }
                self.count_ended::<KEY>(flow);
                Some(place)
            }
            Room::None => None,
        }
    }

    /// Puts a flow into the entry that was found for it.
    pub fn put<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: impl Select<KEY, WORDS>,
        place: Place,
        key: &[u64; KEY],
        hash: u64,
        flow: Flow,
    ) {
        select.of(&self.memory).put(place, key, hash, flow);
        *self.flows_gauge::<KEY>() += 1;
        self.count_flow(flow.server(), flow.state(), 1);
    }

    /// Takes a flow out.
    pub fn end<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: impl Select<KEY, WORDS>,
        place: Place,
        flow: Flow,
    ) {
        let hasher = self.hasher;
        select.of(&self.memory).remove(place, |key| hasher.hash(key));
        self.count_ended::<KEY>(flow);
    }

    /// Another worker has something to tell about the flow with this key.
    pub fn hear<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: impl Select<KEY, WORDS>,
        key: &[u64; KEY],
        news: News,
        now: Moment,
    ) {
        let hash = self.hasher.hash(key);
        let Some((place, flow)) = select.of(&self.memory).find(key, hash) else { return };
        let gives_way = match news.what {
            What::Lives(state) => return self.note(select, place, flow, state, now),
            What::Ended(last) => flow.was_seen_before(last.wrapping_add(1)),
            // The news may be old: the flow may have ended there, or had packets here.
            What::Moved => self.peers.have_better(select, key, hash, flow).unwrap_or(false),
        };
        if gives_way {
            self.peers.note_given_up();
            self.end(select, place, flow);
            self.counts.flows_moved += 1;
        } else {
            self.peers.tell(select, key, hash, News { key: news.key, what: What::Moved });
        }
    }

    fn count_ended<const KEY: usize>(&mut self, flow: Flow) {
        *self.flows_gauge::<KEY>() -= 1;
        self.count_flow(flow.server(), flow.state(), -1);
    }

    fn flows_gauge<const KEY: usize>(&mut self) -> &mut u64 {
        if KEY == 1 { &mut self.counts.flows_v4 } else { &mut self.counts.flows_v6 }
    }

    #[inline(never)]
    fn count_flow(&mut self, index: ServerIndex, state: FlowState, change: i64) {
        self.memory.counters.count_flow(index, state.is_active(), change);
        if let Some(route) = self.table.route(index)
            && let Some(Some(instance)) = self.schedulers.get_mut(usize::from(route.service.0))
        {
            instance.mark_dirty(route.slot);
        }
    }
}
