//! Maglev's lookup table: which slot is in which place.

use crate::hash::{below, identity, next};
use core::num::NonZeroU16;

/// Sizes that a table can have: the kernel's primes up to what can be built within the fuel of an
/// update.
pub const SIZES: [usize; 5] = [251, 509, 1021, 2039, 4093];
/// The size of a table unless parameters say otherwise (`CONFIG_IP_VS_MH_TAB_INDEX` 12).
const SIZE_DEFAULT: usize = 4093;
/// Room for the greatest table, and for an index of so many bits.
const ROOM: usize = SIZES[SIZES.len() - 1].next_power_of_two();
/// The most servers there can be.
const SERVERS_MAX: usize = 1024;
/// The bits of a slot.
const SLOT_MASK: u64 = SERVERS_MAX as u64 - 1;
/// A place that nobody has.
const NOBODY: u16 = 0;
/// With so few places empty, the next one in a server's order is computed rather than searched
/// for: a search takes size / empty steps then, a computation a step for each empty place.
const FEW: usize = 64;

/// The table, and what it was built of.
///
/// A new one is all zeros, so that the compiler makes it where it stays: on the way there it would
/// overflow a plugin's stack.
pub struct Lookup {
    /// By place: the slot there and 1, or [`NOBODY`].
    places: [u16; ROOM],
    /// Unless it is the default.
    size: Option<NonZeroU16>,
    /// By slot: the server's identity and its last weight that was not 0. A weight of 0: no share.
    members: [Member; SERVERS_MAX],
    /// Slots in use.
    slots: usize,
    /// Room to sort the servers in: the identity of each, with its slot for the lowest bits.
    order: [u64; SERVERS_MAX],
    /// Room for those whose turn it is to take a place.
    takers: [Taker; SERVERS_MAX],
}

/// Without padding, which would be no zeros.
#[derive(Clone, Copy, Default)]
struct Member {
    identity: u64,
    weight: u64,
}

/// A server that takes places. All of them are below 2^16; the engine reads whole words faster.
#[derive(Clone, Copy)]
struct Taker {
    slot: u32,
    /// The place that is next in its order of all places.
    place: u32,
    /// From one place of its order to the next.
    skip: u32,
    /// Places that it has still to take.
    share: u32,
}

impl Lookup {
    /// A table of the default size that nobody is in.
    #[inline]
    pub fn new() -> Lookup {
        Lookup {
            places: [NOBODY; ROOM],
            size: None,
            members: [Member { identity: 0, weight: 0 }; SERVERS_MAX],
            slots: 0,
            order: [0; SERVERS_MAX],
            takers: [Taker { slot: 0, place: 0, skip: 0, share: 0 }; SERVERS_MAX],
        }
    }

    /// Gives the table one of [`SIZES`], before there are servers.
    pub fn resize(&mut self, size: usize) {
        self.size = NonZeroU16::new(size as u16);
        self.build();
    }

    /// Places of the table.
    #[inline]
    pub fn size(&self) -> usize {
        self.size.map_or(SIZE_DEFAULT, |size| usize::from(size.get()))
    }

    /// The slot in a place, if anybody is there.
    #[inline]
    pub fn slot(&self, place: usize) -> Option<usize> {
        let entry = usize::from(*self.places.get(place)?);
        entry.checked_sub(1)
    }

    /// The servers are now these, by slot: address and weight. The table is built anew if they
    /// make a difference: a weight of 0 makes none.
    pub fn servers_changed<'a>(&mut self, servers: impl Iterator<Item = (&'a [u8; 16], u32)>) {
        let (mut slot, mut differs) = (0, false);
        for (address, weight) in servers.take(SERVERS_MAX) {
            let weight = u64::from(weight);
            let member = &mut self.members[slot];
            let identity = identity(address);
            if member.identity != identity {
                differs |= member.weight != 0;
                *member = Member { identity, weight: 0 };
            }
            if weight != 0 && member.weight != weight {
                differs = true;
                member.weight = weight;
            }
            slot += 1;
        }
        for gone in &mut self.members[slot..self.slots.max(slot)] {
            differs |= gone.weight != 0;
            *gone = Member::default();
        }
        self.slots = slot;
        if differs {
            self.build();
        }
    }

    /// Has the servers take a place each in turn, the first in their own order that is empty,
    /// until each has its share.
    fn build(&mut self) {
        let mut taking = self.line_up();
        let size = self.size();
        let Lookup { places, takers, .. } = self;
        places[..size].fill(NOBODY);
        let mut empty = size;
        let mut last = [0; FEW];
        while taking > 0 {
            let mut finished = false;
            for taker in &mut takers[..taking] {
                if empty > FEW {
                    taker.search(places, size as u32);
                } else {
                    if empty == FEW {
                        list_empty(&places[..size], &mut last);
                    }
                    taker.compute(&mut last[..empty], size as u32);
                }
                places[taker.place as usize % ROOM] = taker.slot as u16 + 1;
                empty -= 1;
                if empty == 0 {
                    return;
                }
                taker.share -= 1;
                finished |= taker.share == 0;
            }
            if finished {
                taking = keep_unfinished(&mut takers[..taking]);
            }
        }
    }

    /// Lines the servers up in the order of their identities, with the places they shall have:
    /// each has one, and of the others its weight's part. Returns how many they are.
    fn line_up(&mut self) -> usize {
        let size = self.size();
        let Lookup { members, slots, order, takers, .. } = self;
        let count = sort(&members[..*slots], order);
        let order = &order[..count];
        let total: u64 = members[..*slots].iter().map(|member| member.weight).sum();
        let others = size.saturating_sub(count) as u64;
        let (mut weights, mut given) = (0, 0);
        for (taker, &key) in takers.iter_mut().zip(order) {
            taker.slot = (key & SLOT_MASK) as u32;
            let member = &members[taker.slot as usize];
            weights += member.weight;
            let due = others * weights / total;
            taker.share = (1 + due - given) as u32;
            given = due;
            let (place, skip) = (next(member.identity, 1), next(member.identity, 2));
            taker.place = below(place, size) as u32;
            taker.skip = below(skip, size - 1) as u32 + 1;
        }
        count
    }
}

impl Default for Lookup {
    fn default() -> Lookup {
        Lookup::new()
    }
}

impl Taker {
    /// Goes on in its order of places to one that is empty. There must be one.
    #[inline]
    fn search(&mut self, places: &[u16; ROOM], size: u32) {
        let mut place = self.place;
        while places[place as usize % ROOM] != NOBODY {
            place += self.skip;
            place = if place < size { place } else { place - size };
        }
        self.place = place;
    }

    /// Goes on to the empty place that [`Taker::search`] would find, and takes it off this list of
    /// all that are empty.
    fn compute(&mut self, empty: &mut [u16], size: u32) {
        let inverse = inverse(self.skip, size);
        let (mut nearest, mut least) = (0, u32::MAX);
        for (at, &place) in empty.iter().enumerate() {
            let distance = u32::from(place) + size - self.place;
            let steps = distance * inverse % size;
            if steps < least {
                (nearest, least) = (at, steps);
            }
        }
        self.place = u32::from(empty[nearest]);
        empty[nearest] = empty[empty.len() - 1];
    }
}

/// Moves those up that have still places to take. Returns how many they are.
fn keep_unfinished(takers: &mut [Taker]) -> usize {
    let mut kept = 0;
    for at in 0..takers.len() {
        if takers[at].share > 0 {
            takers[kept] = takers[at];
            kept += 1;
        }
    }
    kept
}

/// Writes down which places are empty: as many as `empty` has room for.
fn list_empty(places: &[u16], empty: &mut [u16]) {
    let all = (0u16..).zip(places).filter(|&(_, &entry)| entry == NOBODY);
    for (empty, (place, _)) in empty.iter_mut().zip(all) {
        *empty = place;
    }
}

/// What times `number` leaves 1, modulo a prime: `number` to the power of two less (Fermat).
fn inverse(number: u32, prime: u32) -> u32 {
    let (mut power, mut exponent, mut product) = (number, prime - 2, 1);
    while exponent > 0 {
        if exponent & 1 == 1 {
            product = product * power % prime;
        }
        power = power * power % prime;
        exponent >>= 1;
    }
    product
}

/// Lists those who have a weight in the order of their identities, as numbers whose lowest bits are
/// the slot. Returns how many they are.
///
/// Identities are hashes: by their highest bits, nearly everyone gets a place of its own.
fn sort(members: &[Member], order: &mut [u64; SERVERS_MAX]) -> usize {
    let mut places = [0u16; SERVERS_MAX];
    let first_bits = |member: &Member| (member.identity >> (64 - SERVERS_MAX.ilog2())) as usize;
    for member in members.iter().filter(|member| member.weight != 0) {
        places[first_bits(member)] += 1;
    }
    let mut count = 0;
    for place in &mut places {
        let before = count;
        count += *place;
        *place = before;
    }
    for (slot, member) in members.iter().enumerate().filter(|(_, member)| member.weight != 0) {
        let place = &mut places[first_bits(member)];
        order[usize::from(*place) % SERVERS_MAX] = member.identity & !SLOT_MASK | slot as u64;
        *place += 1;
    }
    let order = &mut order[..usize::from(count)];
    for end in 1..order.len() {
        let number = order[end];
        let mut at = end;
        while at > 0 && order[at - 1] > number {
            order[at] = order[at - 1];
            at -= 1;
        }
        order[at] = number;
    }
    order.len()
}
