//! Who forwards in the guest.

use crate::traffic::{PORT, ROUTER_MAC, SERVERS, VIP, server_mac};
use anyhow::{Context, Result, bail, ensure};
use guest::{Background, Guest};
use std::fmt::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use xsk::Mode;

/// How long a forwarder may take to start. Compiling the plugins is most of it.
const START_PATIENCE: Duration = Duration::from_secs(180);
const ROUTER: Ipv4Addr = Ipv4Addr::new(172, 17, 100, 253);
const END_PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarder {
    /// The kernel's, in direct routing, scheduler `rr`.
    Ipvs,
    /// `shunt`, scheduler `rr` in WebAssembly.
    Shunt(Mode),
    /// benches/mac_swap.rs: the same rings, and two MAC addresses.
    MacSwap(Mode),
}

impl fmt::Display for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Forwarder::Ipvs => f.write_str("IPVS-DR"),
            Forwarder::Shunt(mode) => write!(f, "`shunt`, {}", mode.name()),
            Forwarder::MacSwap(mode) => write!(f, "bare AF_XDP, {}", mode.name()),
        }
    }
}

/// One that runs.
pub enum Running {
    Kernel,
    Program(Background),
}

impl Forwarder {
    /// Starts it and waits until it says that it forwards.
    pub fn start(self, guest: &mut Guest) -> Result<Running> {
        let vip = Ipv4Addr::from(VIP);
        let (line, ready, mode) = match self {
            Forwarder::Ipvs => {
                guest.run(&format!("ipvsadm -A -t {vip}:{PORT} -s rr"))?;
                for server in 1..=SERVERS {
                    let server = server_address(server);
                    guest.run(&format!("ipvsadm -a -t {vip}:{PORT} -r {server} -g"))?;
                }
                return Ok(Running::Kernel);
            }
            Forwarder::Shunt(mode) => {
                guest.write("/run/director.toml", &config(mode))?;
                ("shunt run --config /run/director.toml".to_owned(), "shunt: ready", mode)
            }
            Forwarder::MacSwap(mode) => {
                let (name, to) = (mode.name(), lab::mac_text(server_mac(1)));
                let line =
                    format!("mac_swap eth0 {vip}:{PORT} --mode {name} --poll busy --to {to}");
                (line, "ready", mode)
            }
        };
        let program = guest.start("forwarder", &line)?;
        guest.wait_for_output(&program, ready, START_PATIENCE)?;
        let said = guest.output(&program)?;
        let granted = said.split([' ', ',']).any(|word| word == mode.name());
        ensure!(granted, "not in {} mode: {said}", mode.name());
        Ok(Running::Program(program))
    }
}

impl Running {
    /// Ends it, so that nothing of it is left.
    pub fn stop(self, guest: &mut Guest) -> Result<()> {
        match self {
            // With the module the flows go: their timers would be counted with the next one.
            Running::Kernel => guest.run("ipvsadm -C; rmmod ip_vs_rr ip_vs").map(drop)?,
            Running::Program(program) => {
                guest.signal(&program, "TERM")?;
                let status = guest.wait(&program, END_PATIENCE)?;
                if status != 0 {
                    bail!("ended with {status}: {}", guest.output(&program)?);
                }
            }
        }
        Ok(())
    }
}

/// Gives the guest its addresses and its neighbors.
pub fn prepare(guest: &mut Guest) -> Result<()> {
    let vip = Ipv4Addr::from(VIP);
    guest.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1")?;
    guest.run("ip link set dev eth0 up")?;
    guest.run("ip addr add 172.17.100.3/24 dev eth0")?;
    guest.run(&format!("ip addr add {vip}/32 dev eth0"))?;
    let servers = (1..=SERVERS).map(|server| (server_address(server), server_mac(server)));
    for (address, mac) in servers.chain([(ROUTER, ROUTER_MAC)]) {
        let mac = lab::mac_text(mac);
        guest.run(&format!("ip neigh add {address} lladdr {mac} dev eth0 nud permanent"))?;
    }
    // The kernel takes no packet from an address that it has no way to.
    guest.run(&format!("ip route add default via {ROUTER}"))?;
    Ok(())
}

fn server_address(server: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 17, 100, server)
}

/// As an operator would have it, but for the empty flow tables: they are not what is measured.
fn config(mode: Mode) -> String {
    let vip = Ipv4Addr::from(VIP);
    let mut text = format!(
        "poll = \"busy\"\nflows = 100_000\nflows_v6 = 1024\n\
         [[interface]]\nname = \"eth0\"\nmode = \"{}\"\n[metrics]\nlisten = \"off\"\n\
         [[virtual_service]]\naddress = \"{vip}:{PORT}\"\nprotocol = \"tcp\"\n\
         scheduler = \"rr\"\n",
        mode.name()
    );
    for server in 1..=SERVERS {
        let address = server_address(server);
        let _ = write!(text, "[[virtual_service.real_server]]\naddress = \"{address}\"\n");
    }
    text
}

/// Builds benches/mac_swap.rs, an example of another package, as cargo does not by itself.
pub fn build_mac_swap() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").context("run by cargo bench")?;
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--package", "xsk", "--example", "mac_swap"])
        .status()?;
    ensure!(built.success(), "mac_swap does not build");
    let release = Path::new(env!("CARGO_BIN_EXE_shunt")).parent().context("a target folder")?;
    Ok(release.join("examples/mac_swap"))
}
