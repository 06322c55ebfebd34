//! What does a call of a plugin cost, beside the same scheduler compiled natively?
//!
//! `cargo bench -p plugin_host --bench scheduler_call [-- FILE.wasm...]`, where the files are
//! plugins to be measured, too.
//!
//! Each figure is the median of paired rounds: in each round the plugin and the native version
//! make the same number of choices, one after the other, so that a slow moment of the machine
//! meets both. Between two choices the server that was chosen is told to have one connection more,
//! as it does on a worker, if the scheduler wants to know; and the flow is another each time.

use dataplane::{Candidate, Load, NewFlow, Scheduler};
use plugin_host::{Limits, Params, Placement, Plugin, PluginHost, STOCK};
use shunt_sdk::Flow;
use shunt_sdk::testing::Host;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const ROUNDS: usize = 41;
const CALLS_PER_ROUND: u32 = 10_000;
const SIZES: [usize; 4] = [16, 64, 256, 1024];
const ALONE: Placement = Placement { worker: 0, workers: 1, seed: 1 };

fn main() {
    plugin_host::prepare_worker_thread();
    let host = PluginHost::new(Limits::default()).expect("the default limits are good");
    println!("ns a choice, median of {ROUNDS} rounds of {CALLS_PER_ROUND} (plugin / native)\n");
    row("scheduler", SIZES.map(|size| format!("{size} servers")));
    println!("|---|{}", "---|".repeat(SIZES.len()));
    stock_row::<rr::RoundRobin>(&host, "rr");
    stock_row::<wrr::WeightedRoundRobin>(&host, "wrr");
    stock_row::<lc::LeastConnection>(&host, "lc");
    stock_row::<wlc::WeightedLeastConnection>(&host, "wlc");
    stock_row::<lblc::LocalityLeastConnection>(&host, "lblc");
    stock_row::<lblcr::ReplicatedLeastConnection>(&host, "lblcr");
    stock_row::<dh::DestinationHashing>(&host, "dh");
    stock_row::<sh::SourceHashing>(&host, "sh");
    stock_row::<sed::ShortestExpectedDelay>(&host, "sed");
    stock_row::<nq::NeverQueue>(&host, "nq");
    stock_row::<fo::Failover>(&host, "fo");
    stock_row::<ovf::Overflow>(&host, "ovf");
    stock_row::<mh::Maglev>(&host, "mh");
    stock_row::<twos::PowerOfTwos>(&host, "twos");
    for file in std::env::args().skip(1).filter(|argument| !argument.starts_with("--")) {
        let wasm = std::fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        let plugin = host.load(&file, &wasm).unwrap_or_else(|error| panic!("{error}"));
        row(&file, SIZES.map(|size| format!("{:.1}", median(choices(&plugin, size)))));
    }
    println!();
    control_thread(&host);
    first_calls(&host);
}

fn row(name: &str, figures: [String; SIZES.len()]) {
    println!("| {name} | {} |", figures.join(" | "));
}

/// A stock plugin and its native version over all sizes.
fn stock_row<S: shunt_sdk::Scheduler>(host: &PluginHost, name: &str) {
    let plugin = host.stock(name).expect("a stock plugin");
    let figures = SIZES.map(|size| {
        let mut native = Host::<S>::new(0, 1);
        native.set_weights(&weights(size));
        (0..size).for_each(|slot| native.set_load(slot, active(slot), 3));
        let (mut plugin_times, mut native_times) = (Vec::new(), Vec::new());
        let mut loaded = Loaded::new(&plugin, size);
        for round in 0..ROUNDS {
            plugin_times.push(loaded.time(round));
            native_times.push(time(round, |flow| {
                let NewFlow { source, destination, source_port, destination_port, .. } = *flow;
                let flow = Flow { source, destination, source_port, destination_port, protocol: 6 };
                let slot = native.choose(&flow);
                if let Some(slot) = slot {
                    native.set_load(slot, native.servers()[slot].active + 1, 3);
                }
                slot
            }));
        }
        format!("{:.1} / {:.1}", median(plugin_times), median(native_times))
    });
    row(name, figures);
}

/// Times of a choice of any plugin over so many servers.
fn choices(plugin: &Plugin, size: usize) -> Vec<f64> {
    let mut loaded = Loaded::new(plugin, size);
    (0..ROUNDS).map(|round| loaded.time(round)).collect()
}

/// An instance over servers with connections.
struct Loaded {
    scheduler: Box<dyn Scheduler>,
    active: Vec<u32>,
}

impl Loaded {
    fn new(plugin: &Plugin, size: usize) -> Loaded {
        let (mut scheduler, _) = plugin.scheduler(ALONE, &Params::new()).expect("an instance");
        scheduler.servers_changed(&candidates(&weights(size)), 0).expect("an update");
        let active: Vec<_> = (0..size).map(active).collect();
        for (slot, &active) in active.iter().enumerate() {
            scheduler.load_changed(slot, Load { active, inactive: 3 });
        }
        Loaded { scheduler, active }
    }

    /// Nanoseconds of a choice.
    fn time(&mut self, round: usize) -> f64 {
        let wants_load = self.scheduler.wants_load();
        time(round, |flow| {
            // Some decline at times: all servers have overflown, or a hash names one that drains.
            let slot = self.scheduler.choose(flow, 0).ok();
            if let (Some(slot), true) = (slot, wants_load) {
                self.active[slot] += 1;
                let load = Load { active: self.active[slot], inactive: 3 };
                self.scheduler.load_changed(slot, load);
            }
            slot
        })
    }
}

fn weights(size: usize) -> Vec<u32> {
    (0..size as u32).map(|slot| 1000 * (1 + slot % 4)).collect()
}

/// Active connections, in no order that a branch predictor could learn.
fn active(slot: usize) -> u32 {
    (slot as u32).wrapping_mul(2_654_435_761) >> 20
}

/// What the control thread pays.
fn control_thread(host: &PluginHost) {
    for &name in STOCK {
        let stock = host.stock(name).expect("a stock plugin");
        let wasm = std::fs::read(format!("{}/../../plugins/{name}/{name}.wasm", MANIFEST))
            .expect("the committed plugin");
        let mut loads: Vec<f64> = Vec::new();
        for _ in 0..9 {
            let began = Instant::now();
            black_box(host.load(name, &wasm).expect("a good plugin"));
            loads.push(nanoseconds(began.elapsed()));
        }
        let mut instances = Vec::new();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            black_box(stock.instantiate(ALONE, &Params::new()).expect("an instance"));
            instances.push(nanoseconds(began.elapsed()));
        }
        println!(
            "{name}: {} bytes, loaded in {:.2} ms, instantiated and dropped in {:.1} µs",
            wasm.len(),
            median(loads) / 1e6,
            median(instances) / 1e3,
        );
    }
}

/// What an instance's first calls take: the control thread pays the update, when it primes the
/// instance, and a worker the call.
fn first_calls(host: &PluginHost) {
    for &name in STOCK {
        let plugin = host.stock(name).expect("a stock plugin");
        let (mut updates, mut calls) = (Vec::new(), Vec::new());
        let servers = candidates(&[1; 64]);
        for _ in 0..ROUNDS {
            let (mut scheduler, _) = plugin.scheduler(ALONE, &Params::new()).expect("an instance");
            // Caches forget it, as they would before the worker gets to it.
            black_box(vec![1u8; 8 << 20].iter().map(|&byte| u64::from(byte)).sum::<u64>());
            let began = Instant::now();
            scheduler.servers_changed(&servers, 0).expect("an update");
            updates.push(nanoseconds(began.elapsed()));
            let began = Instant::now();
            let _ = black_box(scheduler.choose(&FLOW, 0));
            calls.push(nanoseconds(began.elapsed()));
        }
        println!(
            "{name}: first update over 64 servers {:.1} µs, first call {:.1} µs",
            median(updates) / 1e3,
            median(calls) / 1e3,
        );
    }
}

const MANIFEST: &str = env!("CARGO_MANIFEST_DIR");

const FLOW: NewFlow = NewFlow {
    source: [10; 16],
    destination: [11; 16],
    source_port: 40_000,
    destination_port: 80,
    protocol: 6,
};

fn candidates(weights: &[u32]) -> Vec<Candidate> {
    (0u16..)
        .zip(weights)
        .map(|(slot, &weight)| {
            let [high, low] = slot.to_be_bytes();
            Candidate { address: Ipv4Addr::new(10, 0, high, low).into(), weight }
        })
        .collect()
}

/// Nanoseconds of one call.
fn time<T>(round: usize, mut call: impl FnMut(&NewFlow) -> T) -> f64 {
    let mut flow = FLOW;
    let began = Instant::now();
    for number in 0..CALLS_PER_ROUND {
        let client = (round as u32 * CALLS_PER_ROUND + number).wrapping_mul(2_654_435_761);
        flow.source[12..].copy_from_slice(&client.to_be_bytes());
        black_box(call(black_box(&flow)));
    }
    nanoseconds(began.elapsed()) / f64::from(CALLS_PER_ROUND)
}

fn nanoseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
