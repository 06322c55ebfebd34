//! Does a packet cost more when there are more workers?
//!
//! `Worker::turn` over memory, as in `burst`: one worker that is all of its director, then two
//! workers of one director at once on a core each, then two of sixteen, each with flows of its
//! own as a NIC's RSS deals them out, all to the same servers. Once more while a third thread
//! reads every counter, as a scrape does.
//!
//! The last columns are the control: the same two workers, each with one more counter that it
//! writes as it writes its own, on a cache line of its own or on one line with the other's. A
//! bench that could not tell these apart would not see a shared line in the workers either.
//!
//! In every round each variant has its turn, so that a machine that is busy with something else
//! slows them alike: the ratios are medians of the rounds' ratios.
//!
//! `cargo bench -p dataplane --bench workers`

mod traffic;

use core_affinity::CoreId;
use dataplane::{Capacity, Handle, ServerIndex, Update, Worker, WorkerMemory, workers};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};
use traffic::{
    ACK, DIRECTOR, FRAMES_IN_USE, SEEDS, SERVERS, SYN, address, service_table, template,
};
use xsk::{BURST_MAX, Census, MemoryPort, Packet, Port, PortCounters};

const ROUNDS: usize = 15;
/// How long a variant runs in a round.
const ROUND: Duration = Duration::from_millis(60);
/// Scrapes a second: a thousand times what is usual.
const SCRAPES: u32 = 100;
/// Odd, so that multiplying permutes; large, so that neighbors end up far apart.
const STRIDE: u64 = 0x9e37_79b1;
/// Microseconds until a half-open flow ends (`Timeouts::default`).
const SYN_RECV: u64 = 60_000_000;

fn main() {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let [first, second, ..] = cores[..] else {
        eprintln!("two workers need two cores, and this process may use {}", cores.len());
        std::process::exit(1);
    };
    println!("ns a packet and worker (ratio to one worker alone), medians of {ROUNDS} rounds");
    println!(
        "{:<20} {:>9} {:>15} {:>15} {:>15} |{:>15} {:>15} {:>15}",
        "packets, flows each",
        "1 worker",
        "2 workers",
        "2, scraped",
        "2 of 16",
        "2, own line",
        "line by burst",
        "line by packet",
    );
    for (flags, flows) in [(ACK, 1_000), (ACK, 100_000), (ACK, 1_000_000), (SYN, 100_000)] {
        report([first, second], flags, flows);
    }
}

fn report(cores: [CoreId; 2], flags: u8, flows: u64) {
    let mut alone = [director(1, flags, flows), director(1, flags, flows)];
    let mut two = director(2, flags, flows);
    let mut sixteen = director(16, flags, flows);
    let memories: Vec<_> = two.iter().map(|load| load.handle.memory.clone()).collect();
    let mut rounds: Vec<[f64; 7]> = Vec::new();
    // The first round only warms up.
    for _ in 0..=ROUNDS {
        let one = alone.iter_mut().zip(cores).map(|(load, core)| run(&mut load[..], &[core]));
        let one = one.sum::<f64>() / 2.0;
        let mut both = |mark| {
            for (number, load) in two.iter_mut().enumerate() {
                load.worker.port_mut().mark = mark_of(number, mark);
            }
            run(&mut two, &cores)
        };
        let own = both(Control::OwnLine);
        let by_burst = both(Control::LineByBurst);
        let by_packet = both(Control::LineByPacket);
        let plain = both(Control::None);
        let scraped = scraping(&memories, || both(Control::None));
        let of_many = run(&mut sixteen[..2], &cores);
        rounds.push([one, plain, scraped, of_many, own, by_burst, by_packet]);
    }
    rounds.remove(0);
    let column = |variant: usize| {
        let time = median(rounds.iter().map(|round| round[variant]));
        let ratio = median(rounds.iter().map(|round| round[variant] / round[0]));
        format!("{time:.1} ({ratio:.2})")
    };
    println!(
        "{:<20} {:>9.1} {:>15} {:>15} {:>15} |{:>15} {:>15} {:>15}",
        format!("{}, {flows}", if flags == SYN { "new" } else { "established" }),
        median(rounds.iter().map(|round| round[0])),
        column(1),
        column(2),
        column(3),
        column(4),
        column(5),
        column(6),
    );
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What a worker writes beside its own counters.
#[derive(Debug, Clone, Copy)]
enum Control {
    None,
    OwnLine,
    LineByBurst,
    LineByPacket,
}

/// A counter that a worker writes as it writes its own: load and store.
struct Mark {
    word: &'static AtomicU64,
    per_packet: bool,
}

impl Mark {
    #[inline]
    fn write(&self) {
        self.word.store(self.word.load(Relaxed).wrapping_add(1), Relaxed);
    }
}

/// Two words a cache line, or rather two, apart, and two side by side.
#[repr(align(128))]
struct Lines([AtomicU64; 48]);
static LINES: Lines = Lines([const { AtomicU64::new(0) }; 48]);

fn mark_of(worker: usize, control: Control) -> Option<Mark> {
    let (place, per_packet) = match control {
        Control::None => return None,
        Control::OwnLine => (16 * worker, true),
        Control::LineByBurst => (32 + worker, false),
        Control::LineByPacket => (32 + worker, true),
    };
    Some(Mark { word: &LINES.0[place], per_packet })
}

/// A port in memory that writes the control's counter.
struct MarkedPort {
    port: MemoryPort,
    mark: Option<Mark>,
}

impl Port for MarkedPort {
    fn reclaim(&mut self) {
        self.port.reclaim();
    }

    fn receive(&mut self, burst: &mut Vec<Packet>) -> usize {
        self.port.receive(burst)
    }

    fn prefetch(&self, packet: &Packet) {
        self.port.prefetch(packet);
    }
    fn bytes(&self, packet: &Packet) -> &[u8] {
        self.port.bytes(packet)
    }

    /// Called once a packet, between a packet's work and the next one's.
    fn bytes_mut(&mut self, packet: &Packet) -> &mut [u8] {
        if let Some(mark) = self.mark.as_ref().filter(|mark| mark.per_packet) {
            mark.write();
        }
        self.port.bytes_mut(packet)
    }

    fn send(&mut self, burst: &mut Vec<Packet>) -> usize {
        self.port.send(burst)
    }

    fn make(&mut self, length: usize) -> Option<Packet> {
        self.port.make(length)
    }

    fn release(&mut self, packet: Packet) {
        self.port.release(packet);
    }

    fn flush(&mut self) {
        if let Some(mark) = self.mark.as_ref().filter(|mark| !mark.per_packet) {
            mark.write();
        }
        self.port.flush();
    }

    fn refill(&mut self) {
        self.port.refill();
    }

    fn wait(&mut self, timeout: Duration) {
        self.port.wait(timeout);
    }

    fn census(&self) -> Census {
        self.port.census()
    }

    fn counters(&self) -> PortCounters {
        self.port.counters()
    }

    fn mac(&self) -> [u8; 6] {
        self.port.mac()
    }
}

/// Calls `measure` while another thread reads all that the workers count.
fn scraping(memories: &[Arc<WorkerMemory>], measure: impl FnOnce() -> f64) -> f64 {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                for memory in memories {
                    black_box(memory.counters().read());
                    for server in 0..SERVERS {
                        black_box(memory.counters().server(ServerIndex(server)));
                    }
                }
                thread::sleep(Duration::from_secs(1) / SCRAPES);
            }
        });
        let result = measure();
        done.store(true, Relaxed);
        result
    })
}

/// Lets these workers run at once, each on its core. The mean of their medians, ns a packet.
fn run(loads: &mut [Load], cores: &[CoreId]) -> f64 {
    let all = Barrier::new(loads.len());
    let live = |load: &mut Load, core| {
        assert!(core_affinity::set_for_current(core), "pinned to core {}", core.id);
        all.wait();
        let begin = Instant::now();
        let mut times = Vec::new();
        while begin.elapsed() < ROUND {
            times.push(load.take_all());
        }
        // The first to be done must not leave the others alone, nor their memory.
        all.wait();
        median(times.into_iter())
    };
    let count = loads.len() as f64;
    let live = &live;
    thread::scope(|scope| {
        let threads: Vec<_> = loads
            .iter_mut()
            .zip(cores)
            .map(|(load, &core)| scope.spawn(move || live(load, core)))
            .collect();
        let medians = threads.into_iter().map(|thread| thread.join().expect("a worker's thread"));
        medians.sum::<f64>() / count
    })
}

/// A worker and the packets that come to it.
// Aligned, so that two in a row share no line: in the director each is on a thread's own stack.
#[repr(align(128))]
struct Load {
    worker: Worker<MarkedPort>,
    handle: Handle,
    flags: u8,
    /// The number of its first flow: no other worker has the same.
    first: u64,
    flows: u64,
    next: u64,
    /// Microseconds.
    now: u64,
}

/// The workers of one director with so many flows each: established ones, or such as begin and
/// end all the time.
fn director(count: usize, flags: u8, flows: u64) -> Vec<Load> {
    let port = |_| MemoryPort::new(DIRECTOR, 2 * FRAMES_IN_USE as u32);
    let ports = (0..count).map(port).map(|port| MarkedPort { port, mark: None }).collect();
    let capacity = Capacity { flows_v4: flows as usize, flows_v6: 1 };
    let table = Arc::new(service_table());
    let made = workers(ports, capacity, SEEDS).expect("memory for the flow tables");
    let loads = (0..).zip(made).map(|(number, (worker, handle))| {
        let first = number << 32;
        let now = 1_000_000_000;
        let mut load = Load { worker, handle, flags, first, flows, next: 0, now };
        let update = Update { table: Some(table.clone()), ..Update::default() };
        assert!(load.handle.mailbox.send(Box::new(update)).is_ok());
        load.begin();
        load
    });
    loads.collect()
}

impl Load {
    fn begin(&mut self) {
        let mut packet = template();
        address(&mut packet, self.first, SYN);
        for _ in 0..FRAMES_IN_USE {
            assert!(self.worker.port_mut().port.inject(&packet));
        }
        while self.worker.turn(self.now / 1000) != 0 {}
        if self.flags == SYN {
            while self.next < self.flows + self.flows / 4 {
                self.take_all();
            }
            return;
        }
        for flags in [SYN, ACK] {
            let mut flow = 0..;
            while flow.start < self.flows {
                self.take(flags, |flows| flow.next().unwrap_or(0).min(flows - 1));
            }
        }
        let known = self.handle.memory.counters().read().flows_v4;
        assert_eq!(known, self.flows, "every flow has room");
    }

    /// All frames in use once. ns a packet.
    fn take_all(&mut self) -> f64 {
        let mut next = self.next;
        let spent = if self.flags == SYN {
            // As many flows begin as the table is made for while one is remembered.
            self.now += FRAMES_IN_USE as u64 * SYN_RECV / self.flows;
            self.take(SYN, |_| {
                next += 1;
                next
            })
        } else {
            self.now += 1_000;
            self.take(ACK, |flows| {
                next = (next + STRIDE) % flows;
                next
            })
        };
        self.next = next;
        spent
    }

    /// Fills the frames in use, which is not timed, and turns until all are through. ns a packet.
    fn take(&mut self, flags: u8, mut flow: impl FnMut(u64) -> u64) -> f64 {
        let (first, flows) = (self.first, self.flows);
        let port = &mut self.worker.port_mut().port;
        port.recycle(|packet| address(packet, first + flow(flows), flags));
        let start = Instant::now();
        for _ in 0..FRAMES_IN_USE / BURST_MAX {
            black_box(self.worker.turn(self.now / 1000));
        }
        start.elapsed().as_nanos() as f64 / FRAMES_IN_USE as f64
    }
}
