//! What the whole-program tests share: the seed's network with servers and a running director.
//!
//! Each test file is a program of its own and uses its part of this.
#![allow(dead_code)] // each test file uses some of it

pub mod bare;
pub mod diagnosis;
pub mod faults;
pub mod guest_site;
pub mod in_process;
pub mod kernel_counts;
pub mod load;
pub mod metrics;
pub mod newcomers;
pub mod numbered;
pub mod page;
pub mod plugins;
pub mod pressure;
pub mod swaps;
pub mod taken;

use director::views::{ServerView, ServiceView, ServicesView};
use lab::{
    Config, Director, Family, HttpServer, MachineLock, Plan, Topology, UdpEcho, VirtualService,
    real_server_address, vip,
};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// The port of the virtual services over TCP.
pub const HTTP: u16 = 80;
/// The port of the virtual services over UDP.
pub const DNS: u16 = 53;
/// More than anything here takes on a machine that does other things beside.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The program under test.
pub fn shunt() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_shunt"))
}

/// A virtual service of the first `count` real servers, each of weight 1.
pub fn service(
    protocol: &'static str,
    family: Family,
    scheduler: &'static str,
    count: u8,
) -> VirtualService {
    let port = if protocol == "udp" { DNS } else { HTTP };
    let real_servers = (1..=count).map(|number| (real_server_address(number, family), 1));
    let address = SocketAddr::new(vip(family), port);
    VirtualService::new(protocol, address, scheduler, real_servers.collect())
}

/// HTTP over IPv4 by `rr` to the first `count` real servers.
pub fn http_rr(count: u8) -> VirtualService {
    service("tcp", Family::V4, "rr", count)
}

/// A network with servers, without a director.
pub struct Site {
    pub servers: Vec<HttpServer>,
    pub echoes: Vec<UdpEcho>,
    pub topology: Topology,
    pub families: &'static [Family],
    // The last to go: nobody else builds before all is removed.
    _lock: MachineLock,
}

impl Site {
    /// Waits for its turn on this machine, builds the network and starts servers.
    pub fn build(plan: Plan, families: &'static [Family]) -> Site {
        let mut site = Site::without_servers(plan, families);
        for number in 1..=site.topology.real_servers.len() as u8 {
            site.serve(number);
        }
        site
    }

    /// Waits for its turn on this machine and builds the network. Real servers that are bare get
    /// their VIP before they serve.
    pub fn without_servers(plan: Plan, families: &'static [Family]) -> Site {
        let lock = MachineLock::acquire().unwrap();
        let topology = plan.build().unwrap();
        Site { servers: vec![], echoes: vec![], topology, families, _lock: lock }
    }

    /// Starts the servers of one real server.
    pub fn serve(&mut self, number: u8) {
        let netns = self.topology.real_server(number);
        let name = format!("rs{number}");
        let anywhere: SocketAddr = if self.families.contains(&Family::V6) {
            (Ipv6Addr::UNSPECIFIED, HTTP).into()
        } else {
            (Ipv4Addr::UNSPECIFIED, HTTP).into()
        };
        self.servers.push(HttpServer::start(netns, &name, anywhere).unwrap());
        for &family in self.families {
            let address = SocketAddr::new(vip(family), DNS);
            self.echoes.push(UdpEcho::start(netns, &name, address).unwrap());
        }
    }

    /// Starts a director and waits until it knows all real servers of `config`.
    pub fn start(&self, config: &Config) -> Director {
        let director = Director::start(&self.topology, shunt(), config).unwrap();
        wait_until_ready(&director, config);
        director
    }
}

/// Waits until each real server that the config names has a MAC address.
pub fn wait_until_ready(director: &Director, config: &Config) {
    let servers: usize = config.services.iter().map(|service| service.real_servers.len()).sum();
    let forwards = |server: &ServerView| ["reachable", "stale"].contains(&server.neighbor.as_str());
    wait_for_list(director, "all real servers are resolved", |services| {
        let known = services.iter().flat_map(|service| &service.servers);
        known.filter(|server| forwards(server)).count() >= servers
    });
}

/// Waits until `shunt list` says what is wanted.
pub fn wait_for_list(director: &Director, until: &str, wanted: impl Fn(&[ServiceView]) -> bool) {
    let listed = || list(director).is_some_and(|services| wanted(&services));
    if let Err(error) = director.process().wait_until(PATIENCE, until, listed) {
        panic!("{error}\n{:#?}\n{}", list(director), director.process().output());
    }
}

/// What `shunt list --json` says, if it can be asked.
pub fn list(director: &Director) -> Option<Vec<ServiceView>> {
    let said = director.shunt("list --json").ok()?;
    let view: ServicesView = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
    Some(view.services)
}

/// Sends everything for the director to one of its queues: on a veth, the receiving queue is the
/// sender's transmit queue, and XPS (Documentation/networking/scaling.rst) maps cores to those.
/// Without this it is as the sender's hash has it.
pub fn steer(topology: &Topology, queues: usize, queue: usize) {
    // The other queues' cores first: a core that is mapped to none falls back to the hash.
    let others = (0..queues).filter(|&other| other != queue).map(|other| (other, "0".to_owned()));
    for (transmit, cores) in others.chain([(queue, all_cores())]) {
        let file = format!("/sys/class/net/director/queues/tx-{transmit}/xps_cpus");
        topology.switch.write_sys(&file, &cores).unwrap();
    }
}

/// The machine's cores as a bit mask in hexadecimal, a comma between each 32.
fn all_cores() -> String {
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap();
    let last: usize = possible.trim().rsplit(['-', ',']).next().unwrap().parse().unwrap();
    let mut words = vec![(1u64 << (last % 32 + 1)) - 1];
    words.extend(vec![0xffff_ffff; last / 32]);
    words.iter().map(|word| format!("{word:x}")).collect::<Vec<_>>().join(",")
}

/// The address of the HTTP service.
pub fn http(family: Family) -> SocketAddr {
    SocketAddr::new(vip(family), HTTP)
}

/// The address of the UDP service.
pub fn dns(family: Family) -> SocketAddr {
    SocketAddr::new(vip(family), DNS)
}
