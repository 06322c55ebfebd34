use super::LocalityLeastConnection;
use ipvs::RECENT_ROOM;
use proptest::prelude::*;
use remembered::{Remembered, Somebody, crowded_history, to};
use shunt_sdk::Flow;
use shunt_sdk::testing::{Event, Host, set_now_ms};

#[path = "../../ipvs/tests/histories/mod.rs"]
mod histories;
#[path = "../../ipvs/tests/remembered/mod.rs"]
mod remembered;

fn host(weights: &[u32]) -> Host<LocalityLeastConnection> {
    let mut host = Host::new(0, 1);
    host.set_weights(weights);
    host
}

#[test]
fn a_destination_stays_where_it_is_while_that_server_copes() {
    let mut host = host(&[4, 4]);
    assert_eq!(host.choose(&to(1)), Some(0));
    host.set_load(0, 4, 100);
    assert_eq!(host.choose(&to(1)), Some(0), "as many as its weight");
    assert_eq!(host.choose(&to(2)), Some(1), "another destination goes where the load is least");
    host.set_load(0, 5, 0);
    host.set_load(1, 2, 0);
    assert_eq!(host.choose(&to(1)), Some(0), "nobody has less than half of its weight");
    host.set_load(1, 1, 0);
    assert_eq!(host.choose(&to(1)), Some(1));
    host.set_load(0, 0, 0);
    assert_eq!(host.choose(&to(1)), Some(1), "and there it stays");
}

#[test]
fn weights_divide_the_load() {
    let mut host = host(&[1, 3]);
    host.set_load(0, 1, 0);
    host.set_load(1, 2, 0);
    assert_eq!(host.choose(&to(1)), Some(1));
    host.set_load(1, 3, 1);
    assert_eq!(host.choose(&to(2)), Some(0));
}

#[test]
fn a_destination_leaves_a_server_that_drains_or_goes() {
    let mut host = host(&[1, 1]);
    assert_eq!(host.choose(&to(1)), Some(0));
    host.set_weights(&[0, 1]);
    assert_eq!(host.choose(&to(1)), Some(1));
    host.set_weights(&[1, 1]);
    assert_eq!(host.choose(&to(1)), Some(1));
    // Another server in its slot, which is no better than the other one.
    host.set_servers(&[([10, 0, 0, 0].into(), 1), ([10, 9, 9, 9].into(), 1)]);
    assert_eq!(host.choose(&to(1)), Some(0));
}

#[test]
fn nobody_is_chosen_when_nobody_takes_new_flows() {
    assert_eq!(host(&[]).choose(&to(1)), None);
    let mut host = host(&[1]);
    assert_eq!(host.choose(&to(1)), Some(0));
    host.set_weights(&[0]);
    assert_eq!(host.choose(&to(1)), None);
}

#[test]
fn a_full_table_goes_on_serving() {
    set_now_ms(0);
    let mut host = host(&[1, 1]);
    for destination in 0..2000 {
        assert!(host.choose(&to(destination)).is_some());
    }
    assert_eq!(host.scheduler().recent.len(), RECENT_ROOM);
    set_now_ms(3 * 24 * 60 * 60_000);
    assert!(host.choose(&to(0)).is_some());
    assert!(host.scheduler().recent.len() < RECENT_ROOM);
}

#[test]
fn the_expiration_is_a_parameter() {
    set_now_ms(0);
    let mut host = host(&[1, 1]);
    let refused = host.set_params(&[("lblc-expiration", "0")]).unwrap_err();
    assert_eq!(refused, "lblc-expiration takes 1 to 31536000 seconds, not \"0\"");
    assert!(host.set_params(&[("lblcr-expiration", "1")]).is_err());
    host.set_params(&[("lblc-expiration", "60")]).unwrap();
    host.choose(&to(1));
    set_now_ms(31 * 60_000);
    host.choose(&to(2));
    assert_eq!(host.scheduler().recent.len(), 1, "the first is forgotten");
}

/// What `lblc` chooses, from the description.
fn choose(model: &mut Remembered<Option<Somebody>>, flow: &Flow, now: u64) -> Option<usize> {
    model.check(now);
    if let Some((server, used)) = model.known.get_mut(&flow.destination) {
        *used = now;
        if let Some((slot, _)) = *server
            && model.servers[slot].weight > 0
            && !model.is_overloaded(slot)
        {
            return Some(slot);
        }
    }
    let slot = model.least()?;
    if model.known.contains_key(&flow.destination) || model.known.len() < RECENT_ROOM {
        let server = Some(model.somebody(slot));
        model.known.insert(flow.destination, (server, now));
    }
    Some(slot)
}

fn model(history: &[Event], expiration: u64) -> Vec<Option<usize>> {
    let mut model: Remembered<Option<Somebody>> = Remembered::new(expiration);
    let (mut now, mut choices) = (0, Vec::new());
    for event in history {
        match event {
            Event::Servers(_) => {
                model.follow(event);
                for (server, _) in model.known.values_mut() {
                    *server = server.filter(|&server| remembered::is_there(&model.servers, server));
                }
            }
            Event::Pass(milliseconds) => now += milliseconds,
            Event::Flow(flow) => choices.push(choose(&mut model, flow, now)),
            event => model.follow(event),
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
        let mut host = Host::<LocalityLeastConnection>::new(0, 1);
        host.set_params(&[("lblc-expiration", &seconds.to_string())]).unwrap();
        prop_assert_eq!(host.play(&history), model(&history, seconds * 1000));
    }
}
