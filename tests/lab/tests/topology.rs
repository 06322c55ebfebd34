//! The topology by itself: what the demo and the whole-program tests take for granted.

use lab::{
    Capture, Family, HttpClient, HttpServer, MachineLock, Plan, ROUTER_INSIDE, Topology, UdpClient,
    UdpEcho, Wire, get_once, real_server_address, vip, wait_until,
};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

fn port_80(family: Family) -> SocketAddr {
    match family {
        Family::V4 => (Ipv4Addr::UNSPECIFIED, 80).into(),
        Family::V6 => (Ipv6Addr::UNSPECIFIED, 80).into(),
    }
}

fn servers(topology: &Topology, family: Family) -> Vec<HttpServer> {
    (1u8..)
        .zip(&topology.real_servers)
        .map(|(number, rs)| HttpServer::start(rs, &format!("rs{number}"), port_80(family)).unwrap())
        .collect()
}

#[test]
fn the_client_reaches_each_real_server_by_the_router() {
    let _lock = MachineLock::acquire().unwrap();
    let topology = Plan::new("lab").queues(2).ipv6().build().unwrap();
    let _servers = servers(&topology, Family::V6);
    for family in [Family::V4, Family::V6] {
        for number in [1, 2] {
            let peer = SocketAddr::new(real_server_address(number, family), 80);
            let answer = get_once(&topology.client, peer, "/").unwrap();
            assert_eq!(answer.real_server, format!("rs{number}"));
            assert_eq!(answer.body, format!("rs{number}\n").into_bytes());
            // No address translation by the router.
            let client = lab::client_address(family).to_string();
            assert!(answer.client.contains(&client), "{} for {client}", answer.client);
        }
    }
}

#[test]
fn bodies_are_checked_in_both_directions() {
    let _lock = MachineLock::acquire().unwrap();
    let topology = Plan::new("lab").real_servers(1).build().unwrap();
    let servers = servers(&topology, Family::V4);
    let peer = SocketAddr::new(real_server_address(1, Family::V4), 80);
    let mut client = HttpClient::connect(&topology.client, peer).unwrap();
    client.download(20_000_000).unwrap();
    client.upload(20_000_000).unwrap();
    assert_eq!(client.get("/").unwrap().real_server, "rs1");
    assert_eq!(client.get("/nothing-here").unwrap().status, 404);
    assert_eq!(servers[0].served(), 4);
}

#[test]
fn only_the_director_answers_for_the_vip() {
    let _lock = MachineLock::acquire().unwrap();
    let topology = Plan::new("lab").ipv6().build().unwrap();
    // Servers listen on the real servers, yet the director's kernel refuses: nothing listens there.
    let _servers = servers(&topology, Family::V6);
    for family in [Family::V4, Family::V6] {
        let peer = SocketAddr::new(vip(family), 80);
        let error = get_once(&topology.client, peer, "/").unwrap_err().to_string();
        assert!(error.contains("refused"), "{error}");
    }
    let neighbors = topology.router.ip("neigh show").unwrap();
    let director = lab::mac_text(lab::director_mac());
    for family in [Family::V4, Family::V6] {
        let line = format!("{} dev eth0 lladdr {director}", vip(family));
        assert!(neighbors.contains(&line), "{line} in {neighbors}");
    }
}

#[test]
fn bare_machines_have_no_vip_and_answer_for_whatever_they_hold() {
    let _lock = MachineLock::acquire().unwrap();
    let topology = Plan::new("lab").ipv6().bare().build().unwrap();
    let machines = [&topology.director, topology.real_server(1), topology.real_server(2)];
    for family in [Family::V4, Family::V6] {
        for machine in machines {
            let addresses = machine.ip("address show").unwrap();
            assert!(!addresses.contains(&vip(family).to_string()), "{addresses}");
        }
    }
    // ARP flux, as a kernel does it by itself: the VIP is on lo, the request comes in on eth0.
    let rs = topology.real_server(2);
    rs.ip(&format!("address add {}/32 dev lo", vip(Family::V4))).unwrap();
    let _ = get_once(&topology.client, SocketAddr::new(vip(Family::V4), 80), "/").unwrap_err();
    let neighbors = topology.router.ip("neigh show").unwrap();
    let mac = lab::mac_text(lab::real_server_mac(2));
    let line = format!("{} dev eth0 lladdr {mac}", vip(Family::V4));
    assert!(neighbors.contains(&line), "{line} in {neighbors}");
}

#[test]
fn udp_is_echoed_and_silence_is_an_error() {
    let _lock = MachineLock::acquire().unwrap();
    let mut topology = Plan::new("lab").real_servers(1).build().unwrap();
    let number = topology.add_real_server().unwrap();
    let address = SocketAddr::new(real_server_address(number, Family::V4), 53);
    let patience = Duration::from_secs(5);
    let client = UdpClient::connect(&topology.client, address, patience).unwrap();
    assert!(client.ask("anyone").is_err(), "nothing listens yet");
    let _echo = UdpEcho::start(topology.real_server(number), "rs2", address).unwrap();
    assert_eq!(client.ask("hello there").unwrap(), "rs2");
}

#[test]
fn a_frame_made_by_hand_is_answered_and_both_are_captured() {
    let _lock = MachineLock::acquire().unwrap();
    let topology = Plan::new("lab").real_servers(1).build().unwrap();
    let address = SocketAddr::new(vip(Family::V4), 53);
    let _echo = UdpEcho::start(topology.real_server(1), "rs1", address).unwrap();
    let capture = Capture::start(&topology.switch, "rs1").unwrap();
    let wire = Wire::open(&topology.router, ROUTER_INSIDE).unwrap();
    let (to, from) = (lab::real_server_mac(1), lab::router_mac());
    let datagram = frames::frame("ip client > vip / udp 4321 > 53 / data 20");
    wire.send_to(to, from, &datagram).unwrap();
    wait_until(Duration::from_secs(5), "the answer", || {
        capture.frames().iter().any(|frame| {
            !frame.outgoing && frame.source() == to && frame.rest().ends_with(&[0xda; 20])
        })
    })
    .unwrap();
    let seen = capture.finish();
    assert!(seen.iter().any(|frame| {
        frame.outgoing && frame.destination() == to && frame.rest() == &datagram[12..]
    }));
}
