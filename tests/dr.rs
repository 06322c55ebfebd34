//! The check `dr`: whether a real server serves the VIP, asked by its MAC address.

mod common;

use common::load::Load;
use common::{HTTP, PATIENCE, Site, http, service, wait_for_list};
use director::health::dr::{self, DrError, DrPath};
use director::views::ServiceView;
use lab::{
    Capture, Config, Family, NIC, Plan, director_address, director_mac, real_server_mac, vip,
    wait_until,
};
use std::net::SocketAddr;
use std::time::Duration;

/// More than an answer takes on a busy machine, and no more than a silent test can wait.
const ANSWER: Duration = Duration::from_secs(2);

fn ask(site: &Site, number: u8, family: Family, port: u16) -> Result<(), DrError> {
    let director = &site.topology.director;
    let index = director.exec(&format!("cat /sys/class/net/{NIC}/ifindex")).unwrap();
    let path = DrPath {
        link: index.trim().parse().unwrap(),
        own_mac: director_mac(),
        source: director_address(family),
        server_mac: real_server_mac(number),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let asked = || runtime.block_on(dr::ask(&path, SocketAddr::new(vip(family), port), ANSWER));
    director.run(asked).unwrap()
}

#[test]
fn a_real_server_that_serves_the_vip_says_so_and_keeps_nothing() {
    let plan = Plan::new("dr-serves").ipv6();
    let site = Site::build(plan, &[Family::V4, Family::V6]);
    for family in [Family::V4, Family::V6] {
        for number in [1, 2] {
            // The kernel of the director has the VIP itself and calls the answer a martian.
            ask(&site, number, family, HTTP).unwrap();
        }
    }
    // The RST has ended what the SYN began.
    let rs = site.topology.real_server(1);
    wait_until(PATIENCE, "no half-open connection is left", || {
        rs.exec("ss -Htn state syn-recv").unwrap().is_empty()
    })
    .unwrap();
}

#[test]
fn what_is_wrong_is_told_apart() {
    let site = Site::build(Plan::new("dr-wrong").ipv6(), &[Family::V4, Family::V6]);
    for family in [Family::V4, Family::V6] {
        let refused = ask(&site, 1, family, 81).unwrap_err();
        assert!(matches!(refused, DrError::Refused(_)), "{refused}");
    }
    let rs = site.topology.real_server(1);
    rs.ip(&format!("address del {}/32 dev lo", vip(Family::V4))).unwrap();
    let silent = ask(&site, 1, Family::V4, HTTP).unwrap_err();
    assert!(matches!(silent, DrError::Silent(_)), "{silent}");
    ask(&site, 1, Family::V6, HTTP).unwrap();
    site.topology.director.ip(&format!("link set {NIC} down")).unwrap();
    let down = ask(&site, 2, Family::V4, HTTP).unwrap_err();
    assert!(matches!(down, DrError::Io { .. }), "{down}");
}

/// A router would send the SYN on to whoever has the VIP, the director itself, and so to some real
/// server: it must not get that far.
#[test]
fn the_syn_does_not_survive_a_router() {
    let site = Site::build(Plan::new("dr-router"), &[Family::V4]);
    let router = site.topology.real_server(1);
    router.ip(&format!("address del {}/32 dev lo", vip(Family::V4))).unwrap();
    router.sysctl("net.ipv4.ip_forward", "1").unwrap();
    let capture = Capture::start(&site.topology.switch, "rs1").unwrap();
    let silent = ask(&site, 1, Family::V4, HTTP).unwrap_err();
    assert!(matches!(silent, DrError::Silent(_)), "{silent}");
    let frames = capture.finish();
    let tcp = |frame: &&lab::SeenFrame| frame.bytes.get(23) == Some(&6);
    let came_back = frames.iter().filter(tcp).filter(|frame| frame.source() == real_server_mac(1));
    assert_eq!(came_back.count(), 0);
    // The SYN, twice, and at the end the RST: one that answers late keeps no half connection.
    let flags: Vec<u8> = frames.iter().filter(tcp).map(|frame| frame.bytes[47]).collect();
    assert_eq!(flags, [0x02, 0x02, 0x04]);
}

fn is_up(services: &[ServiceView], number: u8, family: Family) -> bool {
    let address = lab::real_server_address(number, family);
    let mut servers = services.iter().flat_map(|service| &service.servers);
    let server = servers.find(|server| server.address == address).unwrap();
    server.health.as_ref().is_some_and(|health| health.state == "up")
}

/// By the running director's own workers, beside the packets of flows.
#[test]
fn a_director_asks_by_its_workers_under_load() {
    const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
    let site = Site::build(Plan::new("dr-worker").ipv6(), &FAMILIES);
    let check = "[virtual_service.health_check]\nkind = \"dr\"\ninterval = 0.5\ntimeout = 0.5\nrise = 2\nfall = 2\n";
    let services = FAMILIES.map(|family| {
        let mut service = service("tcp", family, "rr", 2);
        service.more = check.to_owned();
        service
    });
    let director = site.start(&Config::of(services.to_vec()));
    let everyone = |services: &[ServiceView], wanted: bool| {
        FAMILIES.iter().all(|&family| is_up(services, 2, family) == wanted)
    };
    wait_for_list(&director, "all are up", |services| {
        everyone(services, true) && FAMILIES.iter().all(|&family| is_up(services, 1, family))
    });
    let load = Load::start(&site.topology, http(Family::V4), 4, true);
    load.wait_for_rounds(100);
    // It still answers for its own addresses, so that no check of those would notice.
    let rs2 = site.topology.real_server(2);
    for (family, width) in [(Family::V4, 32), (Family::V6, 128)] {
        rs2.ip(&format!("address del {}/{width} dev lo", vip(family))).unwrap();
    }
    wait_for_list(&director, "rs2 is down", |services| everyone(services, false));
    let said = director.shunt("list").unwrap();
    assert!(said.contains("no answer for 172.17.100.100:80"), "{said}");
    for (family, width) in [(Family::V4, 32), (Family::V6, 128)] {
        rs2.ip(&format!("address add {}/{width} dev lo", vip(family))).unwrap();
    }
    wait_for_list(&director, "rs2 is up again", |services| everyone(services, true));
    load.finish();
}
