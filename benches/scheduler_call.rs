//! What does a call of a plugin cost, beside the same scheduler compiled natively?
//!
//! `cargo bench -p plugin_host --bench scheduler_call [-- FILE.wasm...]`, where the files are
//! plugins to be measured, too.
//!
//! Each figure is the median of paired rounds: in each round the plugin and the native version
//! make the same number of choices, one after the other, so that a slow moment of the machine
//! meets both.

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
    stock_row(&host, "rr", Host::<rr::RoundRobin>::new);
    stock_row(&host, "wrr", Host::<wrr::WeightedRoundRobin>::new);
    stock_row(&host, "lc", Host::<lc::LeastConnection>::new);
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
fn stock_row<S: shunt_sdk::Scheduler>(
    host: &PluginHost,
    name: &str,
    native: fn(usize, usize) -> Host<S>,
) {
    let plugin = host.stock(name).expect("a stock plugin");
    let figures = SIZES.map(|size| {
        let mut native = native(0, 1);
        native.set_weights(&weights(size));
        (0..size).for_each(|slot| native.set_load(slot, active(slot), 3));
        let (mut plugin_times, mut native_times) = (Vec::new(), Vec::new());
        let mut scheduler = loaded(&plugin, size);
        for _ in 0..ROUNDS {
            plugin_times.push(time(|| scheduler.choose(black_box(&FLOW), 0).expect("a choice")));
            let flow = Flow::default();
            native_times.push(time(|| native.choose(black_box(&flow)).expect("a choice")));
        }
        format!("{:.1} / {:.1}", median(plugin_times), median(native_times))
    });
    row(name, figures);
}

/// Times of a choice of any plugin over so many servers.
fn choices(plugin: &Plugin, size: usize) -> Vec<f64> {
    let mut scheduler = loaded(plugin, size);
    (0..ROUNDS).map(|_| time(|| scheduler.choose(black_box(&FLOW), 0).expect("a choice"))).collect()
}

/// An instance over so many servers with connections.
fn loaded(plugin: &Plugin, size: usize) -> Box<dyn Scheduler> {
    let (mut scheduler, _) = plugin.scheduler(ALONE, &Params::new()).expect("an instance");
    scheduler.servers_changed(&candidates(&weights(size)), 0).expect("an update");
    for slot in 0..size {
        scheduler.load_changed(slot, Load { active: active(slot), inactive: 3 });
    }
    scheduler
}

fn weights(size: usize) -> Vec<u32> {
    (0..size as u32).map(|slot| 1 + slot % 4).collect()
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
            black_box(scheduler.choose(&FLOW, 0).expect("a choice"));
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
fn time<T>(mut call: impl FnMut() -> T) -> f64 {
    let began = Instant::now();
    for _ in 0..CALLS_PER_ROUND {
        black_box(call());
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
