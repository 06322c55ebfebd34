//! The stock plugins as they are committed, against their own sources compiled natively, which
//! are tested against independent models in their own crates.

mod common;

use common::*;
use dataplane::{Candidate, Failure, Load, NewFlow, Scheduler};
use histories::full_history;
use plugin_host::{Limits, Params, Placement, PluginHost, STOCK, wasm_of};
use proptest::prelude::*;
use shunt_abi::Random;
use shunt_sdk::Flow;
use shunt_sdk::testing::{Event, Host};
use std::path::Path;
use std::sync::OnceLock;

#[path = "../../../plugins/sdk/tests/histories/mod.rs"]
mod histories;

const WORKERS: u32 = 5;

fn stock(name: &str, worker: u32) -> Box<dyn Scheduler> {
    static HOST: OnceLock<PluginHost> = OnceLock::new();
    let placement = Placement { worker, workers: WORKERS, seed: 0 };
    HOST.get_or_init(host).stock(name).unwrap().scheduler(placement, &Params::new()).unwrap().0
}

/// What the source of the stock plugin of this name chooses, compiled natively.
fn play_natively(name: &str, worker: u32, history: &[Event]) -> Vec<Option<usize>> {
    let play = match name {
        "rr" => play_source::<rr::RoundRobin>,
        "wrr" => play_source::<wrr::WeightedRoundRobin>,
        "lc" => play_source::<lc::LeastConnection>,
        "wlc" => play_source::<wlc::WeightedLeastConnection>,
        "sed" => play_source::<sed::ShortestExpectedDelay>,
        "nq" => play_source::<nq::NeverQueue>,
        "fo" => play_source::<fo::Failover>,
        "ovf" => play_source::<ovf::Overflow>,
        "twos" => play_source::<twos::PowerOfTwos>,
        "sh" => play_source::<sh::SourceHashing>,
        "dh" => play_source::<dh::DestinationHashing>,
        "mh" => play_source::<mh::Maglev>,
        "lblc" => play_source::<lblc::LocalityLeastConnection>,
        "lblcr" => play_source::<lblcr::ReplicatedLeastConnection>,
        _ => panic!("say here which source {name} has"),
    };
    play(worker, history)
}

fn play_source<S: shunt_sdk::Scheduler>(worker: u32, history: &[Event]) -> Vec<Option<usize>> {
    shunt_sdk::testing::set_now_ms(0);
    shunt_sdk::testing::set_random(Random::new(0, worker));
    let (worker, workers) = (worker as usize, WORKERS as usize);
    Host::<S>::placed(shunt_sdk::Placement { worker, workers, seed: 0 }).play(history)
}

/// A stock plugin, and what it was told: the servers and their connections.
struct Played {
    name: &'static str,
    worker: u32,
    scheduler: Box<dyn Scheduler>,
    servers: Vec<(Candidate, Load)>,
    now: u64,
}

impl Played {
    fn new(name: &'static str, worker: u32) -> Played {
        Played { name, worker, scheduler: stock(name, worker), servers: Vec::new(), now: 0 }
    }

    fn play(&mut self, history: &[Event]) -> Vec<Option<usize>> {
        let mut choices = Vec::new();
        for event in history {
            match event {
                Event::Weights(weights) => self.set_servers(&candidates(weights)),
                Event::Servers(servers) => {
                    let named = servers.iter().map(|&(address, weight)| (address, weight));
                    let named = named.map(|(address, weight)| Candidate { address, weight });
                    self.set_servers(&named.collect::<Vec<_>>());
                }
                &Event::Load { slot, active, inactive } => {
                    if let Some((_, load)) = self.servers.get_mut(slot) {
                        *load = Load { active, inactive };
                        self.scheduler.load_changed(slot, *load);
                    }
                }
                Event::Choose => choices.push(self.choose(&Flow::default())),
                Event::Flow(flow) => choices.push(self.choose(flow)),
                Event::Pass(milliseconds) => self.now += milliseconds,
                Event::Swap => self.swap(),
                other => panic!("say here what happens at {other:?}"),
            }
        }
        choices
    }

    fn set_servers(&mut self, candidates: &[Candidate]) {
        let before = std::mem::take(&mut self.servers);
        for (slot, &candidate) in candidates.iter().enumerate() {
            let same = before.get(slot).filter(|(same, _)| same.address == candidate.address);
            self.servers.push((candidate, same.map_or(Load::default(), |&(_, load)| load)));
        }
        self.scheduler.servers_changed(candidates, self.now).unwrap();
    }

    fn choose(&mut self, flow: &Flow) -> Option<usize> {
        let Flow { source, destination, source_port, destination_port, protocol } = *flow;
        let protocol = protocol as u8;
        let flow = NewFlow { source, destination, source_port, destination_port, protocol };
        self.scheduler.choose(&flow, self.now).ok()
    }

    /// A new instance takes the former one's place, as at the upload of a new version.
    fn swap(&mut self) {
        if self.name == "twos" {
            return; // A new instance draws from the beginning, which the native test does not.
        }
        let mut successor = stock(self.name, self.worker);
        let candidates: Vec<_> = self.servers.iter().map(|&(candidate, _)| candidate).collect();
        successor.servers_changed(&candidates, self.now).unwrap();
        for (slot, &(_, load)) in self.servers.iter().enumerate() {
            successor.load_changed(slot, load);
        }
        if let Some(state) = self.scheduler.save(self.now) {
            assert_eq!(successor.restore(state, self.now), Ok(true), "{}", self.name);
        }
        self.scheduler = successor;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn they_choose_as_their_sources_do(history in full_history(), worker in 0..WORKERS) {
        for &name in STOCK {
            let plugin = Played::new(name, worker).play(&history);
            prop_assert_eq!(plugin, play_natively(name, worker, &history), "{}", name);
        }
    }
}

fn committed(name: &str) -> Vec<u8> {
    let plugins = concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins");
    std::fs::read(format!("{plugins}/{name}/{name}.wasm")).unwrap()
}

/// So that whoever adds a plugin's folder adds it to the program, too.
#[test]
fn every_plugin_folder_is_stock() {
    let plugins = concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins");
    let is_plugin = |name: &String| {
        let manifest = Path::new(plugins).join(name).join("Cargo.toml");
        std::fs::read_to_string(manifest).is_ok_and(|manifest| manifest.contains("\"cdylib\""))
    };
    let mut folders: Vec<_> = std::fs::read_dir(plugins)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(is_plugin)
        .collect();
    folders.sort_unstable();
    let mut stock = STOCK.to_vec();
    stock.sort_unstable();
    assert_eq!(folders, stock, "add it to `stock!` in engine/plugin_host/src/host.rs");
}

/// An import that is there for nothing would be a call that is made for nothing.
#[test]
fn they_import_what_they_call() {
    for &name in STOCK {
        let wasm = committed(name);
        let imports: Vec<_> = wasmparser::Parser::new(0)
            .parse_all(&wasm)
            .filter_map(|payload| match payload.unwrap() {
                wasmparser::Payload::ImportSection(section) => Some(section),
                _ => None,
            })
            .flat_map(|section| section.into_imports())
            .map(|import| import.unwrap().name.to_owned())
            .collect();
        let expected: &[&str] = match name {
            "twos" => &["random"],
            "lblc" | "lblcr" => &["now_ms"],
            _ => &[],
        };
        assert_eq!(imports, expected, "{name}");
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
        assert!(plugin.size() < 16_384, "{name} has {} bytes", plugin.size());
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
    assert_eq!(wasm, wasm_of(format!("\u{feff}\n;; a plugin\n{text}").as_bytes()).unwrap());
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

/// What the limits on fuel leave for plugins that work harder: these use seven tenths at most.
#[test]
fn the_fullest_tables_take_little_fuel() {
    let limits = Limits {
        schedule_fuel: Limits::default().schedule_fuel * 7 / 10,
        update_fuel: Limits::default().update_fuel * 7 / 10,
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
                // A hash may name a server that takes none.
                let chosen = scheduler.choose(&FLOW, 0);
                assert!(matches!(chosen, Ok(_) | Err(Failure::Declined)), "{name}: {chosen:?}");
            }
        }
    }
}

/// Sets as large as they get, whose destinations are forgotten all at once, while the connections
/// of all servers change.
#[test]
fn the_fullest_sets_are_within_the_fuel() {
    let host = PluginHost::new(Limits::default()).unwrap();
    for name in ["lblc", "lblcr"] {
        let mut scheduler = host.stock(name).unwrap().scheduler(ALONE, &Params::new()).unwrap().0;
        scheduler.servers_changed(&candidates(&[1; 1024]), 0).unwrap();
        // All servers but one are overloaded, and all have other connections than before.
        let load = |scheduler: &mut dyn Scheduler, idle: usize, round: u32| {
            for slot in 0..1024 {
                let active = if slot == idle { 0 } else { 2 + (round + slot as u32) % 7 };
                scheduler.load_changed(slot, Load { active, inactive: round });
            }
        };
        let to = |destination: u32| {
            let destination = std::net::Ipv4Addr::from(destination).to_ipv6_mapped().octets();
            NewFlow { destination, ..FLOW }
        };
        for destination in 8..60 {
            scheduler.choose(&to(destination), 0).unwrap();
        }
        for idle in 0..70 {
            load(&mut *scheduler, idle, idle as u32);
            for destination in 0..8 {
                assert_eq!(scheduler.choose(&to(destination), 0), Ok(idle), "{name}");
            }
        }
        const HOUR: u64 = 60 * 60_000;
        for (round, now) in (200..).zip([HOUR / 2, HOUR, 23 * HOUR, 25 * HOUR, 25 * HOUR + 1]) {
            load(&mut *scheduler, 2000, round); // nobody is idle
            scheduler.choose(&to(0), now).unwrap();
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
