//! Room for instances: what each takes of the address space, and what the process may take.
//!
//! An instance reserves 4 GiB of addresses for its memory, so that no access needs a check. That is
//! not memory, but the kernel and its operator have limits on it all the same, which are better met
//! before anything starts than by the instance that is one too many.

use crate::Error;
use nix::sys::resource::{Resource, getrlimit};
use std::fs;

/// Addresses that an instance takes, in bytes: memory, guard pages, and what belongs to the rest.
/// tests/room.rs measures it.
pub(crate) const ADDRESSES: u64 = (4 << 30) + (72 << 20);

/// Maps that an instance takes, in the sense of vm.max_map_count. tests/room.rs measures it.
pub(crate) const MAPS: u64 = 3;

/// Addresses that a process can have on x86-64 with four levels of page tables: 47 bits.
const ADDRESSES_MAX: u64 = 1 << 47;

/// What the process may still take.
#[derive(Debug, Clone, Copy)]
struct Room {
    /// Bytes of addresses in use.
    used: u64,
    /// RLIMIT_AS in bytes.
    limit: u64,
    /// Maps in use.
    maps: u64,
    /// vm.max_map_count.
    maps_limit: u64,
}

/// Whether so many instances fit beside what the process has now.
pub(crate) fn room_for(instances: usize) -> Result<(), Error> {
    Room::now().and_then(|room| room.check(instances)).map_err(|reason| Error::NoRoom { reason })
}

impl Room {
    fn now() -> Result<Room, String> {
        let read = |path: &str| {
            fs::read_to_string(path).map_err(|error| format!("{path} cannot be read: {error}"))
        };
        let number = |path: &str, text: Option<&str>| {
            let number = text.and_then(|text| text.trim().parse::<u64>().ok());
            number.ok_or_else(|| format!("{path} has no number where one was expected"))
        };
        let (status, count) = ("/proc/self/status", "/proc/sys/vm/max_map_count");
        let size = read(status)?;
        let size = size.lines().find_map(|line| line.strip_prefix("VmSize:")?.strip_suffix("kB"));
        let (limit, _) =
            getrlimit(Resource::RLIMIT_AS).map_err(|error| format!("RLIMIT_AS: {error}"))?;
        Ok(Room {
            used: number(status, size)?.saturating_mul(1024),
            limit,
            maps: read("/proc/self/maps")?.lines().count() as u64,
            maps_limit: number(count, Some(&read(count)?))?,
        })
    }

    fn check(&self, instances: usize) -> Result<(), String> {
        let addresses = (instances as u64).saturating_mul(ADDRESSES).saturating_add(self.used);
        let maps = (instances as u64).saturating_mul(MAPS).saturating_add(self.maps);
        let gib = |bytes: u64| bytes.div_ceil(1 << 30);
        if addresses > ADDRESSES_MAX {
            return Err(format!(
                "{instances} instances take {} GiB of addresses and a process has {} GiB of them: \
                 use fewer workers, or fewer services",
                gib(addresses),
                gib(ADDRESSES_MAX)
            ));
        }
        if addresses > self.limit {
            return Err(format!(
                "{instances} instances take {} GiB of addresses and the limit RLIMIT_AS is {} GiB: \
                 raise it with `ulimit -v unlimited`, or LimitAS=infinity in the unit file",
                gib(addresses),
                self.limit >> 30
            ));
        }
        if maps > self.maps_limit {
            return Err(format!(
                "{instances} instances take {maps} maps with what there is, and the limit is {}: \
                 raise it with `sysctl -w vm.max_map_count={}`",
                self.maps_limit,
                maps.next_multiple_of(65_536)
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: Room = Room { used: 1 << 30, limit: u64::MAX, maps: 200, maps_limit: 65_530 };

    #[test]
    fn each_limit_is_named_with_what_raises_it() {
        PLENTY.check(10_000).unwrap();
        let maps = PLENTY.check(25_000).unwrap_err();
        assert_eq!(
            maps,
            "25000 instances take 75200 maps with what there is, and the limit is 65530: raise it \
             with `sysctl -w vm.max_map_count=131072`"
        );
        let limited = Room { limit: 64 << 30, ..PLENTY };
        limited.check(15).unwrap();
        assert_eq!(
            limited.check(16).unwrap_err(),
            "16 instances take 67 GiB of addresses and the limit RLIMIT_AS is 64 GiB: raise it \
             with `ulimit -v unlimited`, or LimitAS=infinity in the unit file"
        );
        let sentence = PLENTY.check(40_000).unwrap_err();
        assert!(sentence.ends_with("use fewer workers, or fewer services"), "{sentence}");
        PLENTY.check(usize::MAX).unwrap_err();
    }

    #[test]
    fn the_process_has_room_for_no_more_instances() {
        room_for(0).unwrap();
        let room = Room::now().unwrap();
        assert!(room.used > 1 << 20 && room.maps > 10 && room.maps_limit > room.maps, "{room:?}");
    }
}
