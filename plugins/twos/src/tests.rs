use super::PowerOfTwos;
use histories::{Model, full_history, play_model};
use proptest::prelude::*;
use shunt_sdk::abi::Random;
use shunt_sdk::testing::{Host, set_random};
use shunt_sdk::{Flow, Server};

#[path = "../../sdk/tests/histories/mod.rs"]
mod histories;

fn host(servers: &[(u32, u32)]) -> Host<PowerOfTwos> {
    histories::host(servers)
}

fn flows(host: &mut Host<PowerOfTwos>, count: usize) -> Vec<usize> {
    let mut flows = vec![0; host.servers().len()];
    for _ in 0..count {
        flows[host.choose(&Flow::default()).unwrap()] += 1;
    }
    flows
}

#[test]
fn a_server_is_drawn_as_often_as_its_weight_says() {
    set_random(Random::new(1, 0));
    // Equally loaded: the first draw decides.
    let flows = flows(&mut host(&[(10, 0), (0, 0), (30, 0), (60, 0)]), 101_000);
    assert_eq!(flows[1], 0);
    // The first counts as 11 of 101.
    for (slot, expected) in [(0, 11_000), (2, 30_000), (3, 60_000)] {
        let deviation = flows[slot].abs_diff(expected);
        assert!(deviation < 600, "slot {slot}: {} instead of {expected}", flows[slot]);
    }
}

#[test]
fn the_less_loaded_of_two_is_chosen() {
    set_random(Random::new(2, 0));
    // The busy one is chosen only when both draws give it: (51 / 101)² of all.
    let flows = flows(&mut host(&[(50, 100), (50, 1)]), 100_000);
    assert!(flows[0].abs_diff(25_497) < 600, "{flows:?}");
}

#[test]
fn connections_count_by_weight() {
    set_random(Random::new(3, 0));
    // 3 for 1 against 100 for 50: the second is always preferred, and mostly drawn.
    let flows = flows(&mut host(&[(1, 3), (50, 100)]), 10_000);
    assert!(flows[0] < 50, "{flows:?}");
}

#[test]
fn the_greatest_loads_and_weights_are_no_trouble() {
    set_random(Random::new(4, 0));
    let flows = flows(&mut host(&[(65_535, u32::MAX), (65_535, u32::MAX - 1)]), 1_000);
    assert!(flows[0] < flows[1], "{flows:?}");
    let flows = self::flows(&mut host(&[(65_535, 0); 1024]), 10_000);
    assert!(flows.iter().filter(|&&flows| flows > 0).count() > 1000);
}

#[test]
fn nobody_is_chosen_when_nobody_takes_new_flows() {
    assert_eq!(host(&[]).choose(&Flow::default()), None);
    assert_eq!(host(&[(0, 0), (0, 0)]).choose(&Flow::default()), None);
}

/// The two passes of ip_vs_twos_schedule over the servers, with the same random numbers.
struct TwoPasses(Random);

impl Model for TwoPasses {
    fn choose(&mut self, servers: &[Server], _: &Flow) -> Option<usize> {
        let total: i64 = servers.iter().map(|server| i64::from(server.weight)).sum();
        if total == 0 {
            return None;
        }
        let drawn = self.0.draw();
        let mut choices = Vec::new();
        for number in [drawn % (1 << 32), drawn >> 32] {
            let mut left = number as i64 % (total + 1);
            for (slot, server) in servers.iter().enumerate() {
                if server.weight > 0 {
                    left -= i64::from(server.weight);
                    if left <= 0 {
                        choices.push((slot, server));
                        break;
                    }
                }
            }
        }
        let load = |server: &Server| (u128::from(server.active) << 8) + u128::from(server.inactive);
        let ((first, one), (second, other)) = (choices[0], choices[1]);
        let one_has = load(one) * u128::from(other.weight);
        let other_has = load(other) * u128::from(one.weight);
        Some(if one_has > other_has { second } else { first })
    }
}

proptest! {
    #[test]
    fn it_chooses_as_the_model_does(history in full_history(), seed: u64) {
        set_random(Random::new(seed, 3));
        let mut host = Host::<PowerOfTwos>::new(0, 1);
        let mut model = TwoPasses(Random::new(seed, 3));
        prop_assert_eq!(host.play(&history), play_model(&mut model, &history));
    }
}
