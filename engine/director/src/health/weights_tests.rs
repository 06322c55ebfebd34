use super::super::kinds::{CheckError, CheckKind, HealthCheck};
use super::super::members::Outcome;
use super::*;
use crate::neighbors::{KernelState, Reach};
use crate::scheduler_name::Params;
use crate::services::Removal;
use dataplane::Protocol;
use futures_util::FutureExt;
use proptest::prelude::*;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const LINK: u32 = 7;
const SORRY: u8 = 9;

fn key() -> ServiceKey {
    ServiceKey { address: [172, 17, 100, 100].into(), port: 80, protocol: Protocol::Tcp }
}

fn rs(host: u8) -> IpAddr {
    [172, 17, 100, host].into()
}

fn check(on_failure: OnFailure) -> Arc<HealthCheck> {
    Arc::new(HealthCheck {
        kind: CheckKind::Tcp,
        port: None,
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 2,
        jitter: 0.0,
        on_failure,
    })
}

/// One service of three servers of weight 10, and what is known of them.
struct World {
    services: Services,
    neighbors: Neighbors,
    members: Members,
    weights: Weights,
    now: Millis,
}

impl World {
    fn new(policy: Policy) -> World {
        let mut services = Services::default();
        services.add_service(key(), "wrr".parse().unwrap(), Params::new()).unwrap();
        for host in 1..=3 {
            services.add_server(&key(), rs(host), Some(10)).unwrap();
        }
        services.set_policy(&key(), policy).unwrap();
        let mut neighbors = Neighbors::default();
        neighbors.want([1, 2, 3, 4, SORRY].map(rs));
        let (members, weights) = (Members::default(), Weights::default());
        let mut world = World { services, neighbors, members, weights, now: 1_000 };
        for host in [1, 2, 3, 4, SORRY] {
            let reach = Reach::OnLink { interface: 0, link: LINK, vlans: [0, 0], source: None };
            world.neighbors.place(rs(host), reach);
            world.neighbor(host, KernelState::Reachable);
        }
        world.members.follow(&world.services, world.now);
        world
    }

    fn neighbor(&mut self, host: u8, state: KernelState) {
        let mac = Some([2, 0, 0, 0, 0, host]);
        self.neighbors.learned(LINK, rs(host), state, mac, self.now);
    }

    fn hear(&mut self, host: u8, good: bool) {
        self.now += 10;
        let (_, service) = self.services.services().next().unwrap();
        let outcome = Outcome {
            member: (key(), rs(host)),
            check: service.policy.check.clone().unwrap(),
            result: if good { Ok(()) } else { Err(CheckError::Failed("refused".into())) },
            took: Duration::from_millis(1),
        };
        self.members.hear(outcome, self.now);
    }

    /// So many results of one kind.
    fn hear_all(&mut self, hosts: &[u8], good: bool, times: u32) {
        for _ in 0..times {
            hosts.iter().for_each(|&host| self.hear(host, good));
        }
    }

    /// The weights of the three, then of the sorry server if there is one.
    fn weigh(&mut self) -> Vec<u32> {
        let World { services, neighbors, members, weights: former, now } = &*self;
        let weights = Scales { services, neighbors, members, former, now: *now }.weigh();
        self.weights = weights;
        let indices = self.services.servers().map(|(index, _)| index);
        indices.map(|index| self.weights.given(index).weight).collect()
    }

    fn standing(&self) -> Standing {
        self.weights.standing(&key())
    }
}

fn checked() -> Policy {
    Policy { check: Some(check(OnFailure::Drain)), ..Policy::default() }
}

fn with_sorry(quorum: u16, hysteresis: u16) -> Policy {
    Policy { quorum, hysteresis, sorry_server: Some(rs(SORRY)), ..checked() }
}

#[test]
fn only_servers_that_are_known_to_be_up_take_new_flows() {
    let mut world = World::new(checked());
    assert_eq!(world.weigh(), [0, 0, 0], "nobody has answered yet");
    assert_eq!(world.standing().quorum, Quorum::Undecided);
    world.hear_all(&[1, 2], true, 1);
    world.hear(3, false);
    assert_eq!(world.weigh(), [10, 10, 0]);
    assert_eq!(world.standing().count, Count { up: 2, all: 3, settled: true });
    world.hear(1, false);
    assert_eq!(world.weigh(), [10, 10, 0], "fall is 2");
    world.hear(1, false);
    assert_eq!(world.weigh(), [0, 10, 0]);
    world.neighbor(2, KernelState::Failed);
    assert_eq!(world.weigh(), [0, 0, 0], "up, but not to be reached");
}

#[test]
fn the_operators_zero_is_raised_by_no_check() {
    let mut world = World::new(with_sorry(2, 0));
    world.hear_all(&[1, 2, 3], true, 1);
    world.services.set_weight(&key(), rs(1), 0).unwrap();
    assert_eq!(world.weigh(), [0, 10, 10, 0]);
    world.hear_all(&[1], false, 2);
    world.hear_all(&[1], true, 9);
    assert_eq!(world.weigh(), [0, 10, 10, 0]);
    assert_eq!(world.standing().count, Count { up: 2, all: 2, settled: true });
}

#[test]
fn without_a_check_servers_take_flows_as_their_neighbors_do() {
    let mut world = World::new(Policy::default());
    assert_eq!(world.weigh(), [10, 10, 10]);
    world.neighbor(2, KernelState::Failed);
    assert_eq!(world.weigh(), [10, 0, 10]);
    world.services.remove_server(&key(), rs(3), Removal::Drain).unwrap();
    assert_eq!(world.weigh(), [10, 0, 0]);
    assert_eq!(world.standing().count, Count { up: 1, all: 2, settled: true });
}

#[test]
fn the_sorry_server_serves_alone_while_the_quorum_is_lost() {
    let mut world = World::new(with_sorry(2, 1));
    world.hear_all(&[1, 2, 3], true, 1);
    assert_eq!(world.weigh(), [10, 10, 10, 0]);
    world.hear_all(&[1, 2], false, 2);
    assert_eq!(world.weigh(), [0, 0, 10, 0], "one is not yet too few");
    world.hear_all(&[3], false, 2);
    assert_eq!(world.weigh(), [0, 0, 0, 1]);
    assert!(world.standing().sorry);
    world.hear_all(&[1, 2], true, 2);
    assert_eq!(world.weigh(), [0, 0, 0, 1], "two are not yet enough again");
    world.hear_all(&[3], true, 2);
    assert_eq!(world.weigh(), [10, 10, 10, 0]);
    assert!(!world.standing().sorry);
}

#[test]
fn a_sorry_server_that_cannot_be_reached_leaves_the_flows_to_whoever_is_left() {
    let mut world = World::new(with_sorry(3, 0));
    world.hear_all(&[1, 2, 3], true, 1);
    world.hear_all(&[1], false, 2);
    world.neighbor(SORRY, KernelState::Failed);
    assert_eq!(world.weigh(), [0, 10, 10, 0]);
    assert_eq!((world.standing().quorum, world.standing().sorry), (Quorum::Lost, false));
    world.neighbor(SORRY, KernelState::Reachable);
    assert_eq!(world.weigh(), [0, 0, 0, 1]);
}

#[test]
fn the_sorry_server_takes_nothing_before_anything_is_known() {
    let mut world = World::new(with_sorry(2, 0));
    assert_eq!(world.weigh(), [0, 0, 0, 0]);
    world.hear(1, true);
    assert_eq!(world.weigh(), [10, 0, 0, 0]);
    world.hear(2, false);
    world.hear(3, false);
    assert_eq!(world.weigh(), [0, 0, 0, 1]);
}

#[test]
fn servers_that_come_with_a_greater_quorum_are_waited_for() {
    let mut world = World::new(with_sorry(3, 0));
    world.hear_all(&[1, 2, 3], true, 1);
    assert_eq!(world.weigh(), [10, 10, 10, 0]);
    world.services.add_server(&key(), rs(4), Some(10)).unwrap();
    world.services.set_policy(&key(), with_sorry(4, 0)).unwrap();
    assert_eq!(world.weigh(), [10, 10, 10, 0, 0], "in the very change that brings it");
    world.members.follow(&world.services, world.now);
    assert_eq!(world.weigh(), [10, 10, 10, 0, 0], "and until it is heard of");
    world.hear(4, false);
    assert_eq!(world.weigh(), [0, 0, 0, 1, 0]);
    world.hear_all(&[4], true, 2);
    assert_eq!(world.weigh(), [10, 10, 10, 0, 10]);
}

#[test]
fn a_failed_server_keeps_or_loses_its_flows_as_the_policy_says() {
    for (on_failure, expected) in
        [(OnFailure::Drain, ServerState::Serving), (OnFailure::Expire, ServerState::Expired)]
    {
        let policy = Policy { check: Some(check(on_failure)), ..Policy::default() };
        let mut world = World::new(policy);
        let state = |world: &World| world.weights.given(ServerIndex(0)).state;
        world.weigh();
        assert_eq!(state(&world), ServerState::Serving, "no result is no failure");
        world.hear_all(&[1, 2, 3], true, 1);
        world.hear_all(&[1], false, 2);
        world.weigh();
        assert_eq!(state(&world), expected);
        world.hear_all(&[1], true, 2);
        world.weigh();
        assert_eq!(state(&world), ServerState::Serving);
        // What the operator removed goes as the operator said.
        world.hear_all(&[1], false, 4);
        world.services.remove_server(&key(), rs(1), Removal::Drain).unwrap();
        world.weigh();
        assert_eq!(state(&world), ServerState::Removed);
    }
}

#[test]
fn a_weight_grows_after_a_return_and_only_then() {
    let policy = Policy { slow_start: 9, ..checked() };
    let mut world = World::new(policy);
    world.hear_all(&[1, 2, 3], true, 1);
    assert_eq!(world.weigh(), [10, 10, 10], "the first result is no return");
    world.hear_all(&[2], false, 2);
    world.hear_all(&[2], true, 2);
    let returned = world.now;
    let mut seen = Vec::new();
    loop {
        let weights = world.weigh();
        assert_eq!((weights[0], weights[2]), (10, 10));
        seen.push(weights[1]);
        assert_eq!(world.standing().count.up, 3);
        let Some(next) = world.weights.next_step() else { break };
        assert!(next > world.now);
        world.now = next;
    }
    assert_eq!(seen, (1..=10).collect::<Vec<u32>>());
    assert_eq!(world.now, returned + 9_000);
}

#[test]
fn a_check_that_is_new_takes_nobody_out_until_it_fails() {
    let mut world = World::new(Policy::default());
    assert_eq!(world.weigh(), [10, 10, 10]);
    world.services.set_policy(&key(), checked()).unwrap();
    world.services.add_server(&key(), rs(SORRY), Some(5)).unwrap();
    assert_eq!(world.weigh(), [10, 10, 10, 0], "in the very change that brings the check");
    world.members.follow(&world.services, world.now);
    assert_eq!(world.weigh(), [10, 10, 10, 0], "and after; who is new waits for a result");
    world.hear_all(&[1], false, 1);
    assert_eq!(world.weigh(), [10, 10, 10, 0]);
    world.hear_all(&[1], false, 1);
    assert_eq!(world.weigh(), [0, 10, 10, 0]);
    // The same check, though the file was read anew: what it has found so far counts.
    world.hear_all(&[1], true, 1);
    world.services.set_policy(&key(), Policy { quorum: 2, ..checked() }).unwrap();
    world.members.follow(&world.services, world.now);
    world.hear_all(&[1], true, 1);
    assert_eq!(world.weigh(), [10, 10, 10, 0]);
    // Another check: the verdicts stand until it contradicts them.
    world.hear_all(&[1], false, 2);
    let another = Policy { check: Some(check(OnFailure::Expire)), ..Policy::default() };
    world.services.set_policy(&key(), another).unwrap();
    world.members.follow(&world.services, world.now);
    assert_eq!(world.weigh(), [0, 10, 10, 0]);
    world.hear_all(&[1, 2], true, 4);
    assert_eq!(world.weigh(), [10, 10, 10, 0]);
    // No check any more: up.
    world.hear_all(&[1], false, 2);
    world.services.set_policy(&key(), Policy::default()).unwrap();
    assert_eq!(world.weigh(), [10, 10, 10, 5]);
    world.members.follow(&world.services, world.now);
    assert_eq!(world.weigh(), [10, 10, 10, 5]);
}

#[test]
fn a_result_of_a_check_that_is_over_says_nothing() {
    let mut world = World::new(checked());
    let old = world.services.services().next().unwrap().1.policy.check.clone().unwrap();
    let policy = Policy { check: Some(check(OnFailure::Expire)), ..Policy::default() };
    world.services.set_policy(&key(), policy).unwrap();
    world.members.follow(&world.services, world.now);
    let (member, took) = ((key(), rs(1)), Duration::ZERO);
    let late = Outcome { member, check: old, result: Ok(()), took };
    assert_eq!(world.members.hear(late, world.now), None);
    assert_eq!(world.weigh(), [0, 0, 0]);
    assert!(!world.members.settled());
    world.hear_all(&[1, 2, 3], false, 1);
    assert!(world.members.settled());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// It begins above nothing, never shrinks, ends at the weight in time, and in few steps.
    #[test]
    fn a_slow_start_grows_in_few_steps(weight in 0..=65_535u16, seconds in 0..=3_600u16) {
        let policy = Policy { slow_start: seconds, ..Policy::default() };
        let (mut since, mut steps) = (0, 1);
        let (mut last, mut next) = slow_start(&policy, weight, since);
        prop_assert!(last > 0 || weight == 0);
        while let Some(step) = next {
            prop_assert!(step > since && step <= Millis::from(seconds) * 1_000);
            prop_assert_eq!(slow_start(&policy, weight, step - 1).0, last);
            since = step;
            let (now, later) = slow_start(&policy, weight, since);
            prop_assert!(now > last);
            (last, next, steps) = (now, later, steps + 1);
        }
        prop_assert_eq!(last, u32::from(weight));
        prop_assert!(steps <= SLOW_START_STEPS);
    }

    /// Whatever is heard: nobody but the sorry server has a weight while it serves, and nobody has
    /// more than the operator gave.
    #[test]
    fn weights_stay_within_what_the_operator_gave(
        results in prop::collection::vec((1..4u8, any::<bool>(), 0..20u8), 0..80),
        quorum in 1..4u16,
        hysteresis in 0..3u16,
        slow_start in 0..3u16,
    ) {
        let hysteresis = hysteresis.min(quorum - 1);
        let mut world = World::new(Policy { slow_start, ..with_sorry(quorum, hysteresis) });
        for (host, good, event) in results {
            world.hear(host, good);
            if event == 0 {
                world.services.set_weight(&key(), rs(host), if good { 10 } else { 0 }).unwrap();
            }
            let weights = world.weigh();
            let (real, sorry) = weights.split_at(3);
            let standing = world.standing();
            prop_assert_eq!(standing.sorry, sorry[0] > 0);
            prop_assert!(!standing.sorry || real.iter().all(|&weight| weight == 0));
            for ((_, server), &weight) in world.services.servers().zip(real) {
                prop_assert!(weight <= u32::from(server.weight));
            }
            if standing.quorum == Quorum::Held {
                prop_assert!(standing.count.up > 0);
            }
        }
    }
}

#[test]
fn whoever_has_weights_grow_hears_of_a_step_that_a_neighbor_brings_back() {
    let mut world = World::new(Policy { slow_start: 60, ..checked() });
    world.hear(1, false);
    world.hear(1, true);
    world.hear(1, true);
    let mut health = crate::health::Health::default();
    let mut accept = |world: &mut World| {
        world.weigh();
        health.accept(world.weights.clone(), &world.services);
        health.changed.notified().now_or_never().is_some()
    };
    assert!(accept(&mut world), "it has just come back");
    assert!(!accept(&mut world), "nothing is new");
    world.neighbor(1, KernelState::Failed);
    accept(&mut world);
    assert_eq!(world.weights.next_step(), None);
    world.neighbor(1, KernelState::Reachable);
    assert!(accept(&mut world), "its weight grows on");
    assert!(world.weights.next_step().is_some());
}
