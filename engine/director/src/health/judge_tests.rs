use super::*;
use proptest::prelude::*;

const RULES: Rules = Rules { rise: 2, fall: 3, interval: 1_000 };

/// One result a second: `+` good, `-` bad. Returns the verdict's letter after each.
fn verdicts(judge: &mut Judge, results: &str) -> String {
    let begun = judge.since();
    let mut now = begun;
    results
        .chars()
        .map(|result| {
            now += 1_000;
            judge.hear(outcome(result), &RULES, now);
            letter(judge.verdict())
        })
        .collect()
}

fn outcome(result: char) -> Result<(), String> {
    if result == '+' { Ok(()) } else { Err("refused".to_owned()) }
}

fn letter(verdict: Verdict) -> char {
    match verdict {
        Verdict::Checking => '?',
        Verdict::Up => 'U',
        Verdict::Down => 'D',
    }
}

#[test]
fn the_first_result_decides_and_then_rise_and_fall_do() {
    for (results, expected) in [
        ("+", "U"),
        ("-", "D"),
        ("+--+--+", "UUUUUUU"),
        ("+---", "UUUD"),
        ("-+-+-+", "DDDDDD"),
        ("-++", "DDU"),
        ("+----++", "UUUDDDU"),
    ] {
        assert_eq!(verdicts(&mut Judge::new(0), results), expected, "{results}");
    }
}

#[test]
fn a_server_in_use_is_up_until_its_checks_fail() {
    let mut judge = Judge::of_a_server_in_use(0);
    assert_eq!(verdicts(&mut judge, "---"), "UUD");
}

#[test]
fn other_checks_begin_to_count_anew_and_leave_the_verdict() {
    let mut judge = Judge::new(0);
    assert_eq!(verdicts(&mut judge, "+--"), "UUU");
    judge.begin_anew();
    assert_eq!(verdicts(&mut judge, "--"), "UU");
    assert_eq!(verdicts(&mut judge, "-"), "D");
}

#[test]
fn the_last_error_is_kept_as_long_as_it_explains_something() {
    let mut judge = Judge::new(0);
    judge.hear(Err("timed out".into()), &RULES, 1);
    assert_eq!(judge.error(), Some("timed out"));
    judge.hear(Ok(()), &RULES, 2);
    assert_eq!(judge.error(), Some("timed out"), "it is still down");
    judge.hear(Ok(()), &RULES, 3);
    assert_eq!((judge.verdict(), judge.error()), (Verdict::Up, None));
    judge.hear(Err("refused".into()), &RULES, 4);
    assert_eq!((judge.verdict(), judge.error()), (Verdict::Up, Some("refused")));
    judge.hear(Ok(()), &RULES, 5);
    assert_eq!(judge.error(), None);
}

#[test]
fn a_server_that_falls_soon_after_its_return_needs_more_for_the_next() {
    let mut judge = Judge::new(0);
    //                                            rise 2    4       8           16
    let results = "---".to_owned() + "++---" + "++++---" + "++++++++---" + "++++++++++++++++---";
    let verdicts = verdicts(&mut judge, &results);
    let turns: Vec<usize> = verdicts
        .as_bytes()
        .windows(2)
        .zip(1..)
        .filter(|(pair, _)| pair == b"DU")
        .map(|(_, position)| position)
        .collect();
    let after_good: Vec<usize> = [2, 4, 8, 16].into_iter().collect();
    let fell: Vec<usize> = [2, 7, 14, 25].into_iter().collect();
    let needed: Vec<usize> = turns.iter().zip(&fell).map(|(up, down)| up - down).collect();
    assert_eq!(needed, after_good, "{results}\n{verdicts}");
    assert_eq!(judge.caution(), CAUTION_MOST, "and never more");
}

#[test]
fn a_server_that_has_stayed_up_is_trusted_as_at_first() {
    let mut judge = Judge::new(0);
    verdicts(&mut judge, "-++---");
    assert_eq!(judge.caution(), 2);
    assert_eq!(judge.verdict(), Verdict::Down);
    let mut now = judge.since();
    for _ in 0..4 {
        now += 1_000;
        judge.hear(Ok(()), &RULES, now);
    }
    assert_eq!(judge.verdict(), Verdict::Up);
    now += RULES.probation();
    for _ in 0..3 {
        judge.hear(outcome('-'), &RULES, now);
    }
    assert_eq!((judge.verdict(), judge.caution()), (Verdict::Down, 1));
}

#[test]
fn only_a_return_is_one() {
    let mut judge = Judge::new(0);
    verdicts(&mut judge, "+");
    assert_eq!(judge.returned(), None, "the first result is no return");
    verdicts(&mut judge, "---");
    assert_eq!(judge.returned(), None);
    judge.hear(Ok(()), &RULES, 90_000);
    judge.hear(Ok(()), &RULES, 91_000);
    assert_eq!(judge.returned(), Some(91_000));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Whatever the results are, a change of the verdict needs as many of one kind in a row as the
    /// rules say, and is told once.
    #[test]
    fn a_verdict_changes_only_after_enough_in_a_row(
        results in prop::collection::vec(any::<bool>(), 1..200),
        rise in 1..5u32,
        fall in 1..5u32,
    ) {
        let rules = Rules { rise, fall, interval: 1_000 };
        let mut judge = Judge::new(0);
        let (mut run, mut last) = (0, None);
        for (position, &good) in results.iter().enumerate() {
            run = if last == Some(good) { run + 1 } else { 1 };
            last = Some(good);
            let before = judge.verdict();
            let outcome = if good { Ok(()) } else { Err("no".to_owned()) };
            let told = judge.hear(outcome, &rules, position as u64 * 1_000);
            prop_assert_eq!(told.is_some(), judge.verdict() != before);
            if position == 0 {
                prop_assert!(told.is_some());
            } else if told == Some(Verdict::Up) {
                prop_assert!(good && run >= rise);
            } else if told == Some(Verdict::Down) {
                prop_assert!(!good && run >= fall);
            }
            // Never longer than the rules and the caution say.
            if good && run >= rise * CAUTION_MOST {
                prop_assert_eq!(judge.verdict(), Verdict::Up);
            }
            if !good && run >= fall {
                prop_assert_eq!(judge.verdict(), Verdict::Down);
            }
            prop_assert_eq!(judge.verdict() == Verdict::Down, judge.verdict() != Verdict::Up);
            prop_assert!(judge.verdict() == Verdict::Up || judge.error().is_some());
        }
    }

    /// A server that answers every second check neither comes nor goes.
    #[test]
    fn results_that_alternate_change_nothing(rise in 2..6u32, fall in 2..6u32, first in any::<bool>()) {
        let rules = Rules { rise, fall, interval: 1_000 };
        let mut judge = Judge::new(0);
        let outcome = |good: bool| if good { Ok(()) } else { Err("no".to_owned()) };
        judge.hear(outcome(first), &rules, 0);
        for position in 1..100u64 {
            let good = (position % 2 == 0) == first;
            prop_assert_eq!(judge.hear(outcome(good), &rules, position * 1_000), None);
        }
    }
}
