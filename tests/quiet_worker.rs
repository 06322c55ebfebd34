//! A worker, once started, allocates nothing, takes no lock that it would have to wait for, and
//! makes no system call but those of its port (invariant 2 of the README).
//!
//! The very loop of `shunt run` turns on a thread whose seccomp filter kills the process at any
//! other system call, and under an allocator that counts. It has a real AF_XDP queue and lives
//! through inserts, expiry, a full table, changes of servers and schedulers, and idleness.
//!
//! The test starts itself as the process that is watched; two more starts show that the watching
//! works: one worker allocates, one asks for the process id.

mod common;

use common::in_process::{open, resolve};
use dataplane::{DropReason, Protocol, ServiceKey, Worker, WorkerCounts};
use director::config::Poll;
use director::services::Removal;
use director::supervisor::Supervisor;
use director::worker_thread;
use lab::{Config, Family, MachineLock, Plan, Topology, VirtualService, Wire, vip, wait_until};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use xsk::XskPort;

const PATIENCE: Duration = Duration::from_secs(30);
/// Flows that the worker's table holds; several times as many are sent.
const FLOWS: u16 = 1_024;
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const SIGSYS: i32 = 31;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("watched") => watched(Prank::None),
        Some("allocates") => watched(Prank::Allocate),
        Some("calls") => watched(Prank::Call),
        _ => watch(),
    }
}

/// What a worker does beside its work, to show that it would be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prank {
    None,
    Allocate,
    Call,
}

fn watch() {
    let _lock = MachineLock::acquire().unwrap();
    let start = |role: &str| {
        let status = Command::new(std::env::current_exe().unwrap()).arg(role).status().unwrap();
        // One that was killed could not remove its namespaces.
        lab::sweep_leftovers().unwrap();
        status
    };
    let calls = start("calls");
    assert_eq!(calls.signal(), Some(SIGSYS), "a system call must not go unseen: {calls}");
    let allocates = start("allocates");
    assert_eq!(allocates.code(), Some(3), "an allocation must not go unseen: {allocates}");
    let watched = start("watched");
    assert_ne!(
        watched.signal(),
        Some(SIGSYS),
        "the worker made a system call that is not its port's; the kernel log (type=1326) has its number"
    );
    assert!(watched.success(), "{watched}");
    println!("the worker allocated nothing and made no system call but those of its port");
}

/// The system calls of a port: wake-ups (sendto, recvfrom; recvmsg busy polls), poll(2) when idle,
/// and the read(2) that empties the eventfd by which it is woken.
fn filter() -> BpfProgram {
    let allowed = [
        libc::SYS_sendto,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_ppoll,
        libc::SYS_read,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
    ];
    let rules = allowed.into_iter().map(|call| (call, vec![])).collect();
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, architecture)
        .unwrap()
        .try_into()
        .unwrap()
}

/// What the worker's thread tells of itself, without a system call.
#[derive(Default)]
struct Told {
    stop: AtomicBool,
    done: AtomicBool,
    allocated: AtomicU64,
    freed: AtomicI64,
}

/// The worker's thread. It never ends: ending a thread takes system calls.
fn quiet(mut worker: Worker<XskPort>, prank: Prank, told: &Told) -> ! {
    let filter = filter();
    worker_thread::prepare();
    seccompiler::apply_filter(&filter).unwrap();
    let counted = allocation_counter::measure(|| {
        match prank {
            Prank::None => {}
            Prank::Allocate => drop(std::hint::black_box(Box::new(1u8))),
            Prank::Call => drop(std::hint::black_box(nix::unistd::getppid())),
        }
        worker_thread::turn_until_stopped(&mut worker, Poll::Adaptive, &told.stop);
    });
    told.allocated.store(counted.count_total, SeqCst);
    told.freed.store(counted.count_current, SeqCst);
    told.done.store(true, SeqCst);
    loop {
        std::hint::spin_loop();
    }
}

fn watched(prank: Prank) {
    let topology = Plan::new("quiet").ipv6().build().unwrap();
    let told = Arc::new(Told::default());
    let code = topology.director.run(|| control(&topology, prank, &told)).unwrap();
    drop(topology);
    std::process::exit(code);
}

/// The control thread: everything that can happen to a worker, while packets come.
fn control(topology: &Topology, prank: Prank, told: &Arc<Told>) -> i32 {
    let (mut supervisor, worker) = set_up();
    let memory = supervisor.workers[0].handle.memory.clone();
    let thread_told = Arc::clone(told);
    std::thread::spawn(move || quiet(worker, prank, &thread_told));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(live_through(&mut supervisor, topology));

    let idle = || memory.counters().read().sleeps;
    let before = idle();
    wait_until(PATIENCE, "the worker sleeps again and again", || idle() > before + 10).unwrap();
    told.stop.store(true, SeqCst);
    wait_until(PATIENCE, "the worker stops", || told.done.load(SeqCst)).unwrap();
    check(&memory.counters().read());
    let (allocated, freed) = (told.allocated.load(SeqCst), -told.freed.load(SeqCst));
    if (allocated, freed) == (0, 0) {
        return 0;
    }
    println!("the worker allocated {allocated} times, and freed {freed} that it had not allocated");
    3
}

/// That the worker has been where it was to be watched.
fn check(counts: &WorkerCounts) {
    println!("{counts:?}");
    assert!(counts.flows_created > u64::from(FLOWS), "more flows than the table holds");
    assert!(counts.flows_expired > 0 && counts.flows_evicted > 0 && counts.overflowed > 0);
    assert!(counts.forwarded > u64::from(FLOWS) && counts.wakeups > 0 && counts.sleeps > 0);
    assert!(counts.updates >= 9);
}

fn key(protocol: Protocol, family: Family) -> ServiceKey {
    ServiceKey { address: vip(family), port: 80, protocol }
}

fn server(number: u8, family: Family) -> IpAddr {
    lab::real_server_address(number, family)
}

fn set_up() -> (Supervisor, Worker<XskPort>) {
    let services = FAMILIES.into_iter().flat_map(|family| {
        ["tcp", "udp"].map(|protocol| {
            let servers = vec![(server(1, family), 1), (server(2, family), 1)];
            VirtualService::new(protocol, SocketAddr::new(vip(family), 80), "rr", servers)
        })
    });
    let config = Config {
        top: format!(
            "flows = {FLOWS}\nflows_v6 = {FLOWS}\n[timeouts]\ntcp = 2\ntcpfin = 1\nudp = 1\n"
        ),
        ..Config::of(services.collect())
    };
    let (supervisor, mut workers) = open(&config);
    (supervisor, workers.remove(0))
}

/// Packets as the router would send them.
struct Sender {
    wire: Wire,
}

impl Sender {
    fn send(&self, family: Family, port: u16, transport: &str) {
        let (client, vip) = (lab::client_address(family), vip(family));
        let ip = if family == Family::V4 { "ip" } else { "ip6" };
        let (protocol, flags) = transport.split_once(' ').unwrap_or((transport, ""));
        let text = format!("{ip} {client} > {vip} / {protocol} {port} > 80 {flags} / data 18");
        let frame = frames::frame(&text);
        // A full queue on the way is no fault of anybody's here.
        let _ = self.wire.send_to(lab::director_mac(), lab::router_mac(), &frame);
    }

    /// Flows from their beginning to their end, from ports `first` on.
    fn flows(&self, first: u16, count: u16) {
        for port in first..first + count {
            for family in FAMILIES {
                self.send(family, port, "udp");
                self.send(family, port, "tcp S");
                if !port.is_multiple_of(4) {
                    self.send(family, port, "tcp A");
                }
                self.send(family, port, ["tcp FA", "tcp R", "tcp A"][usize::from(port) % 3]);
            }
        }
    }
}

async fn live_through(supervisor: &mut Supervisor, topology: &Topology) {
    let sender = Sender { wire: Wire::open(&topology.switch, "director").unwrap() };
    let memory = supervisor.workers[0].handle.memory.clone();
    supervisor.begin().await.unwrap();
    supervisor.attach().unwrap();
    // No neighbor is known yet: nothing can be forwarded.
    sender.flows(1_000, 50);
    let dropped = || memory.counters().read().dropped[DropReason::NoServer as usize];
    wait_until(PATIENCE, "packets find no real server", || dropped() >= 50).unwrap();
    resolve(supervisor, &FAMILIES, 2, [0, 0]);
    supervisor.publish().await.unwrap();

    for (turn, scheduler) in (0u16..).zip(["lc", "wrr", "rr", "lc"]) {
        sender.flows(2_000 + turn * FLOWS, FLOWS);
        for family in FAMILIES {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let key = key(protocol, family);
                supervisor
                    .change(|services| {
                        services.set_scheduler(&key, scheduler.parse().unwrap(), None)?;
                        services.set_weight(&key, server(1, family), 1 + turn)
                    })
                    .await
                    .unwrap();
            }
        }
        sender.flows(30_000 + turn * 500, 500);
    }
    // A server that is expired takes its flows with it.
    let (key, address) = (key(Protocol::Udp, Family::V4), server(2, Family::V4));
    supervisor
        .change(|services| services.remove_server(&key, address, Removal::Expire))
        .await
        .unwrap();
    sender.flows(40_000, 200);
    wait_until(PATIENCE, "flows expire", || memory.counters().read().flows_expired > 1_000)
        .unwrap();
}
