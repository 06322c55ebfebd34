//! The choice that needs no memory: any worker, asked about the same flow, answers alike.
//!
//! It serves flows that the flow table has no room for and those whose scheduler failed.

use crate::flow_key::mapped;
use crate::scheduler::Candidate;
use std::net::IpAddr;

/// Cells of the table: enough for a thousand servers to differ by a few percent of their share,
/// few enough (8 KiB) to stay in the cache.
const CELLS: usize = 4096;
const NOBODY: u16 = u16::MAX;
/// Less than 1 by more than the rounding of a score can amount to.
const BEYOND_ROUNDING: f64 = 1.0 - 1e-9;

/// Flow hash → slot, by weighted rendezvous hashing (Thaler and Ravishankar 1998; weights after
/// Schindelhauer and Schomaker 2005): each cell goes to the candidate with the highest score, so
/// a candidate that leaves moves only its own cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistentTable {
    cells: Vec<u16>,
}

impl ConsistentTable {
    /// The table over `candidates`, which depends on their addresses and weights only, not on
    /// their slots. Takes CELLS × candidates steps: for the control thread.
    pub fn new(candidates: &[Candidate]) -> ConsistentTable {
        let all: Vec<Contender> = contenders(candidates).collect();
        let cells = (0..CELLS as u64).map(|cell| winner(cell, all.iter().copied())).collect();
        ConsistentTable { cells }
    }

    /// The table over `candidates`, where this one is over `former`. It is the same as a new one,
    /// but takes CELLS steps for each candidate that differs, and candidates steps for each cell
    /// of theirs.
    pub fn changed(&self, former: &[Candidate], candidates: &[Candidate]) -> ConsistentTable {
        let differs = |slot: u16| {
            let slot = usize::from(slot);
            former.get(slot) != candidates.get(slot)
        };
        let all: Vec<Contender> = contenders(candidates).collect();
        let others: Vec<Contender> = all.iter().filter(|one| differs(one.slot)).copied().collect();
        let defend = |(cell, &owner): (u64, &u16)| {
            if owner == NOBODY || differs(owner) {
                return winner(cell, all.iter().copied());
            }
            let owner = Contender::new(owner, &candidates[usize::from(owner)]);
            winner(cell, others.iter().copied().chain([owner]))
        };
        ConsistentTable { cells: (0..).zip(&self.cells).map(defend).collect() }
    }

    /// Whether no candidate takes new flows.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.cells[0] == NOBODY
    }

    /// The slot for a flow with this hash, or `None` when no candidate takes new flows.
    #[inline]
    pub fn choose(&self, hash: u64) -> Option<usize> {
        // The flow table takes its position from the high bits; these are independent of it.
        let slot = self.cells[hash as usize % CELLS];
        (slot != NOBODY).then_some(usize::from(slot))
    }
}

/// A candidate that takes new flows.
#[derive(Clone, Copy)]
struct Contender {
    slot: u16,
    identity: u64,
    weight: f64,
}

impl Contender {
    fn new(slot: u16, candidate: &Candidate) -> Contender {
        let (identity, weight) = (identity(candidate.address), f64::from(candidate.weight));
        Contender { slot, identity, weight }
    }
}

fn contenders(candidates: &[Candidate]) -> impl Iterator<Item = Contender> {
    let all = (0u16..).zip(candidates).filter(|(_, candidate)| candidate.weight > 0);
    all.map(|(slot, candidate)| Contender::new(slot, candidate))
}

/// The slot with the highest score for a cell, of equal ones the last.
fn winner(cell: u64, contenders: impl Iterator<Item = Contender>) -> u16 {
    let (mut highest, mut winner) = (f64::NEG_INFINITY, NOBODY);
    for Contender { slot, identity, weight } in contenders {
        let uniform = ((mix(cell ^ identity) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        // ln(x) <= x - 1: that most cannot win is known without their logarithms.
        if weight < highest * (1.0 - uniform) * BEYOND_ROUNDING {
            continue;
        }
        let score = -weight / uniform.ln();
        if winner == NOBODY || score > highest || (score == highest && slot > winner) {
            (highest, winner) = (score, slot);
        }
    }
    winner
}

fn identity(address: IpAddr) -> u64 {
    let bits = u128::from_be_bytes(mapped(address));
    mix(mix((bits >> 64) as u64).wrapping_add(bits as u64))
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014): fixed, so that directors agree.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(host: u8, weight: u32) -> Candidate {
        Candidate { address: IpAddr::from([10, 0, 0, host]), weight }
    }

    fn candidates(weights: &[u32]) -> Vec<Candidate> {
        (1u8..).zip(weights).map(|(host, &weight)| candidate(host, weight)).collect()
    }

    fn shares(table: &ConsistentTable, servers: usize) -> Vec<usize> {
        let mut shares = vec![0; servers];
        for cell in 0..CELLS as u64 {
            shares[table.choose(cell).unwrap()] += 1;
        }
        shares
    }

    #[test]
    fn shares_follow_the_weights() {
        let shares = shares(&ConsistentTable::new(&candidates(&[1, 2, 0, 5])), 4);
        assert_eq!(shares[2], 0);
        for (share, weight) in [(shares[0], 1), (shares[1], 2), (shares[3], 5)] {
            let expected = CELLS * weight / 8;
            assert!(share.abs_diff(expected) < expected / 5, "{share} for {expected}");
        }
    }

    #[test]
    fn a_server_that_leaves_moves_only_its_own_flows() {
        let before = ConsistentTable::new(&candidates(&[1; 10]));
        let mut weights = [1; 10];
        weights[3] = 0;
        let after = ConsistentTable::new(&candidates(&weights));
        for cell in 0..CELLS as u64 {
            if before.choose(cell) != Some(3) {
                assert_eq!(before.choose(cell), after.choose(cell));
            }
        }
    }

    #[test]
    fn slots_do_not_matter_only_addresses_do() {
        let forward = candidates(&[1, 3, 2]);
        let backward: Vec<_> = forward.iter().rev().copied().collect();
        let (one, other) = (ConsistentTable::new(&forward), ConsistentTable::new(&backward));
        for cell in 0..CELLS as u64 {
            assert_eq!(
                forward[one.choose(cell).unwrap()].address,
                backward[other.choose(cell).unwrap()].address
            );
        }
    }

    /// The definition. A director that chose otherwise would send flows elsewhere than its peers.
    fn by_definition(candidates: &[Candidate]) -> ConsistentTable {
        let score = |cell: u64, candidate: &Candidate| {
            let uniform = (mix(cell ^ identity(candidate.address)) >> 11) as f64 + 0.5;
            -f64::from(candidate.weight) / (uniform / (1u64 << 53) as f64).ln()
        };
        let owner = |cell| {
            let serving = (0..).zip(candidates).filter(|(_, candidate)| candidate.weight > 0);
            let scores = serving.map(|(slot, candidate)| (score(cell, candidate), slot));
            let highest = scores.max_by(|(one, _), (other, _)| one.total_cmp(other));
            highest.map_or(NOBODY, |(_, slot)| slot)
        };
        ConsistentTable { cells: (0..CELLS as u64).map(owner).collect() }
    }

    #[test]
    fn a_table_is_the_same_whichever_way_it_came_about() {
        let mut random = (0..).map(mix);
        let mut below = |limit: u64| random.next().unwrap() % limit;
        let mut former = Vec::new();
        let mut table = ConsistentTable::new(&former);
        for round in 0..60 {
            let mut candidates = former.clone();
            // Mostly one changes, sometimes all; slots come and go at the end, or get another
            // server.
            for _ in 0..if round % 10 == 0 { 20 } else { 1 } {
                let [slot, host] = [below(20), below(40)];
                let weight = [0, 1, 1, 7, 65_535][below(5) as usize];
                candidates.resize(candidates.len().max(slot as usize + 1), candidate(0, 0));
                candidates[slot as usize] = candidate(host as u8, weight);
            }
            candidates.truncate(20 - below(4) as usize);
            table = table.changed(&former, &candidates);
            assert_eq!(table, by_definition(&candidates), "{former:?} -> {candidates:?}");
            assert_eq!(table, ConsistentTable::new(&candidates), "{candidates:?}");
            former = candidates;
        }
    }

    #[test]
    fn nobody_is_chosen_when_nobody_serves() {
        assert_eq!(ConsistentTable::new(&candidates(&[0, 0])).choose(9), None);
        assert_eq!(ConsistentTable::new(&[]).choose(9), None);
    }
}
