//! How long does a packet take through a director that sleeps, and what does the sleep cost?
//!
//! The whole `shunt run` on a veth pair: a probe every few milliseconds, far enough apart that a
//! director with `poll = "adaptive"` sleeps in poll(2) between them. Timed on the wire from the
//! sending of the probe to the forwarded frame's return, by a thread on a core of its own that
//! does not sleep meanwhile. Beside it the least that any such program takes: `mac_swap` with
//! rings, poll(2) and a rewrite, and nothing else. The two get their probes in turn, so that a
//! machine that is busy with something else slows them alike; `shunt` with `poll = "busy"` has
//! its rounds in between, and stands still (SIGSTOP) meanwhile.
//!
//! Then the CPU time and the wake-ups of an adaptive director with four services and no traffic, first
//! without flows, then with one.
//!
//! `cargo bench -p director --bench wake_up`             as root, on two cores, two minutes
//! `chrt -f 10 cargo bench -p director --bench wake_up`  the same, on a machine that does other things

#[path = "../tests/common/mod.rs"]
mod common;

use common::taken::Taken;
use common::{service, shunt, wait_until_ready};
use core_affinity::CoreId;
use lab::{
    Config, Director, Family, MachineLock, NIC, Plan, Process, Topology, Wire, client_address,
    director_mac, mac_text, real_server_mac, router_mac, vip,
};
use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

const ROUNDS: usize = 12;
const PROBES_A_ROUND: u32 = 300;
/// As many as fit in the time; nobody is compared with it.
const BUSY_PROBES_A_ROUND: u32 = 100;
/// A probe that is not back by then is lost, and counted.
const PATIENCE: Duration = Duration::from_millis(200);
const IDLE: Duration = Duration::from_secs(12);

fn main() {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let [prober, worker, ..] = cores[..] else {
        eprintln!("this needs two cores, and this process may use {}", cores.len());
        std::process::exit(1);
    };
    lab::require_root("this bench", "cargo bench -p director --bench wake_up").unwrap_or_else(
        |e| {
            eprintln!("{e}");
            std::process::exit(1);
        },
    );
    let mac_swap = build_mac_swap();
    let _lock = MachineLock::acquire().unwrap();
    let plans = ["wake-adaptive", "wake-busy", "wake-bare"].map(Plan::new);
    let [on_adaptive, on_busy, on_bare] = plans.map(|plan| plan.build().unwrap());
    let adaptive = start(&on_adaptive, "adaptive", worker);
    let _bare = start_bare(&on_bare, mac_swap, worker);
    let busy = start(&on_busy, "busy", worker);
    let mut probers = [&on_adaptive, &on_bare, &on_busy].map(Prober::new);
    // A thread of its own, because those that it starts would be pinned as it is.
    std::thread::scope(|scope| scope.spawn(|| run(&mut probers, busy.process(), prober)).join())
        .expect("the probers' thread");
    report(&probers);
    drop(busy);
    report_idle(adaptive, &on_adaptive, worker);
}

/// `probers`: of the adaptive director, of the bare forwarder and of the busy director.
fn run(probers: &mut [Prober; 3], busy: &Process, core: CoreId) {
    assert!(core_affinity::set_for_current(core), "pinned to core {}", core.id);
    for round in 0..=ROUNDS {
        busy.signal(Signal::SIGSTOP).unwrap();
        for _ in 0..PROBES_A_ROUND {
            probers[..2].iter_mut().for_each(Prober::probe);
        }
        busy.signal(Signal::SIGCONT).unwrap();
        for _ in 0..BUSY_PROBES_A_ROUND {
            probers[2].probe();
        }
        if round == 0 {
            // Neighbors, caches, clocks: the first round only warms up.
            probers.iter_mut().for_each(|prober| prober.rounds.clear());
        }
        if round < ROUNDS {
            probers.iter_mut().for_each(Prober::next_round);
        }
    }
}

/// The bare forwarder, built as this bench is.
fn build_mac_swap() -> PathBuf {
    let arguments = ["build", "--release", "-p", "xsk", "--example", "mac_swap"];
    let built = Command::new(env!("CARGO")).args(arguments).status().expect("cargo");
    assert!(built.success(), "cargo {}", arguments.join(" "));
    let own = std::env::current_exe().expect("the path of this program");
    own.ancestors().nth(2).expect("a target folder").join("examples/mac_swap")
}

fn start(topology: &Topology, poll: &str, core: CoreId) -> Director {
    let config = Config {
        top: format!("poll = \"{poll}\""),
        interface: format!("cores = [{}]", core.id),
        services: ["tcp", "udp"].map(|protocol| service(protocol, Family::V4, "rr", 1)).into(),
        ..Config::default()
    };
    let director = Director::start(topology, shunt(), &config).unwrap();
    wait_until_ready(&director, &config);
    director
}

fn start_bare(topology: &Topology, mac_swap: PathBuf, core: CoreId) -> Process {
    let mut command = topology.director.command("taskset");
    command.args(["--cpu-list", &core.id.to_string()]).arg(mac_swap).arg(NIC);
    command.arg(format!("{}:{}", vip(Family::V4), common::DNS));
    command.args(["--to", &mac_text(real_server_mac(1)), "--poll", "adaptive"]);
    let process = Process::start(command).unwrap();
    let ready = || process.output().contains("ready");
    process.wait_until(common::PATIENCE, "mac_swap is ready", ready).unwrap();
    process
}

/// Sends probes to one director and times them.
struct Prober {
    wire: Wire,
    probe: Vec<u8>,
    /// ns, by round.
    rounds: Vec<Vec<f64>>,
    sent: u32,
    lost: u32,
}

impl Prober {
    fn new(topology: &Topology) -> Prober {
        let (client, vip) = (client_address(Family::V4), vip(Family::V4));
        Prober {
            wire: Wire::open(&topology.switch, "director").unwrap(),
            probe: frames::frame(&format!("ip {client} > {vip} / udp 1024 > 53 / data 18")),
            rounds: vec![Vec::new()],
            sent: 0,
            lost: 0,
        }
    }

    fn next_round(&mut self) {
        self.rounds.push(Vec::new());
    }

    /// One probe, after a rest that is not in step with anybody's sleep.
    fn probe(&mut self) {
        sleep(Duration::from_micros(3_000 + u64::from(self.sent * 7_919 % 11_000)));
        // What else the wire brought meanwhile.
        while self.wire.receive(Duration::ZERO).unwrap().is_some() {}
        self.sent += 1;
        let start = Instant::now();
        self.send();
        while start.elapsed() < PATIENCE {
            if let Some(frame) = self.wire.receive(Duration::ZERO).unwrap()
                && frame.destination() == real_server_mac(1)
                && frame.bytes.len() >= self.probe.len()
                && !frame.outgoing
            {
                let nanos = start.elapsed().as_nanos() as f64;
                self.rounds.last_mut().expect("a round").push(nanos);
                return;
            }
        }
        self.lost += 1;
    }

    fn send(&self) {
        self.wire.send_to(director_mac(), router_mac(), &self.probe).unwrap();
    }

    /// Of all rounds together, in microseconds.
    fn percentile(&self, percent: f64) -> f64 {
        percentile(self.rounds.iter().flatten().copied().collect(), percent)
    }
}

fn percentile(mut values: Vec<f64>, percent: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * percent / 100.0) as usize;
    values.get(place.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN) / 1e3
}

fn report(probers: &[Prober; 3]) {
    println!("a probe through a director, µs, {ROUNDS} rounds of {PROBES_A_ROUND} probes");
    println!("{:<34} {:>8} {:>8} {:>8} {:>6}", "", "p50", "p90", "p99", "lost");
    let names =
        ["shunt, poll = \"adaptive\"", "bare poll(2) and a MAC rewrite", "shunt, poll = \"busy\""];
    for (name, prober) in names.into_iter().zip(probers) {
        let [p50, p90, p99] = [50.0, 90.0, 99.0].map(|percent| prober.percentile(percent));
        println!("{name:<34} {p50:>8.1} {p90:>8.1} {p99:>8.1} {:>6}", prober.lost);
    }
    let [adaptive, bare, _] = probers;
    let added = |percent| {
        let pairs = adaptive.rounds.iter().zip(&bare.rounds).filter(|(round, _)| !round.is_empty());
        let by_round = pairs.map(|(adaptive, bare)| {
            1e3 * (percentile(adaptive.clone(), percent) - percentile(bare.clone(), percent))
        });
        percentile(by_round.collect(), 50.0)
    };
    let (p50, p99) = (added(50.0), adaptive.percentile(99.0) - bare.percentile(99.0));
    println!(
        "adaptive adds to the bare wake-up: p50 {p50:+.1} µs (median of the rounds; aim 10), \
         p99 {p99:+.1} µs (all rounds; median of the rounds {:+.1}; aim 50)",
        added(99.0)
    );
}

fn report_idle(director: Director, topology: &Topology, core: CoreId) {
    drop(director);
    let services = ["tcp", "udp"].into_iter().flat_map(|protocol| {
        ["rr", "lc"].map(|scheduler| {
            let mut service = service(protocol, Family::V4, scheduler, 2);
            service.address.set_port(service.address.port() + u16::from(scheduler == "lc"));
            service
        })
    });
    let config =
        Config { interface: format!("cores = [{}]", core.id), ..Config::of(services.collect()) };
    let director = Director::start(topology, shunt(), &config).unwrap();
    wait_until_ready(&director, &config);
    let report = |what: &str| {
        sleep(Duration::from_secs(2));
        let Taken { share, sleeps } = Taken::during(IDLE, director.process());
        println!(
            "idle, adaptive, one worker, four services, {what}: {:.2}% of a core (aim 2), {sleeps:.0} wake-ups a second",
            100.0 * share
        );
    };
    report("no flows");
    Prober::new(topology).send();
    report("with a flow");
}
