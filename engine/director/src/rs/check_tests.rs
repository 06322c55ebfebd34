//! Each finding, provoked on a machine that is only facts.

use super::*;
use crate::doctor::State;
use crate::rs::facts::Conf;
use crate::rs::finding::{Findings, line};

const VIP: &str = "172.17.100.100";
const DIRECTOR: [u8; 6] = [2, 0, 0, 0, 0, 0x03];
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0xfd];
const ETH0: u32 = 2;
const ETH1: u32 = 3;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn held(address: &str, prefix: u8) -> Held {
    Held { address: ip(address), prefix, by_shunt: false, readiness: Readiness::Ready }
}

fn listener(address: &str) -> Listener {
    Listener { address: address.parse().unwrap(), v6only: false, link: 0 }
}

/// A real server as it should be, with two NICs, and what is around it.
#[derive(Clone)]
struct Server(Known, Surroundings);

impl Server {
    fn of(vip: &str, gateway: &str) -> Server {
        let link = |index: u32, name: &str, answers: bool, addresses: Vec<Held>| LinkFacts {
            index,
            name: name.to_owned(),
            mac: answers.then_some([2, 0, 0, 0, 0, index as u8]),
            mtu: if answers { 1500 } else { 65536 },
            up: true,
            answers,
            conf: Some(Conf::default()),
            ipv6_off: false,
            addresses,
        };
        let vip = ip(vip);
        let vip_held = held(&vip.to_string(), width(vip));
        let facts = Facts {
            links: vec![
                link(1, "lo", false, vec![held("127.0.0.1", 8), vip_held]),
                link(ETH0, "eth0", true, vec![held("172.17.100.1", 24)]),
                link(ETH1, "eth1.5", true, vec![held("10.0.0.1", 24)]),
            ],
            all: Conf { arp_ignore: 1, arp_announce: 2, rp_filter: 0 },
        };
        let listeners = Ok(vec![listener("0.0.0.0:80"), listener("[::]:80")]);
        let known = Known { facts, interface: None, protocol: Listens::Tcp, listeners };
        let around = Surroundings {
            vip: VipTarget { address: vip, port: Some(80) },
            client: None,
            back: Ok(Way { link: ETH0, gateway: Some(ip(gateway)), mtu: None }),
            arrival: Some(ETH0),
            forwards: false,
            taken: Some(Ok(())),
            owners: Ok(BTreeMap::from([(ETH0, BTreeSet::from([DIRECTOR]))])),
            left_out: 0,
            gateway_macs: Ok(BTreeSet::from([ROUTER])),
        };
        Server(known, around)
    }

    fn new() -> Server {
        Server::of(VIP, "172.17.100.253")
    }

    fn with(mut self, change: impl FnOnce(&mut Known, &mut Surroundings)) -> Server {
        change(&mut self.0, &mut self.1);
        self
    }

    fn findings(&self) -> Findings {
        Findings::new(check(&self.0, &self.1))
    }
}

fn link<'a>(known: &'a mut Known, name: &str) -> &'a mut LinkFacts {
    known.facts.links.iter_mut().find(|link| link.name == name).unwrap()
}

fn conf<'a>(known: &'a mut Known, name: &str) -> &'a mut Conf {
    link(known, name).conf.as_mut().unwrap()
}

fn vip_held(known: &mut Known) -> &mut Held {
    let addresses = &mut link(known, "lo").addresses;
    addresses.iter_mut().find(|held| held.address == ip(VIP)).unwrap()
}

/// What a change makes a check say: the one finding that is not ok.
fn one(change: impl FnOnce(&mut Known, &mut Surroundings)) -> Finding {
    let server = Server::new().with(change);
    let all = server.findings();
    let wrong: Vec<&Finding> = all.findings.iter().filter(|f| f.state != State::Ok).collect();
    let [one] = wrong.as_slice() else { panic!("not one: {all}") };
    assert_eq!(all.ok, one.state != State::Problem);
    assert!(!line(one).contains('\n'));
    (*one).clone()
}

#[track_caller]
fn problem(finding: Finding, area: Area, sentence: &str, remedy: &str) {
    assert_eq!((finding.state, finding.area), (State::Problem, area), "{finding:?}");
    assert!(finding.sentence.contains(sentence), "{finding:?}");
    assert!(finding.remedy.as_deref().unwrap_or_default().contains(remedy), "{finding:?}");
}

#[track_caller]
fn warning(finding: Finding, area: Area, sentence: &str) {
    assert_eq!((finding.state, finding.area), (State::Warning, area), "{finding:?}");
    assert!(finding.sentence.contains(sentence), "{finding:?}");
}

#[test]
fn a_real_server_as_it_should_be_has_nothing_to_mend() {
    for server in [Server::new(), Server::of("fd00::100", "fd00::253")] {
        let all = server.findings();
        assert!(all.ok && all.findings.iter().all(|f| f.state == State::Ok), "{all}");
    }
    let said = Server::new().findings().to_string();
    for line in [
        "ok       address    172.17.100.100/32 is on lo\n",
        "eth0, eth1.5: arp_ignore 1 and arp_announce 2 in effect",
        "02:00:00:00:00:03 on eth0 answers for 172.17.100.100: the director",
        "0.0.0.0:80 listens for tcp:172.17.100.100:80",
        "way back   the way back to clients leads by 172.17.100.253 on eth0, which is not",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

#[test]
fn the_address() {
    let area = Area::Address;
    let gone = one(|known, _| link(known, "lo").addresses.clear());
    problem(gone, area, "is on no interface", "`shunt rs setup --vip 172.17.100.100`");
    let loops = one(|known, of| {
        link(known, "lo").addresses.clear();
        of.forwards = true;
    });
    problem(loops, area, "forwards: packets for it go back to the director", "`shunt rs setup");
    let wide = one(|known, _| vip_held(known).prefix = 24);
    problem(wide, area, "a prefix of /24", "`ip address del 172.17.100.100/24 dev lo`");
    let down = one(|known, _| link(known, "lo").up = false);
    problem(down, area, "is on lo, which is down", "`ip link set lo up`");
    let tentative = one(|known, _| vip_held(known).readiness = Readiness::Tentative);
    problem(tentative, area, "not in use yet", "`shunt rs setup --vip");
    let duplicate = one(|known, _| vip_held(known).readiness = Readiness::Duplicate);
    problem(duplicate, area, "calls it a duplicate", "`ip address del 172.17.100.100/32 dev lo`");
    let on_nic = one(|known, _| link(known, "eth0").addresses.push(held(VIP, 32)));
    problem(on_nic, area, "is on eth0, which answers for it", "del 172.17.100.100/32 dev eth0`");
    // On lo, and another interface was named.
    let dummy = |known: &mut Known| known.interface = Some("dummy0".to_owned());
    let remedy = "`ip address del 172.17.100.100/32 dev lo`, then `shunt rs setup --vip 172.17.100.100 --interface dummy0`";
    problem(one(|known, _| dummy(known)), area, "is on lo, and not on dummy0", remedy);
    let gone = one(|known, _| {
        dummy(known);
        link(known, "lo").addresses.clear();
    });
    problem(gone, area, "is on no interface", "--vip 172.17.100.100 --interface dummy0`");
    let there = Server::new().with(|known, _| {
        dummy(known);
        link(known, "lo").name = "dummy0".to_owned();
    });
    assert!(there.findings().ok);
}

#[test]
fn arp() {
    let area = Area::Arp;
    let setup = "`shunt rs setup --vip 172.17.100.100`";
    let own = |name: &str, value| {
        let name = name.to_owned();
        one(move |known, _| conf(known, &name).arp_ignore = value)
    };
    let three = own("eth1.5", 3);
    assert!(three.sentence.contains("arp_ignore 3 is in effect"), "{three:?}");
    problem(three, area, "takes the director's", "`sysctl -w net.ipv4.conf.eth1/5.arp_ignore=1`");
    let eight = own("eth0", 8);
    problem(eight, area, "answers no ARP at all", "`sysctl -w net.ipv4.conf.eth0.arp_ignore=1`");
    let announce = one(|known, _| conf(known, "eth0").arp_announce = 3);
    problem(announce, area, "may ask by ARP from", "`sysctl -w net.ipv4.conf.eth0.arp_announce=2`");
    // What is set for all holds of both.
    for (ignore, announce, remedy) in [
        (0, 2, setup),
        (1, 0, setup),
        (1, 1, setup),
        (4, 2, "`sysctl -w net.ipv4.conf.all.arp_ignore=1`"),
        (1, 5, "`sysctl -w net.ipv4.conf.all.arp_announce=2`"),
    ] {
        let server = Server::new().with(|known, _| {
            known.facts.all = Conf { arp_ignore: ignore, arp_announce: announce, rp_filter: 0 };
        });
        let all = server.findings();
        let wrong: Vec<&Finding> = all.findings.iter().filter(|f| f.area == Area::Arp).collect();
        assert_eq!(wrong.len(), 2, "{all}");
        for finding in wrong {
            problem(finding.clone(), area, " ", remedy);
        }
    }
    // With the VIP on another interface than lo, the remedy names it.
    let dummy = Server::new().with(|known, _| {
        link(known, "lo").name = "dummy0".to_owned();
        known.facts.all.arp_ignore = 0;
    });
    let said = dummy.findings().to_string();
    assert!(said.contains("`shunt rs setup --vip 172.17.100.100 --interface dummy0`"), "{said}");
    // One NIC by itself is silent, whatever is set for all.
    let mut server = Server::new();
    server.0.facts.all = Conf::default();
    for name in ["eth0", "eth1.5"] {
        *conf(&mut server.0, name) = Conf { arp_ignore: 1, arp_announce: 2, rp_filter: 0 };
    }
    assert!(server.findings().ok);
    // Without the VIP the sentence is no accusation.
    let server = Server::new().with(|known, _| {
        link(known, "lo").addresses.clear();
        known.facts.all.arp_ignore = 0;
    });
    assert!(server.findings().to_string().contains("would answer ARP for 172.17.100.100"));
    // An IPv6 VIP does not care, and it is said why.
    let server =
        Server::of("fd00::100", "fd00::253").with(|known, _| known.facts.all = Conf::default());
    let all = server.findings();
    assert!(all.ok && all.to_string().contains("IPv6 needs no setting"), "{all}");
}

#[test]
fn an_interface_without_an_address_asks_from_the_vip() {
    let area = Area::Arp;
    let bare = one(|known, _| link(known, "eth0").addresses.clear());
    problem(bare, area, "eth0 has no IPv4 address of its own", "`ip address add ADDRESS/PREFIX");
    // Another address comes before the VIP.
    let other = Server::new().with(|known, _| {
        link(known, "eth0").addresses.clear();
        link(known, "lo").addresses.insert(1, held("10.255.0.1", 32));
    });
    assert!(other.findings().ok);
    // It is not asked there.
    let elsewhere = Server::new().with(|known, _| link(known, "eth1.5").addresses.clear());
    assert!(elsewhere.findings().ok);
}

#[test]
fn who_has_the_vip_on_the_wire() {
    let area = Area::Director;
    let nobody = Server::new().with(|_, of| of.owners = Ok(BTreeMap::new())).findings();
    assert!(nobody.ok, "a director that is not at work is not this machine's to mend");
    assert!(nobody.to_string().contains("nobody answers for 172.17.100.100"), "{nobody}");
    assert!(nobody.to_string().contains("whether that is the director cannot be told"));
    let flux = one(|_, of| {
        let both = BTreeSet::from([DIRECTOR, [2, 0, 0, 0, 0, 2]]);
        of.owners = Ok(BTreeMap::from([(ETH0, both)]));
    });
    warning(flux, area, "02:00:00:00:00:02 on eth0 and 02:00:00:00:00:03 on eth0 answer for");
    let many = Server::new().with(|_, of| of.left_out = 7).findings();
    assert!(
        many.to_string().contains("the director; 7 more interfaces were not asked on"),
        "{many}"
    );
}

/// What could not be looked at might be broken.
#[test]
fn a_look_that_failed_is_no_ok() {
    let not_permitted = || "Operation not permitted".to_owned();
    let deaf = Server::new().with(|_, of| {
        of.owners = Err(not_permitted());
        of.gateway_macs = Err(not_permitted());
    });
    let all = deaf.findings();
    let wrong: Vec<&Finding> = all.findings.iter().filter(|f| f.state != State::Ok).collect();
    assert!(!all.ok && wrong.len() == 2, "{all}");
    let remedy = "repeat as root (CAP_NET_RAW)";
    let director = "who has 172.17.100.100 on the wire cannot be told: Operation not permitted";
    problem(wrong[0].clone(), Area::Director, director, remedy);
    let gateway = "whether 172.17.100.253, the way back to clients, is the director cannot be";
    problem(wrong[1].clone(), Area::WayBack, gateway, remedy);
    let gateway_alone = one(|_, of| of.gateway_macs = Err("Too many open files".into()));
    assert_eq!(gateway_alone.remedy, None);
    problem(gateway_alone, Area::WayBack, "cannot be told: Too many open files", "");
    let unread = one(|known, _| known.listeners = Err("sock_diag(7): no".into()));
    problem(unread, Area::Listener, "who listens cannot be told: sock_diag(7): no", "`ss -lnt ");
}

#[test]
fn the_filter_of_sources() {
    let area = Area::RpFilter;
    let loosen = "`sysctl -w net.ipv4.conf.eth0.rp_filter=2`";
    let by_eth1 = |of: &mut Surroundings| {
        of.back = Ok(Way { link: ETH1, gateway: None, mtu: None });
        of.taken = Some(Err("Invalid cross-device link".into()));
    };
    let strict = one(|known, of| {
        known.facts.all.rp_filter = 1;
        by_eth1(of);
    });
    problem(strict, area, "and the one to clients leads by eth1.5: what the", loosen);
    let strict = one(|known, of| {
        conf(known, "eth0").rp_filter = 1;
        by_eth1(of);
        of.client = Some(ip("192.0.2.9"));
    });
    problem(strict, area, "the one to 192.0.2.9 leads by eth1.5", loosen);
    // Loose is enough, and so is strict where the way back is the same.
    let fine = Server::new().with(|known, of| {
        known.facts.all.rp_filter = 1;
        conf(known, "eth0").rp_filter = 2;
        of.back = Ok(Way { link: ETH1, gateway: None, mtu: None });
    });
    assert!(fine.findings().ok);
    assert!(Server::new().with(|known, _| known.facts.all.rp_filter = 1).findings().ok);
    let no_way = Server::new().with(|known, of| {
        known.facts.all.rp_filter = 2;
        of.back = Err("Network is unreachable".into());
        of.taken = Some(Err("Invalid cross-device link".into()));
    });
    let said = no_way.findings().to_string();
    assert!(said.contains("rp_filter 2 in effect), and there is none to clients"), "{said}");
    let other = one(|_, of| of.taken = Some(Err("Permission denied".into())));
    problem(other, area, "by eth0 (Permission denied; rp_filter 0 in effect)", "`ip rule`");
}

#[test]
fn who_listens() {
    let area = Area::Listener;
    let with = |listeners: Vec<Listener>| one(move |known, _| known.listeners = Ok(listeners));
    let nobody = with(vec![listener("0.0.0.0:8080")]);
    problem(nobody, area, "nobody listens on tcp:172.17.100.100:80, so", "0.0.0.0:80 or 172.17");
    let elsewhere = with(vec![listener("172.17.100.1:80"), listener("127.0.0.1:80")]);
    problem(elsewhere, area, "; 127.0.0.1:80 takes packets for that address only, 172.17", " ");
    let v6only = with(vec![Listener { v6only: true, ..listener("[::]:80") }]);
    problem(v6only, area, "[::]:80 takes IPv6 only (IPV6_V6ONLY)", "listen on 0.0.0.0:80");
    let bound = with(vec![Listener { link: ETH1, ..listener("0.0.0.0:80") }]);
    problem(bound, area, "0.0.0.0:80 takes packets from eth1.5 only", " ");
    for fine in [
        listener("172.17.100.100:80"),
        listener("0.0.0.0:80"),
        listener("[::]:80"),
        listener("[::ffff:172.17.100.100]:80"),
        Listener { link: ETH0, ..listener("0.0.0.0:80") },
    ] {
        assert!(Server::new().with(|known, _| known.listeners = Ok(vec![fine])).findings().ok);
    }
    for (listens, serves) in [
        ("[::]:80", true),
        ("[fd00::100]:80", true),
        ("[fd00::1]:80", false),
        ("0.0.0.0:80", false),
    ] {
        let server = Server::of("fd00::100", "fd00::253")
            .with(|known, _| known.listeners = Ok(vec![listener(listens)]));
        assert_eq!(server.findings().ok, serves, "{listens}");
    }
    let only = Server::of("fd00::100", "fd00::253").with(|known, _| {
        known.listeners = Ok(vec![Listener { v6only: true, ..listener("[::]:80") }]);
    });
    assert!(only.findings().ok);
    warning(one(|_, of| of.vip.port = None), area, "no port was named");
    // From which address a datagram is answered is up to the program where it listens on all.
    for (listens, told) in [("0.0.0.0:80", true), ("172.17.100.100:80", false)] {
        let server = Server::new().with(|known, _| {
            known.protocol = Listens::Udp;
            known.listeners = Ok(vec![listener(listens)]);
        });
        let all = server.findings();
        assert!(all.ok && all.to_string().contains("(IP_PKTINFO)") == told, "{all}");
    }
}

#[test]
fn the_way_back() {
    let area = Area::WayBack;
    let replace = "`ip route replace default via GATEWAY dev eth0`";
    let director = one(|_, of| of.gateway_macs = Ok(BTreeSet::from([DIRECTOR])));
    problem(director, area, "is the director (02:00:00:00:00:03 answers for it and for", replace);
    let vip = one(|_, of| {
        of.back = Ok(Way { link: ETH0, gateway: Some(ip(VIP)), mtu: None });
    });
    problem(vip, area, "leads by 172.17.100.100, the VIP itself", replace);
    let silent = one(|_, of| of.gateway_macs = Ok(BTreeSet::new()));
    problem(silent, area, "which does not answer", "`ip neigh show 172.17.100.253`");
    let none = one(|_, of| of.back = Err("Network is unreachable".into()));
    problem(none, area, "(Network is unreachable), so they get", "`ip route add default via");
    // The director's MAC address on another link is another's.
    let elsewhere = Server::new().with(|_, of| {
        of.owners = Ok(BTreeMap::from([(ETH1, BTreeSet::from([ROUTER]))]));
    });
    assert!(elsewhere.findings().ok);
    // Nobody can be asked in a tunnel, and no director is there.
    let tunnel = Server::new().with(|known, of| {
        link(known, "eth1.5").answers = false;
        of.back = Ok(Way { link: ETH1, gateway: Some(ip("10.0.0.2")), mtu: None });
        of.gateway_macs = Ok(BTreeSet::new());
    });
    let all = tunnel.findings();
    assert!(all.ok && all.to_string().contains("on eth1.5, a link without neighbors"), "{all}");
    let on_link =
        Server::new().with(|_, of| of.back = Ok(Way { link: ETH0, gateway: None, mtu: None }));
    assert!(on_link.findings().to_string().contains("leads by eth0, without a gateway"));
}

#[test]
fn the_size_of_packets() {
    let area = Area::Mtu;
    let narrow = one(|known, of| {
        link(known, "eth0").mtu = 1400;
        of.back = Ok(Way { link: ETH1, gateway: None, mtu: None });
    });
    problem(narrow, area, "of 1500 bytes, the MTU of the way back by eth1.5", "dev eth0 mtu 1500`");
    let way = |mtu| Way { link: ETH1, gateway: None, mtu };
    let told_less = Server::new().with(|known, of| {
        link(known, "eth0").mtu = 1400;
        of.back = Ok(way(Some(1400)));
    });
    assert!(told_less.findings().ok);
    // TCP tells clients of it; who sends datagrams is told by nobody.
    let small = |protocol| {
        Server::new().with(move |known, _| {
            link(known, "eth0").mtu = 1400;
            known.protocol = protocol;
        })
    };
    let said = small(Listens::Tcp).findings().to_string();
    assert!(said.contains("ok       mtu        eth0 takes packets of 1400 bytes"), "{said}");
    let said = small(Listens::Udp).findings().to_string();
    assert!(said.contains("warning  mtu        eth0 takes packets of 1400 bytes"), "{said}");
    let jumbo = one(|known, _| link(known, "eth0").mtu = 9000);
    let remedy = "`ip route change default via 172.17.100.253 dev eth0 advmss 1460`";
    assert!(jumbo.remedy.as_deref().unwrap_or_default().starts_with(remedy), "{jumbo:?}");
    warning(jumbo, area, "packets of 9000 bytes, and a director takes 3818 at most");
}

#[test]
fn what_holds_of_several_vips_is_said_once() {
    let Server(known, around) = Server::new();
    let twice = [check(&known, &around), check(&known, &around)].concat();
    assert_eq!(Findings::new(twice), Findings::new(check(&known, &around)));
}
