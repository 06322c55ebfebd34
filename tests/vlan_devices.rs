//! The director's network as a VLAN of its NIC: the addresses are on a VLAN device, the packets
//! are taken, tagged, from the NIC below it, and the real servers are found on the VLAN.
//!
//! Needs a kernel with VLAN devices (CONFIG_VLAN_8021Q), so it runs with the feature
//! `vlan_devices`.

mod common;

use common::{Site, dns, http, service, wait_for_list};
use director::views::ServiceView;
use lab::{Config, Director, Family, NIC, Plan, UdpClient, get_once, mac_text};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

#[test]
fn real_servers_on_a_vlan_alternate() {
    let site = Site::build(Plan::new("vlans").vlan(100).ipv6(), &FAMILIES);
    let services = FAMILIES
        .into_iter()
        .flat_map(|family| ["tcp", "udp"].map(|protocol| service(protocol, family, "rr", 2)));
    let director = site.start(&Config::of(services.collect()));
    for family in FAMILIES {
        let tcp = |_| get_once(&site.topology.client, http(family), "/").unwrap().real_server;
        let udp = |_| {
            let client = UdpClient::connect(&site.topology.client, dns(family), common::PATIENCE);
            client.unwrap().ask("who").unwrap()
        };
        for answers in [(0..20).map(tcp).collect::<Vec<_>>(), (0..20).map(udp).collect()] {
            assert!(answers.windows(2).all(|pair| pair[0] != pair[1]), "{family:?}: {answers:?}");
        }
    }
    another_mac_address_is_followed(&director, &site);
    a_gone_real_server_is_noticed(&director, &site);
}

/// Whether this holds for each of rs2's entries: its state and its MAC address.
fn all_of_rs2(services: &[ServiceView], holds: impl Fn(&str, Option<&str>) -> bool) -> bool {
    let addresses = FAMILIES.map(|family| lab::real_server_address(2, family));
    services
        .iter()
        .flat_map(|service| &service.servers)
        .filter(|server| addresses.contains(&server.address))
        .all(|server| holds(&server.neighbor, server.mac.as_deref()))
}

/// Neighbors are resolved, and heard, on the VLAN device.
fn another_mac_address_is_followed(director: &Director, site: &Site) {
    let new = mac_text([2, 0, 0, 0, 0, 0x22]);
    let rs2 = site.topology.real_server(2);
    for link in [NIC.to_owned(), site.topology.director_interface()] {
        rs2.ip(&format!("link set {link} address {new}")).unwrap();
    }
    wait_for_list(director, "the new MAC address is known", |services| {
        all_of_rs2(services, |state, mac| state == "reachable" && mac == Some(&*new))
    });
    for family in FAMILIES {
        let answers =
            [0, 1].map(|_| get_once(&site.topology.client, http(family), "/").unwrap().real_server);
        assert!(answers.contains(&"rs2".to_owned()), "{answers:?}");
    }
}

fn a_gone_real_server_is_noticed(director: &Director, site: &Site) {
    site.topology.switch.ip("link set rs2 down").unwrap();
    wait_for_list(director, "rs2's neighbors have failed", |services| {
        all_of_rs2(services, |state, _| state == "failed")
    });
}
