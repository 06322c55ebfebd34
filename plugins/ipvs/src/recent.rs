//! The destinations that `lblc` and `lblcr` remember, and how they forget them.
//!
//! The kernel checks its table once a minute by a timer. A plugin has none: a check is made with
//! the first flow after it was due, and one makes up for all that were missed.

use crate::{fold, hash_32};
use core::num::NonZeroU64;
use shunt_sdk::{ParamError, Params};

/// Rows of the hash table. The kernel has 1024 (`IP_VS_LBLC_TAB_SIZE`); behind one VIP there is one
/// destination, and a check must fit into the fuel of a call beside what 1024 servers take.
pub const ROWS: usize = 1 << ROW_BITS;
const ROW_BITS: u32 = 1;
/// With more destinations than this, those unused for [`GRACE`] are forgotten: 16 a row, as in the
/// kernel (`max_size`).
pub const RECENT_MAX: usize = 16 * ROWS;
/// Destinations there is room for. The kernel allocates as many as come between two checks; here
/// those beyond are not remembered, as in the kernel when it has no memory.
pub const RECENT_ROOM: usize = RECENT_MAX + RECENT_MAX / 2;
/// From check to check, in milliseconds (`CHECK_EXPIRE_INTERVAL`).
pub const CHECK_INTERVAL: u64 = 60_000;
/// For so long, in milliseconds, a destination is kept though there are too many
/// (`ENTRY_TIMEOUT`).
pub const GRACE: u64 = 6 * 60_000;
/// For so long, in milliseconds, an unused destination is kept unless parameters say otherwise
/// (`DEFAULT_EXPIRATION`, the sysctls net.ipv4.vs.lblc_expiration and lblcr_expiration).
pub const EXPIRATION: u64 = 24 * 60 * 60_000;
/// After so many checks that had nothing to do comes one of the whole table
/// (`COUNT_FOR_FULL_EXPIRATION`).
pub const FULL_CHECK_EVERY: u64 = 30;

/// A table of destinations, each with a value, which takes no memory beyond its own.
///
/// A new one is all zeros if the default value is, so that the compiler makes it where it stays: on
/// the way there it would overflow a plugin's stack. That is also why there is an array for each
/// field of an entry: records have padding, which would be no zeros.
pub struct Recent<V> {
    /// By row: its first entry, counted from 1; 0: none.
    rows: [u16; ROWS],
    addresses: [[u8; 16]; RECENT_ROOM],
    last_uses: [u64; RECENT_ROOM],
    values: [V; RECENT_ROOM],
    /// By entry: the next one of its row, or of those given back, counted from 1; 0: none.
    nexts: [u16; RECENT_ROOM],
    /// The first entry that was given back, counted from 1; 0: none.
    given_back: u16,
    /// Entries that were ever used: those from here on are free, too.
    used: u16,
    count: usize,
    /// The row that was checked last.
    rover: usize,
    /// Checks since the last one of the whole table.
    checks: u64,
    /// When the next check is due; 0 before the first flow.
    due: u64,
}

impl<V: Copy + Default> Recent<V> {
    /// A table without destinations.
    #[inline]
    pub fn new() -> Recent<V> {
        Recent {
            rows: [0; ROWS],
            addresses: [[0; 16]; RECENT_ROOM],
            last_uses: [0; RECENT_ROOM],
            values: [V::default(); RECENT_ROOM],
            nexts: [0; RECENT_ROOM],
            given_back: 0,
            used: 0,
            count: 0,
            rover: 0,
            checks: 0,
            due: 0,
        }
    }

    /// Destinations in the table.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What is remembered of a destination, which is used now.
    #[inline]
    pub fn find(&mut self, address: &[u8; 16], now: u64) -> Option<&mut V> {
        let mut next = self.rows[row(address)];
        while next != 0 {
            let at = usize::from(next - 1);
            if self.addresses[at] == *address {
                self.last_uses[at] = now;
                return Some(&mut self.values[at]);
            }
            next = self.nexts[at];
        }
        None
    }

    /// Remembers a destination that the table does not hold. `false`: there is no room.
    pub fn insert(&mut self, address: &[u8; 16], value: V, now: u64) -> bool {
        let place = if self.given_back != 0 {
            let place = self.given_back;
            self.given_back = self.nexts[usize::from(place - 1)];
            place
        } else if usize::from(self.used) < RECENT_ROOM {
            self.used += 1;
            self.used
        } else {
            return false;
        };
        let at = usize::from(place - 1);
        let first = &mut self.rows[row(address)];
        self.addresses[at] = *address;
        self.last_uses[at] = now;
        self.values[at] = value;
        self.nexts[at] = *first;
        *first = place;
        self.count += 1;
        true
    }

    /// Shows all values.
    pub fn for_each(&mut self, mut see: impl FnMut(&mut V)) {
        for row in self.rows {
            let mut next = row;
            while next != 0 {
                let at = usize::from(next - 1);
                see(&mut self.values[at]);
                next = self.nexts[at];
            }
        }
    }

    /// Makes the check that is due, if one is: forgets what was not used for `expiration`
    /// milliseconds, and earlier what is too much. What is forgotten is shown to `forgotten`.
    #[inline]
    pub fn check(&mut self, now: u64, expiration: u64, forgotten: impl FnMut(V)) {
        if self.due == 0 {
            self.due = now.saturating_add(CHECK_INTERVAL);
        } else if now >= self.due {
            self.check_now(now, expiration, forgotten);
        }
    }

    fn check_now(&mut self, now: u64, expiration: u64, forgotten: impl FnMut(V)) {
        let checks = now.saturating_sub(self.due) / CHECK_INTERVAL + 1;
        self.due = self.due.saturating_add(checks.saturating_mul(CHECK_INTERVAL));
        let too_many = self.count.saturating_sub(RECENT_MAX);
        let counted = if too_many > 0 { 1 } else { checks };
        if self.checks.saturating_add(counted) >= FULL_CHECK_EVERY {
            self.checks = 0;
            self.forget(now, expiration, usize::MAX, forgotten);
        } else if too_many > 0 {
            self.forget(now, GRACE, (too_many * 4 / 3).min(RECENT_MAX / 2), forgotten);
        } else {
            self.checks += counted;
        }
    }

    /// Forgets what was not used for `age` milliseconds, row by row from the rover on, until
    /// `goal` are forgotten.
    fn forget(&mut self, now: u64, age: u64, goal: usize, mut forgotten: impl FnMut(V)) {
        let before = self.count;
        for _ in 0..ROWS {
            self.rover = (self.rover + 1) % ROWS;
            let mut kept: Option<usize> = None;
            let mut next = self.rows[self.rover];
            while next != 0 {
                let at = usize::from(next - 1);
                let after = self.nexts[at];
                if now < self.last_uses[at].saturating_add(age) {
                    kept = Some(at);
                } else {
                    match kept {
                        None => self.rows[self.rover] = after,
                        Some(kept) => self.nexts[kept] = after,
                    }
                    self.nexts[at] = self.given_back;
                    self.given_back = next;
                    self.count -= 1;
                    forgotten(self.values[at]);
                }
                next = after;
            }
            if before - self.count >= goal {
                break;
            }
        }
    }
}

impl<V: Copy + Default> Default for Recent<V> {
    fn default() -> Recent<V> {
        Recent::new()
    }
}

/// The most that a parameter may say: a year, in seconds.
const SECONDS_MAX: u64 = 365 * 24 * 60 * 60;

/// The expiration in milliseconds that a parameter says in seconds, if it is given.
///
/// # Errors
/// When it is no number, 0 or more than a year.
#[allow(clippy::result_large_err)] // a sentence without an allocator, as the SDK has it
pub fn expiration(params: Params<'_>, key: &str) -> Result<Option<NonZeroU64>, ParamError> {
    match params.number(key)? {
        None => Ok(None),
        Some(seconds @ 1..=SECONDS_MAX) => Ok(NonZeroU64::new(seconds * 1000)),
        Some(_) => {
            let given = params.get(key).unwrap_or_default();
            Err(ParamError::value(key, "takes 1 to 31536000 seconds", given))
        }
    }
}

#[inline]
fn row(address: &[u8; 16]) -> usize {
    hash_32(fold(address), ROW_BITS) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn destination(number: u32) -> [u8; 16] {
        std::net::Ipv4Addr::from(number).to_ipv6_mapped().octets()
    }

    fn full() -> Recent<u32> {
        let mut recent = Recent::new();
        recent.check(0, EXPIRATION, |_| ());
        for number in 0..RECENT_ROOM as u32 {
            assert!(recent.insert(&destination(number), number, u64::from(number)));
        }
        recent
    }

    #[test]
    fn there_is_room_for_so_many_and_no_more() {
        let mut recent = full();
        assert!(!recent.insert(&destination(1 << 20), 0, 0));
        assert_eq!(recent.len(), RECENT_ROOM);
        for number in 0..RECENT_ROOM as u32 {
            assert_eq!(recent.find(&destination(number), 0), Some(&mut { number }));
        }
    }

    #[test]
    fn too_many_are_forgotten_by_the_minute_once_they_are_unused_for_six() {
        let mut recent = full();
        recent.check(5 * 60_000, EXPIRATION, |_| ());
        assert_eq!(recent.len(), RECENT_ROOM, "all were used within six minutes");
        let mut forgotten = Vec::new();
        recent.check(GRACE + 60_000, EXPIRATION, |number| forgotten.push(number));
        // A goal of half the maximum, and the rest of the row in which it is reached.
        assert!((RECENT_MAX / 2..RECENT_MAX).contains(&forgotten.len()), "{}", forgotten.len());
        assert_eq!(recent.len(), RECENT_ROOM - forgotten.len());
        for &number in &forgotten {
            assert_eq!(recent.find(&destination(number), 0), None);
            assert!(recent.insert(&destination(number), number, 0), "its room is free again");
        }
        assert_eq!(recent.len(), RECENT_ROOM);
    }

    #[test]
    fn few_are_forgotten_when_unused_for_a_day() {
        let mut recent = Recent::new();
        recent.check(0, EXPIRATION, |_| ());
        assert!(recent.insert(&destination(1), 1, 0));
        assert!(recent.insert(&destination(2), 2, 0));
        recent.check(EXPIRATION - 1, EXPIRATION, |_| ());
        assert_eq!(recent.len(), 2);
        recent.find(&destination(2), EXPIRATION - 1);
        // The thirtieth check after the last one of the whole table.
        recent.check(EXPIRATION + 28 * 60_000, EXPIRATION, |_| ());
        assert_eq!(recent.len(), 2);
        recent.check(EXPIRATION + 29 * 60_000, EXPIRATION, |_| ());
        assert_eq!((recent.len(), recent.find(&destination(1), 0)), (1, None));
    }

    #[test]
    fn all_values_are_shown() {
        let mut recent = full();
        let mut seen = BTreeMap::new();
        recent.for_each(|&mut number| *seen.entry(number).or_insert(0) += 1);
        assert_eq!(seen, (0..RECENT_ROOM as u32).map(|number| (number, 1)).collect());
    }

    #[test]
    fn clocks_that_jump_do_no_harm() {
        let mut recent = full();
        recent.check(u64::MAX, EXPIRATION, |_| ());
        assert!(recent.len() <= RECENT_MAX);
        recent.check(0, EXPIRATION, |_| ());
        recent.check(u64::MAX, u64::MAX, |_| ());
    }
}
