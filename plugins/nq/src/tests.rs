use super::NeverQueue;
use histories::{Model, full_history, play_model};
use proptest::prelude::*;
use shunt_sdk::testing::Host;
use shunt_sdk::{Flow, Server};

#[path = "../../sdk/tests/histories/mod.rs"]
mod histories;

fn host(servers: &[(u32, u32)]) -> Host<NeverQueue> {
    histories::host(servers)
}

#[test]
fn an_idle_server_comes_first_however_slow() {
    assert_eq!(host(&[(65_535, 1), (1, 0)]).choose(&Flow::default()), Some(1));
    assert_eq!(host(&[(65_535, 1), (1, 0), (9, 0)]).choose(&Flow::default()), Some(1));
    assert_eq!(host(&[(65_535, 1), (0, 0)]).choose(&Flow::default()), Some(0));
}

#[test]
fn without_an_idle_one_the_shortest_delay_decides() {
    assert_eq!(host(&[(1, 1), (2, 2)]).choose(&Flow::default()), Some(1));
    assert_eq!(host(&[(1, 1), (2, 3)]).choose(&Flow::default()), Some(0));
}

#[test]
fn inactive_connections_are_no_queue() {
    let mut host = host(&[(1, 1), (1, 0)]);
    host.set_load(1, 0, 1_000_000);
    assert_eq!(host.choose(&Flow::default()), Some(1));
}

#[test]
fn nobody_is_chosen_when_nobody_takes_new_flows() {
    assert_eq!(host(&[]).choose(&Flow::default()), None);
    assert_eq!(host(&[(0, 0), (0, 0)]).choose(&Flow::default()), None);
}

struct TwoSpeeds;

impl Model for TwoSpeeds {
    fn choose(&mut self, servers: &[Server], _: &Flow) -> Option<usize> {
        let available = || (0..servers.len()).filter(|&slot| servers[slot].weight > 0);
        if let Some(idle) = available().find(|&slot| servers[slot].active == 0) {
            return Some(idle);
        }
        available().reduce(|least, slot| {
            let (one, other) = (servers[least], servers[slot]);
            let one_waits = (u128::from(one.active) + 1) * u128::from(other.weight);
            let other_waits = (u128::from(other.active) + 1) * u128::from(one.weight);
            if one_waits > other_waits { slot } else { least }
        })
    }
}

proptest! {
    #[test]
    fn it_chooses_as_the_model_does(history in full_history()) {
        let mut host = Host::<NeverQueue>::new(0, 1);
        prop_assert_eq!(host.play(&history), play_model(&mut TwoSpeeds, &history));
    }
}
