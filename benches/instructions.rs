//! How many instructions does a packet take?
//!
//! `Worker::turn`, the very function that `shunt run` calls, over memory instead of a NIC, with
//! bursts of 64 packets of 1,000 flows in shuffled order, counted by callgrind: the same number on
//! every machine and at every load, to a fraction of an instruction. Expiry, counters and the
//! rings are part of it, the kernel is not.
//!
//! `cargo bench -p dataplane --bench instructions`       a table; needs valgrind
//! `cargo bench -p dataplane --bench instructions -- ipv6`  the kinds with that in their name
//!
//! Each kind has a limit, a twentieth above what it took when it was last made faster or dearer
//! on purpose. Beyond it the bench fails: this is what CI runs.

use dataplane::{Capacity, Instance, Protocol, ServiceIndex, Update, Worker, workers};
use frames::{DIRECTOR_MAC, SEEDS, build, client_of};
use frames::{Layer, Plan, RoundRobin, VIP, flags, tcp_of, tcp6_of, udp_of};
use std::net::IpAddr;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use xsk::{BURST_MAX, MemoryPort};

const FLOWS: u32 = 1000;
/// Frames that are filled and taken again and again, as with a real ring.
const FRAMES_IN_USE: u32 = 4096;
/// Odd, so that multiplying permutes; large, so that neighbors end up far apart.
const STRIDE: u32 = 0x9e37_79b1;
const SERVICES: u16 = 16;

/// New flows that the table has room for.
const NEW_FLOWS: u32 = 1 << 19;

struct Kind {
    name: &'static str,
    /// Instructions a packet, at most.
    limit: f64,
    /// A packet of a flow.
    packet: fn(u32) -> Vec<u8>,
    /// The packet that opens the flow; `None` where each packet does, of another flow.
    opening: Option<fn(u32) -> Vec<u8>>,
}

impl Kind {
    const fn known(
        name: &'static str,
        limit: f64,
        opening: fn(u32) -> Vec<u8>,
        packet: fn(u32) -> Vec<u8>,
    ) -> Kind {
        Kind { name, limit, packet, opening: Some(opening) }
    }
}

const KINDS: [Kind; 6] = [
    Kind::known("tcp", 206.0, |n| tcp_of(n, "S"), |n| tcp_of(n, "A")),
    Kind::known("tcp-services", 257.0, |n| mixed(n, "S"), |n| mixed(n, "A")),
    Kind::known("tcp-vlan", 407.0, |n| tagged(n, "S"), |n| tagged(n, "A")),
    Kind::known("tcp-ipv6", 321.0, |n| tcp6_of(n, "S"), |n| tcp6_of(n, "A")),
    Kind::known("udp", 202.0, udp_of, udp_of),
    Kind { name: "tcp-new", limit: 862.0, packet: |n| tcp_of(n, "S"), opening: None },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [word, kind, packets] = arguments.as_slice()
        && word == "counted"
    {
        let kind = KINDS.iter().find(|known| known.name == kind).expect("a kind");
        Bench::new(kind).run(packets.parse().expect("a number"));
        return ExitCode::SUCCESS;
    }
    println!("{:<14} {:>22} {:>8}", "packets", "instructions a packet", "limit");
    let mut dearer = 0;
    for kind in KINDS.iter().filter(|kind| arguments.iter().all(|word| kind.name.contains(word))) {
        let count = count(kind);
        let remark = if count > kind.limit { "  too many" } else { "" };
        println!("{:<14} {count:>22.1} {:>8.0}{remark}", kind.name, kind.limit);
        dearer += u8::from(count > kind.limit);
    }
    if dearer != 0 {
        println!("The packet path costs more than it did: see docs/performance.md, \"The gate\".");
    }
    ExitCode::from(dearer)
}

/// A TCP packet to one of many services.
fn mixed(number: u32, letters: &str) -> Vec<u8> {
    let (client, port) = client_of(number, false);
    let service = 80 + (number % u32::from(SERVICES)) as u16;
    build(&[ip(client), Layer::tcp(port, service, flags(letters))])
}

/// A TCP packet with a VLAN tag.
fn tagged(number: u32, letters: &str) -> Vec<u8> {
    let (client, port) = client_of(number, false);
    let tag = Layer::Vlan { id: 5, announced: 0x8100 };
    let ethernet = Layer::Ethernet { macs: [DIRECTOR_MAC, [2; 6]], ethertype: None };
    build(&[ethernet, tag, ip(client), Layer::tcp(port, 81, flags(letters))])
}

fn ip(client: IpAddr) -> Layer {
    let (IpAddr::V4(client), Ok(vip)) = (client, VIP.parse()) else { unreachable!("both IPv4") };
    Layer::ipv4(client, vip)
}

struct Bench {
    worker: Worker<MemoryPort>,
    /// Of known flows.
    packets: Vec<Vec<u8>>,
    /// Of flows that are not.
    fresh: fn(u32) -> Vec<u8>,
    next: u32,
    now: u64,
}

impl Bench {
    /// A director that knows the flows, with the frames in use in flight.
    fn new(kind: &Kind) -> Bench {
        let is_mixed = kind.name == "tcp-services";
        let mut plan = if is_mixed { Plan::default() } else { Plan::standard() };
        for port in (80..80 + SERVICES).filter(|_| is_mixed) {
            let service = plan.add_service(VIP, port, Protocol::Tcp);
            for machine in 1..=4 {
                plan.add_member(service, machine, 1);
            }
        }
        let port = MemoryPort::new(DIRECTOR_MAC, 2 * FRAMES_IN_USE);
        let flows = if kind.opening.is_some() { FLOWS } else { NEW_FLOWS } as usize;
        let capacity = Capacity { flows_v4: flows, flows_v6: FLOWS as usize };
        let made = workers(vec![port], capacity, SEEDS).expect("memory for the flow tables");
        let (worker, mut handle) = made.into_iter().next().expect("one worker a port");
        let round_robin = |n| (ServiceIndex(n), Some(Instance::new(Box::<RoundRobin>::default())));
        let update = Update {
            schedulers: (0..plan.services.len() as u16).map(round_robin).collect(),
            table: Some(Arc::new(plan.table())),
            ..Update::default()
        };
        assert!(handle.mailbox.send(Box::new(update)).is_ok());
        let mut bench =
            Bench { worker, packets: vec![], fresh: kind.packet, next: FRAMES_IN_USE, now: 1000 };
        if let Some(opening) = kind.opening {
            (0..FLOWS).for_each(|flow| bench.inject(&opening(flow)));
            bench.turn_until_idle();
            bench.worker.port_mut().sent();
            bench.packets = (0..FLOWS).map(kind.packet).collect();
        }
        for number in 0..FRAMES_IN_USE {
            bench.inject(&(kind.packet)(number % flows as u32));
        }
        bench.turn_until_idle();
        bench
    }

    fn inject(&mut self, packet: &[u8]) {
        assert!(self.worker.port_mut().inject(packet));
    }

    fn turn_until_idle(&mut self) {
        while self.worker.turn(self.now) != 0 {}
    }

    fn run(&mut self, packets: u64) {
        for _ in 0..packets.div_ceil(FRAMES_IN_USE.into()) {
            let mut received = 0;
            self.worker.port_mut().recycle(|packet| {
                received += 1;
                if self.packets.is_empty() {
                    self.next += 1;
                    packet.copy_from_slice(&(self.fresh)(self.next));
                } else {
                    self.next = self.next.wrapping_add(STRIDE) % FLOWS;
                    packet.copy_from_slice(&self.packets[self.next as usize]);
                }
            });
            assert_eq!(received, FRAMES_IN_USE, "packets that were not forwarded cost less");
            self.now += 1;
            for _ in 0..FRAMES_IN_USE as usize / BURST_MAX {
                self.worker.turn(self.now);
            }
        }
    }
}

/// The difference between two runs of different length, so that the set-up does not count.
fn count(kind: &Kind) -> f64 {
    let program = std::env::current_exe().expect("the path of this program");
    let collected = |packets: u64| -> u64 {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg("--toggle-collect=*Worker*turn*")
            .arg(&program)
            .args(["counted", kind.name, &packets.to_string()])
            .output()
            .expect("valgrind: install it, for example with `apt-get install valgrind`");
        let report = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{report}");
        let line = report.lines().find(|line| line.contains("Collected")).expect("a total");
        line.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number")
    };
    let (short, long) = (1u64 << 16, 1u64 << 18);
    let spent = collected(long) - collected(short);
    spent as f64 / (long - short) as f64
}
