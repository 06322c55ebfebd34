//! Who forwards, each in turn on the same link and the same core.

use crate::SHORTEST;
use crate::link::{Link, NIC, VIP, servers};
use crate::programs::{
    ACK, FORWARDER_CORE, GENERATOR_CORE, KernelSwap, Offer, Programs, SERVERS, SYN,
};
use anyhow::{Context, Result, bail, ensure};
use lab::{HugePages, Process};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A forwarder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// `shunt run`: parse, find the flow, count, rewrite to the flow's real server.
    Shunt,
    /// benches/mac_swap.rs: the same rings, and a swap of the MAC addresses.
    MacSwap,
    /// DPDK's forwarder on its own AF_XDP driver: a swap of the MAC addresses.
    Testpmd,
    /// A swap of the MAC addresses by XDP_TX, which no packet leaves the driver for.
    Kernel,
}

/// How long a contender may take until frames come back.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Frames a second at which flows are established, far below what anyone forwards.
const ESTABLISH_RATE: f64 = 300_000.0;
const ESTABLISH_TRIES: u32 = 10;
/// Huge pages of 2 MiB that testpmd may take; its packet buffers need 370 MB.
const TESTPMD_PAGES: u64 = 256;

impl Contender {
    pub const ALL: [Contender; 4] =
        [Contender::Shunt, Contender::MacSwap, Contender::Testpmd, Contender::Kernel];

    pub const fn name(self) -> &'static str {
        match self {
            Contender::Shunt => "shunt",
            Contender::MacSwap => "mac_swap",
            Contender::Testpmd => "testpmd",
            Contender::Kernel => "XDP_TX",
        }
    }
}

/// The programs of the contenders, found or built before anything is measured.
pub struct Stable {
    mac_swap: PathBuf,
}

impl Stable {
    pub fn prepare(contenders: &[Contender]) -> Result<Stable> {
        if contenders.contains(&Contender::Testpmd)
            && Command::new("dpdk-testpmd").arg("--version").output().is_err()
        {
            bail!("dpdk-testpmd was not found: apt-get install dpdk-dev");
        }
        Ok(Stable { mac_swap: build_mac_swap()? })
    }

    /// Starts a contender and waits until it forwards.
    pub fn start(
        &self,
        who: Contender,
        link: &Link,
        programs: &mut Programs,
        flows: u64,
    ) -> Result<Running> {
        let running = match who {
            Contender::Shunt => Running::Process(start_shunt(link, flows)?, None),
            Contender::MacSwap => Running::Process(self.start_mac_swap(link)?, None),
            Contender::Testpmd => {
                let pages = HugePages::at_least(TESTPMD_PAGES)?;
                Running::Process(start_testpmd(link)?, Some(pages))
            }
            Contender::Kernel => Running::Kernel(KernelSwap::attach(link)?),
        };
        running.wait_until_forwarding(link, programs).with_context(|| running.said(who))?;
        if who == Contender::Shunt {
            establish(link, programs, flows)?;
        }
        Ok(running)
    }

    fn start_mac_swap(&self, link: &Link) -> Result<Process> {
        let core = FORWARDER_CORE.to_string();
        let mut command = link.director.command("taskset");
        command.args(["-c", &core]).arg(&self.mac_swap).args([NIC, &format!("{VIP}:80")]);
        Ok(Process::start(command)?)
    }
}

/// A contender that forwards until this is dropped.
// The fields are held for nothing else: dead code to the compiler.
pub enum Running {
    Process(Process, #[allow(dead_code)] Option<HugePages>),
    Kernel(#[allow(dead_code)] KernelSwap),
}

impl Running {
    fn wait_until_forwarding(&self, link: &Link, programs: &mut Programs) -> Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        let probe = Offer {
            flows: (0, 64),
            in_order: true,
            flags: SYN,
            length: SHORTEST,
            rate: Some(50_000.0),
            frames: 64,
            timed: false,
        };
        while programs.run(link, &probe)?.lost() > 0 {
            if let Running::Process(process, _) = self {
                ensure!(process.ended().is_none(), "it ended");
            }
            ensure!(Instant::now() < deadline, "no frame came back for {START_PATIENCE:?}");
        }
        Ok(())
    }

    /// Who it is, and what it has written.
    pub fn said(&self, who: Contender) -> String {
        match self {
            Running::Process(process, _) => format!("{}: {}", who.name(), process.output().trim()),
            Running::Kernel(_) => who.name().to_owned(),
        }
    }
}

fn start_shunt(link: &Link, flows: u64) -> Result<Process> {
    // A quarter more than are established, so that new ones find room and soon none.
    let capacity = flows + flows / 4;
    let socket = link.files.path().join("api.sock");
    let mut config = format!(
        "flows = {capacity}\nflows_v6 = 1024\n\
         [[interface]]\nname = \"{NIC}\"\ncores = [{FORWARDER_CORE}]\n\
         [api]\nsocket = \"{}\"\n[metrics]\nlisten = \"off\"\n\
         [[virtual_service]]\naddress = \"{VIP}:80\"\nprotocol = \"tcp\"\nscheduler = \"rr\"\n",
        socket.display()
    );
    for address in servers() {
        config += &format!("[[virtual_service.real_server]]\naddress = \"{address}\"\n");
    }
    let config = link.files.write("director.toml", config)?;
    let mut command = link.director.command(env!("CARGO_BIN_EXE_shunt"));
    command.arg("run").arg("--config").arg(config);
    Ok(Process::start(command)?)
}

fn start_testpmd(link: &Link) -> Result<Process> {
    let cores = format!("{GENERATOR_CORE},{FORWARDER_CORE}");
    let main = GENERATOR_CORE.to_string();
    let device = format!("net_af_xdp0,iface={NIC},start_queue=0,queue_count=1");
    let mut command = link.director.command("dpdk-testpmd");
    command.args(["-l", &cores, "--main-lcore", &main, "--no-pci", "--vdev", &device]);
    // Nothing is left behind in /dev/hugepages or /run, and it waits without a terminal.
    command.args(["--in-memory", "--iova-mode=va", "--no-telemetry", "--"]);
    command.args(["--forward-mode=macswap", "--nb-cores=1", "--auto-start"]);
    command.arg("--stats-period=3600");
    Ok(Process::start(command)?)
}

/// Opens every flow and confirms it. What is lost on the way is sent again. Each real server has
/// its share then, or shunt does not do its job.
fn establish(link: &Link, programs: &mut Programs, flows: u64) -> Result<()> {
    for flags in [SYN, ACK] {
        let offer = Offer {
            flows: (0, flows),
            in_order: true,
            flags,
            length: SHORTEST,
            rate: Some(ESTABLISH_RATE),
            frames: flows as u32,
            timed: false,
        };
        let all_back = (0..ESTABLISH_TRIES).find_map(|_| match programs.run(link, &offer) {
            Ok(outcome) if outcome.lost() > 0 => None,
            outcome => Some(outcome),
        });
        let outcome = all_back.context("flows are lost while they are established")??;
        let share = flows / SERVERS as u64;
        let fair = |count: &u64| count.abs_diff(share) <= share / 10;
        let arrived = &outcome.arrived[..SERVERS];
        ensure!(arrived.iter().all(fair), "rr gave the real servers {arrived:?} flows");
    }
    Ok(())
}

/// Builds benches/mac_swap.rs, an example of another package, as cargo does not by itself.
fn build_mac_swap() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").context("run by cargo bench")?;
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--package", "xsk", "--example", "mac_swap"])
        .status()?;
    ensure!(built.success(), "mac_swap does not build");
    let release = Path::new(env!("CARGO_BIN_EXE_shunt")).parent().context("a target folder")?;
    Ok(release.join("examples/mac_swap"))
}
