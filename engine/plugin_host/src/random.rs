//! Random numbers for plugins.

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
/// The next number follows from the seed and from how many there were, so that a replay can go on
/// anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Random {
    seed: u64,
    /// Numbers so far.
    pub draws: u64,
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    /// The generator of the instance on this worker. Workers draw different numbers from one seed.
    pub fn new(seed: u64, worker: u32) -> Random {
        Random { seed: mix(seed ^ mix(u64::from(worker).wrapping_add(GAMMA))), draws: 0 }
    }

    /// The next number.
    #[inline]
    pub fn next(&mut self) -> u64 {
        self.draws = self.draws.wrapping_add(1);
        mix(self.seed.wrapping_add(self.draws.wrapping_mul(GAMMA)))
    }
}

#[inline]
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_splitmix64() {
        // The first outputs of the reference implementation for the seed 0, as in the test of
        // java.util.SplittableRandom and of xoshiro's authors.
        let mut random = Random { seed: 0, draws: 0 };
        let first = [random.next(), random.next(), random.next()];
        assert_eq!(first, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
    }

    #[test]
    fn a_generator_goes_on_where_another_was() {
        let mut random = Random::new(7, 3);
        for _ in 0..100 {
            random.next();
        }
        let mut other = Random { draws: 100, ..Random::new(7, 3) };
        assert_eq!(random.next(), other.next());
    }

    #[test]
    fn workers_and_seeds_draw_different_numbers() {
        let firsts: std::collections::HashSet<_> = (0..10)
            .flat_map(|seed| (0..10).map(move |worker| Random::new(seed, worker).next()))
            .collect();
        assert_eq!(firsts.len(), 100);
    }
}
