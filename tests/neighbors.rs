//! Real servers that go, come back, or change their MAC address.

mod common;

use common::load::Load;
use common::{Site, http, http_rr, wait_for_list};
use director::views::{ServerView, ServiceView};
use lab::{Capture, Config, Director, Family, HttpClient, NIC, Plan, get_once, mac_text};

fn start(purpose: &str) -> (Director, Site) {
    let site = Site::build(Plan::new(purpose), &[Family::V4]);
    let director = site.start(&Config::of(vec![http_rr(2)]));
    (director, site)
}

fn answered_by(site: &Site, count: usize) -> Vec<String> {
    (0..count)
        .map(|_| get_once(&site.topology.client, http(Family::V4), "/").unwrap().real_server)
        .collect()
}

/// The state of a real server's neighbor entry.
fn neighbor(services: &[ServiceView], number: u8) -> &ServerView {
    let address = lab::real_server_address(number, Family::V4);
    services[0].servers.iter().find(|server| server.address == address).unwrap()
}

#[test]
fn a_real_server_that_does_not_answer_gets_no_new_flows() {
    let (director, site) = start("gone");
    assert!(answered_by(&site, 4).contains(&"rs2".to_owned()));
    // Its link is down: ARP requests remain unanswered.
    site.topology.switch.ip("link set rs2 down").unwrap();
    wait_for_list(&director, "rs2's neighbor has failed", |services| {
        neighbor(services, 2).neighbor == "failed"
    });
    assert_eq!(answered_by(&site, 10), ["rs1"; 10]);
    assert!(director.shunt("list").unwrap().contains("failed"));

    site.topology.switch.ip("link set rs2 up").unwrap();
    wait_for_list(&director, "rs2 is back", |services| {
        neighbor(services, 2).neighbor == "reachable"
    });
    let answers = answered_by(&site, 10);
    assert_eq!(answers.iter().filter(|name| *name == "rs2").count(), 5, "{answers:?}");
}

#[test]
fn a_changed_mac_address_is_followed() {
    let (director, site) = start("mac");
    let capture = Capture::start(&site.topology.switch, "rs2").unwrap();
    let new = [2, 0, 0, 0, 0, 0x22];
    let rs2 = site.topology.real_server(2);
    let gateway = "route replace default via 172.17.100.253";
    for words in [
        format!("link set {NIC} down"),
        format!("link set {NIC} address {}", mac_text(new)),
        format!("link set {NIC} up"),
        gateway.to_owned(),
    ] {
        rs2.ip(&words).unwrap();
    }
    wait_for_list(&director, "the new MAC address is known", |services| {
        neighbor(services, 2).mac == Some(mac_text(new))
    });
    let answers = answered_by(&site, 10);
    assert_eq!(answers.iter().filter(|name| *name == "rs2").count(), 5, "{answers:?}");
    let frames = capture.finish();
    assert!(frames.iter().any(|frame| {
        frame.outgoing && frame.source() == lab::director_mac() && frame.destination() == new
    }));
}

/// AF_XDP traffic confirms no neighbor, so its entry goes stale under full load, again and again.
#[test]
fn a_stale_neighbor_keeps_forwarding() {
    let (director, site) = start("stale");
    let mut client = HttpClient::connect(&site.topology.client, http(Family::V4)).unwrap();
    client.get("/").unwrap();
    let load = Load::start(&site.topology, http(Family::V4), 4, true);
    for number in [1, 2] {
        let address = lab::real_server_address(number, Family::V4);
        let mac = mac_text(lab::real_server_mac(number));
        site.topology
            .director
            .ip(&format!("neigh replace {address} lladdr {mac} dev {NIC} nud stale"))
            .unwrap();
    }
    load.wait_for_rounds(100);
    // The director has the kernel confirm it.
    wait_for_list(&director, "the entries are confirmed", |services| {
        [1, 2].iter().all(|&number| neighbor(services, number).neighbor == "reachable")
    });
    let report = load.finish();
    assert!(report.failures.is_empty(), "{:?}\n{}", report.failures, director.process().output());
    assert_eq!(client.get("/").unwrap().status, 200);
}
