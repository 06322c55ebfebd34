use super::WeightedRoundRobin;
use histories::{Model, full_history, play_model};
use proptest::prelude::*;
use shunt_sdk::testing::Host;
use shunt_sdk::{Flow, Scheduler, Server, Servers};

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

#[test]
fn a_new_instance_goes_on_where_the_former_one_was() {
    let mut host = host(&[4, 3, 2]);
    assert_eq!(choices(&mut host, 4), [0, 0, 1, 0]);
    assert!(host.swap());
    assert_eq!(choices(&mut host, 5), [1, 2, 0, 1, 2]);
}

#[test]
fn state_that_does_not_fit_the_servers_is_left_alone() {
    let mut other = host(&[9, 9]);
    assert_eq!(choices(&mut other, 1), [0]);
    let mut state = [0; 8];
    assert_eq!(other.scheduler().save(&mut state), 8);
    let servers = [Server { weight: 4, ..Server::default() }; 2];
    let mut host = host(&[4, 4]);
    let taken_over = |host: &mut Host<WeightedRoundRobin>, version, state: &[u8]| {
        let mut scheduler = WeightedRoundRobin { ..*host.scheduler() };
        scheduler.restore(Servers::new(&servers, &[]), version, state)
    };
    // Of 4 and 4, the greatest common divisor is 4: the only threshold is 1.
    assert!(!taken_over(&mut host, 1, &[2, 0, 0, 0, 1, 0, 0, 0]));
    assert!(taken_over(&mut host, 1, &[1, 0, 0, 0, 1, 0, 0, 0]));
    assert!(!taken_over(&mut host, 2, &[1, 0, 0, 0, 1, 0, 0, 0]));
    assert!(!taken_over(&mut host, 1, &[1, 0, 0, 0, 1, 0, 0]));
    // Of 9 and 9 likewise, so that one fits.
    assert!(taken_over(&mut host, 1, &state));
}

fn euclid(one: u32, other: u32) -> u32 {
    (1..=one.min(other))
        .rev()
        .find(|&divisor| one.is_multiple_of(divisor) && other.is_multiple_of(divisor))
        .unwrap()
}

/// Goes around all servers, step by step, with a threshold that sinks by the divisor after every
/// round.
struct Rounds {
    worker: usize,
    /// The servers that take new flows, from the worker's own on.
    order: Vec<usize>,
    /// How many of them this round has been at.
    at: usize,
    threshold: u32,
    highest: u32,
    divisor: u32,
}

impl Model for Rounds {
    fn servers_changed(&mut self, servers: &[Server]) {
        self.order = (0..servers.len()).filter(|&slot| servers[slot].weight > 0).collect();
        if !self.order.is_empty() {
            let first = self.worker % self.order.len();
            self.order.rotate_left(first);
        }
        let weights = || self.order.iter().map(|&slot| servers[slot].weight);
        self.divisor = weights().reduce(euclid).unwrap_or(1);
        self.highest = (weights().max().unwrap_or(0) + 1).saturating_sub(self.divisor);
        if self.threshold == 0 || self.threshold > self.highest {
            self.threshold = self.highest;
        } else if self.divisor > 1 {
            self.threshold = self.threshold / self.divisor * self.divisor + 1;
        }
        self.at = 0;
    }

    fn choose(&mut self, servers: &[Server], _: &Flow) -> Option<usize> {
        if self.order.is_empty() {
            return None;
        }
        loop {
            if self.at == self.order.len() {
                self.at = 0;
                let more = self.threshold > self.divisor;
                self.threshold = if more { self.threshold - self.divisor } else { self.highest };
            }
            let slot = self.order[self.at];
            self.at += 1;
            if servers[slot].weight >= self.threshold {
                return Some(slot);
            }
        }
    }
}

proptest! {
    #[test]
    fn it_chooses_as_the_model_does(history in full_history(), worker in 0..5usize) {
        let mut host = Host::<WeightedRoundRobin>::new(worker, 5);
        let (order, at) = (Vec::new(), 0);
        let mut model = Rounds { worker, order, at, threshold: 0, highest: 0, divisor: 1 };
        prop_assert_eq!(host.play(&history), play_model(&mut model, &history));
    }
}
