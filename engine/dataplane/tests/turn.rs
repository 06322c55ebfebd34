//! One turn, seen from outside: the smallest story there is.

use dataplane::{FlowState, Protocol, ServerIndex};
use frames::{DIRECTOR_MAC, Director, Plan, client_of, mac_of, tcp_of};
use xsk::Port;

#[test]
fn a_syn_becomes_a_flow_and_leaves_for_its_server() {
    let mut director = Director::new(Plan::with_servers(1));
    let syn = tcp_of(1, "S");
    let sent = director.burst(0, &[&syn]);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0][..12], [mac_of(1), DIRECTOR_MAC].concat());
    assert_eq!(sent[0][12..], syn[12..]);
    let counts = director.counts(0);
    assert_eq!((counts.received, counts.forwarded, counts.flows_created), (1, 1, 1));
    let (client, port) = client_of(1, false);
    let flow = director.flow(0, client, port, Protocol::Tcp).unwrap();
    assert_eq!((flow.server, flow.state, flow.idle), (ServerIndex(0), FlowState::SynRecv, 0));
}

#[test]
fn a_burst_is_decided_in_order() {
    let mut director = Director::new(Plan::with_servers(2));
    // The ACK and the data are of a flow that their own burst begins; another one's is not.
    let packets = [
        tcp_of(1, "S"),
        tcp_of(2, "S"),
        tcp_of(1, "A"),
        tcp_of(3, "A"),
        tcp_of(1, "R"),
        tcp_of(1, "S"),
        tcp_of(2, "A"),
    ];
    let packets: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
    let sent = director.burst(0, &packets);
    let machines: Vec<_> = sent.iter().map(|packet| packet[5]).collect();
    assert_eq!(machines, [1, 2, 1, 1, 1, 2], "round robin for 1, 2 and the second life of 1");
    assert_eq!(director.counts(0).flows_v4, 2);
}

#[test]
fn more_than_a_burst_waits_for_the_next_turn() {
    let mut director = Director::new(Plan::with_servers(2));
    for number in 0..150 {
        assert!(director.workers[0].port_mut().inject(&tcp_of(number, "S")));
    }
    let turns: Vec<_> = (0..4).map(|_| director.workers[0].turn(director.now)).collect();
    assert_eq!(turns, [64, 64, 22, 0]);
    assert!(director.workers[0].port().census().is_conserved());
    director.check(0);
}

#[test]
fn a_director_without_services_drops_everything() {
    let mut director = Director::new(Plan::default());
    assert!(director.burst(0, &[&tcp_of(1, "S"), &tcp_of(1, "A")]).is_empty());
    let counts = director.counts(0);
    assert_eq!(counts.dropped[dataplane::DropReason::NoService as usize], 2);
}
