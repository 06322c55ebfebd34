//! The site: interfaces, virtual services and real servers, as the running director has them, else
//! as the config does.

use super::director::Running;
use super::examine::interface_named;
use super::finding::Read;
use super::on_the_wire::{Answer, Question};
use super::servers::{Health, ServerFacts, Serving, Way};
use super::settings::sysctl;
use super::surroundings::Surroundings;
use super::vip::{Claimant, Held, VipFacts};
use crate::config::{Config, DuplicateVip, InterfaceConfig};
use crate::health::kinds::CheckKind;
use crate::mac::{Mac, mac_text};
use crate::neighbors::Reach;
use crate::service_name::ServiceName;
use crate::views::ServerView;
use dataplane::Protocol;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use xsk::HashedKind;

/// A real server with all that it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteServer {
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address, as the running director has it.
    pub known: Option<Mac>,
    /// Its virtual services.
    pub services: Vec<Serving>,
}

/// What there is to look at.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// The served interfaces.
    pub interfaces: Vec<InterfaceConfig>,
    /// The virtual services.
    pub services: Vec<ServiceName>,
    /// The real servers, by address.
    pub servers: Vec<SiteServer>,
    /// There are checks of the kind `dr`.
    pub dr_checks: bool,
    /// shunt adds and removes VIPs.
    pub managed: bool,
    /// A start ends where another machine has a VIP.
    pub refuses: bool,
}

impl ServiceName {
    /// VIP and port.
    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.0.address, self.0.port)
    }
}

impl SiteServer {
    /// What it is asked: only TCP has a handshake.
    pub(super) fn question(&self) -> Question {
        let services = self.services.iter().map(|serving| serving.service);
        let tcp = services.filter(|service| service.0.protocol == Protocol::Tcp);
        Question {
            server: self.address,
            known: self.known,
            services: tcp.map(|service| service.address()).collect(),
        }
    }
}

impl Site {
    /// What the running director says, else the config.
    pub fn of(config: Option<&Config>, running: &Running) -> Site {
        let mut site = Site { managed: true, ..Site::default() };
        if let Some(config) = config {
            site.interfaces.clone_from(&config.interfaces);
            site.managed = config.manage_vip;
            site.refuses = config.duplicate_vip == DuplicateVip::Refuse;
            site.dr_checks = has_dr_checks(config);
        }
        if let Some(status) = running.status() {
            for view in &status.interfaces {
                if !site.interfaces.iter().any(|interface| interface.name == view.name) {
                    site.interfaces.push(interface_named(&view.name));
                }
            }
        }
        match (running.services(), config) {
            (Some(view), _) => {
                for service in view.services.iter().filter(|service| !service.removed) {
                    site.services.push(service.service);
                    for server in service.servers.iter().filter(|server| server.state == "serving")
                    {
                        let serving = Serving {
                            service: service.service,
                            dr: None,
                            weight: server.weight,
                            problem: server.problem.clone(),
                            health: health(server),
                        };
                        let known = server.mac.as_deref().and_then(read_mac);
                        site.add(server.address, known, serving);
                    }
                }
            }
            (None, Some(config)) => {
                for service in &config.services {
                    let name = ServiceName(service.key);
                    site.services.push(name);
                    let servers = service.servers.iter();
                    let servers = servers.map(|server| (server.address, server.weight));
                    // One that is asked for when all others are gone had better be there.
                    let sorry = service.policy.sorry_server.map(|address| (address, 1));
                    for (address, weight) in servers.chain(sorry) {
                        let (dr, problem, health) = (None, None, None);
                        let serving = Serving { service: name, dr, weight, problem, health };
                        site.add(address, None, serving);
                    }
                }
            }
            (None, None) => {}
        }
        site
    }

    fn add(&mut self, address: IpAddr, known: Option<Mac>, serving: Serving) {
        match self.servers.iter_mut().find(|server| server.address == address) {
            Some(server) => {
                server.known = server.known.or(known);
                server.services.push(serving);
            }
            None => self.servers.push(SiteServer { address, known, services: vec![serving] }),
        }
    }

    /// The addresses of all real servers.
    pub fn server_addresses(&self) -> Vec<IpAddr> {
        self.servers.iter().map(|server| server.address).collect()
    }

    /// All VIPs, each once.
    pub fn vips(&self) -> BTreeSet<IpAddr> {
        self.services.iter().map(|service| service.0.address).collect()
    }

    /// The kinds of packets that the virtual services have.
    pub fn hashed_kinds(&self) -> BTreeSet<HashedKind> {
        let kind = |service: &ServiceName| match (service.0.protocol, service.0.address) {
            (Protocol::Tcp, IpAddr::V4(_)) => HashedKind::Tcp4,
            (Protocol::Udp, IpAddr::V4(_)) => HashedKind::Udp4,
            (Protocol::Tcp, IpAddr::V6(_)) => HashedKind::Tcp6,
            (Protocol::Udp, IpAddr::V6(_)) => HashedKind::Udp6,
        };
        self.services.iter().map(kind).collect()
    }

    /// The link where each VIP belongs: the running director's word, else that which has an own
    /// address on its network, else the first served interface.
    pub fn homes(
        &self,
        around: &Surroundings,
        served: &[u32],
        running: &Running,
    ) -> Vec<(IpAddr, u32)> {
        let vips: Vec<IpAddr> = self.vips().into_iter().collect();
        let said = |vip| {
            let name = running.vip(vip)?.interface.as_deref()?;
            around.rows.iter().find(|row| row.name == name).map(|row| row.index)
        };
        vips.iter()
            .filter_map(|&vip| {
                if let Some(link) = said(vip) {
                    return Some((vip, link));
                }
                let beside = around.beside(served, &vips, vip).map(|own| own.link);
                Some((vip, beside.or(served.first().copied())?))
            })
            .collect()
    }
}

fn has_dr_checks(config: &Config) -> bool {
    let mut checks = config.services.iter().filter_map(|service| service.policy.check.as_ref());
    checks.any(|check| matches!(check.kind, CheckKind::Dr))
}

fn health(server: &ServerView) -> Option<Health> {
    let health = server.health.as_ref()?;
    let (state, error, unmade) = (&health.state, &health.error, &health.unmade);
    Some(Health { state: state.clone(), error: error.clone(), unmade: unmade.clone() })
}

/// A MAC address as `ip link` writes it.
fn read_mac(text: &str) -> Option<Mac> {
    let mut bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let mac = [0; 6].map(|_: u8| bytes.next().and_then(Result::ok));
    let mac: Vec<u8> = mac.into_iter().collect::<Option<_>>()?;
    mac.try_into().ok().filter(|_| bytes.next().is_none())
}

/// The facts of each VIP.
pub(super) fn vip_facts(
    site: &Site,
    around: &Surroundings,
    served: &[u32],
    homes: &[(IpAddr, u32)],
    claims: &BTreeMap<IpAddr, Read<BTreeSet<Mac>>>,
    answers: &BTreeMap<IpAddr, Answer>,
    running: &Running,
) -> Vec<VipFacts> {
    let vips: Vec<IpAddr> = site.vips().into_iter().collect();
    let held = |vip: IpAddr| {
        let own = around.addresses.iter().filter(|own| own.address == vip);
        own.map(|own| Held {
            link: around.name(own.link),
            served: around.links.served_by(served, own.link).is_some(),
            by_shunt: own.by_shunt,
        })
        .collect()
    };
    let answering = |vip: IpAddr, home: u32| {
        let asked = claims.get(&vip).cloned();
        let asked = asked.unwrap_or_else(|| Err("it has no link to ask on".to_owned()));
        // The director listens all the time, and may ask when this process may not.
        let heard = running.vip(vip).map(|view| {
            view.claims.iter().filter_map(|claim| read_mac(&claim.mac)).collect::<BTreeSet<Mac>>()
        });
        match (asked, heard) {
            (Ok(asked), heard) => {
                Ok(asked.into_iter().chain(heard.into_iter().flatten()).collect())
            }
            // On a link that is down there is nothing to hear.
            (Err(_), Some(heard)) if around.row(home).is_some_and(|row| row.carrier) => Ok(heard),
            (Err(why), _) => Err(why),
        }
    };
    let claimants = |macs: BTreeSet<Mac>| {
        let others = macs.into_iter().filter(|mac| !around.own(*mac));
        others.map(|mac| claimant(site, answers, mac)).collect()
    };
    let facts = |&(vip, link): &(IpAddr, u32)| {
        let home = around.name(link);
        let answering: Read<BTreeSet<Mac>> = answering(vip, link);
        let also_on = answering.iter().flatten().filter_map(|mac| around.another(link, *mac));
        let ipv6_off = sysctl(&format!("net/ipv6/conf/{home}/disable_ipv6")) != Ok(0);
        VipFacts {
            vip,
            held: Ok(held(vip)),
            beside: around.beside(served, &vips, vip).map(|own| own.address),
            also_on: also_on.collect(),
            claimants: answering.map(claimants),
            ipv6_off,
            managed: site.managed,
            refuses: site.refuses,
            running: running.status().is_some(),
            ended: matches!(running, Running::No(_)),
            home,
        }
    };
    homes.iter().map(facts).collect()
}

/// Who has this MAC address, as the real servers' answers and the running director say.
fn claimant(site: &Site, answers: &BTreeMap<IpAddr, Answer>, mac: Mac) -> Claimant {
    let has = |server: &&SiteServer| {
        let answering = answers.get(&server.address).and_then(|answer| answer.answering.as_ref());
        let answers =
            answering.is_some_and(|macs| macs.as_ref().is_ok_and(|macs| macs.contains(&mac)));
        answers || server.known == Some(mac)
    };
    let server = site.servers.iter().find(has).map(|server| server.address);
    Claimant { mac: mac_text(mac), server }
}

/// The MAC addresses that answer for a real server, else that which the running director has: a
/// kernel that answers for others answers no probe (arp_process in net/ipv4/arp.c).
fn macs(server: &SiteServer, answers: &BTreeMap<IpAddr, Answer>) -> BTreeSet<Mac> {
    match answers.get(&server.address).and_then(|answer| answer.answering.as_ref()) {
        Some(Ok(answering)) if !answering.is_empty() => answering.clone(),
        _ => server.known.into_iter().collect(),
    }
}

/// Packets leave by the interface, and in the VLAN, that they came in by: what is wrong with a real
/// server that is reached like this, if it is elsewhere than the VIP is, or will be.
fn apart(
    around: &Surroundings,
    served: &[u32],
    (vip, home): (IpAddr, u32),
    reach: &Reach,
) -> Option<String> {
    let Reach::OnLink { interface, link, vlans, .. } = *reach else { return None };
    let place = |link| around.links.place(served, link);
    let held: Vec<_> = around.links.holders(vip).filter_map(place).collect();
    let places = if held.is_empty() { place(home).into_iter().collect() } else { held };
    let apart = !places.is_empty() && !places.contains(&(interface, vlans));
    apart.then(|| {
        let (on, home) = (around.name(link), around.name(home));
        format!("it is on {on}, and packets for {vip} come in on {home} and leave by that")
    })
}

/// The facts of each real server.
pub(super) fn server_facts(
    site: &Site,
    around: &Surroundings,
    served: &[u32],
    homes: &[(IpAddr, u32)],
    answers: &BTreeMap<IpAddr, Answer>,
) -> Vec<ServerFacts> {
    let vips = site.vips();
    let macs: Vec<(IpAddr, BTreeSet<Mac>)> =
        site.servers.iter().map(|server| (server.address, macs(server, answers))).collect();
    let alike = |address: IpAddr, own: &BTreeSet<Mac>| {
        let others = macs.iter().filter(|(other, macs)| {
            *other != address && other.is_ipv4() == address.is_ipv4() && !macs.is_disjoint(own)
        });
        others.map(|(other, _)| *other).collect()
    };
    let facts = |(server, (address, own)): (&SiteServer, &(IpAddr, BTreeSet<Mac>))| {
        let answer = answers.get(&server.address).cloned().unwrap_or_default();
        let reach = around.reach(served, server.address);
        let lost = |vip: IpAddr| {
            let home = homes.iter().find(|(of, _)| *of == vip)?;
            apart(around, served, *home, reach.as_ref().ok()?)
        };
        let services = server.services.iter().cloned().map(|serving| Serving {
            dr: answer.dr.get(&serving.service.address()).cloned(),
            problem: serving.problem.or_else(|| lost(serving.service.0.address)),
            ..serving
        });
        let services = services.collect();
        let way = match reach {
            Ok(Reach::OnLink { link, source, .. }) => Way::OnLink {
                link: around.name(link),
                source,
                source_is_vip: source.is_some_and(|source| vips.contains(&source)),
            },
            Ok(Reach::Impossible(why)) => Way::Impossible(why),
            Ok(Reach::Unknown) => Way::Unknown("it was not looked up".to_owned()),
            Err(why) => Way::Unknown(why),
        };
        let answering = answer.answering.unwrap_or_else(|| Err("it was not asked".to_owned()));
        ServerFacts {
            server: server.address,
            way,
            answering: answering.map(|macs| macs.into_iter().map(mac_text).collect()),
            known: server.known.map(mac_text),
            alike: alike(*address, own),
            services,
        }
    };
    site.servers.iter().zip(&macs).map(facts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::Link;
    use crate::plugins;

    const CONFIG: &str = r#"
        manage_vip = false
        [[interface]]
        name = "eth0"
        [[virtual_service]]
        address = "172.17.100.100:80"
        protocol = "tcp"
        [[virtual_service.real_server]]
        address = "172.17.100.1"
        [[virtual_service.real_server]]
        address = "172.17.100.2"
        weight = 0
        [[virtual_service]]
        address = "172.17.100.100:53"
        protocol = "udp"
        [[virtual_service.real_server]]
        address = "172.17.100.1"
    "#;

    fn site() -> Site {
        let config = Config::parse(CONFIG, &plugins::known).unwrap();
        Site::of(Some(&config), &Running::No("refused".into()))
    }

    #[test]
    fn each_server_is_looked_at_once_with_all_that_it_serves() {
        let site = site();
        assert_eq!((site.services.len(), site.servers.len(), site.vips().len()), (2, 2, 1));
        assert_eq!(site.servers[0].services.len(), 2);
        assert_eq!(site.servers[0].question().services, ["172.17.100.100:80".parse().unwrap()]);
        assert_eq!(site.servers[1].services[0].weight, 0);
        assert!(!site.managed);
    }

    #[test]
    fn a_vip_without_a_network_belongs_to_the_first_interface() {
        let homes = |served: &[u32]| {
            site().homes(&Surroundings::default(), served, &Running::No("".into()))
        };
        assert_eq!(homes(&[7, 8]), [([172, 17, 100, 100].into(), 7)]);
        assert!(homes(&[]).is_empty());
    }

    #[test]
    fn a_server_that_is_elsewhere_than_its_vip_is_found_before_a_start() {
        let mut around = Surroundings::default();
        for (index, name, vlan) in [(2, "eth0", None), (3, "eth0.5", Some((2, 5)))] {
            let link = Link { name: name.into(), mac: None, vlan, carrier: true };
            around.links.add_link(index, link);
        }
        let vip: IpAddr = [172, 17, 100, 100].into();
        let reach =
            |link, vlan| Reach::OnLink { interface: 0, link, vlans: [vlan, 0], source: None };
        let elsewhere = |around: &Surroundings, home, reach: &Reach| {
            apart(around, &[2], (vip, home), reach).is_some()
        };
        assert!(!elsewhere(&around, 2, &reach(2, 0)) && !elsewhere(&around, 3, &reach(3, 5)));
        assert!(elsewhere(&around, 2, &reach(3, 5)) && elsewhere(&around, 3, &reach(2, 0)));
        // Where it is counts for more than where it would be put.
        around.links.add_address(3, vip);
        assert!(!elsewhere(&around, 2, &reach(3, 5)));
    }

    #[test]
    fn servers_with_one_mac_address_are_told_of_each_other() {
        let mut site = site();
        let vip6: IpAddr = "fd00::1".parse().unwrap();
        let serving = site.servers[0].services[0].clone();
        site.add(vip6, Some([2, 0, 0, 0, 0, 1]), serving);
        for server in &mut site.servers {
            server.known = Some([2, 0, 0, 0, 0, 1]);
        }
        let alike = |site: &Site| {
            let facts = server_facts(site, &Surroundings::default(), &[], &[], &BTreeMap::new());
            facts.into_iter().map(|facts| facts.alike).collect::<Vec<_>>()
        };
        let (one, two): (IpAddr, IpAddr) = ([172, 17, 100, 1].into(), [172, 17, 100, 2].into());
        assert_eq!(alike(&site), [vec![two], vec![one], vec![]]);
        site.servers[1].known = None;
        assert!(alike(&site).iter().all(Vec::is_empty));
    }

    #[test]
    fn a_sorry_server_is_looked_at_before_it_is_needed() {
        let text = CONFIG
            .replace("protocol = \"tcp\"", "protocol = \"tcp\"\nsorry_server = '172.17.100.9'");
        let config = Config::parse(&text, &plugins::known).unwrap();
        let site = Site::of(Some(&config), &Running::No("refused".into()));
        assert_eq!(site.server_addresses()[2], IpAddr::from([172, 17, 100, 9]));
    }

    #[test]
    fn a_claimants_server_is_found_by_its_mac() {
        let (one, two, three) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 3]);
        let mut site = site();
        site.servers[1].known = Some(two);
        let answering = Some(Ok(BTreeSet::from([one])));
        let answer = Answer { answering, ..Answer::default() };
        let answers = BTreeMap::from([(site.servers[0].address, answer)]);
        let server = |mac| claimant(&site, &answers, mac).server;
        assert_eq!(server(one), Some([172, 17, 100, 1].into()));
        assert_eq!(server(two), Some([172, 17, 100, 2].into()));
        assert_eq!(server(three), None);
    }

    #[test]
    fn mac_addresses_are_read_as_they_are_written() {
        let mac = [2, 0, 0xac, 0x11, 0x64, 1];
        assert_eq!(read_mac(&mac_text(mac)), Some(mac));
        for text in ["", "02:00", "02:00:ac:11:64:01:00", "02:00:ac:11:64:xx"] {
            assert_eq!(read_mac(text), None, "{text}");
        }
    }
}
