//! The records that cross the WebAssembly boundary between shunt and its scheduler plugins.
//!
//! ABI version 1. A plugin is a core module that imports nothing but what [`import`] names. It lays
//! a [`Table`] and what the table points at out in its own linear memory; the host keeps the
//! contents current and calls the plugin's exports. plugins/ABI.md describes the whole
//! contract; the assertions below keep it true. All numbers are little-endian, as WebAssembly's
//! are.

#![no_std]

use core::mem::{align_of, offset_of, size_of};

/// The version of this contract.
pub const ABI_VERSION: u32 = 1;

/// The most slots that a table may have.
pub const CAPACITY_MAX: usize = 1024;

/// What `shunt_schedule` answers when it declines: the flow gets the native fallback, and nothing
/// has failed. Any other answer that is no slot is a failure.
pub const NO_SERVER: i32 = -1;

/// [`Changes::count`] when any server's connections may have changed.
pub const CHANGES_ALL: u32 = u32::MAX;

/// The most bytes that [`Table::params_capacity`] may give to parameters.
pub const PARAMS_MAX: usize = 4096;

/// The most bytes in a parameter's key, which are ASCII letters, digits, `_` and `-`.
pub const PARAM_KEY_MAX: usize = 64;

/// The most bytes in a parameter's value, which has no control characters.
pub const PARAM_VALUE_MAX: usize = 256;

/// Bytes of a line after which `log` cuts it.
pub const LOG_LINE_MAX: usize = 200;

/// Bit of [`Table::wants`]: [`Server::active`] and [`Server::inactive`] are kept current.
pub const WANTS_LOAD: u32 = 1;

/// Names of the exports.
pub mod export {
    /// The linear memory.
    pub const MEMORY: &str = "memory";
    /// `() -> i32`: [`ABI_VERSION`](crate::ABI_VERSION).
    pub const ABI_VERSION: &str = "shunt_abi_version";
    /// `(worker: i32, workers: i32, seed: i64) -> i32`: the address of the
    /// [`Table`](crate::Table).
    pub const INIT: &str = "shunt_init";
    /// `() -> i32`: the slot of the server that the next flow goes to.
    pub const SCHEDULE: &str = "shunt_schedule";
    /// `()`, optional: the servers or their weights have changed.
    pub const UPDATE: &str = "shunt_update";
    /// `(length: i32) -> i32`, optional: so many bytes of parameters are at
    /// [`Table::params`](crate::Table::params), a line `key=value\n` each, sorted by key. Answers 0
    /// when it accepts them, the length of a sentence that it has put in their place when it
    /// refuses them, or a negative number when it refuses them without a word.
    pub const CONFIGURE: &str = "shunt_configure";
    /// `() -> i32`, optional: writes what its successor should know to
    /// [`Table::state`](crate::Table::state), first of all the u32 version of its format, and
    /// answers how many bytes these are; 0 or less: nothing.
    pub const SAVE: &str = "shunt_save";
    /// `(length: i32) -> i32`, optional: so many bytes that its predecessor saved are at
    /// [`Table::state`](crate::Table::state). Answers 0 when it has taken them over; otherwise it
    /// is as if it had not been asked.
    pub const RESTORE: &str = "shunt_restore";
}

/// Names of the functions that a plugin may import.
pub mod import {
    /// The module that all of them are in.
    pub const MODULE: &str = "shunt";
    /// `(address: i32, length: i32)`: a line of UTF-8 for the director's log.
    pub const LOG: &str = "log";
    /// `() -> i64`: milliseconds of the director's clock, which never goes back, as of this turn
    /// of the worker. 0 on the control thread.
    pub const NOW_MS: &str = "now_ms";
    /// `() -> i64`: the next number of a generator that is seeded for this instance.
    pub const RANDOM: &str = "random";
}

/// Name of the custom section that holds the plugin's version, as its author counts them: 1 to
/// 64 printable ASCII characters. Optional.
pub const VERSION_SECTION: &str = "shunt.version";

/// What the plugin and the host tell each other. Before `shunt_init` returns, the plugin sets the
/// fields up to `flow` and those from `params` on, where 0 means that it does without, and the host
/// reads them once, then. The fields between are the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Table {
    /// [`ABI_VERSION`].
    pub abi_version: u32,
    /// [`WANTS_LOAD`] or 0. The other bits are 0.
    pub wants: u32,
    /// The most slots that the plugin can use: 1 to [`CAPACITY_MAX`].
    pub capacity: u32,
    /// Address of `[Server; capacity]`.
    pub servers: u32,
    /// Address of `[f64; capacity]`, the load keys ([`Server::load_key`]; infinite from `count`
    /// on); 0 if they are not wanted.
    pub keys: u32,
    /// Address of a [`Flow`]; 0 if it is not wanted.
    pub flow: u32,
    /// Slots in use.
    pub count: u32,
    /// Grows by one with every change of the servers or their weights.
    pub generation: u32,
    /// Number of the worker that this instance is for, from 0.
    pub worker: u32,
    /// Workers that serve the same virtual service.
    pub workers: u32,
    /// Address of `params_capacity` bytes for parameters; 0 if the plugin takes none.
    pub params: u32,
    /// 1 to [`PARAMS_MAX`] with `params`.
    pub params_capacity: u32,
    /// Address of `state_capacity` bytes in which state is handed over; 0 if there is none.
    pub state: u32,
    /// 1 to what the director allows, with `state`.
    pub state_capacity: u32,
    /// Address of [`Changes`] with room for `capacity` slots; 0 if they are not wanted. Implies
    /// [`WANTS_LOAD`].
    pub changes: u32,
    /// 0.
    pub reserved: u32,
}

/// Whose connections have changed since `shunt_schedule` last returned. In a table whose capacity
/// is less than [`CAPACITY_MAX`], the slots end earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Changes {
    /// Slots in the list; [`CHANGES_ALL`] after every change of the servers, and when the list has
    /// no room. The host sets it to 0 when `shunt_schedule` has returned.
    pub count: u32,
    /// The slots, in no particular order.
    pub slots: [u16; CAPACITY_MAX],
}

/// A real server. Its position is its slot: it keeps it for as long as it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Server {
    /// Weight, 0 to 65535. 0: takes no new flows now, whatever the reason (drained, removed, no
    /// neighbor, an empty slot).
    pub weight: u32,
    /// Active connections as IPVS counts them: established TCP flows, living UDP flows. 0 unless
    /// load is wanted.
    pub active: u32,
    /// All other connections. 0 unless load is wanted.
    pub inactive: u32,
    /// 0.
    pub reserved: u32,
    /// Address in network order; IPv4 as an IPv4-mapped IPv6 address (RFC 4291, 2.5.5.2).
    pub address: [u8; 16],
}

/// A flow that needs a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Flow {
    /// The client's address, written as [`Server::address`] is.
    pub source: [u8; 16],
    /// The VIP, written likewise.
    pub destination: [u8; 16],
    /// The client's port, as a number.
    pub source_port: u16,
    /// The service's port, as a number.
    pub destination_port: u16,
    /// IP protocol number: 6 TCP, 17 UDP.
    pub protocol: u32,
}

impl Server {
    /// Whether new flows may go to this server.
    #[inline]
    pub fn takes_new_flows(&self) -> bool {
        self.weight > 0
    }

    /// The connections as IPVS's least-connection schedulers weigh them
    /// (`ip_vs_dest_conn_overhead` in the kernel's include/net/ip_vs.h): 256 for an active one, 1
    /// for an inactive one.
    #[inline]
    pub fn overhead(&self) -> u64 {
        u64::from(self.active) * 256 + u64::from(self.inactive)
    }

    /// The load key of this server in `slot`: its [overhead](Server::overhead) times 1024, plus the
    /// slot. So the least of many keys names the least loaded server, the first of several.
    /// Infinite when the server takes no new flows.
    #[inline]
    pub fn load_key(&self, slot: usize) -> f64 {
        if !self.takes_new_flows() {
            return f64::INFINITY;
        }
        // Below 2^52, so that the conversion is exact.
        (self.overhead() * CAPACITY_MAX as u64 + slot as u64) as f64
    }
}

/// The slot that a load key names; `None` for an infinite key.
#[inline]
pub fn slot_of_key(key: f64) -> Option<usize> {
    // Added to 2^52, an integer below 2^52 shows in the lowest bits of the mantissa. A conversion
    // would have to care for numbers out of range, and takes longer.
    const TWO_TO_52: f64 = (1u64 << 52) as f64;
    (key < TWO_TO_52).then(|| (key + TWO_TO_52).to_bits() as usize % CAPACITY_MAX)
}

/// The generator behind `random`: SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom
/// Number Generators, OOPSLA 2014). The next number follows from the seed and from how many there
/// were, so that a replay can go on anywhere. It is here so that a scheduler's native tests draw
/// the numbers that the plugin draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Random {
    seed: u64,
    /// Numbers so far.
    pub draws: u64,
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    /// The generator of the instance that has this seed and works on this worker. Workers draw
    /// different numbers from one seed.
    pub const fn new(seed: u64, worker: u32) -> Random {
        Random { seed: mix(seed ^ mix((worker as u64).wrapping_add(GAMMA))), draws: 0 }
    }

    /// The next number.
    #[inline]
    pub const fn draw(&mut self) -> u64 {
        self.draws = self.draws.wrapping_add(1);
        mix(self.seed.wrapping_add(self.draws.wrapping_mul(GAMMA)))
    }
}

#[inline]
const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

macro_rules! assert_layout {
    ($record:ident, $size:literal, $($field:ident at $offset:literal),* $(,)?) => {
        const _: () = {
            assert!(size_of::<$record>() == $size && align_of::<$record>() == 4);
            $(assert!(offset_of!($record, $field) == $offset);)*
        };
    };
}

assert_layout!(
    Table, 64, abi_version at 0, wants at 4, capacity at 8, servers at 12, keys at 16, flow at 20,
    count at 24, generation at 28, worker at 32, workers at 36, params at 40,
    params_capacity at 44, state at 48, state_capacity at 52, changes at 56, reserved at 60,
);
assert_layout!(
    Server, 32, weight at 0, active at 4, inactive at 8, reserved at 12, address at 16,
);
assert_layout!(
    Flow, 40, source at 0, destination at 16, source_port at 32, destination_port at 34,
    protocol at 36,
);
assert_layout!(Changes, 2052, count at 0, slots at 4);

#[cfg(test)]
mod tests {
    use super::*;

    fn server(weight: u32, active: u32, inactive: u32) -> Server {
        Server { weight, active, inactive, ..Server::default() }
    }

    #[test]
    fn a_key_is_exact_even_for_the_greatest_load() {
        let greatest = server(1, u32::MAX, u32::MAX).load_key(1023);
        let one_less = server(1, u32::MAX, u32::MAX).load_key(1022);
        assert_eq!(greatest - one_less, 1.0);
        assert_eq!(slot_of_key(greatest), Some(1023));
        assert_eq!(slot_of_key(one_less), Some(1022));
    }

    #[test]
    fn one_active_connection_weighs_as_much_as_256_inactive_ones() {
        assert_eq!(server(1, 1, 0).load_key(0), server(9, 0, 256).load_key(0));
        assert!(server(1, 1, 0).load_key(0) > server(1, 0, 255).load_key(1023));
    }

    #[test]
    fn equal_loads_are_ordered_by_slot() {
        assert!(server(1, 7, 3).load_key(4) < server(1, 7, 3).load_key(5));
    }

    #[test]
    fn a_server_that_takes_no_new_flows_has_an_infinite_key() {
        assert_eq!(server(0, 0, 0).load_key(3), f64::INFINITY);
        assert_eq!(slot_of_key(f64::INFINITY), None);
        assert_eq!(slot_of_key(server(1, 0, 0).load_key(0)), Some(0));
    }

    #[test]
    fn the_generator_draws_the_published_numbers() {
        // The first numbers of SplitMix64 with the seed 1234567, as its reference code prints them.
        let mut random = Random { seed: 1_234_567, draws: 0 };
        let drawn = [random.draw(), random.draw(), random.draw()];
        let published =
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(drawn, published);
        assert_eq!(Random { draws: 1, ..random }.draw(), published[1]);
        assert_ne!(Random::new(7, 0).draw(), Random::new(7, 1).draw());
        assert_ne!(Random::new(7, 0).draw(), Random::new(8, 0).draw());
    }
}
