//! The table of 256 places that `sh` and `dh` look a hash up in.

use crate::is_nobody;
use shunt_sdk::Server;

/// Places of the table (`IP_VS_SH_TAB_SIZE` and `IP_VS_DH_TAB_SIZE` in the kernel).
pub const PLACES: usize = 256;
/// The most servers there can be.
const SERVERS_MAX: usize = 1024;

/// Which slot is in which place.
pub struct Places {
    /// Meaningless unless `filled`.
    slots: [u16; PLACES],
    filled: bool,
    /// Room to sort the servers in: their addresses as numbers by slot, and their slots.
    keys: [Key; SERVERS_MAX],
    order: [u16; SERVERS_MAX],
}

/// An address as a number, in two halves: what the engine compares in two instructions.
type Key = (u64, u64);

impl Places {
    /// A table that nobody is in.
    #[inline]
    pub const fn new() -> Places {
        Places {
            slots: [0; PLACES],
            filled: false,
            keys: [(0, 0); SERVERS_MAX],
            order: [0; SERVERS_MAX],
        }
    }

    /// Gives all places out, to the servers in the order of their addresses, again and again.
    /// Each takes `places_of` it at a time, at least one: a server that takes no new flows keeps
    /// a place, so that it is missed there and nowhere else.
    pub fn fill(&mut self, servers: &[Server], places_of: impl Fn(&Server) -> u32) {
        let mut count = 0;
        for (slot, server) in servers.iter().enumerate().take(SERVERS_MAX) {
            if !is_nobody(server) {
                self.keys[slot] = key(&server.address);
                self.order[count] = slot as u16;
                count += 1;
            }
        }
        let order = &mut self.order[..count];
        sort(order, &self.keys);
        self.filled = count > 0;
        let mut turn = order.iter().cycle();
        let mut taken = self.slots.iter_mut();
        while let (Some(&slot), true) = (turn.next(), taken.len() > 0) {
            let places = places_of(&servers[usize::from(slot)]).max(1) as usize;
            taken.by_ref().take(places).for_each(|place| *place = slot);
        }
    }

    /// The slot in a place; places beyond the last begin anew. `None` when there is no server.
    #[inline]
    pub fn slot(&self, place: u32) -> Option<usize> {
        self.filled.then(|| usize::from(self.slots[place as usize % PLACES]))
    }
}

impl Default for Places {
    fn default() -> Places {
        Places::new()
    }
}

fn key(address: &[u8; 16]) -> Key {
    let (halves, _) = address.as_chunks::<8>();
    (u64::from_be_bytes(halves[0]), u64::from_be_bytes(halves[1]))
}

/// Sorts slots by their keys, which no two have (Shell 1959). A sort of the standard library is
/// several times as many bytes, which every instance would hold.
fn sort(slots: &mut [u16], keys: &[Key; SERVERS_MAX]) {
    let key = |slot: u16| keys[usize::from(slot) % SERVERS_MAX];
    let mut gap = slots.len();
    while gap > 1 {
        gap = (gap * 4 / 9).max(1);
        for end in gap..slots.len() {
            let slot = slots[end];
            let mut at = end;
            while at >= gap && key(slots[at - gap]) > key(slot) {
                slots[at] = slots[at - gap];
                at -= gap;
            }
            slots[at] = slot;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn server(host: u8, weight: u32) -> Server {
        Server { weight, address: [host; 16], ..Server::default() }
    }

    fn counts(places: &Places, slots: usize) -> Vec<usize> {
        let mut counts = vec![0; slots];
        for place in 0..PLACES as u32 {
            counts[places.slot(place).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn nobody_is_found_without_servers() {
        let mut places = Places::new();
        assert_eq!(places.slot(0), None);
        places.fill(&[server(1, 1)], |server| server.weight);
        assert_eq!(places.slot(300), Some(0));
        places.fill(&[Server::default(); 3], |server| server.weight);
        assert_eq!(places.slot(7), None);
    }

    #[test]
    fn servers_take_their_places_in_the_order_of_their_addresses() {
        let mut places = Places::new();
        let servers = [server(9, 3), Server::default(), server(2, 1), server(5, 0)];
        places.fill(&servers, |server| server.weight);
        let first: Vec<_> = (0..8).map(|place| places.slot(place).unwrap()).collect();
        assert_eq!(first, [2, 3, 0, 0, 0, 2, 3, 0]);
    }

    /// The kernel takes a weight for a number of places, whatever the others are.
    #[test]
    fn a_great_weight_takes_all_places() {
        let mut places = Places::new();
        places.fill(&[server(1, 65_535), server(2, 65_535)], |server| server.weight);
        assert_eq!(counts(&places, 2), [256, 0]);
        places.fill(&[server(1, 100); 1], |server| server.weight);
        assert_eq!(counts(&places, 1), [256]);
        places.fill(&[server(1, 100), server(2, 100), server(3, 100)], |server| server.weight);
        assert_eq!(counts(&places, 3), [100, 100, 56]);
    }

    proptest! {
        #[test]
        fn slots_are_sorted(addresses in prop::collection::hash_set(any::<[u8; 16]>(), 0..300)) {
            let mut keys = [(0, 0); SERVERS_MAX];
            let addresses: Vec<_> = addresses.into_iter().collect();
            for (key, address) in keys.iter_mut().zip(&addresses) {
                *key = super::key(address);
            }
            let mut slots: Vec<u16> = (0..addresses.len() as u16).collect();
            sort(&mut slots, &keys);
            let sorted: Vec<_> = slots.iter().map(|&slot| addresses[usize::from(slot)]).collect();
            prop_assert!(sorted.is_sorted());
            slots.sort();
            prop_assert!(slots.into_iter().eq(0..addresses.len() as u16));
        }
    }
}
