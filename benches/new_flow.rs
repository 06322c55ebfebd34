//! What does a new flow cost, with the scheduler in WebAssembly?
//!
//! SYNs of ever new flows through `Worker::turn` over memory, at full churn: the simulated clock
//! runs so that as many flows end as begin, and the table stays as full as it is made for. So the
//! price of a SYN includes its share of the sweep and the removal of another flow. Beside it, the
//! price of a packet of an established flow in the same table, and that of the first flows, while
//! none ends.
//!
//! `cargo bench -p plugin_host --bench new_flow`

mod traffic;

use dataplane::{Capacity, Handle, ServiceIndex, Update, Worker, workers};
use plugin_host::{Limits, Params, Placement, PluginHost};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;
use traffic::{DIRECTOR, FRAMES_IN_USE, SEEDS, SYN, address, service_table, template};
use xsk::{BURST_MAX, MemoryPort};

/// Seconds after which a half-open flow ends (`Timeouts::default`).
const SYN_RECV: u64 = 60;
const RST: u8 = 0x04;
const ROUNDS: usize = 11;
const PACKETS_A_ROUND: u64 = 1 << 19;

fn main() {
    plugin_host::prepare_worker_thread();
    let host = PluginHost::new(Limits::default()).expect("the default limits are good");
    println!("ns a packet, median of {ROUNDS} rounds");
    println!(
        "{:>10} {:>10} {:>10} {:>10} {:>12} {:>8} {:>12}",
        "flows", "scheduler", "first SYN", "SYN", "established", "ratio", "overflowed"
    );
    for flows in [100_000, 1_000_000, 10_000_000] {
        for scheduler in ["rr", "lc"] {
            let mut bench = Bench::new(&host, scheduler, flows);
            let first = bench.begin();
            bench.fill();
            let (mut syn, mut established) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                syn.push(bench.round(SYN));
                established.push(bench.round(RST));
            }
            let (syn, established) = (median(syn), median(established));
            println!(
                "{flows:>10} {scheduler:>10} {first:>10.1} {syn:>10.1} {established:>12.1} {:>8.1} {:>12}",
                syn / established,
                bench.handle.memory.counters().read().overflowed,
            );
        }
    }
}

fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

struct Bench {
    worker: Worker<MemoryPort>,
    handle: Handle,
    flows: u64,
    /// The next flow to begin.
    next: u64,
    /// Thousandths of a millisecond.
    now: u64,
}

impl Bench {
    fn new(host: &PluginHost, scheduler: &str, flows: u64) -> Bench {
        let port = MemoryPort::new(DIRECTOR, 2 * FRAMES_IN_USE as u32);
        let capacity = Capacity { flows_v4: flows as usize, flows_v6: 1 };
        let (worker, handle) = workers(vec![port], capacity, SEEDS)
            .expect("memory for the flow table")
            .pop()
            .expect("one worker a port");
        let plugin = host.stock(scheduler).expect("a stock plugin");
        let alone = Placement { worker: 0, workers: 1, seed: 1 };
        let instance = plugin.instantiate(alone, &Params::new()).expect("an instance").instance;
        let update = Update {
            table: Some(Arc::new(service_table())),
            schedulers: vec![(ServiceIndex(0), Some(instance))],
            ..Update::default()
        };
        let mut bench = Bench { worker, handle, flows, next: 0, now: 1_000_000 };
        assert!(bench.handle.mailbox.send(Box::new(update)).is_ok());
        let mut packet = template();
        address(&mut packet, 0, SYN);
        for _ in 0..FRAMES_IN_USE {
            assert!(bench.worker.port_mut().inject(&packet));
        }
        while bench.worker.turn(bench.now / 1000) != 0 {}
        bench
    }

    /// Lets flows begin in an empty table until it is half as full as it is made for. ns a SYN.
    fn begin(&mut self) -> f64 {
        let mut rounds = Vec::new();
        while self.next < self.flows / 2 {
            rounds.push(self.frames(SYN) as f64 / FRAMES_IN_USE as f64);
        }
        median(rounds)
    }

    /// Lets flows begin until the first ones end.
    fn fill(&mut self) {
        while self.next < self.flows + self.flows / 4 {
            self.frames(SYN);
        }
        let counts = self.handle.memory.counters().read();
        assert!(counts.flows_expired > 0 && counts.flows_v4 > self.flows / 2, "{counts:?}");
    }

    fn round(&mut self, flags: u8) -> f64 {
        let frames = PACKETS_A_ROUND / FRAMES_IN_USE as u64;
        let spent: u128 = (0..frames).map(|_| self.frames(flags)).sum();
        spent as f64 / PACKETS_A_ROUND as f64
    }

    /// All frames once: SYNs begin the next flows, other packets belong to the last ones begun.
    /// Returns the ns that the turns took.
    fn frames(&mut self, flags: u8) -> u128 {
        let count = FRAMES_IN_USE as u64;
        let first = if flags == SYN {
            // As many flows as the table is made for begin while one is remembered.
            self.now += count * SYN_RECV * 1_000_000 / self.flows;
            self.next += count;
            self.next - count
        } else {
            // Flows from the middle of the table's age. A RST leaves a half-open flow as it is, so
            // that it ends in time, and is looked up like any other packet.
            self.next - self.flows / 2
        };
        let mut flow = first;
        self.worker.port_mut().recycle(|packet| {
            address(packet, flow, flags);
            flow += 1;
        });
        let now = self.now / 1000;
        let start = Instant::now();
        for _ in 0..FRAMES_IN_USE / BURST_MAX {
            black_box(self.worker.turn(now));
        }
        start.elapsed().as_nanos()
    }
}
