//! The servers as a scheduler sees them.

use core::ops::Deref;
use shunt_abi::{Server, slot_of_key};

/// Load keys that are compared between two turns of the loop. The engine counts fuel at each turn,
/// and keeps what is live then in memory: with few, long turns and one vector live that is cheap.
pub(crate) const GROUP: usize = 32;
/// Of them, keys that are compared side by side: eight vectors of two, enough to hide how long
/// each comparison takes behind the others.
const LANES: usize = 16;

/// The servers of the virtual service, by slot: a slice of [`Server`] that knows a few things
/// beyond what slices know.
#[derive(Clone, Copy)]
pub struct Servers<'a> {
    records: &'a [Server],
    /// As long as the plugin's capacity; empty unless [`Needs::load`](crate::Needs::load).
    keys: &'a [f64],
    /// `None` unless [`Needs::cost`](crate::Needs::cost).
    least_cost: Option<Option<usize>>,
}

impl Deref for Servers<'_> {
    type Target = [Server];

    #[inline]
    fn deref(&self) -> &[Server] {
        self.records
    }
}

impl<'a> Servers<'a> {
    #[doc(hidden)]
    #[inline]
    pub fn new(records: &'a [Server], keys: &'a [f64]) -> Servers<'a> {
        Servers { records, keys, least_cost: None }
    }

    #[doc(hidden)]
    #[inline]
    pub fn with_least_cost(self, slot: Option<usize>) -> Servers<'a> {
        Servers { least_cost: Some(slot), ..self }
    }

    /// The first slot from `from` on, and then from 0 on, whose server takes new flows. `None`
    /// when there is none. A `from` beyond the last slot counts as 0.
    #[inline]
    pub fn next_available(self, from: usize) -> Option<usize> {
        self.next_that(from, Server::takes_new_flows)
    }

    /// The first slot from `from` on, and then from 0 on, whose server `fits`. `None` when there
    /// is none. A `from` beyond the last slot counts as 0.
    #[inline]
    pub fn next_that(self, from: usize, fits: impl Fn(&Server) -> bool) -> Option<usize> {
        let from = if from < self.len() { from } else { 0 };
        let (before, after) = self.records.split_at_checked(from)?;
        match after.iter().position(&fits) {
            Some(steps) => Some(from + steps),
            None => before.iter().position(&fits),
        }
    }

    /// The slot where worker number `worker` begins its rounds: workers begin at different
    /// servers as long as there are enough that take new flows. `None` when none does.
    pub fn starting_slot(self, worker: usize) -> Option<usize> {
        let available = self.iter().filter(|server| server.takes_new_flows()).count();
        let skipped = worker.checked_rem(available)?;
        self.records
            .iter()
            .enumerate()
            .filter(|(_, server)| server.takes_new_flows())
            .map(|(slot, _)| slot)
            .nth(skipped)
    }

    /// The slot of the server with the least connections of those that take new flows, an active
    /// one weighing as much as 256 inactive ones; the first of several. `None` when no server
    /// takes new flows, or without [`Needs::load`](crate::Needs::load).
    ///
    /// The host keeps a number for each server whose order this is, so that the search is one
    /// pass of vector instructions, whatever features the plugin is built for: 0.1 µs over 1024
    /// servers, of which a loop over the records takes 3.
    #[inline]
    pub fn least_connections(self) -> Option<usize> {
        debug_assert!(!self.keys.is_empty(), "say `const NEEDS: Needs = Needs::LOAD`");
        slot_of_key(least(self.keys, self.records.len()))
    }

    /// The slot of the server with the least [`cost`](crate::Scheduler::cost) of those that take
    /// new flows; the first of several. `None` when there is none whose cost is less than infinite,
    /// or without [`Needs::cost`](crate::Needs::cost). It is known in
    /// [`choose`](crate::Scheduler::choose) only; elsewhere it is `None`.
    ///
    /// Costs are asked for when connections have changed, and kept in an order from which the least
    /// can be read: no loop over the servers.
    #[inline]
    pub fn least_cost(self) -> Option<usize> {
        debug_assert!(self.least_cost.is_some(), "say `const NEEDS: Needs = Needs::COST`");
        self.least_cost.flatten()
    }
}

/// The least of the first `count` keys. Reads up to [`GROUP`] - 1 more, which are infinite.
#[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128"))]
pub(crate) fn least(keys: &[f64], count: usize) -> f64 {
    let (groups, _) = keys.as_chunks::<GROUP>();
    let mut least = [f64::INFINITY; 2];
    for group in groups.iter().take(count.div_ceil(GROUP)) {
        let (rows, _) = group.as_chunks::<LANES>();
        let mut row = [f64::INFINITY; LANES];
        for keys in rows {
            for lane in 0..LANES {
                row[lane] = smaller(row[lane], keys[lane]);
            }
        }
        let mut half = LANES / 2;
        while half >= 2 {
            for lane in 0..half {
                row[lane] = smaller(row[lane], row[lane + half]);
            }
            half /= 2;
        }
        least = [smaller(least[0], row[0]), smaller(least[1], row[1])];
    }
    smaller(least[0], least[1])
}

/// The smaller number, as `f64x2.pmin` and `minpd` define it, that is in one instruction: unlike
/// `f64::min`, which has rules for numbers that do not occur here.
#[inline]
fn smaller(one: f64, other: f64) -> f64 {
    if one < other { one } else { other }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(weights: &[u32]) -> Vec<Server> {
        weights.iter().map(|&weight| Server { weight, ..Server::default() }).collect()
    }

    #[test]
    fn the_search_goes_around_once() {
        let records = records(&[1, 0, 1, 0]);
        let servers = Servers::new(&records, &[]);
        let found: Vec<_> = (0..6).map(|from| servers.next_available(from)).collect();
        assert_eq!(found, [0, 2, 2, 0, 0, 0].map(Some));
        assert_eq!(servers.next_that(1, |server| server.weight > 1), None);
        assert_eq!(Servers::new(&[], &[]).next_available(0), None);
    }

    #[test]
    fn workers_begin_at_the_servers_that_take_new_flows() {
        let records = records(&[0, 1, 0, 5]);
        let servers = Servers::new(&records, &[]);
        let slots: Vec<_> = (0..4).map(|worker| servers.starting_slot(worker)).collect();
        assert_eq!(slots, [1, 3, 1, 3].map(Some));
        assert_eq!(Servers::new(&records[..1], &[]).starting_slot(7), None);
    }

    #[test]
    fn the_least_key_is_found_wherever_it_is() {
        for count in [1, 15, 16, 17, 31, 32, 33, 64, 1000, 1024] {
            let records = records(&vec![1; count]);
            for slot in 0..count {
                let mut keys = vec![f64::INFINITY; 1024];
                for (other, key) in keys.iter_mut().enumerate().take(count) {
                    let active = if other == slot { 3 } else { 4 };
                    *key = Server { active, ..records[0] }.load_key(other);
                }
                assert_eq!(Servers::new(&records, &keys).least_connections(), Some(slot));
            }
        }
    }

    #[test]
    #[should_panic(expected = "const NEEDS: Needs = Needs::COST")]
    fn costs_that_were_not_asked_for() {
        Servers::new(&records(&[1]), &[]).least_cost();
    }

    #[test]
    #[should_panic(expected = "const NEEDS: Needs = Needs::LOAD")]
    fn loads_that_were_not_asked_for() {
        let records = records(&[1]);
        Servers::new(&records, &[]).least_connections();
    }
}
