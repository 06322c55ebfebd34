//! What the demo holds the schedulers to.

/// Whether so many connections were answered in strict alternation by two or more servers.
pub(super) fn alternate(answered_by: &[String], count: usize) -> bool {
    answered_by.len() == count
        && answered_by.windows(2).all(|pair| pair[0] != pair[1])
        && answered_by.windows(3).all(|three| three[0] == three[2])
}

/// Whether the servers' counts are exactly the weights' shares of `total`, a multiple of their sum.
pub(super) fn keep_to_weights(counts: &[usize], weights: &[u16], total: usize) -> bool {
    let sum: usize = weights.iter().copied().map(usize::from).sum();
    counts.len() == weights.len()
        && counts.iter().sum::<usize>() == total
        && counts
            .iter()
            .zip(weights)
            .all(|(count, &weight)| count * sum == total * usize::from(weight))
}

/// Whether `total` connections are spread evenly.
pub(super) fn level(counts: &[usize], total: usize) -> bool {
    counts.iter().sum::<usize>() == total && counts.windows(2).all(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn alternation_has_no_exception() {
        assert!(alternate(&names("a b a b a"), 5));
        for wrong in ["a b b a b", "a a a a a", "a b a b", "a b a c a"] {
            assert!(!alternate(&names(wrong), 5), "{wrong}");
        }
    }

    #[test]
    fn shares_are_exact() {
        assert!(keep_to_weights(&[30, 10], &[3, 1], 40));
        for wrong in [[31, 9], [10, 30], [20, 20], [33, 11], [40, 0]] {
            assert!(!keep_to_weights(&wrong, &[3, 1], 40), "{wrong:?}");
        }
    }

    #[test]
    fn level_is_level() {
        assert!(level(&[9, 9], 18));
        assert!(!level(&[10, 8], 18));
        assert!(!level(&[9, 9], 19), "one is missing");
    }
}
