use super::RoundRobin;
use histories::{Model, full_history, play_model};
use proptest::prelude::*;
use shunt_sdk::testing::Host;
use shunt_sdk::{Flow, Placement, Scheduler, Server, Servers};

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

#[test]
fn a_new_instance_goes_on_where_the_former_one_was() {
    let mut host = Host::new(1, 2);
    host.set_weights(&[1, 1, 1]);
    assert!(!host.swap(), "nothing was chosen yet");
    assert_eq!(choices(&mut host, 2), [1, 2]);
    assert!(host.swap());
    assert_eq!(choices(&mut host, 2), [0, 1]);
}

#[test]
fn state_that_it_did_not_write_is_left_alone() {
    let mut fresh = RoundRobin::new(Placement { worker: 0, workers: 1, seed: 0 });
    let servers = [Server { weight: 1, ..Server::default() }; 3];
    let servers = Servers::new(&servers, &[]);
    assert!(!fresh.restore(servers, 2, &[0; 4]));
    assert!(!fresh.restore(servers, 1, &[0; 3]));
    assert_eq!(fresh.choose(servers, &Flow::default()), Some(0));
    assert!(fresh.restore(servers, 1, &[0xff; 4]));
    assert_eq!(fresh.choose(servers, &Flow::default()), Some(0));
}

/// The next server is the one that comes first in an order of all: those behind the last chosen
/// one, then the others.
struct Order {
    worker: usize,
    last: Option<usize>,
}

impl Model for Order {
    fn choose(&mut self, servers: &[Server], _: &Flow) -> Option<usize> {
        let available: Vec<usize> =
            (0..servers.len()).filter(|&slot| servers[slot].weight > 0).collect();
        let choice = match self.last {
            Some(last) => available.iter().min_by_key(|&&slot| (slot <= last, slot)),
            None => available.iter().cycle().nth(self.worker),
        };
        self.last = choice.copied().or(self.last);
        choice.copied()
    }
}

proptest! {
    #[test]
    fn it_chooses_as_the_model_does(history in full_history(), worker in 0..5usize) {
        let mut host = Host::<RoundRobin>::new(worker, 5);
        let mut model = Order { worker, last: None };
        prop_assert_eq!(host.play(&history), play_model(&mut model, &history));
    }
}
