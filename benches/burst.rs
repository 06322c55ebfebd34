//! What does the pipeline cost a packet?
//!
//! `Worker::turn`, the very function that `shunt run` calls, over memory instead of a NIC:
//! bursts of 64 TCP packets of 60 bytes, all of established flows, in shuffled order. Expiry,
//! states, counters and publishing are part of it. 4096 frames are in use, as with a real ring;
//! filling them is not timed.
//!
//! `cargo bench --bench burst`                 the pipeline and the flow table beside hashbrown's
//! `cargo bench --bench burst -- 1000 100000`  these numbers of flows only

mod traffic;

use dataplane::table_bench::{Flow, FlowHasher, FlowsV4, Room, key_v4};
use dataplane::{Capacity, FlowState, Handle, ServerIndex, ServiceIndex, Update, Worker, workers};
use hashbrown::HashTable;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use traffic::{ACK, DIRECTOR, FRAMES_IN_USE, SEEDS, SYN, address, service_table, template};
use xsk::{BURST_MAX, MemoryPort};

/// Odd, so that multiplying permutes; large, so that neighbors end up far apart.
const STRIDE: u64 = 0x9e37_79b1;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let sizes: Vec<u64> =
        arguments.iter().map(|size| size.parse().expect("a number of flows")).collect();
    report_times(if sizes.is_empty() { &[1_000, 100_000, 1_000_000, 10_000_000] } else { &sizes });
}

struct Bench {
    worker: Worker<MemoryPort>,
    handle: Handle,
    flows: u64,
    next: u64,
    now: u64,
}

impl Bench {
    fn new(flows: u64) -> Bench {
        let port = MemoryPort::new(DIRECTOR, 2 * FRAMES_IN_USE as u32);
        let capacity = Capacity { flows_v4: flows as usize, flows_v6: 1 };
        let (worker, handle) = workers(vec![port], capacity, SEEDS)
            .expect("memory for the flow table")
            .pop()
            .expect("one worker a port");
        let mut bench = Bench { worker, handle, flows, next: 0, now: 1_000 };
        let update = Update { table: Some(Arc::new(service_table())), ..Update::default() };
        assert!(bench.handle.mailbox.send(Box::new(update)).is_ok());
        bench.establish();
        bench
    }

    /// Opens every flow, then confirms it, and leaves the frames in use in flight.
    fn establish(&mut self) {
        for flags in [SYN, ACK] {
            for first in (0..self.flows).step_by(FRAMES_IN_USE) {
                for flow in first..(first + FRAMES_IN_USE as u64).min(self.flows) {
                    let mut packet = template();
                    address(&mut packet, flow, flags);
                    assert!(self.worker.port_mut().inject(&packet));
                }
                self.turn_until_idle();
                self.worker.port_mut().sent();
            }
        }
        for _ in 0..FRAMES_IN_USE {
            assert!(self.worker.port_mut().inject(&template()));
        }
        self.turn_until_idle();
        let flows = self.handle.memory.counters().read().flows_v4;
        assert_eq!(flows, self.flows, "every flow has room");
    }

    fn turn_until_idle(&mut self) {
        while self.worker.turn(self.now) != 0 {}
    }

    /// Processes about that many packets and returns the time that only the turns took.
    fn run(&mut self, packets: u64) -> Duration {
        let mut spent = Duration::ZERO;
        for _ in 0..packets.div_ceil(FRAMES_IN_USE as u64) {
            let (flows, mut next) = (self.flows, self.next);
            self.worker.port_mut().recycle(|packet| {
                next = (next + STRIDE) % flows;
                address(packet, next, ACK);
            });
            self.next = next;
            // 4096 packets at 10 Mpps last 0.4 ms: the clock ticks as it would.
            self.now += 1;
            let start = Instant::now();
            for _ in 0..FRAMES_IN_USE / BURST_MAX {
                black_box(self.worker.turn(self.now));
            }
            spent += start.elapsed();
        }
        spent
    }
}

fn report_times(sizes: &[u64]) {
    println!("the pipeline, a packet:");
    println!(
        "{:>10} {:>10} {:>10} {:>8} {:>14} {:>12}",
        "flows", "ns median", "ns best", "Mpps", "resident MB", "bytes/flow"
    );
    for &flows in sizes {
        let before = resident();
        let mut bench = Bench::new(flows);
        bench.run(flows.max(1 << 20));
        let (median, best) = rounds(|| {
            let packets = 1 << 20;
            bench.run(packets).as_nanos() as f64 / packets as f64
        });
        let grown = resident() - before;
        println!(
            "{flows:>10} {median:>10.1} {best:>10.1} {:>8.1} {:>14.0} {:>12.1}",
            1000.0 / median,
            grown as f64 / 1e6,
            grown as f64 / flows as f64,
        );
    }
    println!("\nthe table alone, a look-up with its update, in bursts of {BURST_MAX}:");
    println!("{:>10} {:>10} {:>14} {:>18}", "flows", "ours", "hashbrown", "hashbrown staged");
    for &flows in sizes {
        let flows = flows as usize;
        let (ours, _) = rounds(Ours::new(flows).timer());
        let (plain, _) = rounds(Theirs::new(flows).timer(false));
        let (staged, _) = rounds(Theirs::new(flows).timer(true));
        println!("{flows:>10} {ours:>10.1} {plain:>14.1} {staged:>18.1}");
    }
}

/// Median and best of several rounds.
fn rounds(mut round: impl FnMut() -> f64) -> (f64, f64) {
    round();
    let mut results: Vec<f64> = (0..11).map(|_| round()).collect();
    results.sort_by(f64::total_cmp);
    (results[results.len() / 2], results[0])
}

/// Bytes of this process that are in memory (proc(5), statm: pages).
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages: usize = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number");
    pages * 4096
}

fn key(flow: usize) -> [u64; 1] {
    let client = (0x0a00_0000 + (flow / 60_000) as u32).to_be_bytes();
    let port = (1024 + (flow % 60_000) as u16).to_be_bytes();
    key_v4(client, port, ServiceIndex(0).into())
}

/// Calls `burst` with the keys of flows in shuffled order and returns ns a key.
fn time_bursts(flows: usize, mut burst: impl FnMut(&[[u64; 1]; BURST_MAX])) -> f64 {
    const BURSTS: usize = 1 << 13;
    let mut next = 0;
    let keys: Vec<[[u64; 1]; BURST_MAX]> = (0..BURSTS)
        .map(|_| {
            std::array::from_fn(|_| {
                next = (next + STRIDE as usize) % flows;
                key(next)
            })
        })
        .collect();
    let start = Instant::now();
    keys.iter().for_each(&mut burst);
    start.elapsed().as_nanos() as f64 / (BURSTS * BURST_MAX) as f64
}

struct Ours {
    table: FlowsV4,
    hasher: FlowHasher,
    flows: usize,
}

impl Ours {
    fn new(flows: usize) -> Ours {
        let table = FlowsV4::new(flows).expect("memory");
        let hasher = FlowHasher::new(SEEDS);
        for flow in 0..flows {
            let (key, hash) = (key(flow), hasher.hash(&key(flow)));
            let Room::Free(place) = table.make_room(hash, |_| false, |key| hasher.hash(key)) else {
                panic!("no room at the load that the table is made for");
            };
            table.put(place, &key, hash, Flow::new(ServerIndex(1), FlowState::Established, 1));
        }
        Ours { table, hasher, flows }
    }

    fn timer(self) -> impl FnMut() -> f64 {
        let mut seen = 1;
        move || {
            seen += 1;
            time_bursts(self.flows, |keys| {
                let hashes = keys.map(|key| self.hasher.hash(&key));
                for hash in hashes {
                    self.table.prefetch(self.table.home(hash));
                }
                for (key, hash) in keys.iter().zip(hashes) {
                    let (place, flow) = self.table.find(key, hash).expect("a known flow");
                    self.table.set(place, Flow::new(flow.server(), flow.state(), seen));
                }
            })
        }
    }
}

struct Theirs {
    table: HashTable<(u64, u64)>,
    hasher: FlowHasher,
    flows: usize,
}

impl Theirs {
    fn new(flows: usize) -> Theirs {
        let hasher = FlowHasher::new(SEEDS);
        let mut table = HashTable::with_capacity(flows);
        for flow in 0..flows {
            let [word] = key(flow);
            table.insert_unique(hasher.hash(&[word]), (word, 1), |entry| hasher.hash(&[entry.0]));
        }
        Theirs { table, hasher, flows }
    }

    /// Staged: the first bucket whose tag fits is touched for the whole burst before any is used.
    fn timer(mut self, staged: bool) -> impl FnMut() -> f64 {
        let mut seen = 1;
        move || {
            seen += 1;
            let (table, hasher) = (&mut self.table, self.hasher);
            time_bursts(self.flows, |keys| {
                let hashes = keys.map(|key| hasher.hash(&key));
                if staged {
                    let places = hashes.map(|hash| table.iter_hash_buckets(hash).next());
                    black_box(places.iter().flatten().fold(0, |sum, place| {
                        sum ^ table.get_bucket(*place).map_or(0, |entry| entry.0)
                    }));
                }
                for ([word], hash) in keys.iter().zip(hashes) {
                    let entry = table.find_mut(hash, |entry| entry.0 == *word);
                    entry.expect("a known flow").1 = seen;
                }
            })
        }
    }
}
