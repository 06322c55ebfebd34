//! The kernel's network around the director: sysctls that matter to it, and what else would handle
//! its packets.

use super::ask_kernel::{ask, attributes, find};
use super::finding::{Area, Finding, Read, list};
use super::site::Site;
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// NFNL_SUBSYS_NFTABLES of linux/netfilter/nfnetlink.h, NFT_MSG_GETRULE and NFTA_RULE_TABLE of
/// nf_tables.h.
const RULES_GET: u16 = 10 << 8 | 7;
const RULE_TABLE: u16 = 1;
/// Family, version and resource of a message of nfnetlink.
const NETFILTER_HEADER: usize = 4;

/// What a kernel says that has no nfnetlink, or no nftables.
const NO_NFTABLES: [i32; 2] = [Errno::EPROTONOSUPPORT as i32, Errno::EINVAL as i32];

/// IPv4 settings of an interface, each with those of `all` counted in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipv4Settings {
    /// The interface.
    pub interface: String,
    /// The larger of both.
    pub arp_ignore: Read<u32>,
    /// Whether one of both is on.
    pub log_martians: Read<bool>,
    /// The larger of both.
    pub rp_filter: Read<u32>,
}

/// Room for the real servers of one family in the kernel's neighbor table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighborRoom {
    /// ipv4 or ipv6, as sysctl has it.
    pub family: &'static str,
    /// How many entries there can be (gc_thresh3).
    pub most: usize,
    /// The real servers.
    pub servers: usize,
}

/// What was read of the network around.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkFacts {
    /// Of each served interface.
    pub interfaces: Vec<Ipv4Settings>,
    /// net.ipv4.ip_forward.
    pub ip_forward: Read<bool>,
    /// The config has checks of the kind `dr`.
    pub dr_checks: bool,
    /// Room for real servers; not said in network namespaces but the first.
    pub neighbors: Vec<NeighborRoom>,
    /// nftables: how many rules each table has.
    pub firewall: Read<BTreeMap<String, usize>>,
    /// Virtual services of shunt that IPVS has, too.
    pub ipvs: Vec<SocketAddr>,
}

impl NetworkFacts {
    /// Looks at these interfaces, and at what matters to this site.
    pub fn read(interfaces: &[String], site: &Site) -> NetworkFacts {
        let ipvs = std::fs::read_to_string("/proc/net/ip_vs").unwrap_or_default();
        let ipvs = read_ipvs(&ipvs);
        let services = site.services.iter().map(|service| service.address());
        let servers = site.server_addresses();
        NetworkFacts {
            interfaces: interfaces.iter().map(|name| read_settings(name)).collect(),
            ip_forward: sysctl("net/ipv4/ip_forward").map(|value| value != 0),
            dr_checks: site.dr_checks,
            neighbors: read_room(&servers),
            firewall: read_firewall(),
            ipvs: services.filter(|service| ipvs.contains(service)).collect(),
        }
    }
}

/// A setting's number. Those under net are the calling thread's network namespace's.
pub fn sysctl(name: &str) -> Read<u32> {
    let path = format!("/proc/sys/{name}");
    let text = super::finding::read_line(&path)?;
    text.parse().map_err(|_| format!("{path} says {text:?}"))
}

fn read_settings(interface: &str) -> Ipv4Settings {
    // The kernel takes the larger of the two: IN_DEV_MAXCONF of linux/inetdevice.h.
    let larger = |name: &str| -> Read<u32> {
        let all = sysctl(&format!("net/ipv4/conf/all/{name}"))?;
        Ok(all.max(sysctl(&format!("net/ipv4/conf/{interface}/{name}"))?))
    };
    Ipv4Settings {
        interface: interface.to_owned(),
        arp_ignore: larger("arp_ignore"),
        log_martians: larger("log_martians").map(|value| value != 0),
        rp_filter: larger("rp_filter"),
    }
}

/// A network namespace of its own does not show the limit, which is the whole machine's
/// (neigh_sysctl_register in net/core/neighbour.c).
fn read_room(servers: &[IpAddr]) -> Vec<NeighborRoom> {
    let room = |(family, v4)| {
        let most = sysctl(&format!("net/{family}/neigh/default/gc_thresh3")).ok()? as usize;
        let servers = servers.iter().filter(|server| server.is_ipv4() == v4).count();
        (servers > 0).then_some(NeighborRoom { family, most, servers })
    };
    [("ipv4", true), ("ipv6", false)].into_iter().filter_map(room).collect()
}

fn read_firewall() -> Read<BTreeMap<String, usize>> {
    let mut tables = BTreeMap::new();
    let rules = ask(SockProtocol::NetlinkNetFilter, RULES_GET, true, vec![0; NETFILTER_HEADER]);
    let rules = match rules {
        Ok(rules) => rules,
        // There are none, then (nfnetlink_rcv_msg in net/netfilter/nfnetlink.c).
        Err(error) if NO_NFTABLES.contains(&error.raw_os_error().unwrap_or(0)) => {
            return Ok(tables);
        }
        Err(error) => return Err(error.to_string()),
    };
    for rule in rules {
        let rule = attributes(rule.get(NETFILTER_HEADER..).unwrap_or_default());
        let Some(name) = find(&rule, RULE_TABLE) else { continue };
        let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
        *tables.entry(name).or_insert(0) += 1;
    }
    Ok(tables)
}

/// The virtual services in /proc/net/ip_vs: `TCP  AC116464:0050 rr`.
fn read_ipvs(text: &str) -> Vec<SocketAddr> {
    let service = |line: &str| -> Option<SocketAddr> {
        let mut words = line.split_whitespace();
        matches!(words.next()?, "TCP" | "UDP").then_some(())?;
        let (address, port) = words.next()?.rsplit_once(':')?;
        let address: IpAddr = match address.strip_prefix('[') {
            Some(v6) => v6.strip_suffix(']')?.parse().ok()?,
            None => Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?).into(),
        };
        Some((address, u16::from_str_radix(port, 16).ok()?).into())
    };
    text.lines().filter_map(service).collect()
}

/// What follows from it.
pub fn findings(facts: &NetworkFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for settings in &facts.interfaces {
        findings.push(arp_ignore(settings));
        findings.push(martians(settings, facts.dr_checks));
        findings.push(reverse_path(settings));
    }
    findings.push(forwarding(&facts.ip_forward));
    findings.extend(facts.neighbors.iter().map(neighbor_room));
    findings.push(firewall(&facts.firewall));
    findings.extend(ipvs(&facts.ipvs));
    findings
}

fn arp_ignore(settings: &Ipv4Settings) -> Finding {
    let interface = settings.interface.as_str();
    match &settings.arp_ignore {
        Ok(8) => {
            let sentence = "arp_ignore is 8: this machine answers no ARP for its VIPs, or anything";
            Finding::problem(Area::Network, interface, sentence).mended_by(format!(
                "sysctl -w net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.{}.arp_ignore=0",
                interface.replace('.', "/")
            ))
        }
        Ok(2) => {
            let sentence = "arp_ignore is 2: VIPs of networks that it has no other address on are \
                            not answered for";
            Finding::warning(Area::Network, interface, sentence).mended_by(format!(
                "sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.{}.arp_ignore=1",
                interface.replace('.', "/")
            ))
        }
        Ok(value) => {
            let sentence = format!("arp_ignore is {value}: VIPs on it are answered for");
            Finding::ok(Area::Network, interface, sentence)
        }
        Err(why) => Finding::unread(Area::Network, interface, "arp_ignore", why),
    }
}

fn martians(settings: &Ipv4Settings, dr_checks: bool) -> Finding {
    let interface = settings.interface.as_str();
    match &settings.log_martians {
        Ok(true) if dr_checks => {
            let sentence = "log_martians is on, and what answers to checks of the kind dr is a \
                            martian here: the kernel's log fills up";
            Finding::warning(Area::Network, interface, sentence).mended_by(format!(
                "sysctl -w net.ipv4.conf.all.log_martians=0 net.ipv4.conf.{}.log_martians=0",
                interface.replace('.', "/")
            ))
        }
        Ok(true) => Finding::ok(
            Area::Network,
            interface,
            "log_martians is on, and nothing here makes martians",
        ),
        Ok(false) => Finding::ok(Area::Network, interface, "log_martians is off"),
        Err(why) => Finding::unread(Area::Network, interface, "log_martians", why),
    }
}

fn reverse_path(settings: &Ipv4Settings) -> Finding {
    let interface = settings.interface.as_str();
    match &settings.rp_filter {
        Ok(value) => {
            let sentence =
                format!("rp_filter is {value}: packets of virtual services do not pass it");
            Finding::ok(Area::Network, interface, sentence)
        }
        Err(why) => Finding::unread(Area::Network, interface, "rp_filter", why),
    }
}

fn forwarding(forwards: &Read<bool>) -> Finding {
    const SUBJECT: &str = "ip_forward";
    match forwards {
        Ok(true) => Finding::ok(
            Area::Network,
            SUBJECT,
            "it is on, as IPVS needs it; shunt does not, and it does no harm",
        ),
        Ok(false) => Finding::ok(Area::Network, SUBJECT, "it is off; shunt does not need it"),
        Err(why) => Finding::unread(Area::Network, SUBJECT, "it", why),
    }
}

/// Real servers and other machines have an entry each, and one that finds no room is never found.
fn neighbor_room(room: &NeighborRoom) -> Finding {
    const SUBJECT: &str = "neighbor table";
    let NeighborRoom { family, most, servers } = *room;
    let sentence = format!("net.{family}.neigh has room for {most} neighbors (gc_thresh3)");
    let s = if servers == 1 { "" } else { "s" };
    // As many again for clients on the link and routers.
    if servers * 2 <= most {
        let sentence = format!("{sentence}, enough for {servers} real server{s}");
        return Finding::ok(Area::Network, SUBJECT, sentence);
    }
    let finding = match servers < most {
        true => {
            let sentence = format!("{sentence}, of which {servers} real server{s} take most");
            Finding::warning(Area::Network, SUBJECT, sentence)
        }
        false => {
            let sentence = format!("{sentence}, and {servers} real server{s} do not all fit in");
            Finding::problem(Area::Network, SUBJECT, sentence)
        }
    };
    let enough = (servers * 4).next_power_of_two();
    finding.mended_by(format!(
        "sysctl -w net.{family}.neigh.default.gc_thresh3={enough} \
         net.{family}.neigh.default.gc_thresh2={}",
        enough / 2
    ))
}

fn firewall(tables: &Read<BTreeMap<String, usize>>) -> Finding {
    const SUBJECT: &str = "firewall";
    let tables = match tables {
        Ok(tables) => tables,
        Err(why) => return Finding::unread(Area::Network, SUBJECT, "its rules", why),
    };
    if tables.is_empty() {
        let sentence = "nftables has no rules here; it would not see packets of virtual services";
        return Finding::ok(Area::Network, SUBJECT, sentence);
    }
    let rules: usize = tables.values().sum();
    let sentence = format!(
        "nftables has {rules} rules (table {}), and packets of virtual services do not pass them",
        list(tables.keys())
    );
    Finding::warning(Area::Network, SUBJECT, sentence)
        .mended_by("filter on the router, or on the real servers")
}

fn ipvs(services: &[SocketAddr]) -> Option<Finding> {
    let first = services.first()?;
    let sentence = format!(
        "IPVS has {}, too: it takes packets whenever shunt is not there, and knows none of its flows",
        list(services)
    );
    let finding = Finding::warning(Area::Network, "IPVS", sentence);
    Some(finding.mended_by(format!("ipvsadm -D -t {first}, or -u for UDP")))
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    fn settings() -> Ipv4Settings {
        Ipv4Settings {
            interface: "eth0.5".into(),
            arp_ignore: Ok(0),
            log_martians: Ok(false),
            rp_filter: Ok(1),
        }
    }

    fn room(servers: usize) -> NeighborRoom {
        NeighborRoom { family: "ipv4", most: 1024, servers }
    }

    fn facts() -> NetworkFacts {
        NetworkFacts {
            interfaces: vec![settings()],
            ip_forward: Ok(true),
            dr_checks: true,
            neighbors: vec![room(3)],
            firewall: Ok(BTreeMap::new()),
            ipvs: vec![],
        }
    }

    #[test]
    fn a_network_that_leaves_the_director_alone_is_ok() {
        for finding in findings(&facts()) {
            assert_eq!(finding.state, State::Ok, "{finding:?}");
        }
    }

    #[test]
    fn a_director_that_is_silent_to_arp_is_a_problem() {
        let with = |value| arp_ignore(&Ipv4Settings { arp_ignore: value, ..settings() });
        assert_eq!(with(Ok(1)).state, State::Ok);
        assert_eq!(with(Ok(2)).state, State::Warning);
        let silent = with(Ok(8));
        assert_eq!(silent.state, State::Problem);
        // sysctl(8) takes a slash for the dot in an interface's name.
        assert!(silent.remedy.unwrap().contains("conf.eth0/5.arp_ignore"));
        assert_eq!(with(Err("no".into())).state, State::Warning);
    }

    #[test]
    fn martians_fill_the_log_only_with_checks_of_the_kind_dr() {
        let with = |on, checks| martians(&Ipv4Settings { log_martians: on, ..settings() }, checks);
        assert_eq!(with(Ok(true), true).state, State::Warning);
        assert_eq!(with(Ok(true), false).state, State::Ok);
        assert_eq!(with(Ok(false), true).state, State::Ok);
        assert_eq!(with(Err("no".into()), true).state, State::Warning);
    }

    #[test]
    fn real_servers_must_find_room_in_the_neighbor_table() {
        assert_eq!(neighbor_room(&room(512)).state, State::Ok);
        assert_eq!(neighbor_room(&room(513)).state, State::Warning);
        let full = neighbor_room(&room(1024));
        assert_eq!(full.state, State::Problem);
        assert_eq!(
            full.remedy.as_deref(),
            Some(
                "sysctl -w net.ipv4.neigh.default.gc_thresh3=4096 \
                 net.ipv4.neigh.default.gc_thresh2=2048"
            )
        );
        // In the first network namespace, which is where a test is that did not leave it.
        let servers = [[172, 17, 100, 1].into(), [172, 17, 100, 2].into()];
        let read = read_room(&servers);
        assert!(read.iter().all(|room| room.family == "ipv4" && room.servers == 2), "{read:?}");
    }

    #[test]
    fn rules_that_packets_do_not_pass_are_a_warning() {
        let rules = firewall(&Ok(BTreeMap::from([("filter".to_owned(), 3)])));
        assert_eq!(rules.state, State::Warning);
        assert!(rules.sentence.contains("3 rules (table filter)"), "{rules:?}");
        assert_eq!(firewall(&Err("no".into())).state, State::Warning);
        assert_eq!(forwarding(&Err("no".into())).state, State::Warning);
        assert_eq!(forwarding(&Ok(false)).state, State::Ok);
    }

    #[test]
    fn services_of_ipvs_are_read_and_named() {
        let text = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler \
                    Flags\n  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\nTCP  \
                    AC116464:0050 rr \n  -> AC116401:0050      Route   1      0          0\nUDP  \
                    [fd00:0172:0017:0100:0000:0000:0000:0100]:0035 rr\n";
        let read = read_ipvs(text);
        let expected = ["172.17.100.100:80", "[fd00:172:17:100::100]:53"];
        assert_eq!(read, expected.map(|address| address.parse().unwrap()));
        assert!(ipvs(&[]).is_none());
        assert_eq!(ipvs(&read).unwrap().state, State::Warning);
    }
}
