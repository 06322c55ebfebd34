//! Which server is in which slot, to notice that another one has come there.

use shunt_sdk::Server;

/// The most servers there can be.
const SERVERS_MAX: usize = 1024;

/// The addresses of the servers, by slot.
pub struct Members {
    addresses: [[u8; 16]; SERVERS_MAX],
    slots: usize,
}

/// Slots whose server is gone.
pub struct Gone {
    bits: [u64; SERVERS_MAX / 64],
}

impl Members {
    /// Nobody.
    #[inline]
    pub const fn new() -> Members {
        Members { addresses: [[0; 16]; SERVERS_MAX], slots: 0 }
    }

    /// The servers are now these. `None`: all that were there are where they were.
    pub fn changed(&mut self, servers: &[Server]) -> Option<Gone> {
        let mut gone = Gone { bits: [0; SERVERS_MAX / 64] };
        let mut any = false;
        for slot in 0..self.slots.max(servers.len()).min(SERVERS_MAX) {
            let address = servers.get(slot).map_or([0; 16], |server| server.address);
            if self.addresses[slot] != address {
                self.addresses[slot] = address;
                gone.bits[slot / 64] |= 1 << (slot % 64);
                any = true;
            }
        }
        self.slots = servers.len();
        any.then_some(gone)
    }
}

impl Default for Members {
    fn default() -> Members {
        Members::new()
    }
}

impl Gone {
    /// Whether the server that was in this slot is gone.
    #[inline]
    pub fn contains(&self, slot: usize) -> bool {
        self.bits.get(slot / 64).is_some_and(|bits| bits >> (slot % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(hosts: &[u8]) -> Vec<Server> {
        hosts.iter().map(|&host| Server { address: [host; 16], ..Server::default() }).collect()
    }

    #[test]
    fn who_leaves_is_noticed_whoever_comes() {
        let mut members = Members::new();
        members.changed(&servers(&[1, 2, 3]));
        assert!(members.changed(&servers(&[1, 2, 3])).is_none());
        let gone = members.changed(&servers(&[1, 9, 3, 4])).unwrap();
        assert_eq!([0, 1, 2].map(|slot| gone.contains(slot)), [false, true, false]);
        let gone = members.changed(&servers(&[1])).unwrap();
        assert_eq!([0, 1, 2, 3].map(|slot| gone.contains(slot)), [false, true, true, true]);
        let gone = members.changed(&servers(&[1, 9])).unwrap();
        assert!(!gone.contains(0) && !gone.contains(5000));
    }
}
