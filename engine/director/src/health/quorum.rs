//! Whether enough real servers of a virtual service are up.
//!
//! The rules are keepalived's (`quorum` and `hysteresis` of virtual_server in keepalived.conf(5)):
//! lost below `quorum - hysteresis`, or when nobody is left; regained from `quorum + hysteresis` up.
//! Three differences. What is counted are servers that take new flows, not their weights, so that
//! the figure reads as `shunt list` does and does not move while a server starts slowly. A
//! service of fewer servers than `quorum + hysteresis` has its quorum again when all are up, if
//! they are `quorum`: else it would never have it again. And a quorum is not lost before something
//! is known of each server, as long as one is up.

use super::Policy;

/// What is counted for a quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Servers that take new flows.
    pub up: usize,
    /// Servers that would if they were up: those that serve and that the operator has not given
    /// the weight 0.
    pub all: usize,
    /// Whether something is known of each of them.
    pub settled: bool,
}

/// Whether there are enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Quorum {
    /// Nothing was heard of some servers yet, and those that are known to be up do not suffice.
    #[default]
    Undecided,
    /// There are.
    Held,
    /// There are not.
    Lost,
}

impl Quorum {
    /// What it is now, given what it was.
    pub fn next(self, policy: &Policy, count: Count) -> Quorum {
        let (quorum, hysteresis) = (usize::from(policy.quorum), usize::from(policy.hysteresis));
        let needed = match self {
            Quorum::Undecided => quorum,
            Quorum::Held => quorum.saturating_sub(hysteresis).max(1),
            Quorum::Lost => (quorum + hysteresis).min(count.all.max(quorum)),
        };
        match self {
            _ if count.up >= needed => Quorum::Held,
            Quorum::Undecided if !count.settled => Quorum::Undecided,
            // Servers and a greater quorum may have come together: nobody has failed yet.
            Quorum::Held if !count.settled && count.up > 0 => Quorum::Held,
            _ => Quorum::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(quorum: u16, hysteresis: u16) -> Policy {
        Policy { quorum, hysteresis, ..Policy::default() }
    }

    /// What the quorum is after each number of servers up, of five.
    fn follow(policy: &Policy, ups: &[usize]) -> String {
        let mut quorum = Quorum::Undecided;
        let letter = |up: &usize| {
            quorum = quorum.next(policy, Count { up: *up, all: 5, settled: true });
            if quorum == Quorum::Held { 'H' } else { 'L' }
        };
        ups.iter().map(letter).collect()
    }

    #[test]
    fn it_is_lost_and_regained_at_different_numbers() {
        for (quorum, hysteresis, ups, expected) in [
            (1, 0, &[5, 1, 0, 1][..], "HHLH"),
            (3, 0, &[2, 3, 2, 3], "LHLH"),
            (3, 1, &[3, 2, 3, 2, 1, 2, 3, 4, 3, 2], "HHHHLLLHHH"),
            // keepalived: nobody left is lost whatever the hysteresis.
            (2, 1, &[5, 1, 0, 1, 2, 3], "HHLLLH"),
        ] {
            assert_eq!(follow(&policy(quorum, hysteresis), ups), expected, "{quorum} {hysteresis}");
        }
    }

    #[test]
    fn all_there_are_suffice_if_they_are_the_quorum() {
        let few = |up, all| Count { up, all, settled: true };
        let policy = policy(3, 2);
        assert_eq!(Quorum::Lost.next(&policy, few(3, 3)), Quorum::Held);
        assert_eq!(Quorum::Lost.next(&policy, few(3, 4)), Quorum::Lost);
        assert_eq!(Quorum::Lost.next(&policy, few(2, 2)), Quorum::Lost);
    }

    #[test]
    fn nothing_is_decided_before_something_is_known_of_each() {
        let count = |up, settled| Count { up, all: 2, settled };
        let policy = policy(2, 0);
        assert_eq!(Quorum::Undecided.next(&policy, count(1, false)), Quorum::Undecided);
        assert_eq!(Quorum::Undecided.next(&policy, count(2, false)), Quorum::Held);
        assert_eq!(Quorum::Undecided.next(&policy, count(1, true)), Quorum::Lost);
        assert_eq!(Quorum::Held.next(&policy, count(1, false)), Quorum::Held);
        assert_eq!(Quorum::Held.next(&policy, count(1, true)), Quorum::Lost);
        assert_eq!(Quorum::Held.next(&policy, count(0, false)), Quorum::Lost, "nobody is left");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// As long as the number stays within the hysteresis, nothing changes.
        #[test]
        fn a_number_within_the_hysteresis_changes_nothing(
            quorum in 2..20u16,
            hysteresis in 1..20u16,
            steps in prop::collection::vec(any::<usize>(), 1..50),
            held in any::<bool>(),
        ) {
            let hysteresis = hysteresis.min(quorum - 1);
            let policy = policy(quorum, hysteresis);
            let begun = if held { Quorum::Held } else { Quorum::Lost };
            let mut now = begun;
            // From the least that is not yet lost to the most that is not yet regained.
            let (least, most) = (usize::from(quorum - hysteresis), usize::from(quorum + hysteresis));
            for step in steps {
                let up = least + step % (most - least);
                now = now.next(&policy, Count { up, all: 100, settled: true });
                prop_assert_eq!(now, begun);
            }
        }
    }
}
