//! Real servers that go, come back, or change their MAC address.

mod common;

use common::in_process::supervise;
use common::load::Load;
use common::metrics::Metrics;
use common::{PATIENCE, Site, http, http_rr, list, service, wait_for_list};
use director::layer2::frames::{gratuitous_arp, solicitation, unsolicited_advertisement};
use director::netlink;
use director::seats::ServedInterface;
use director::tasks::{Duty, keep};
use director::views::{ServerView, ServiceView};
use lab::{
    Capture, Config, Director, Family, HttpClient, NIC, Plan, Wire, get_once, mac_text, vip,
};
use nix::net::if_::if_nametoindex;
use plugin_host::Limits;
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How soon it is noticed that a real server does not answer any more.
const NOTICED: Duration = Duration::from_secs(5);
/// How soon another MAC address is followed after its first ARP.
const FOLLOWED: Duration = Duration::from_secs(1);
const BOTH: [Family; 2] = [Family::V4, Family::V6];
const WAYS: [FirstWords; 3] =
    [FirstWords::AskDirector, FirstWords::Announce, FirstWords::AskRouter];
const ROUTER: Ipv4Addr = Ipv4Addr::new(172, 17, 100, 253);
const NEW: [u8; 6] = [2, 0, 0, 0, 0, 0x22];

fn start(purpose: &str) -> (Director, Site) {
    let site = Site::build(Plan::new(purpose), &[Family::V4]);
    let director = site.start(&Config::of(vec![http_rr(2)]));
    (director, site)
}

/// The same services over IPv4 and over IPv6.
fn start_both(plan: Plan) -> (Director, Site) {
    let site = Site::build(plan.ipv6(), &BOTH);
    let services = BOTH.map(|family| service("tcp", family, "rr", 2));
    let director = site.start(&Config::of(services.into()));
    (director, site)
}

fn answered_by(site: &Site, family: Family, count: usize) -> Vec<String> {
    (0..count)
        .map(|_| get_once(&site.topology.client, http(family), "/").unwrap().real_server)
        .collect()
}

fn assert_both_answer(site: &Site, family: Family) {
    let answers = answered_by(site, family, 10);
    assert_eq!(answers.iter().filter(|name| *name == "rs2").count(), 5, "{answers:?}");
}

/// A real server of the listing.
fn server(services: &[ServiceView], number: u8, family: Family) -> &ServerView {
    let address = lab::real_server_address(number, family);
    let mut servers = services.iter().flat_map(|service| &service.servers);
    servers.find(|server| server.address == address).unwrap()
}

/// Waits until the neighbor entries of a real server are in this state.
fn wait_for_neighbor(director: &Director, number: u8, families: &[Family], state: &str) {
    wait_for_list(director, &format!("rs{number}'s neighbor is {state}"), |services| {
        families.iter().all(|&family| server(services, number, family).neighbor == state)
    });
}

fn wait_for_words(director: &Director, words: &str) {
    let said = || director.process().output().contains(words);
    let waited = director.process().wait_until(PATIENCE, &format!("it says {words:?}"), said);
    waited.unwrap_or_else(|error| panic!("{error}\n{}", director.process().output()));
}

#[test]
fn a_real_server_that_does_not_answer_gets_no_new_flows() {
    let (director, site) = start_both(Plan::new("gone"));
    for family in BOTH {
        assert_both_answer(&site, family);
    }
    // Its link is down: what it is asked remains unanswered.
    site.topology.switch.ip("link set rs2 down").unwrap();
    let begun = Instant::now();
    let noticed = BOTH.map(|_| Cell::new(None));
    wait_for_list(&director, "rs2's neighbors have failed", |services| {
        for (&family, noticed) in BOTH.iter().zip(&noticed) {
            if noticed.get().is_none() && server(services, 2, family).neighbor == "failed" {
                noticed.set(Some(begun.elapsed()));
            }
        }
        noticed.iter().all(|noticed| noticed.get().is_some())
    });
    println!("noticed over IPv4 and IPv6 after {noticed:?}");
    for noticed in noticed.iter().filter_map(Cell::get) {
        assert!(noticed <= NOTICED, "{noticed:?}\n{}", director.process().output());
    }
    for family in BOTH {
        assert_eq!(answered_by(&site, family, 10), ["rs1"; 10]);
    }
    assert!(director.shunt("list").unwrap().contains("failed"));

    site.topology.switch.ip("link set rs2 up").unwrap();
    wait_for_neighbor(&director, 2, &BOTH, "reachable");
    for family in BOTH {
        assert_both_answer(&site, family);
    }
}

/// What a machine says first of itself, on a link that it has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FirstWords {
    /// It asks for the director.
    AskDirector,
    /// It asks for the router; over IPv6, where nobody else hears that, it announces itself.
    AskRouter,
    /// It announces itself.
    Announce,
}

impl FirstWords {
    fn frame(self, mac: [u8; 6], address: IpAddr) -> Vec<u8> {
        match (address, lab::director_address(Family::V4), lab::director_address(Family::V6)) {
            (IpAddr::V4(own), IpAddr::V4(director), _) => {
                let mut frame = gratuitous_arp(mac, own);
                let target = match self {
                    FirstWords::AskDirector => director,
                    FirstWords::AskRouter => ROUTER,
                    FirstWords::Announce => own,
                };
                frame[38..42].copy_from_slice(&target.octets());
                frame
            }
            (IpAddr::V6(own), _, IpAddr::V6(director)) if self == FirstWords::AskDirector => {
                solicitation(mac, own, director)
            }
            (IpAddr::V6(own), ..) => unsolicited_advertisement(mac, own),
            _ => unreachable!("each family has addresses of its own"),
        }
    }
}

/// The kernel follows what is meant for it, and announcements. It ignores an ARP request for others
/// within a second of its entry's last change, and an entry that is probed changes each second.
#[test]
fn a_changed_mac_address_is_followed_under_load_and_no_flow_is_lost() {
    let (director, site) = start_both(Plan::new("mac"));
    let rs2 = site.topology.real_server(2);
    let capture = Capture::start(&site.topology.switch, "rs2").unwrap();
    let loads = BOTH.map(|family| Load::start(&site.topology, http(family), 4, true));
    let wire = Wire::open(rs2, NIC).unwrap();
    for (number, words) in (0..).zip(WAYS) {
        let mac = [2, 0, 0, 0, 0x22, number];
        // A veth takes another address while it is up, and keeps its routes.
        rs2.ip(&format!("link set {NIC} address {}", mac_text(mac))).unwrap();
        for family in BOTH {
            let address = lab::real_server_address(2, family);
            wire.send(&words.frame(mac, address)).unwrap();
            let begun = Instant::now();
            wait_for_list(&director, "the new MAC address is known", |services| {
                server(services, 2, family).mac == Some(mac_text(mac))
            });
            let followed = begun.elapsed();
            println!("{family:?}, {words:?}: followed after {followed:?}");
            assert!(followed <= FOLLOWED, "{followed:?}\n{}", director.process().output());
        }
        wait_for_neighbor(&director, 2, &BOTH, "reachable");
        for family in BOTH {
            // The kernel's entry has it, too, and health checks go there.
            let address = lab::real_server_address(2, family);
            let shown = site.topology.director.ip(&format!("neigh show {address}")).unwrap();
            assert!(shown.contains(&mac_text(mac)), "{shown}");
        }
    }
    for load in &loads {
        load.wait_for_rounds(100);
    }
    for load in loads {
        let report = load.finish();
        assert!(report.failures.is_empty(), "{report:?}\n{}", director.process().output());
        assert!(report.new["rs2"] > 0 && report.held > 0, "{report:?}");
    }
    let frames = capture.finish();
    let forwarded = frames.iter().filter(|frame| {
        frame.outgoing
            && frame.source() == lab::director_mac()
            && frame.destination() == [2, 0, 0, 0, 0x22, 2]
    });
    assert!(forwarded.count() > 0);
    let metrics = Metrics::fetch(&site.topology.director);
    for family in BOTH {
        let address = lab::real_server_address(2, family).to_string();
        let changes = metrics.sum("shunt_server_mac_changes_total", &[("server", &address)]);
        assert!((changes - 3.0).abs() < 0.5, "{changes}");
    }
}

/// Two machines with one address: the one that had it keeps its flows.
#[test]
fn a_second_machine_with_the_address_takes_no_flows() {
    let (director, site) = start_both(Plan::new("twin").real_servers(3));
    let twin = site.topology.real_server(3);
    let wire = Wire::open(twin, NIC).unwrap();
    let loads = BOTH.map(|family| Load::start(&site.topology, http(family), 4, true));
    for family in BOTH {
        let address = lab::real_server_address(2, family);
        let width = if family == Family::V4 { 32 } else { 128 };
        twin.ip(&format!("address add {address}/{width} dev {NIC}")).unwrap();
        for _ in 0..20 {
            wire.send(&FirstWords::AskDirector.frame(lab::real_server_mac(3), address)).unwrap();
        }
        wait_for_words(
            &director,
            &format!(
                "{} claims the address of real server {address} too",
                mac_text(lab::real_server_mac(3))
            ),
        );
        // It is the kernel's entry, too, that stays.
        wait_for_neighbor(&director, 2, &[family], "reachable");
        let shown = site.topology.director.ip(&format!("neigh show {address}")).unwrap();
        assert!(shown.contains(&mac_text(lab::real_server_mac(2))), "{shown}");
    }
    for load in loads {
        load.wait_for_rounds(100);
        let report = load.finish();
        assert!(report.failures.is_empty(), "{report:?}\n{}", director.process().output());
        assert_eq!(report.new.keys().collect::<Vec<_>>(), ["rs1", "rs2"], "{report:?}");
    }
    let said = director.process().output();
    assert_eq!(said.matches("claims the address").count(), 2, "once for each: {said}");
    let services = list(&director).unwrap();
    let metrics = Metrics::fetch(&site.topology.director);
    for family in BOTH {
        let server = server(&services, 2, family);
        assert_eq!(server.mac, Some(mac_text(lab::real_server_mac(2))));
        assert_eq!(server.claimed_by, [mac_text(lab::real_server_mac(3))]);
        let labels = [("server", &*server.address.to_string())];
        assert!(metrics.sum("shunt_server_address_claims", &labels) > 0.5);
    }
    let listed = director.shunt("list").unwrap();
    assert_eq!(listed.matches("[address claimed by ").count(), 2, "{listed}");
}

/// A mistake in shunt must not leave the neighbors unwatched.
#[test]
fn a_watch_that_panics_is_begun_again() {
    let site = Site::build(Plan::new("panic"), &[Family::V4]);
    let config = Config::of(vec![http_rr(2)]);
    let supervisor = site.topology.director.run(|| {
        let link = if_nametoindex(NIC).unwrap();
        let interface = ServedInterface::new(NIC.to_owned(), link, lab::director_mac(), None);
        let supervisor =
            Arc::new(Mutex::new(supervise(&config, interface, vec![], Limits::default())));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            supervisor.lock().await.begin().await.unwrap();
            let mut begun = false;
            keep(&supervisor, Duty::Neighbors, move |supervisor| {
                let again = std::mem::replace(&mut begun, true);
                async move {
                    // What it holds at that moment is free for the others.
                    let held = supervisor.clone().lock_owned().await;
                    assert!(again, "a test has this panic");
                    drop(held);
                    netlink::watch(supervisor).await
                }
            });
            let known = async {
                while !supervisor.lock().await.neighbors.settled() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(PATIENCE, known).await.unwrap();
        });
        supervisor
    });
    let supervisor = supervisor.unwrap();
    let supervisor = supervisor.blocking_lock();
    for number in [1, 2] {
        let mac = supervisor.neighbors.mac(lab::real_server_address(number, Family::V4));
        assert_eq!(mac, Some(lab::real_server_mac(number)));
    }
    let metrics = director::exposition::render(&supervisor);
    assert!(metrics.contains("shunt_task_restarts_total{task=\"neighbors\"} 1\n"), "{metrics}");
    assert!(metrics.contains("shunt_task_restarts_total{task=\"vips\"} 0\n"), "{metrics}");
}

/// AF_XDP traffic confirms no neighbor, so its entry goes stale under full load, again and again.
#[test]
fn a_stale_neighbor_keeps_forwarding() {
    let (director, site) = start("stale");
    let mut client = HttpClient::connect(&site.topology.client, http(Family::V4)).unwrap();
    client.get("/").unwrap();
    let load = Load::start(&site.topology, http(Family::V4), 4, true);
    for _ in 0..10 {
        for number in [1, 2] {
            let address = lab::real_server_address(number, Family::V4);
            let mac = mac_text(lab::real_server_mac(number));
            site.topology
                .director
                .ip(&format!("neigh replace {address} lladdr {mac} dev {NIC} nud stale"))
                .unwrap();
        }
        load.wait_for_rounds(20);
    }
    // The director has the kernel confirm it.
    for number in [1, 2] {
        let address = lab::real_server_address(number, Family::V4);
        let reachable = || {
            let shown = site.topology.director.ip(&format!("neigh show {address}")).unwrap();
            shown.contains("REACHABLE")
        };
        director.process().wait_until(PATIENCE, "the kernel has confirmed it", reachable).unwrap();
        wait_for_neighbor(&director, number, &[Family::V4], "reachable");
    }
    let report = load.finish();
    assert!(report.failures.is_empty(), "{:?}\n{}", report.failures, director.process().output());
    assert_eq!(client.get("/").unwrap().status, 200);
}

#[test]
fn a_mac_address_in_the_config_or_set_by_hand_needs_no_answer() {
    let site = Site::build(Plan::new("static"), &[Family::V4]);
    // It speaks no ARP: not about itself, and not to find others.
    let rs2 = site.topology.real_server(2);
    let router = mac_text(lab::router_mac());
    rs2.ip(&format!("link set {NIC} arp off")).unwrap();
    rs2.ip(&format!("neigh replace 172.17.100.253 lladdr {router} dev {NIC} nud permanent"))
        .unwrap();
    let config = Config::of(vec![http_rr(2)]);
    let director = Director::start(&site.topology, common::shunt(), &config).unwrap();
    wait_for_neighbor(&director, 2, &[Family::V4], "failed");

    let mac = mac_text(lab::real_server_mac(2));
    let address = lab::real_server_address(2, Family::V4);
    let entry = format!("{address} lladdr {mac} dev {NIC}");
    site.topology.director.ip(&format!("neigh replace {entry} nud permanent")).unwrap();
    wait_for_neighbor(&director, 2, &[Family::V4], "reachable");
    assert_both_answer(&site, Family::V4);
    site.topology.director.ip(&format!("neigh del {entry}")).unwrap();
    wait_for_neighbor(&director, 2, &[Family::V4], "failed");

    // The config's last table is that of rs2.
    let text = std::fs::read_to_string(director.config()).unwrap();
    assert!(text.trim_end().ends_with("weight = 1"), "{text}");
    director.write_config(&format!("{text}mac = \"{mac}\"\n")).unwrap();
    director.process().signal(nix::sys::signal::Signal::SIGHUP).unwrap();
    wait_for_neighbor(&director, 2, &[Family::V4], "reachable");
    assert_both_answer(&site, Family::V4);
    // Somebody else claims the address, asking for the director's.
    let wire = Wire::open(site.topology.real_server(1), NIC).unwrap();
    for _ in 0..5 {
        wire.send(&FirstWords::AskDirector.frame(NEW, address)).unwrap();
    }
    wait_for_words(&director, &format!("{} claims the address of real server", mac_text(NEW)));
    assert_both_answer(&site, Family::V4);
    assert_eq!(director.process().output().matches("claims the address").count(), 1);
}

#[test]
fn a_real_server_behind_a_gateway_is_refused_with_an_explanation_also_at_run_time() {
    let (director, site) = start("routed");
    assert_both_answer(&site, Family::V4);
    let rs2 = lab::real_server_address(2, Family::V4);
    let route = format!("route {{}} {rs2}/32 via 172.17.100.253");
    site.topology.director.ip(&route.replace("{}", "add")).unwrap();
    wait_for_neighbor(&director, 2, &[Family::V4], "impossible");
    assert_eq!(answered_by(&site, Family::V4, 10), ["rs1"; 10]);
    let why = "it is behind the gateway 172.17.100.253; direct routing changes MAC addresses only";
    wait_for_words(&director, &format!("real server {rs2} gets no flows: {why}"));
    let listed = director.shunt("list").unwrap();
    assert!(listed.contains(&format!("[neighbor impossible; {why}")), "{listed}");
    let state = |state| {
        let labels = [("server", &*rs2.to_string()), ("state", state)];
        Metrics::fetch(&site.topology.director).sum("shunt_server_neighbor_state", &labels)
    };
    assert!(state("impossible") > 0.5 && state("reachable") < 0.5);

    site.topology.director.ip(&route.replace("{}", "del")).unwrap();
    wait_for_neighbor(&director, 2, &[Family::V4], "reachable");
    wait_for_words(&director, &format!("real server {rs2} can be reached now"));
    assert_both_answer(&site, Family::V4);
}

#[test]
fn a_kernel_that_asks_from_the_vip_is_warned_of() {
    let (director, site) = start("vip");
    let vip = vip(Family::V4);
    let own = lab::director_address(Family::V4);
    let host = &site.topology.director;
    assert!(!director.process().output().contains("from the VIP"));
    host.ip(&format!("address del {own}/24 dev {NIC}")).unwrap();
    host.ip(&format!("address add {vip}/24 dev {NIC}")).unwrap();
    wait_for_words(
        &director,
        &format!(
            "the kernel asks for the MAC address of 172.17.100.1, 172.17.100.2 from the VIP {vip}"
        ),
    );
    // And it is as bad as it says.
    wait_for_neighbor(&director, 1, &[Family::V4], "failed");
    host.ip(&format!("address del {vip}/24 dev {NIC}")).unwrap();
    host.ip(&format!("address add {own}/24 dev {NIC}")).unwrap();
    host.ip("route replace default via 172.17.100.253").unwrap();
    wait_for_neighbor(&director, 1, &[Family::V4], "reachable");
    assert_eq!(director.process().output().matches("from the VIP").count(), 1);
}

#[test]
fn an_interface_that_is_down_is_told_and_its_neighbors_are_back_with_it() {
    let (director, site) = start("down");
    let up = || Metrics::fetch(&site.topology.director).sum("shunt_interface_up", &[]);
    assert!(up() > 0.5);
    site.topology.switch.ip("link set director down").unwrap();
    wait_for_words(&director, &format!("{NIC} is down"));
    assert!(up() < 0.5);
    wait_for_neighbor(&director, 2, &[Family::V4], "failed");
    site.topology.switch.ip("link set director up").unwrap();
    let begun = Instant::now();
    wait_for_neighbor(&director, 2, &[Family::V4], "reachable");
    println!("found again {:?} after the link", begun.elapsed());
    assert!(up() > 0.5);
    assert_both_answer(&site, Family::V4);
}
