//! Probes: packets of the control thread that leave by a worker.

use dataplane::{Neighbor, PROBE_MAX, Probe, ServerIndex, ServerState};
use frames::{DIRECTOR_MAC, Director, Plan, mac_of, tcp_of, udp_of};
use xsk::{BURST_MAX, Port};

fn probe(server: u16, length: usize) -> Probe {
    let packet: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
    Probe::new(ServerIndex(server), &packet).unwrap()
}

/// Gives the port of the first worker so many frames that nobody else has: a packet for nobody
/// leaves its frame free until the end of the turn.
fn inject_for_nobody(director: &mut Director, count: usize) {
    for number in 0..count {
        assert!(director.workers[0].port_mut().inject(&udp_of(number as u32)));
    }
}

fn turn(director: &mut Director) -> Vec<Vec<u8>> {
    director.workers[0].turn(director.now);
    director.check(0);
    director.workers[0].port_mut().sent()
}

#[test]
fn a_probe_leaves_for_its_server_by_the_workers_own_table() {
    let mut plan = Plan::with_servers(3);
    plan.member(ServerIndex(1)).state = ServerState::Expired;
    let mut director = Director::new(plan);
    for length in [14, 54, PROBE_MAX] {
        for server in [0, 1, 2] {
            assert!(director.handles[0].mailbox.probe(probe(server, length)).is_some());
        }
        inject_for_nobody(&mut director, 3);
        let sent = turn(&mut director);
        assert_eq!(sent.len(), 3, "even to one whose flows are ended");
        for (packet, server) in sent.iter().zip(1..) {
            assert_eq!(packet[..12], [mac_of(server), DIRECTOR_MAC].concat());
            assert!(packet[12..].iter().copied().eq(12..length as u8));
        }
    }
    assert_eq!(director.counts(0).forwarded, 0, "it belongs to no flow");
}

#[test]
fn a_changed_neighbor_is_followed() {
    let mut director = Director::new(Plan::with_servers(1));
    let new = [2, 0, 0, 0, 0, 0x77];
    director.plan.member(ServerIndex(0)).neighbor = Some(Neighbor { mac: new, vlans: [0, 0] });
    director.publish();
    assert!(director.handles[0].mailbox.probe(probe(0, 60)).is_some());
    inject_for_nobody(&mut director, 1);
    assert_eq!(turn(&mut director)[0][..6], new);
}

#[test]
fn a_probe_for_nobody_is_lost_and_holds_nothing_up() {
    let mut plan = Plan::with_servers(2);
    plan.member(ServerIndex(0)).neighbor = None;
    let mut director = Director::new(plan);
    for server in [0, 9, u16::MAX, 1] {
        assert!(director.handles[0].mailbox.probe(probe(server, 60)).is_some());
    }
    inject_for_nobody(&mut director, 1);
    assert_eq!(turn(&mut director).len(), 1, "no neighbor, no server, no server, and one");
}

/// Where a director sends as much as its link takes, probes that gave way would have all real
/// servers look dead.
#[test]
fn probes_wait_for_room_in_the_tx_ring_and_go_before_packets_of_flows() {
    let mut director = Director::new(Plan::with_servers(1));
    director.workers[0].port_mut().limit_tx_ring(1);
    let numbers = [(); 3].map(|()| director.handles[0].mailbox.probe(probe(0, 60)).unwrap());
    for sent in 1..=3 {
        inject_for_nobody(&mut director, 3);
        assert_eq!(turn(&mut director).len(), 1);
        let taken = numbers.map(|number| director.handles[0].mailbox.has_taken(number));
        assert_eq!(taken, [true, sent >= 2, sent >= 3]);
    }
    // A frame is free, and the flow's packet comes in the same turn.
    assert!(director.handles[0].mailbox.probe(probe(0, 60)).is_some());
    assert!(director.workers[0].port_mut().inject(&tcp_of(1, "S")));
    assert_eq!(turn(&mut director)[0].len(), 60);
}

#[test]
fn probes_wait_for_free_frames_and_leave_in_bursts() {
    let mut director = Director::new(Plan::with_servers(1));
    let many = 2 * BURST_MAX + 10;
    for _ in 0..many {
        assert!(director.handles[0].mailbox.probe(probe(0, 60)).is_some());
    }
    assert!(turn(&mut director).is_empty(), "all frames are there to receive into");
    inject_for_nobody(&mut director, 5);
    assert_eq!(turn(&mut director).len(), 5);
    // First by the frames that have come back, then by those that the packets for nobody leave.
    for left in [5 + BURST_MAX, many - 10 - BURST_MAX, 0] {
        inject_for_nobody(&mut director, BURST_MAX);
        assert_eq!(turn(&mut director).len(), left);
    }
    assert!(director.workers[0].port().census().is_conserved());
}

#[test]
fn there_is_a_bound_to_what_waits_and_to_what_fits() {
    let mut director = Director::new(Plan::with_servers(1));
    let mailbox = &mut director.handles[0].mailbox;
    let accepted = (0..5000).filter(|_| mailbox.probe(probe(0, 60)).is_some()).count();
    assert_eq!(accepted, 1024);
    assert_eq!(Probe::new(ServerIndex(0), &[0; PROBE_MAX + 1]), None);
    assert_eq!(Probe::new(ServerIndex(0), &[0; 256]), None);
}

#[test]
fn packets_of_flows_go_on_beside_probes() {
    let mut director = Director::new(Plan::with_servers(1));
    assert!(director.handles[0].mailbox.probe(probe(0, 60)).is_some());
    assert!(director.workers[0].port_mut().inject(&tcp_of(1, "S")));
    inject_for_nobody(&mut director, 1);
    let sent = turn(&mut director);
    assert_eq!((sent.len(), sent[0].len()), (2, tcp_of(1, "S").len()));
    let counts = director.counts(0);
    assert_eq!((counts.forwarded, counts.flows_created), (1, 1));
}
