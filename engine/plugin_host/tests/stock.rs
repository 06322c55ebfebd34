//! The stock plugins as they are committed, against their own sources compiled natively, which
//! are tested against independent models in their own crates.

mod common;

use common::*;
use dataplane::{Load, Scheduler};
use histories::history;
use plugin_host::{Limits, Params, Placement, PluginHost, STOCK, wasm_of};
use proptest::prelude::*;
use shunt_sdk::testing::{Event, Host};
use std::sync::OnceLock;

#[path = "../../../plugins/sdk/tests/histories/mod.rs"]
mod histories;

fn stock(name: &str, worker: u32) -> Box<dyn Scheduler> {
    static HOST: OnceLock<PluginHost> = OnceLock::new();
    let placement = Placement { worker, workers: 5, seed: 0 };
    HOST.get_or_init(host).stock(name).unwrap().scheduler(placement, &Params::new()).unwrap().0
}

fn play(scheduler: &mut dyn Scheduler, history: &[Event]) -> Vec<Option<usize>> {
    let mut slots = 0;
    let mut choices = Vec::new();
    for event in history {
        match event {
            Event::Weights(weights) => {
                slots = weights.len();
                scheduler.servers_changed(&candidates(weights), 0).unwrap();
            }
            &Event::Load { slot, active, inactive } if slot < slots => {
                scheduler.load_changed(slot, Load { active, inactive });
            }
            Event::Choose => choices.push(scheduler.choose(&FLOW, 0).ok()),
            _ => {}
        }
    }
    choices
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn they_choose_as_their_sources_do(history in history(), worker in 0..5u32) {
        let place = (worker as usize, 5);
        let rr = Host::<rr::RoundRobin>::new(place.0, place.1).play(&history);
        prop_assert_eq!(play(&mut *stock("rr", worker), &history), rr);
        let wrr = Host::<wrr::WeightedRoundRobin>::new(place.0, place.1).play(&history);
        prop_assert_eq!(play(&mut *stock("wrr", worker), &history), wrr);
        let lc = Host::<lc::LeastConnection>::new(place.0, place.1).play(&history);
        prop_assert_eq!(play(&mut *stock("lc", worker), &history), lc);
    }
}

#[test]
fn they_say_what_they_are() {
    let host = host();
    for &name in STOCK {
        let plugin = host.stock(name).unwrap();
        assert_eq!(plugin.name(), name);
        assert_eq!(plugin.version(), env!("CARGO_PKG_VERSION"), "run plugins/build");
        assert_eq!(plugin.abi(), 1);
        assert_eq!(plugin.capacity(), 1024);
        assert!(plugin.size() < 4096, "{name} has {} bytes", plugin.size());
        assert_eq!(plugin.digest().len(), 64);
        assert_eq!(plugin.digest(), host.clone().stock(name).unwrap().digest());
    }
}

#[test]
fn the_digest_is_sha_256_and_stands_in_for_a_version() {
    let wasm = plugin(SCHEDULE);
    let plugin = load(&wasm);
    assert_eq!(plugin.size(), wasm.len());
    assert_eq!(plugin.version(), &plugin.digest()[..12]);
    let mut other = wasm.clone();
    other.extend([0, 2, 1, b'x']); // a custom section
    assert_ne!(load(&other).digest(), plugin.digest());
}

#[test]
fn text_is_the_module_that_it_describes() {
    let text = format!("(module {MEMORY} {TABLE} {ABI_VERSION} {INIT} {SCHEDULE})");
    let wasm = wasm_of(text.as_bytes()).unwrap();
    assert_eq!(wasm, plugin(SCHEDULE));
    assert!(matches!(wasm_of(&wasm), Ok(std::borrow::Cow::Borrowed(same)) if same == &*wasm));
    let (from_text, from_wasm) = (load(text.as_bytes()), load(&wasm));
    assert_eq!(from_text.digest(), from_wasm.digest());
    assert_eq!(from_text.size(), wasm.len());
}

#[test]
fn only_least_connection_wants_loads() {
    assert!(!stock("rr", 0).wants_load());
    assert!(!stock("wrr", 0).wants_load());
    assert!(stock("lc", 0).wants_load());
}

#[test]
fn round_robin_begins_at_another_server_on_each_worker() {
    for name in ["rr", "wrr"] {
        let firsts: Vec<_> = (0..3)
            .map(|worker| {
                let mut scheduler = stock(name, worker);
                scheduler.servers_changed(&candidates(&[1, 1, 1]), 0).unwrap();
                scheduler.choose(&FLOW, 0).unwrap()
            })
            .collect();
        assert_eq!(firsts, [0, 1, 2], "{name}");
    }
}

#[test]
fn least_connection_finds_every_slot_of_a_full_table() {
    let mut lc = stock("lc", 0);
    lc.servers_changed(&candidates(&[1; 1024]), 0).unwrap();
    for slot in 0..1024 {
        lc.load_changed(slot, Load { active: 5, inactive: 5 });
    }
    for slot in 0..1024 {
        lc.load_changed(slot, Load { active: 5, inactive: 4 });
        assert_eq!(lc.choose(&FLOW, 0), Ok(slot));
        lc.load_changed(slot, Load { active: u32::MAX, inactive: u32::MAX });
    }
}

/// A newcomer in a slot whose former server had many connections begins with none.
#[test]
fn loads_stay_with_the_server_and_not_with_the_slot() {
    let mut lc = stock("lc", 0);
    let mut servers = candidates(&[1, 1]);
    lc.servers_changed(&servers, 0).unwrap();
    lc.load_changed(0, Load { active: 9, inactive: 0 });
    lc.load_changed(1, Load { active: 5, inactive: 0 });
    assert_eq!(lc.choose(&FLOW, 0), Ok(1));
    servers[0].weight = 7;
    lc.servers_changed(&servers, 0).unwrap();
    assert_eq!(lc.choose(&FLOW, 0), Ok(1));
    servers[0].address = [10, 9, 9, 9].into();
    lc.servers_changed(&servers, 0).unwrap();
    assert_eq!(lc.choose(&FLOW, 0), Ok(0));
    // Beyond the last slot nothing is kept.
    lc.servers_changed(&servers[..1], 0).unwrap();
    lc.load_changed(1, Load { active: 0, inactive: 0 });
    assert_eq!(lc.choose(&FLOW, 0), Ok(0));
}

/// What the limits on fuel leave for plugins that work harder: these use a third at most.
#[test]
fn the_fullest_tables_take_little_fuel() {
    let limits = Limits {
        schedule_fuel: Limits::default().schedule_fuel / 3,
        update_fuel: Limits::default().update_fuel / 20,
        ..Limits::default()
    };
    let host = PluginHost::new(limits).unwrap();
    let mut one_heavy = [1; 1024];
    one_heavy[0] = 65_535;
    let mut one_left = [0; 1024];
    one_left[1022] = 1;
    // Neighbors of the Fibonacci sequence: the longest way to a common divisor.
    let fibonacci = std::array::from_fn(|slot| if slot % 2 == 0 { 46_368 } else { 28_657 });
    for &name in STOCK {
        for weights in [[1; 1024], one_heavy, one_left, fibonacci] {
            let mut scheduler =
                host.stock(name).unwrap().scheduler(ALONE, &Params::new()).unwrap().0;
            scheduler.servers_changed(&candidates(&weights), 0).unwrap();
            for _ in 0..3000 {
                scheduler.choose(&FLOW, 0).unwrap();
            }
        }
    }
}

#[test]
fn what_is_known_without_compiling_is_what_is_known_afterwards() {
    let host = PluginHost::new(Limits::default()).unwrap();
    for name in STOCK {
        let plugin = host.stock(name).unwrap();
        let about = host.about_stock(name).unwrap();
        assert_eq!(about.label.as_deref(), plugin.label());
        assert_eq!((about.digest.as_str(), about.size), (plugin.digest(), plugin.size()));
    }
    assert!(host.about_stock("nobody").unwrap_err().to_string().contains("nobody"));
}
