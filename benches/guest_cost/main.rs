//! What does a packet cost, in instructions of the whole machine?
//!
//! In one guest, with one NIC, the same frames go through IPVS in direct routing, through `shunt`
//! with zero-copy and with copies, and through a bare AF_XDP forwarder that looks nothing up and
//! decides nothing (benches/mac_swap.rs). QEMU executes the guest's instructions one by one
//! and a plugin (count.c) counts them, the kernel's apart from programs'.
//!
//! `cargo bench -p director --bench guest_cost`            virtio-net; then two workers against one
//! `cargo bench -p director --bench guest_cost -- igb`     Intel's igb, on the kernel that has it
//! `cargo bench -p director --bench guest_cost -- virtio`  one of the two of the first line,
//! `cargo bench -p director --bench guest_cost -- queues`  or the other
//!
//! Needs root and the packages `gcc`, `iproute2` and `xz-utils`; the first run fetches QEMU and a
//! kernel (see tests/guest/fetch). Takes about three minutes, igb two.
//!
//! # Method
//!
//! The guest has one core. A burst is handed to its NIC in one piece: nothing runs in the guest
//! between the first packet and the last. The next burst follows when all packets of the last one
//! are back, each seen to be what was sent but for its MAC addresses, the destination's that of
//! the server that its flow got. So a figure is one of packets that were forwarded.
//!
//! Packets are TCP, 60 bytes. "Established" ones are of 1,000 flows in turn, which were opened
//! before; of "new" ones each is the SYN of a flow of its own.
//!
//! Counted is everything that the guest executes: interrupts, the driver, the forwarder, and what
//! else is awake. Two things are taken out of that. What the guest executes when no packet comes
//! (timer ticks, the director's control thread, the sweep of the flow table) is measured before
//! each round and deducted by the time that the round took. And `shunt` and the bare forwarder
//! poll without a pause (`poll = "busy"`), which under emulation means a thousand empty turns from
//! one burst to the next: count.c says how they are told from turns that do something. What is
//! left holds whole turns, with their fixed cost.
//!
//! IPVS's core sleeps between bursts: being woken is part of its figures, as polling is not of the
//! others'. That is what single packets cost on machines with nothing else to do; at bursts of 64
//! it is a small part.
//!
//! Two workers have two cores and a NIC of two queues. QEMU makes several queues of a tap only,
//! through which 128 packets follow each other as this machine lets them; a single worker gets 64
//! in one piece, as above. So how many a worker finds at a time is not the same, but much alike.
//!
//! Figures are medians of five rounds. They do not depend on what else this machine does.

mod counter;
mod forwarders;
mod traffic;

use anyhow::{Context, Result, ensure};
use counter::{Counter, Plugin};
use forwarders::{Forwarder, build_mac_swap, prepare};
use guest::{Guest, Kernel, Machine, Nic};
use lab::MachineLock;
use std::time::Duration;
use traffic::{Kind, Traffic};
use xsk::Mode;

/// Sizes of bursts, and how many of each make a round.
const BURSTS: [(u32, u32); 3] = [(1, 400), (8, 100), (64, 40)];
const ROUNDS: usize = 5;
/// Bursts before the first round, so that caches and tables are as they stay.
const WARM_UP: u32 = 20;
/// For what the guest still has to do after that.
const SETTLE: Duration = Duration::from_millis(300);
const IDLE: Duration = Duration::from_millis(250);
/// For what the guest does when the last packet of a round is out.
const LINGER: Duration = Duration::from_millis(5);

fn main() -> Result<()> {
    lab::require_root("guest_cost", "cargo bench -p director --bench guest_cost")?;
    lab::catch_signals(|| eprintln!("guest_cost: ending"))?;
    let _lock = MachineLock::acquire()?;
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {
            compare("virtio-net", Kernel::Cloud618, Nic::virtio())?;
            compare_queues()
        }
        ["virtio"] => compare("virtio-net", Kernel::Cloud618, Nic::virtio()),
        ["igb"] => compare("igb", Kernel::Full618, Nic::Igb),
        ["queues"] => compare_queues(),
        _ => anyhow::bail!("virtio, igb, queues or nothing, not {arguments:?}"),
    }
}

/// Instructions a packet.
#[derive(Debug, Clone, Copy)]
struct Cost {
    kernel: f64,
    user: f64,
}

impl Cost {
    fn total(self) -> f64 {
        self.kernel + self.user
    }
}

/// A guest, counted.
struct Bench {
    guest: Guest,
    counter: Counter,
    // Its folder holds the plugin as long as the guest runs.
    _plugin: Plugin,
}

impl Bench {
    fn boot(machine: Machine) -> Result<Bench> {
        let plugin = Plugin::compile()?;
        let machine = machine
            .memory(2048)
            .program(env!("CARGO_BIN_EXE_shunt"), "/bin/shunt")
            .program(build_mac_swap()?, "/bin/mac_swap")
            .qemu(&["-plugin", &plugin.argument()]);
        let mut guest = machine.boot()?;
        let counter = plugin.connect()?;
        prepare(&mut guest)?;
        Ok(Bench { guest, counter, _plugin: plugin })
    }

    /// What each packet of `kind` costs in bursts of `size`.
    fn cost(
        &mut self,
        traffic: &mut Traffic,
        kind: Kind,
        (size, bursts): (u32, u32),
    ) -> Result<Cost> {
        traffic.run(&mut self.guest, kind, WARM_UP, size)?;
        std::thread::sleep(SETTLE);
        let mut costs = Vec::new();
        for _ in 0..ROUNDS {
            let idle = self.counter.during(|| {
                std::thread::sleep(IDLE);
                Ok(())
            })?;
            let empty_turns = idle.empty_turns();
            let busy = self.counter.during(|| {
                traffic.run(&mut self.guest, kind, bursts, size)?;
                std::thread::sleep(LINGER);
                Ok(())
            })?;
            let (share, packets) = (busy.seconds / idle.seconds, f64::from(bursts * size));
            costs.push(Cost {
                kernel: (busy.kernel() - idle.kernel() * share) / packets,
                user: (busy.user(&empty_turns) - idle.user(&empty_turns) * share) / packets,
            });
        }
        let median = |of: fn(&Cost) -> f64| {
            costs.sort_by(|a, b| of(a).total_cmp(&of(b)));
            of(&costs[ROUNDS / 2])
        };
        let [kernel, user] = [|cost: &Cost| cost.kernel, |cost: &Cost| cost.user].map(median);
        Ok(Cost { kernel, user })
    }
}

/// A line of the table.
struct Row {
    forwarder: Forwarder,
    kind: Kind,
    costs: Vec<Cost>,
}

fn compare(title: &str, kernel: Kernel, nic: Nic) -> Result<()> {
    use Forwarder::{Ipvs, MacSwap, Shunt};
    let machine = Machine::new(kernel).cores(1).nic(nic).module("ip_vs_rr");
    let mut bench = Bench::boot(machine.fetched_program("ipvsadm"))?;
    let version = bench.guest.run("uname -r")?;
    let mut rows = Vec::new();
    // IPVS first, on a NIC that has never had an XDP program.
    for forwarder in [
        Ipvs,
        Shunt(Mode::ZeroCopy),
        Shunt(Mode::Copy),
        MacSwap(Mode::ZeroCopy),
        MacSwap(Mode::Copy),
    ] {
        let running = forwarder.start(&mut bench.guest)?;
        let mut traffic = Traffic::new();
        traffic.open(&mut bench.guest)?;
        let kinds: &[Kind] = match forwarder {
            MacSwap(_) => &[Kind::Established],
            _ => &[Kind::Established, Kind::New],
        };
        for &kind in kinds {
            let measure = |&size| bench.cost(&mut traffic, kind, size);
            let costs = BURSTS.iter().map(measure).collect::<Result<Vec<Cost>>>()?;
            eprintln!("guest_cost: {forwarder}, {kind:?}: {costs:.0?}");
            rows.push(Row { forwarder, kind, costs });
        }
        check_shares(forwarder, &traffic)?;
        running.stop(&mut bench.guest)?;
    }
    println!("Guest instructions a packet, {title}, Linux {}:\n", version.trim());
    print_table(&rows)
}

/// `rr` has turned: the flows are spread to the last one.
fn check_shares(forwarder: Forwarder, traffic: &Traffic) -> Result<()> {
    let shares = traffic.shares();
    let (least, most) = (shares.iter().min(), shares.iter().max());
    let even = matches!((least, most), (Some(least), Some(most)) if most - least <= 1);
    ensure!(
        even || matches!(forwarder, Forwarder::MacSwap(_)),
        "{forwarder}: shares of {shares:?}"
    );
    Ok(())
}

fn print_table(rows: &[Row]) -> Result<()> {
    let ipvs = |kind| rows.iter().find(|row| row.forwarder == Forwarder::Ipvs && row.kind == kind);
    println!("| kernel + user = total (against IPVS) | bursts of 1 | of 8 | of 64 |");
    println!("|---|---|---|---|");
    for row in rows {
        let kind = match (row.forwarder, row.kind) {
            (Forwarder::MacSwap(_), _) => "",
            (_, Kind::Established) => ", established flows",
            (_, Kind::New) => ", new flows",
        };
        let reference = ipvs(row.kind).context("a line of IPVS")?;
        let cells: Vec<String> = (row.costs.iter().zip(&reference.costs))
            .map(|(cost, ipvs)| {
                let Cost { kernel, user } = cost;
                let against = cost.total() / ipvs.total();
                format!("{kernel:.0} + {user:.0} = {:.0} ({against:.2})", cost.total())
            })
            .collect();
        println!("| {}{kind} | {} |", row.forwarder, cells.join(" | "));
    }
    println!();
    Ok(())
}

/// Two queues with a worker and a core each, against one.
fn compare_queues() -> Result<()> {
    let mut costs = Vec::new();
    for workers in [1, 2] {
        // A queue is used for each core.
        let nic = Nic::Virtio { queues: workers, iommu_platform: true };
        let machine = Machine::new(Kernel::Cloud618).cores(workers).nic(nic);
        let mut bench = Bench::boot(machine)?;
        let running = Forwarder::Shunt(Mode::ZeroCopy).start(&mut bench.guest)?;
        let mut traffic = Traffic::new();
        traffic.open(&mut bench.guest)?;
        let cost = bench.cost(&mut traffic, Kind::Established, (64 * workers, 40))?;
        running.stop(&mut bench.guest)?;
        costs.push(cost);
    }
    println!("Guest instructions a packet, `shunt`, zero-copy, established flows, virtio-net:\n");
    println!("| workers and queues | kernel + user = total (against one) |");
    println!("|---|---|");
    for (workers, cost) in (1..).zip(&costs) {
        let (Cost { kernel, user }, total) = (cost, cost.total());
        let against = total / costs[0].total();
        println!("| {workers} | {kernel:.0} + {user:.0} = {total:.0} ({against:.2}) |");
    }
    println!();
    Ok(())
}
