use super::WeightedRoundRobin;
use histories::history;
use proptest::prelude::*;
use shunt_sdk::Flow;
use shunt_sdk::testing::{Event, Host};

#[path = "../../sdk/tests/histories/mod.rs"]
mod histories;

fn host(weights: &[u32]) -> Host<WeightedRoundRobin> {
    let mut host = Host::new(0, 1);
    host.set_weights(weights);
    host
}

fn choices(host: &mut Host<WeightedRoundRobin>, flows: usize) -> Vec<usize> {
    (0..flows).map(|_| host.choose(&Flow::default()).unwrap()).collect()
}

#[test]
fn flows_follow_the_weights() {
    assert_eq!(choices(&mut host(&[3, 1]), 8), [0, 0, 0, 1, 0, 0, 0, 1]);
    assert_eq!(choices(&mut host(&[4, 3, 2]), 9), [0, 0, 1, 0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_common_divisor_makes_no_difference() {
    assert_eq!(choices(&mut host(&[40, 30, 20]), 9), choices(&mut host(&[4, 3, 2]), 9));
}

#[test]
fn the_greatest_weights_are_no_trouble() {
    let mut host = host(&[65_535, 1, 0]);
    let mut flows = [0; 3];
    for _ in 0..65_536 {
        flows[host.choose(&Flow::default()).unwrap()] += 1;
    }
    assert_eq!(flows, [65_535, 1, 0]);
}

#[test]
fn each_worker_begins_at_another_server() {
    for (worker, order) in [(0, [1, 2, 4]), (1, [2, 4, 1]), (2, [4, 1, 2]), (3, [1, 2, 4])] {
        let mut host = Host::new(worker, 4);
        host.set_weights(&[0, 7, 7, 0, 7]);
        assert_eq!(choices(&mut host, 3), order, "worker {worker}");
    }
}

#[test]
fn nobody_is_chosen_when_nobody_takes_new_flows() {
    assert_eq!(host(&[]).choose(&Flow::default()), None);
    let mut host = host(&[0, 0]);
    assert_eq!(host.choose(&Flow::default()), None);
    host.set_weights(&[0, 2]);
    assert_eq!(host.choose(&Flow::default()), Some(1));
}

fn euclid(one: u32, other: u32) -> u32 {
    (1..=one.min(other))
        .rev()
        .find(|&divisor| one.is_multiple_of(divisor) && other.is_multiple_of(divisor))
        .unwrap()
}

/// Writes all rounds down after every change, and reads them off.
fn model(history: &[Event], worker: usize) -> Vec<Option<usize>> {
    let mut rounds: Vec<(u32, usize)> = Vec::new();
    let (mut threshold, mut at) = (0, 0);
    let mut choices = Vec::new();
    for event in history {
        match event {
            Event::Weights(weights) => {
                let mut order: Vec<usize> =
                    (0..weights.len()).filter(|&slot| weights[slot] > 0).collect();
                if !order.is_empty() {
                    let first = worker % order.len();
                    order.rotate_left(first);
                }
                let divisor = order.iter().map(|&slot| weights[slot]).reduce(euclid).unwrap_or(1);
                let greatest = weights.iter().copied().max().unwrap_or(0);
                let highest = (greatest + 1).saturating_sub(divisor);
                if threshold == 0 || threshold > highest {
                    threshold = highest;
                } else if divisor > 1 {
                    threshold = threshold / divisor * divisor + 1;
                }
                let thresholds = (1..=highest).rev().step_by(divisor as usize);
                rounds = thresholds
                    .flat_map(|threshold| order.iter().map(move |&slot| (threshold, slot)))
                    .filter(|&(threshold, slot)| weights[slot] >= threshold)
                    .collect();
                at = rounds.iter().position(|&(round, _)| round <= threshold).unwrap_or(0);
            }
            Event::Choose => {
                choices.push(rounds.get(at).map(|&(_, slot)| slot));
                threshold = rounds.get(at).map_or(threshold, |&(round, _)| round);
                at = if at + 1 < rounds.len() { at + 1 } else { 0 };
            }
            _ => {}
        }
    }
    choices
}

proptest! {
    // The model writes 65,535 rounds down for the greatest weight.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_chooses_as_the_model_does(history in history(), worker in 0..5usize) {
        let mut host = Host::<WeightedRoundRobin>::new(worker, 5);
        prop_assert_eq!(host.play(&history), model(&history, worker));
    }
}
