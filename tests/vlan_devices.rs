//! The director's network as a VLAN of its NIC: the addresses are on a VLAN device, the packets
//! are taken, tagged, from the NIC below it, and the real servers are found on the VLAN.
//!
//! Needs a kernel with VLAN devices (CONFIG_VLAN_8021Q), so it runs with the feature
//! `vlan_devices`.

mod common;

use common::{Site, dns, http, service};
use lab::{Config, Family, Plan, UdpClient, get_once};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

#[test]
fn real_servers_on_a_vlan_alternate() {
    let site = Site::build(Plan::new("vlans").vlan(100).ipv6(), &FAMILIES);
    let services = FAMILIES
        .into_iter()
        .flat_map(|family| ["tcp", "udp"].map(|protocol| service(protocol, family, "rr", 2)));
    let _director = site.start(&Config::of(services.collect()));
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
}
