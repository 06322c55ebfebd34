//! The network that LVS-DR is explained with: a client behind a router, and behind that router one
//! switched network with the director and the real servers.
//!
//! ```text
//! client 192.168.100.11 ── 192.168.100.253 router 172.17.100.253 ──┬── director 172.17.100.3, VIP 172.17.100.100
//!                                                            switch┼── rs1 172.17.100.1, VIP on lo
//!                                                                  └── rs2 172.17.100.2, VIP on lo
//! ```

use crate::error::{Error, Result};
use crate::netns::{Netns, sweep_leftovers};
use crate::temp_dir::TempDir;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The director's NIC, and the real servers'.
pub const NIC: &str = "eth0";
/// The router's interface towards the director and the real servers.
pub const ROUTER_INSIDE: &str = "eth0";
/// The router's interface towards the client.
pub const ROUTER_OUTSIDE: &str = "eth1";

const INSIDE: [u8; 3] = [172, 17, 100];
const OUTSIDE: [u8; 3] = [192, 168, 100];

/// A place in the topology, as the last number of its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    network: [u8; 3],
    host: u8,
}

impl Place {
    const CLIENT: Place = Place { network: OUTSIDE, host: 11 };
    const ROUTER_OUTSIDE: Place = Place { network: OUTSIDE, host: 253 };
    const ROUTER_INSIDE: Place = Place { network: INSIDE, host: 253 };
    const DIRECTOR: Place = Place { network: INSIDE, host: 3 };
    const VIP: Place = Place { network: INSIDE, host: 100 };

    fn real_server(number: u8) -> Place {
        let taken = u8::from(number >= Place::DIRECTOR.host);
        Place { network: INSIDE, host: number + taken }
    }

    fn v4(self) -> Ipv4Addr {
        let [a, b, c] = self.network;
        Ipv4Addr::new(a, b, c, self.host)
    }

    /// The same digits, read as hexadecimal: 172.17.100.3 is fd00:172:17:100::3.
    fn v6(self) -> Ipv6Addr {
        let digits = |number: u8| {
            u16::from(number / 100) << 8 | u16::from(number / 10 % 10) << 4 | u16::from(number % 10)
        };
        let [a, b, c] = self.network.map(digits);
        Ipv6Addr::new(0xfd00, a, b, c, 0, 0, 0, digits(self.host))
    }

    fn mac(self) -> [u8; 6] {
        let [a, b, c] = self.network;
        [2, 0, a, b, c, self.host]
    }
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// 192.168.100.0/24 and 172.17.100.0/24.
    V4,
    /// fd00:192:168:100::/64 and fd00:172:17:100::/64.
    V6,
}

impl Place {
    fn address(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4().into(),
            Family::V6 => self.v6().into(),
        }
    }
}

/// The client's address.
pub fn client_address(family: Family) -> IpAddr {
    Place::CLIENT.address(family)
}

/// The router's address towards the client.
pub fn router_address(family: Family) -> IpAddr {
    Place::ROUTER_OUTSIDE.address(family)
}

/// The director's own address.
pub fn director_address(family: Family) -> IpAddr {
    Place::DIRECTOR.address(family)
}

/// The virtual service's address.
pub fn vip(family: Family) -> IpAddr {
    Place::VIP.address(family)
}

/// The address of the real server with this number, from 1: 172.17.100.1, .2, .4, .5 and so on,
/// because .3 is the director's.
pub fn real_server_address(number: u8, family: Family) -> IpAddr {
    Place::real_server(number).address(family)
}

/// The director's MAC address.
pub fn director_mac() -> [u8; 6] {
    Place::DIRECTOR.mac()
}

/// The router's MAC address towards the director.
pub fn router_mac() -> [u8; 6] {
    Place::ROUTER_INSIDE.mac()
}

/// The MAC address of the real server with this number.
pub fn real_server_mac(number: u8) -> [u8; 6] {
    Place::real_server(number).mac()
}

/// A MAC address as `ip link` writes it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// What to build.
#[derive(Debug, Clone)]
pub struct Plan {
    purpose: String,
    real_servers: u8,
    queues: u8,
    ipv6: bool,
    vlan: Option<u16>,
    bare: bool,
}

impl Plan {
    /// Two real servers, one queue, IPv4, no VLAN. `purpose` becomes part of the namespaces'
    /// names; an empty one leaves them as short as can be.
    pub fn new(purpose: &str) -> Plan {
        let purpose = purpose.to_owned();
        Plan { purpose, real_servers: 2, queues: 1, ipv6: false, vlan: None, bare: false }
    }

    /// So many real servers, at most 9.
    pub fn real_servers(mut self, count: u8) -> Plan {
        self.real_servers = count.min(9);
        self
    }

    /// So many receive and transmit queues on every link.
    pub fn queues(mut self, count: u8) -> Plan {
        self.queues = count.max(1);
        self
    }

    /// IPv6 beside IPv4.
    pub fn ipv6(mut self) -> Plan {
        self.ipv6 = true;
        self
    }

    /// The director's network as this VLAN of the switch.
    pub fn vlan(mut self, id: u16) -> Plan {
        self.vlan = Some(id);
        self
    }

    /// Machines as they come: the VIP is nowhere, and the real servers answer and ask by ARP as a
    /// kernel does by itself. What direct routing needs beyond addresses and routes is for shunt.
    pub fn bare(mut self) -> Plan {
        self.bare = true;
        self
    }

    /// Builds it. Takes some tenths of a second.
    pub fn build(self) -> Result<Topology> {
        sweep_leftovers()?;
        let topology = Topology {
            client: Netns::create(&self.named("client"))?,
            router: Netns::create(&self.named("router"))?,
            director: Netns::create(&self.named("director"))?,
            switch: Netns::create(&self.named("switch"))?,
            real_servers: (1..=self.real_servers)
                .map(|number| Netns::create(&self.named(&format!("rs{number}"))))
                .collect::<Result<_>>()?,
            files: TempDir::create(&self.named("files"))?,
            plan: self,
        };
        topology.set_up()?;
        Ok(topology)
    }

    fn named(&self, place: &str) -> String {
        if self.purpose.is_empty() { place.to_owned() } else { format!("{}-{place}", self.purpose) }
    }

    /// The interface that carries the addresses of a host on the switch.
    fn inside_interface(&self, nic: &str) -> String {
        self.vlan.map_or(nic.to_owned(), |id| format!("{nic}.{id}"))
    }
}

/// The namespaces, wired up. Dropping it removes them.
#[derive(Debug)]
pub struct Topology {
    /// Where requests come from.
    pub client: Netns,
    /// Between the client and the rest.
    pub router: Netns,
    /// Where shunt runs.
    pub director: Netns,
    /// What the inside hosts are plugged into. Its ports carry the hosts' names: `router`,
    /// `director`, `rs1` …
    pub switch: Netns,
    /// The real servers, the first at index 0.
    pub real_servers: Vec<Netns>,
    /// A directory for configuration, sockets and the like.
    pub files: TempDir,
    plan: Plan,
}

impl Topology {
    /// The real server with this number, from 1.
    pub fn real_server(&self, number: u8) -> &Netns {
        &self.real_servers[usize::from(number) - 1]
    }

    /// The interface that holds the VIP on the director.
    pub fn director_interface(&self) -> String {
        self.plan.inside_interface(NIC)
    }

    /// One more real server, with the next number, which is returned.
    pub fn add_real_server(&mut self) -> Result<u8> {
        let number = self.real_servers.len() as u8 + 1;
        self.real_servers.push(Netns::create(&self.plan.named(&format!("rs{number}")))?);
        self.set_up_real_server(number)?;
        Ok(number)
    }

    fn families(&self) -> &'static [Family] {
        if self.plan.ipv6 { &[Family::V4, Family::V6] } else { &[Family::V4] }
    }

    fn set_up(&self) -> Result<()> {
        for netns in [&self.client, &self.router, &self.director, &self.switch] {
            self.set_families(netns)?;
        }
        self.switch
            .ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
            .map_err(|error| explain(error, "bridges (CONFIG_BRIDGE)"))?;
        self.switch.ip("link set br0 up")?;
        for family in ["iptables", "ip6tables", "arptables"] {
            // The bridge is a switch and must not look into packets. Kernels without br_netfilter
            // have no such file.
            let _ = self.switch.sysctl(&format!("net.bridge.bridge-nf-call-{family}"), "0");
        }
        self.set_up_router()?;
        self.set_up_client()?;
        self.set_up_director()?;
        (1..=self.plan.real_servers).try_for_each(|number| self.set_up_real_server(number))
    }

    /// Without IPv6 in the plan there is none, so that captures hold what the test sent.
    fn set_families(&self, netns: &Netns) -> Result<()> {
        if !self.plan.ipv6 {
            // A kernel without IPv6 has no such file, and needs none.
            let _ = netns.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
            let _ = netns.sysctl("net.ipv6.conf.default.disable_ipv6", "1");
            return Ok(());
        }
        for scope in ["all", "default"] {
            netns.sysctl(&format!("net.ipv6.conf.{scope}.disable_ipv6"), "0")?;
            netns.sysctl(&format!("net.ipv6.conf.{scope}.accept_dad"), "0")?;
            netns.sysctl(&format!("net.ipv6.conf.{scope}.accept_ra"), "0")?;
        }
        Ok(())
    }

    fn set_up_client(&self) -> Result<()> {
        let wire = (NIC, Place::CLIENT.mac());
        let peer = (ROUTER_OUTSIDE, Place::ROUTER_OUTSIDE.mac());
        self.link(&self.client, wire, &self.router, peer)?;
        for &family in self.families() {
            self.address(&self.client, Place::CLIENT, family, NIC)?;
            self.address(&self.router, Place::ROUTER_OUTSIDE, family, ROUTER_OUTSIDE)?;
            let gateway = router_address(family);
            self.client.ip(&format!("route add default via {gateway}"))?;
        }
        Ok(())
    }

    fn set_up_router(&self) -> Result<()> {
        self.router.sysctl("net.ipv4.ip_forward", "1")?;
        if self.plan.ipv6 {
            self.router.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        }
        self.plug_in(&self.router, "router", Place::ROUTER_INSIDE)
    }

    fn set_up_director(&self) -> Result<()> {
        self.director.sysctl("net.ipv4.ip_forward", "0")?;
        self.plug_in(&self.director, "director", Place::DIRECTOR)?;
        self.default_route(&self.director)?;
        if self.plan.bare {
            return Ok(());
        }
        self.families().iter().try_for_each(|&family| {
            self.host_address(&self.director, vip(family), &self.director_interface())
        })
    }

    fn set_up_real_server(&self, number: u8) -> Result<()> {
        let netns = self.real_server(number);
        self.set_families(netns)?;
        netns.sysctl("net.ipv4.ip_forward", "0")?;
        if self.plan.bare {
            self.leave_as_it_comes(netns)?;
        } else {
            self.prepare_real_server(netns)?;
        }
        self.plug_in(netns, &format!("rs{number}"), Place::real_server(number))?;
        self.default_route(netns)
    }

    /// What direct routing needs: the RS holds the VIP, but neither answers ARP requests for it nor
    /// asks with it.
    fn prepare_real_server(&self, netns: &Netns) -> Result<()> {
        for scope in ["all", "lo"] {
            netns.sysctl(&format!("net.ipv4.conf.{scope}.arp_ignore"), "1")?;
            netns.sysctl(&format!("net.ipv4.conf.{scope}.arp_announce"), "2")?;
        }
        self.families().iter().try_for_each(|&family| self.host_address(netns, vip(family), "lo"))
    }

    /// The kernel's own values, whatever a new namespace has taken over from the host.
    fn leave_as_it_comes(&self, netns: &Netns) -> Result<()> {
        for scope in ["all", "default", "lo"] {
            for name in ["arp_ignore", "arp_announce", "rp_filter"] {
                netns.sysctl(&format!("net.ipv4.conf.{scope}.{name}"), "0")?;
            }
        }
        Ok(())
    }

    fn default_route(&self, netns: &Netns) -> Result<()> {
        self.families().iter().try_for_each(|&family| {
            let gateway = Place::ROUTER_INSIDE.address(family);
            netns.ip(&format!("route add default via {gateway}")).map(drop)
        })
    }

    /// Connects a host to the switch's port `port` and gives it its address.
    fn plug_in(&self, netns: &Netns, port: &str, place: Place) -> Result<()> {
        let port_mac = [2, 1, place.network[0], place.network[1], place.network[2], place.host];
        self.link(&self.switch, (port, port_mac), netns, (NIC, place.mac()))?;
        self.switch.ip(&format!("link set {port} master br0"))?;
        let interface = self.plan.inside_interface(NIC);
        if let Some(id) = self.plan.vlan {
            netns
                .ip(&format!("link add link {NIC} name {interface} type vlan id {id}"))
                .map_err(|error| explain(error, "VLAN devices (CONFIG_VLAN_8021Q)"))?;
            netns.ip(&format!("link set {interface} up"))?;
        }
        self.families()
            .iter()
            .try_for_each(|&family| self.address(netns, place, family, &interface))
    }

    fn address(&self, netns: &Netns, place: Place, family: Family, device: &str) -> Result<()> {
        let (prefix, how) = if family == Family::V4 { (24, "") } else { (64, "nodad") };
        let address = place.address(family);
        netns.ip(&format!("address add {address}/{prefix} dev {device} {how}")).map(drop)
    }

    fn host_address(&self, netns: &Netns, address: IpAddr, device: &str) -> Result<()> {
        let (prefix, how) = if address.is_ipv4() { (32, "") } else { (128, "nodad") };
        netns.ip(&format!("address add {address}/{prefix} dev {device} {how}")).map(drop)
    }

    /// A veth pair that is made where it belongs, its ends up and like wires.
    fn link(
        &self,
        here: &Netns,
        (name, mac): (&str, [u8; 6]),
        there: &Netns,
        (peer, peer_mac): (&str, [u8; 6]),
    ) -> Result<()> {
        let queues = self.plan.queues;
        let queues = format!("numtxqueues {queues} numrxqueues {queues}");
        here.ip(&format!(
            "link add {name} address {} {queues} type veth peer {peer} netns {} address {} {queues}",
            mac_text(mac),
            there.name(),
            mac_text(peer_mac),
        ))
        .map_err(|error| explain(error, "veth devices (CONFIG_VETH)"))?;
        for (netns, name) in [(here, name), (there, peer)] {
            netns.offloads_off(name)?;
            netns.ip(&format!("link set {name} up"))?;
        }
        Ok(())
    }
}

/// Says what a kernel lacks that does not know a type of device.
fn explain(error: Error, lacks: &str) -> Error {
    match error {
        Error::Command { command, status, stderr } if stderr.contains("Unknown device type") => {
            let stderr = format!("{stderr} This kernel lacks {lacks}.");
            Error::Command { command, status, stderr }
        }
        other => other,
    }
}
