//! The costs of the servers, and which is the least.

use shunt_abi::{CAPACITY_MAX, CHANGES_ALL, Changes, Server};

/// The first match of the first round: slots 2 i and 2 i + 1 meet in match `FIRST_ROUND` + i.
const FIRST_ROUND: usize = CAPACITY_MAX / 2;

/// What [`Scheduler::cost`](crate::Scheduler::cost) said of each server, and a knockout among them:
/// when one cost changes, only the matches on its way to the final are played again, ten of them
/// for 1024 servers, and the least cost is known without a search.
///
/// All zeros is one that has no servers.
pub struct Costs {
    /// By slot. Infinite for a server that takes no new flows or costs no number, and from the last
    /// slot on. Never NaN.
    keys: [f64; CAPACITY_MAX],
    /// By match, the slot that won it. The winners of 2 m and 2 m + 1 meet in match m.
    winners: [u16; CAPACITY_MAX],
    /// The match that was played last, between all slots in use. 0: none was.
    last: usize,
}

impl Costs {
    /// Costs of no servers.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn new() -> Costs {
        Costs { keys: [0.0; CAPACITY_MAX], winners: [0; CAPACITY_MAX], last: 0 }
    }

    /// Forgets all costs: something changed that any of them may depend on.
    pub fn forget(&mut self) {
        self.last = 0;
    }

    /// Asks for the costs of those servers whose connections have changed.
    #[inline]
    pub fn follow(&mut self, changes: &Changes, servers: &[Server], cost: impl Fn(&Server) -> f64) {
        let count = changes.count as usize;
        // Beyond an eighth, it takes less to play all matches.
        if self.last == 0 || changes.count == CHANGES_ALL || count > servers.len() / 8 + 2 {
            return self.ask_all(servers, cost);
        }
        for &slot in changes.slots.iter().take(count) {
            let slot = usize::from(slot);
            if let Some(server) = servers.get(slot) {
                self.change(slot, key(server, &cost));
            }
        }
    }

    /// The slot with the least cost, the first of several; `None` if all are infinite.
    #[inline]
    pub fn least(&self) -> Option<usize> {
        if self.last == 0 {
            return None;
        }
        let slot = usize::from(self.winners[self.last % CAPACITY_MAX]);
        (self.keys[slot % CAPACITY_MAX] < f64::INFINITY).then_some(slot)
    }

    fn ask_all(&mut self, servers: &[Server], cost: impl Fn(&Server) -> f64) {
        let slots = servers.len().next_power_of_two().clamp(2, CAPACITY_MAX);
        let mut records = servers.iter();
        for entry in &mut self.keys[..slots] {
            *entry = records.next().map_or(f64::INFINITY, |server| key(server, &cost));
        }
        let (mut first, mut matches) = (FIRST_ROUND, slots / 2);
        for pair in 0..matches {
            self.winners[first + pair] = self.better(2 * pair, 2 * pair + 1) as u16;
        }
        while matches > 1 {
            (first, matches) = (first / 2, matches / 2);
            for at in first..first + matches {
                let [one, other] = [2 * at, 2 * at + 1].map(|at| usize::from(self.winners[at]));
                self.winners[at] = self.better(one, other) as u16;
            }
        }
        self.last = first;
    }

    /// Plays the matches of `slot` again.
    fn change(&mut self, slot: usize, key: f64) {
        let slot = slot % CAPACITY_MAX;
        self.keys[slot] = key;
        let mut at = FIRST_ROUND + slot / 2;
        let mut winner = self.better(slot & !1, slot | 1);
        loop {
            let before = usize::from(self.winners[at]);
            if before == winner && winner != slot {
                // It has lost again: what follows is as it was.
                return;
            }
            self.winners[at] = winner as u16;
            if at <= self.last {
                return;
            }
            let opponent = usize::from(self.winners[at ^ 1]);
            winner = match at % 2 {
                0 => self.better(winner, opponent),
                _ => self.better(opponent, winner),
            };
            at /= 2;
        }
    }

    /// The slot with the lesser cost, the former of equals.
    #[inline]
    fn better(&self, former: usize, latter: usize) -> usize {
        let less = self.keys[latter % CAPACITY_MAX] < self.keys[former % CAPACITY_MAX];
        if less { latter } else { former }
    }
}

/// What a server's cost counts as.
#[inline]
fn key(server: &Server, cost: impl Fn(&Server) -> f64) -> f64 {
    if !server.takes_new_flows() {
        return f64::INFINITY;
    }
    let cost = cost(server);
    // NaN is less than nothing, either.
    if cost < f64::INFINITY { cost } else { f64::INFINITY }
}
