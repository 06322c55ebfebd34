use super::WeightedLeastConnection;
use histories::{Model, full_history, play_model};
use proptest::prelude::*;
use shunt_sdk::testing::Host;
use shunt_sdk::{Flow, Server};

#[path = "../../sdk/tests/histories/mod.rs"]
mod histories;

fn host(servers: &[(u32, u32)]) -> Host<WeightedLeastConnection> {
    histories::host(servers)
}

#[test]
fn connections_count_by_weight() {
    assert_eq!(host(&[(1, 1), (4, 3)]).choose(&Flow::default()), Some(1));
    assert_eq!(host(&[(1, 1), (4, 5)]).choose(&Flow::default()), Some(0));
}

#[test]
fn the_first_of_equals_is_chosen() {
    assert_eq!(host(&[(3, 1), (6, 2), (3, 1)]).choose(&Flow::default()), Some(0));
    assert_eq!(host(&[(0, 0), (1, 0), (65_535, 0)]).choose(&Flow::default()), Some(1));
}

#[test]
fn one_active_connection_outweighs_255_inactive_ones() {
    let mut host = host(&[(2, 1), (2, 0)]);
    host.set_load(1, 0, 255);
    assert_eq!(host.choose(&Flow::default()), Some(1));
    host.set_load(1, 0, 257);
    assert_eq!(host.choose(&Flow::default()), Some(0));
}

#[test]
fn nobody_is_chosen_when_nobody_takes_new_flows() {
    assert_eq!(host(&[]).choose(&Flow::default()), None);
    assert_eq!(host(&[(0, 0), (0, 0)]).choose(&Flow::default()), None);
}

/// The comparison of ip_vs_wlc_schedule, in 128 bits: `one` has more for its weight.
fn is_more(one: &Server, other: &Server) -> bool {
    let overhead = |server: &Server| (u128::from(server.active) << 8) + u128::from(server.inactive);
    overhead(one) * u128::from(other.weight) > overhead(other) * u128::from(one.weight)
}

struct Loop;

impl Model for Loop {
    fn choose(&mut self, servers: &[Server], _: &Flow) -> Option<usize> {
        let mut least: Option<usize> = None;
        for (slot, server) in servers.iter().enumerate() {
            if server.weight > 0 && least.is_none_or(|least| is_more(&servers[least], server)) {
                least = Some(slot);
            }
        }
        least
    }
}

proptest! {
    #[test]
    fn it_chooses_as_the_model_does(history in full_history()) {
        let mut host = Host::<WeightedLeastConnection>::new(0, 1);
        prop_assert_eq!(host.play(&history), play_model(&mut Loop, &history));
    }
}
