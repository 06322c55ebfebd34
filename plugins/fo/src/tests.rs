use super::Failover;
use histories::{Model, full_history, play_model};
use proptest::prelude::*;
use shunt_sdk::testing::Host;
use shunt_sdk::{Flow, Server};

#[path = "../../sdk/tests/histories/mod.rs"]
mod histories;

fn host(weights: &[u32]) -> Host<Failover> {
    let mut host = Host::new(0, 1);
    host.set_weights(weights);
    host
}

#[test]
fn the_greatest_weight_gets_all() {
    let mut host = host(&[1, 7, 3]);
    assert_eq!([(); 3].map(|()| host.choose(&Flow::default())), [Some(1); 3]);
}

#[test]
fn the_next_one_takes_over_and_gives_back() {
    let mut host = host(&[1, 7, 3]);
    host.set_weights(&[1, 0, 3]);
    assert_eq!(host.choose(&Flow::default()), Some(2));
    host.set_weights(&[1]);
    assert_eq!(host.choose(&Flow::default()), Some(0));
    host.set_weights(&[1, 7, 3]);
    assert_eq!(host.choose(&Flow::default()), Some(1));
}

#[test]
fn the_first_of_equals_is_chosen() {
    assert_eq!(host(&[0, 5, 65_535, 65_535]).choose(&Flow::default()), Some(2));
}

#[test]
fn nobody_is_chosen_when_nobody_takes_new_flows() {
    assert_eq!(host(&[]).choose(&Flow::default()), None);
    assert_eq!(host(&[0, 0]).choose(&Flow::default()), None);
}

struct Ranking;

impl Model for Ranking {
    fn choose(&mut self, servers: &[Server], _: &Flow) -> Option<usize> {
        let mut ranking: Vec<usize> = (0..servers.len()).collect();
        // Stable: equals stay in order.
        ranking.sort_by(|&one, &other| servers[other].weight.cmp(&servers[one].weight));
        ranking.into_iter().find(|&slot| servers[slot].weight > 0)
    }
}

proptest! {
    #[test]
    fn it_chooses_as_the_model_does(history in full_history()) {
        let mut host = Host::<Failover>::new(0, 1);
        prop_assert_eq!(host.play(&history), play_model(&mut Ranking, &history));
    }
}
