//! How long do packets wait while a worker takes over new scheduler instances?
//!
//! New instances of 256 services arrive in one update, made and told their servers on the control
//! thread, as `shunt plugin upload` does, and take over the state of those before them. The pauses
//! are those that the worker itself measures and that the metrics show.
//!
//! `cargo bench -p plugin_host --bench swap_pause`

#[allow(dead_code)] // no packet is sent
mod traffic;

use dataplane::{Capacity, Instance, Latency, LatencyCounts, Service, ServiceIndex};
use dataplane::{Update, workers};
use plugin_host::{Limits, Params, Placement, Plugin, PluginHost, STOCK};
use traffic::{DIRECTOR, SEEDS, service_table};
use xsk::MemoryPort;

const ROUNDS: usize = 41;
/// Services whose instances are swapped with one update.
const SERVICES: u16 = 256;
const ALONE: Placement = Placement { worker: 0, workers: 1, seed: 1 };

fn main() {
    plugin_host::prepare_worker_thread();
    let host = PluginHost::new(Limits::default()).expect("the default limits are good");
    println!(
        "ns that a worker pauses in each turn that swaps, {ROUNDS} swaps of {SERVICES} services"
    );
    println!(
        "{:>10} {:>6} {:>10} {:>10} {:>10} {:>10}",
        "scheduler", "turns", "mean", "50 %", "99.9 %", "worst"
    );
    for &name in STOCK {
        let pauses = swaps(&host.stock(name).expect("a stock plugin"));
        let at_most = |quantile| match pauses.quantile(quantile).expect("there were swaps") {
            u64::MAX => "more".to_owned(),
            bound => bound.to_string(),
        };
        println!(
            "{name:>10} {:>6} {:>10} {:>10} {:>10} {:>10}",
            pauses.count() / ROUNDS as u64,
            pauses.sum / pauses.count(),
            at_most(0.5),
            at_most(0.999),
            pauses.max,
        );
    }
    println!("quantiles are bounds of a histogram: {:?}", Latency::BOUNDS);
}

/// The pauses of a worker whose instances are all replaced, again and again.
fn swaps(plugin: &Plugin) -> LatencyCounts {
    let table = service_table();
    let service = table.service(ServiceIndex(0)).expect("the one service");
    let capacity = Capacity { flows_v4: 1, flows_v6: 1 };
    let ports = vec![MemoryPort::new(DIRECTOR, 64)];
    let mut pairs = workers(ports, capacity, SEEDS).expect("memory for the tables");
    let (mut worker, mut handle) = pairs.pop().expect("one worker a port");
    for _ in 0..ROUNDS {
        let schedulers =
            (0..SERVICES).map(|index| (ServiceIndex(index), instance(plugin, service)));
        let update = Update { schedulers: schedulers.collect(), ..Update::default() };
        assert!(handle.mailbox.send(Box::new(update)).is_ok(), "an empty mailbox");
        while handle.mailbox.reap().is_none() {
            worker.turn(1000);
        }
    }
    handle.memory.counters().pauses().read()
}

fn instance(plugin: &Plugin, service: &Service) -> Option<Box<Instance>> {
    let mut instance = plugin.instantiate(ALONE, &Params::new()).expect("an instance").instance;
    instance.prime(service).expect("a good plugin");
    instance.inherit();
    Some(instance)
}
