use super::LeastConnection;
use histories::history;
use proptest::prelude::*;
use shunt_sdk::Flow;
use shunt_sdk::testing::{Event, Host};

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

/// The loop of ip_vs_lc_schedule.
fn model(history: &[Event]) -> Vec<Option<usize>> {
    let mut servers: Vec<(u32, u64)> = Vec::new();
    let mut choices = Vec::new();
    for event in history {
        match event {
            Event::Weights(weights) => {
                servers.resize(weights.len(), (0, 0));
                for (server, &weight) in servers.iter_mut().zip(weights) {
                    server.0 = weight;
                }
            }
            &Event::Load { slot, active, inactive } => {
                if let Some(server) = servers.get_mut(slot) {
                    server.1 = (u64::from(active) << 8) + u64::from(inactive);
                }
            }
            Event::Choose => {
                let mut least: Option<(usize, u64)> = None;
                for (slot, &(weight, overhead)) in servers.iter().enumerate() {
                    if weight > 0 && least.is_none_or(|(_, least)| overhead < least) {
                        least = Some((slot, overhead));
                    }
                }
                choices.push(least.map(|(slot, _)| slot));
            }
            _ => {}
        }
    }
    choices
}

proptest! {
    #[test]
    fn it_chooses_as_the_model_does(history in history()) {
        let mut host = Host::<LeastConnection>::new(0, 1);
        prop_assert_eq!(host.play(&history), model(&history));
    }
}
