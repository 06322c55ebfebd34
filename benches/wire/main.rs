//! How does `shunt` stand beside other forwarders on the same link and the same core?
//!
//! One veth pair. XDP frames made in the kernel go in at one end, pinned to core 0; the contenders
//! take turns at the other end, on core 1: `shunt run` with its whole job to do, our own bare swap
//! of MAC addresses on the same rings (mac_swap), DPDK's `dpdk-testpmd` (its AF_XDP driver, macswap)
//! and a swap in the kernel by XDP_TX. Each round has all of them in turn, in another order each
//! time; what is printed are medians over the rounds, and medians of the ratios within a round,
//! because a machine that others share drifts. docs/performance.md says how each figure is taken.
//!
//! `cargo bench -p director --bench wire`               everything, 7 rounds, 17 minutes
//! `cargo bench -p director --bench wire -- overload`   one part: overload, loss-free, latency,
//!                                                      new-flows; several can be named
//! `cargo bench -p director --bench wire -- rounds=11`  other numbers of rounds
//! `cargo bench -p director --bench wire -- quick`      one short round without testpmd, 20 s:
//!                                                      that it runs, no figures to believe
//!
//! Needs root, two cores, iproute2, Linux 5.18 or later, and the package dpdk-dev.

mod contenders;
mod link;
mod measure;
mod programs;
mod results;

use anyhow::{Context, Result, bail, ensure};
use contenders::{Contender, Stable};
use link::Link;
use measure::Bench;
use programs::Programs;
use results::Results;
use std::time::Instant;

/// Bytes of the shortest Ethernet frame, without its checksum sequence.
const SHORTEST: usize = 60;

/// What to do.
#[derive(Debug, Clone)]
pub struct Plan {
    overload: bool,
    loss_free: bool,
    latency: bool,
    new_flows: bool,
    rounds: usize,
    contenders: Vec<Contender>,
    /// Flows that are established, and the smaller number of them that are measured as well.
    flows_max: u64,
    flows_few: u64,
    /// Seconds that one measurement lasts.
    seconds: f64,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let plan = plan(&arguments)?;
    let cores = std::thread::available_parallelism()?.get();
    ensure!(cores >= 2, "the wire bench needs two cores: one for the generator, one to forward");
    let _lock = lab::MachineLock::acquire()?;
    let stable = Stable::prepare(&plan.contenders)?;
    let link = Link::build()?;
    let mut bench = Bench { programs: Programs::load(&link)?, link, stable, plan, capacity: 0.0 };
    let started = Instant::now();
    bench.find_capacity()?;
    let mut results = Results::default();
    for round in 0..bench.plan.rounds {
        for turn in 0..bench.plan.contenders.len() {
            let who = bench.plan.contenders[(round + turn) % bench.plan.contenders.len()];
            bench.measure(who, round, &mut results)?;
        }
        eprintln!("round {} of {}: {:.0?}", round + 1, bench.plan.rounds, started.elapsed());
    }
    print!("{}", results.tables(&bench.plan));
    println!("\n{} rounds, {:.0?}", bench.plan.rounds, started.elapsed());
    Ok(())
}

fn plan(arguments: &[String]) -> Result<Plan> {
    let mut plan = Plan {
        overload: false,
        loss_free: false,
        latency: false,
        new_flows: false,
        rounds: 7,
        contenders: Contender::ALL.to_vec(),
        flows_max: 1_000_000,
        flows_few: 1_000,
        seconds: 0.4,
    };
    for argument in arguments {
        match argument.split_once('=').unwrap_or((argument, "")) {
            ("overload", "") => plan.overload = true,
            ("loss-free", "") => plan.loss_free = true,
            ("latency", "") => plan.latency = true,
            ("new-flows", "") => plan.new_flows = true,
            ("rounds", number) => plan.rounds = number.parse().context("rounds=NUMBER")?,
            ("quick", "") => {
                plan.rounds = 1;
                plan.contenders.retain(|&who| who != Contender::Testpmd);
                plan.flows_max = 20_000;
                plan.seconds = 0.05;
            }
            _ => {
                bail!("{argument} is not understood; the head of benches/wire/main.rs says what is")
            }
        }
    }
    if !(plan.overload || plan.loss_free || plan.latency || plan.new_flows) {
        (plan.overload, plan.loss_free, plan.latency, plan.new_flows) = (true, true, true, true);
    }
    ensure!(plan.rounds > 0, "rounds=0 measures nothing");
    Ok(plan)
}
