use super::ShortestExpectedDelay;
use histories::{Model, full_history, play_model};
use proptest::prelude::*;
use shunt_sdk::testing::Host;
use shunt_sdk::{Flow, Server};

#[path = "../../sdk/tests/histories/mod.rs"]
mod histories;

fn host(servers: &[(u32, u32)]) -> Host<ShortestExpectedDelay> {
    histories::host(servers)
}

#[test]
fn the_flow_that_comes_counts_too() {
    // Idle both: 1/1 against 1/2.
    assert_eq!(host(&[(1, 0), (2, 0)]).choose(&Flow::default()), Some(1));
    // 1/1 against 2/2.
    assert_eq!(host(&[(1, 0), (2, 1)]).choose(&Flow::default()), Some(0));
    // 1/1 against 3/4: not idle, and yet faster.
    assert_eq!(host(&[(1, 0), (4, 2)]).choose(&Flow::default()), Some(1));
}

#[test]
fn inactive_connections_make_no_difference() {
    let mut host = host(&[(1, 0), (1, 0)]);
    host.set_load(0, 0, 1_000_000);
    assert_eq!(host.choose(&Flow::default()), Some(0));
}

#[test]
fn more_than_32_bits_are_no_trouble() {
    // The first one's product would be 2^32.
    assert_eq!(host(&[(65_535, 131_071), (32_768, 2)]).choose(&Flow::default()), Some(1));
    assert_eq!(host(&[(1, u32::MAX), (1, u32::MAX - 1)]).choose(&Flow::default()), Some(1));
}

#[test]
fn nobody_is_chosen_when_nobody_takes_new_flows() {
    assert_eq!(host(&[]).choose(&Flow::default()), None);
    assert_eq!(host(&[(0, 0), (0, 0)]).choose(&Flow::default()), None);
}

struct Loop;

impl Model for Loop {
    fn choose(&mut self, servers: &[Server], _: &Flow) -> Option<usize> {
        let mut least: Option<(usize, u128, u128)> = None;
        for (slot, server) in servers.iter().enumerate() {
            let (jobs, rate) = (u128::from(server.active) + 1, u128::from(server.weight));
            let delays_less = |(_, least_jobs, least_rate)| least_jobs * rate > jobs * least_rate;
            if rate > 0 && least.is_none_or(delays_less) {
                least = Some((slot, jobs, rate));
            }
        }
        least.map(|(slot, ..)| slot)
    }
}

proptest! {
    #[test]
    fn it_chooses_as_the_model_does(history in full_history()) {
        let mut host = Host::<ShortestExpectedDelay>::new(0, 1);
        prop_assert_eq!(host.play(&history), play_model(&mut Loop, &history));
    }
}
