use super::*;
use crate::fakes::{Native, Told, restore_round, round_robin};
use dataplane::{Failure, Millis, NewFlow};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const NOTHING: Claims = Claims { state: false, no_random: true, no_time: true };
const STATE: Claims = Claims { state: true, no_random: true, no_time: true };

/// The rules that are broken, with their details.
fn broken(native: &Native, claims: &Claims) -> Vec<(&'static str, String)> {
    let (rules, _) = behaviour(native, 1024, claims, 1);
    let broken = rules.into_iter().filter(|rule| rule.outcome == Outcome::Failed);
    broken.map(|rule| (rule.rule, rule.detail)).collect()
}

fn the_only_one(native: &Native, claims: &Claims) -> (&'static str, String) {
    let broken = broken(native, claims);
    assert_eq!(broken.len(), 1, "{broken:?}");
    broken.into_iter().next().unwrap()
}

#[test]
fn round_robin_breaks_nothing() {
    let native = Native { restore: restore_round, ..Native::new(round_robin) };
    assert_eq!(broken(&native, &STATE), []);
    let (rules, played) = behaviour(&native, 1024, &STATE, 1);
    assert_eq!(rules.len(), 4);
    let played = played.unwrap();
    assert!((100_000..100_100).contains(&played.answers.len()), "{}", played.answers.len());
    assert_eq!(played.declined, 0);
    assert!(played.answers.contains(&Some(1023)), "the table was full at times");
    assert!(played.answers.contains(&None), "nobody was there at times");
}

/// What comes out of the last play, of whatever instance, goes into the next.
fn depends_on_the_past(told: &mut Told, _: &NewFlow, _: Millis) -> Result<usize, Failure> {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    told.available(CALLS.fetch_add(1, Relaxed))
}

#[test]
fn answers_that_differ_from_play_to_play_are_found() {
    let (rule, detail) = the_only_one(&Native::new(depends_on_the_past), &NOTHING);
    assert_eq!(rule, "determinism");
    assert!(detail.contains("first about flow") && detail.contains("seed 1"), "{detail}");
}

#[test]
fn memory_that_grows_is_found() {
    let native = Native { grows: 1, ..Native::new(round_robin) };
    let (rule, detail) = the_only_one(&native, &NOTHING);
    assert_eq!(rule, "growth");
    assert!(detail.contains("3 bytes at first"), "{detail}");
}

/// Fails when a slot in the middle is empty, which takes a history to happen.
fn mistakes_gaps(told: &mut Told, _: &NewFlow, _: Millis) -> Result<usize, Failure> {
    let available = told.servers.iter().filter(|server| server.weight > 0).count();
    if available == 0 { Err(Failure::Declined) } else { Ok(available - 1) }
}

#[test]
fn a_failure_says_where_and_what_repeats_it() {
    let (rule, detail) = the_only_one(&Native::new(mistakes_gaps), &NOTHING);
    assert_eq!(rule, "flows");
    for words in ["answered slot", "weight 0", "flow ", "weights to 0 and back", "`--seed 1`"] {
        assert!(detail.contains(words), "{words:?} is not in {detail}");
    }
    assert_eq!(detail, the_only_one(&Native::new(mistakes_gaps), &NOTHING).1, "repeated");
}

#[test]
fn state_that_is_not_taken_over_is_found() {
    for (restore, words) in [
        ((|_, _| Ok(false)) as fn(&mut Told, &[u8]) -> _, "refuses the 8 bytes"),
        (|_, _| Err(Failure::Trap), "failed (trap)"),
        // Takes whatever comes, and stumbles over it later.
        (
            |told, state| {
                told.state = state.to_vec();
                match state.len() {
                    8 => Ok(true),
                    _ => Err(Failure::Trap),
                }
            },
            "cut to",
        ),
        // Refuses, but has taken it over.
        (
            |told, state| {
                restore_round(told, state)?;
                let good = state.len() == 8 && state.starts_with(&[1, 0, 0, 0]);
                told.state = [&[1, 0, 0, 0][..], &state[state.len().min(4)..]].concat();
                Ok(good)
            },
            "not as if it was fresh",
        ),
    ] {
        let (rule, detail) = the_only_one(&Native { restore, ..Native::new(round_robin) }, &STATE);
        assert_eq!(rule, "state");
        assert!(detail.contains(words), "{words:?} is not in {detail}");
    }
    let (_, detail) = the_only_one(&Native::new(|told, _, _| told.available(0)), &STATE);
    assert!(detail.contains("hands nothing over"), "{detail}");
}

#[test]
fn the_answers_go_on_after_a_swap_if_the_state_is_taken_over() {
    let detail = |restore| {
        let native = Native { restore, ..Native::new(round_robin) };
        let (rules, _) = behaviour(&native, 1024, &STATE, 1);
        rules.into_iter().find(|rule| rule.rule == "state").unwrap().detail
    };
    let taken = detail(restore_round);
    assert!(taken.contains("8 bytes handed over, and 500 of the next 500 answers"), "{taken}");
    let ignored = detail(|_, _| Ok(true));
    assert!(ignored.contains("and 0 of the next 500 answers"), "{ignored}");
}
