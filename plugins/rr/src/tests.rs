use super::RoundRobin;
use histories::history;
use proptest::prelude::*;
use shunt_sdk::Flow;
use shunt_sdk::testing::{Event, Host};

#[path = "../../sdk/tests/histories/mod.rs"]
mod histories;

fn choices(host: &mut Host<RoundRobin>, flows: usize) -> Vec<usize> {
    (0..flows).map(|_| host.choose(&Flow::default()).unwrap()).collect()
}

#[test]
fn servers_take_turns() {
    let mut host = Host::new(0, 1);
    host.set_weights(&[1, 1, 1]);
    assert_eq!(choices(&mut host, 7), [0, 1, 2, 0, 1, 2, 0]);
}

#[test]
fn weights_other_than_zero_make_no_difference() {
    let mut host = Host::new(0, 1);
    host.set_weights(&[9, 0, 1]);
    assert_eq!(choices(&mut host, 4), [0, 2, 0, 2]);
}

#[test]
fn each_worker_begins_at_another_server() {
    for (worker, first) in [(0, 1), (1, 2), (2, 4), (3, 1)] {
        let mut host = Host::new(worker, 4);
        host.set_weights(&[0, 1, 1, 0, 1]);
        assert_eq!(choices(&mut host, 1), [first], "worker {worker}");
    }
}

#[test]
fn the_round_goes_on_when_servers_come_and_go() {
    let mut host = Host::new(0, 1);
    host.set_weights(&[1, 1, 1]);
    assert_eq!(choices(&mut host, 2), [0, 1]);
    host.set_weights(&[1, 0, 1, 1]);
    assert_eq!(choices(&mut host, 3), [2, 3, 0]);
    host.set_weights(&[1]);
    assert_eq!(choices(&mut host, 2), [0, 0]);
}

#[test]
fn nobody_is_chosen_when_nobody_takes_new_flows() {
    let mut host = Host::<RoundRobin>::new(1, 2);
    assert_eq!(host.choose(&Flow::default()), None);
    host.set_weights(&[0, 0]);
    assert_eq!(host.choose(&Flow::default()), None);
    host.set_weights(&[0, 1]);
    assert_eq!(host.choose(&Flow::default()), Some(1));
}

/// The next server is the one that comes first in an order of all: those behind the last chosen
/// one, then the others.
fn model(history: &[Event], worker: usize) -> Vec<Option<usize>> {
    let mut available: Vec<usize> = Vec::new();
    let mut last = None;
    let mut choices = Vec::new();
    for event in history {
        match event {
            Event::Weights(weights) => {
                available = (0..weights.len()).filter(|&slot| weights[slot] > 0).collect();
            }
            Event::Choose => {
                let choice = match last {
                    Some(last) => available.iter().min_by_key(|&&slot| (slot <= last, slot)),
                    None => available.iter().cycle().nth(worker),
                };
                choices.push(choice.copied());
                last = choice.copied().or(last);
            }
            _ => {}
        }
    }
    choices
}

proptest! {
    #[test]
    fn it_chooses_as_the_model_does(history in history(), worker in 0..5usize) {
        let mut host = Host::<RoundRobin>::new(worker, 5);
        prop_assert_eq!(host.play(&history), model(&history, worker));
    }
}
