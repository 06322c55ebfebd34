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
        let servers: Vec<(u16, u64, f64)> = (0u16..)
            .zip(candidates)
            .filter(|(_, candidate)| candidate.weight > 0)
            .map(|(slot, candidate)| {
                (slot, identity(candidate.address), f64::from(candidate.weight))
            })
            .collect();
        let cells = (0..CELLS as u64)
            .map(|cell| {
                servers
                    .iter()
                    .map(|&(slot, identity, weight)| (score(cell, identity, weight), slot))
                    .max_by(|(left, _), (right, _)| left.total_cmp(right))
                    .map_or(NOBODY, |(_, slot)| slot)
            })
            .collect();
        ConsistentTable { cells }
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

fn score(cell: u64, identity: u64, weight: f64) -> f64 {
    let uniform = (mix(cell ^ identity) >> 11) as f64 + 0.5;
    -weight / (uniform / (1u64 << 53) as f64).ln()
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

    fn candidates(weights: &[u32]) -> Vec<Candidate> {
        (1u8..)
            .zip(weights)
            .map(|(host, &weight)| Candidate { address: IpAddr::from([10, 0, 0, host]), weight })
            .collect()
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

    #[test]
    fn nobody_is_chosen_when_nobody_serves() {
        assert_eq!(ConsistentTable::new(&candidates(&[0, 0])).choose(9), None);
        assert_eq!(ConsistentTable::new(&[]).choose(9), None);
    }
}
