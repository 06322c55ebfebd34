use super::ReplicatedLeastConnection;
use crate::sets::{MEMBERS_MAX, SET_MAX};
use ipvs::RECENT_ROOM;
use proptest::prelude::*;
use remembered::{Remembered, Somebody, crowded_history, to};
use shunt_sdk::Flow;
use shunt_sdk::testing::{Event, Host, set_now_ms};

#[path = "../../ipvs/tests/histories/mod.rs"]
mod histories;
#[path = "../../ipvs/tests/remembered/mod.rs"]
mod remembered;

const DAY: u64 = 24 * 60 * 60_000;

fn host(weights: &[u32]) -> Host<ReplicatedLeastConnection> {
    set_now_ms(0);
    let mut host = Host::new(0, 1);
    host.set_weights(weights);
    host
}

#[test]
fn a_destination_gets_another_server_when_its_own_do_not_cope() {
    let mut host = host(&[2, 2, 2]);
    assert_eq!(host.choose(&to(1)), Some(0));
    host.set_load(0, 3, 0);
    assert_eq!(host.choose(&to(1)), Some(1), "it joins");
    host.set_load(1, 1, 0);
    assert_eq!(host.choose(&to(1)), Some(1), "the least loaded of the two");
    host.set_load(1, 2, 1);
    host.set_load(0, 2, 0);
    assert_eq!(host.choose(&to(1)), Some(0), "of the two, though another one is idle");
}

#[test]
fn a_set_that_was_not_changed_for_long_loses_its_most_loaded_server() {
    let mut host = host(&[2, 2]);
    host.choose(&to(1));
    host.set_load(0, 3, 0);
    assert_eq!(host.choose(&to(1)), Some(1));
    host.set_load(0, 1, 0);
    host.set_load(1, 2, 0);
    set_now_ms(DAY);
    assert_eq!(host.choose(&to(1)), Some(0), "to the millisecond a day: nobody leaves");
    set_now_ms(DAY + 1);
    host.choose(&to(1));
    host.set_load(0, 2, 9);
    assert_eq!(host.choose(&to(1)), Some(0), "the other one has left");
}

#[test]
fn who_drains_stays_a_member_and_who_goes_does_not() {
    let mut host = host(&[2, 2, 2]);
    host.choose(&to(1));
    host.set_load(0, 3, 0);
    host.choose(&to(1));
    host.set_weights(&[2, 0, 2]);
    host.set_load(0, 1, 0);
    assert_eq!(host.choose(&to(1)), Some(0));
    host.set_weights(&[2, 2, 2]);
    assert_eq!(host.choose(&to(1)), Some(1));
    host.set_servers(&[([10, 0, 0, 0].into(), 2), ([10, 9, 9, 9].into(), 2)]);
    assert_eq!(host.choose(&to(1)), Some(0), "the newcomer is no member");
}

#[test]
fn nobody_is_chosen_when_nobody_takes_new_flows() {
    assert_eq!(host(&[]).choose(&to(1)), None);
    let mut host = host(&[1]);
    assert_eq!(host.choose(&to(1)), Some(0));
    host.set_weights(&[0]);
    assert_eq!(host.choose(&to(1)), None);
}

/// Ten destinations whose sets would have all 1024 servers.
#[test]
fn without_room_for_members_it_goes_on_serving() {
    let mut host = host(&[1; 1024]);
    for slot in 0..1024 {
        for destination in 0..10 {
            assert_eq!(host.choose(&to(destination)), Some(slot));
        }
        host.set_load(slot, 2, 0);
    }
    assert_eq!(host.scheduler().sets.len(), MEMBERS_MAX);
    for destination in 0..2000 {
        assert!(host.choose(&to(destination)).is_some());
    }
    assert_eq!(host.scheduler().recent.len(), RECENT_ROOM);
}

#[test]
fn a_set_has_so_many_members_and_no_more() {
    let mut host = host(&[1; 1024]);
    for slot in 0..200 {
        assert_eq!(host.choose(&to(1)), Some(slot));
        host.set_load(slot, 2, 0);
    }
    assert_eq!(host.scheduler().sets.len(), SET_MAX as usize);
}

#[test]
fn the_expiration_is_a_parameter() {
    let mut host = host(&[1, 1]);
    let refused = host.set_params(&[("lblcr-expiration", "soon")]).unwrap_err();
    assert_eq!(refused, "lblcr-expiration takes a number in decimal digits, not \"soon\"");
    assert!(host.set_params(&[("lblc-expiration", "1")]).is_err());
    host.set_params(&[("lblcr-expiration", "60")]).unwrap();
    host.choose(&to(1));
    set_now_ms(31 * 60_000);
    host.choose(&to(2));
    assert_eq!(host.scheduler().recent.len(), 1, "the first is forgotten");
}

/// The servers of a destination, the newest first, and when that changed.
#[derive(Clone)]
struct Set {
    members: Vec<Somebody>,
    modified: u64,
}

struct Model(Remembered<Set>);

impl Model {
    /// Adds a server to a set, unless all sets are full.
    fn join(&self, set: &mut Set, slot: usize, now: u64) {
        let others: usize = self.0.known.values().map(|(set, _)| set.members.len()).sum();
        let is_member = set.members.iter().any(|member| member.0 == slot);
        let len = set.members.len();
        if !is_member && len < SET_MAX as usize && others + len < MEMBERS_MAX {
            set.members.insert(0, self.0.somebody(slot));
            set.modified = now;
        }
    }

    /// What `lblcr` chooses, from the description.
    fn choose(&mut self, flow: &Flow, now: u64) -> Option<usize> {
        self.0.check(now);
        let known = self.0.known.remove(&flow.destination);
        let Some((mut set, _)) = known else {
            let slot = self.0.least()?;
            let mut set = Set { members: Vec::new(), modified: 0 };
            self.join(&mut set, slot, now);
            if self.0.known.len() < RECENT_ROOM {
                self.0.known.insert(flow.destination, (set, now));
            }
            return Some(slot);
        };
        let slots = |set: &Set| set.members.iter().map(|member| member.0).collect::<Vec<_>>();
        let able = slots(&set).into_iter().filter(|&slot| self.0.servers[slot].weight > 0);
        let able: Vec<usize> = able.collect();
        let is_less = |one, other| self.0.is_less(one, other);
        let least = able.iter().copied().reduce(|a, b| if is_less(b, a) { b } else { a });
        let most = able.iter().copied().reduce(|a, b| if is_less(a, b) { b } else { a });
        if set.members.len() > 1
            && now > set.modified + self.0.expiration
            && let Some(most) = most
        {
            set.members.retain(|member| member.0 != most);
            set.modified = now;
        }
        let choice = match least.filter(|&slot| !self.0.is_overloaded(slot)) {
            Some(slot) => Some(slot),
            None => {
                let slot = self.0.least();
                slot.inspect(|&slot| self.join(&mut set, slot, now))
            }
        };
        self.0.known.insert(flow.destination, (set, now));
        choice
    }
}

fn model(history: &[Event], expiration: u64) -> Vec<Option<usize>> {
    let mut model = Model(Remembered::new(expiration));
    let (mut now, mut choices) = (0, Vec::new());
    for event in history {
        match event {
            Event::Servers(_) => {
                model.0.follow(event);
                for (set, _) in model.0.known.values_mut() {
                    set.members.retain(|&member| remembered::is_there(&model.0.servers, member));
                }
            }
            Event::Pass(milliseconds) => now += milliseconds,
            Event::Flow(flow) => choices.push(model.choose(flow, now)),
            event => model.0.follow(event),
        }
    }
    choices
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn it_chooses_as_the_model_does(
        history in crowded_history(),
        seconds in prop::sample::select(&[1u64, 600, 86_400][..]),
    ) {
        set_now_ms(0);
        let mut host = Host::<ReplicatedLeastConnection>::new(0, 1);
        host.set_params(&[("lblcr-expiration", &seconds.to_string())]).unwrap();
        prop_assert_eq!(host.play(&history), model(&history, seconds * 1000));
    }
}
