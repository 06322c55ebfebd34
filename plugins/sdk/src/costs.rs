//! The costs of the servers, and which is the least.

use crate::servers::{GROUP, least};
use shunt_abi::{CAPACITY_MAX, Changes, Server};

const GROUPS: usize = CAPACITY_MAX / GROUP;

/// What [`Scheduler::cost`](crate::Scheduler::cost) said of each server, in groups, and the least
/// of each group: when one cost changes, only its group is looked through again.
///
/// All zeros is one that has asked for none.
pub struct Costs {
    /// By slot. Infinite for a server that takes no new flows or costs no number, and from the last
    /// slot to the end of its group. Never NaN.
    keys: [[f64; GROUP]; GROUPS],
    /// The least of each group; infinite for those that are not in use.
    groups: [f64; GROUPS],
    /// The slot with the least of all.
    least: Option<usize>,
    /// Whether all of this is so.
    is_known: bool,
}

impl Costs {
    /// Costs that nobody has asked for.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn new() -> Costs {
        let keys = [[0.0; GROUP]; GROUPS];
        Costs { keys, groups: [0.0; GROUPS], least: None, is_known: false }
    }

    /// Forgets all costs: something has changed that any of them may depend on.
    pub fn forget(&mut self) {
        self.is_known = false;
    }

    /// Asks for the costs of those servers whose connections have changed, and returns the slot
    /// with the least cost, the first of several; `None` if all are infinite.
    #[inline]
    pub fn follow(
        &mut self,
        changes: &Changes,
        servers: &[Server],
        cost: impl Fn(&Server) -> f64,
    ) -> Option<usize> {
        let count = changes.count as usize;
        if !self.is_known || count > servers.len() {
            // More than there are: `CHANGES_ALL`, or some of them twice.
            self.ask_all(servers, cost);
        } else if count > 0 {
            self.ask_some(changes.slots.iter().take(count), servers, cost);
        }
        self.least
    }

    /// Rare enough to be small rather than fast.
    #[cold]
    #[inline(never)]
    fn ask_all(&mut self, servers: &[Server], cost: impl Fn(&Server) -> f64) {
        self.groups = [f64::INFINITY; GROUPS];
        let groups = self.keys.iter_mut().zip(&mut self.groups);
        for ((keys, group), records) in groups.zip(servers.chunks(GROUP)) {
            *keys = [f64::INFINITY; GROUP];
            for (entry, server) in keys.iter_mut().zip(records) {
                *entry = key(server, &cost);
            }
            *group = least(keys, GROUP);
        }
        self.is_known = true;
        self.least = self.find(servers.len());
    }

    #[inline]
    fn ask_some<'a>(
        &mut self,
        slots: impl Iterator<Item = &'a u16>,
        servers: &[Server],
        cost: impl Fn(&Server) -> f64,
    ) {
        // By group, whether any cost in it has changed.
        let mut changed = 0u32;
        for slot in slots.map(|&slot| usize::from(slot)) {
            if let Some(server) = servers.get(slot) {
                let group = slot / GROUP % GROUPS;
                self.keys[group][slot % GROUP] = key(server, &cost);
                changed |= 1 << group;
            }
        }
        while changed != 0 {
            let group = changed.trailing_zeros() as usize % GROUPS;
            self.groups[group] = least(&self.keys[group], GROUP);
            changed &= changed - 1;
        }
        self.least = self.find(servers.len());
    }

    /// The first slot, of so many, that has the least of all costs.
    fn find(&self, slots: usize) -> Option<usize> {
        let least = least(&self.groups, GROUPS);
        if least == f64::INFINITY {
            return None;
        }
        // Bounds that are not known beforehand keep the loops from being unrolled, which would be
        // no faster and a kilobyte longer.
        let group = self.groups.iter().take(slots).position(|&group| group == least)?;
        let place = self.keys.get(group)?.iter().take(slots).position(|&key| key == least)?;
        Some(group * GROUP + place)
    }
}

// A bit for each group.
const _: () = assert!(GROUPS == u32::BITS as usize);

/// What a server's cost counts as.
#[inline]
fn key(server: &Server, cost: impl Fn(&Server) -> f64) -> f64 {
    if !server.takes_new_flows() {
        return f64::INFINITY;
    }
    let cost = cost(server);
    if cost.is_nan() { f64::INFINITY } else { cost }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shunt_abi::CHANGES_ALL;

    /// Servers whose cost is what their index in a list says, and the changes of some.
    fn costs() -> impl Strategy<Value = (Vec<f64>, Vec<Vec<(usize, f64)>>)> {
        let cost = prop_oneof![
            4 => (0..4u8).prop_map(f64::from),
            2 => -1e300..1e300f64,
            1 => prop::sample::select(vec![
                f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, f64::MIN_POSITIVE,
            ]),
        ];
        let changes = prop::collection::vec((0..CAPACITY_MAX, cost.clone()), 0..40);
        (prop::collection::vec(cost, 0..CAPACITY_MAX), prop::collection::vec(changes, 0..8))
    }

    /// A loop over all costs.
    fn first_least(costs: &[f64], takes_none: impl Fn(usize) -> bool) -> Option<usize> {
        let mut least = None;
        for (slot, &cost) in costs.iter().enumerate() {
            let counts = cost < f64::INFINITY && !takes_none(slot);
            if counts && least.is_none_or(|least| cost < costs[least]) {
                least = Some(slot);
            }
        }
        least
    }

    fn changes(slots: &[u16]) -> Changes {
        let mut changes = Changes { count: slots.len() as u32, slots: [0; CAPACITY_MAX] };
        changes.slots[..slots.len()].copy_from_slice(slots);
        changes
    }

    proptest! {
        #[test]
        fn the_first_of_the_least_is_found((mut all, rounds) in costs(), modulus in 2..9usize) {
            let takes_none = |slot: usize| slot.is_multiple_of(modulus);
            // What a server's cost is, its active connections say: they are its slot.
            let servers: Vec<Server> = (0..all.len())
                .map(|slot| Server {
                    weight: u32::from(!takes_none(slot)),
                    active: slot as u32,
                    ..Server::default()
                })
                .collect();
            let mut costs = Costs::new();
            let expected = first_least(&all, takes_none);
            let cost = |server: &Server| all[server.active as usize];
            prop_assert_eq!(costs.follow(&changes(&[]), &servers, cost), expected);
            for round in rounds {
                for &(slot, cost) in round.iter().filter(|(slot, _)| *slot < servers.len()) {
                    all[slot] = cost;
                }
                let slots: Vec<u16> = round.iter().map(|&(slot, _)| slot as u16).collect();
                let expected = first_least(&all, takes_none);
                let cost = |server: &Server| all[server.active as usize];
                prop_assert_eq!(costs.follow(&changes(&slots), &servers, cost), expected);
            }
        }
    }

    #[test]
    fn only_servers_whose_connections_changed_are_asked() {
        let servers = [Server { weight: 1, ..Server::default() }; 100];
        let asked = std::cell::Cell::new(0);
        let cost = |_: &Server| {
            asked.set(asked.get() + 1);
            0.0
        };
        let mut costs = Costs::new();
        let mut asked_for = |list: Changes| {
            asked.set(0);
            assert_eq!(costs.follow(&list, &servers, cost), Some(0));
            asked.get()
        };
        assert_eq!(asked_for(changes(&[])), 100, "at first all");
        assert_eq!(asked_for(changes(&[])), 0);
        assert_eq!(asked_for(changes(&[99, 3])), 2);
        assert_eq!(asked_for(changes(&[100, 1023])), 0, "there are none");
        assert_eq!(asked_for(Changes { count: CHANGES_ALL, ..changes(&[]) }), 100);
        costs.forget();
        asked.set(0);
        costs.follow(&changes(&[5]), &servers, cost);
        assert_eq!(asked.get(), 100);
    }
}
