use super::LeastConnection;
use histories::{Model, full_history, play_model};
use proptest::prelude::*;
use shunt_sdk::testing::Host;
use shunt_sdk::{Flow, Server};

#[path = "../../sdk/tests/histories/mod.rs"]
mod histories;

fn host(weights: &[u32]) -> Host<LeastConnection> {
    let mut host = Host::new(0, 1);
    host.set_weights(weights);
    host
}

#[test]
fn the_first_of_equals_is_chosen() {
    assert_eq!(host(&[1, 1, 1]).choose(&Flow::default()), Some(0));
    assert_eq!(host(&[0, 3, 5]).choose(&Flow::default()), Some(1));
}

#[test]
fn one_active_connection_outweighs_255_inactive_ones() {
    let mut host = host(&[1, 1]);
    host.set_load(0, 1, 0);
    host.set_load(1, 0, 255);
    assert_eq!(host.choose(&Flow::default()), Some(1));
    host.set_load(1, 0, 257);
    assert_eq!(host.choose(&Flow::default()), Some(0));
}

#[test]
fn the_least_loaded_is_found_in_every_slot_of_a_full_table() {
    let mut host = host(&[1; 1024]);
    for slot in 0..1024 {
        host.set_load(slot, 5, 5);
    }
    for slot in 0..1024 {
        host.set_load(slot, 5, 4);
        assert_eq!(host.choose(&Flow::default()), Some(slot));
        host.set_load(slot, u32::MAX, u32::MAX);
    }
}

#[test]
fn nobody_is_chosen_when_nobody_takes_new_flows() {
    assert_eq!(host(&[]).choose(&Flow::default()), None);
    assert_eq!(host(&[0, 0]).choose(&Flow::default()), None);
}

#[test]
fn a_server_that_drains_gets_nothing_though_it_is_idle() {
    let mut host = host(&[1, 1]);
    host.set_load(1, 100, 0);
    host.set_weights(&[0, 1]);
    assert_eq!(host.choose(&Flow::default()), Some(1));
}

struct Loop;

impl Model for Loop {
    fn choose(&mut self, servers: &[Server], _: &Flow) -> Option<usize> {
        let mut least: Option<(usize, u64)> = None;
        for (slot, server) in servers.iter().enumerate() {
            let overhead = (u64::from(server.active) << 8) + u64::from(server.inactive);
            if server.weight > 0 && least.is_none_or(|(_, least)| overhead < least) {
                least = Some((slot, overhead));
            }
        }
        least.map(|(slot, _)| slot)
    }
}

proptest! {
    #[test]
    fn it_chooses_as_the_model_does(history in full_history()) {
        let mut host = Host::<LeastConnection>::new(0, 1);
        prop_assert_eq!(host.play(&history), play_model(&mut Loop, &history));
    }
}
