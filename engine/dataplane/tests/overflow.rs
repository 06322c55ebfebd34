//! A neighborhood of the flow table that is full: who goes, and who is served without an entry.

use dataplane::{Capacity, DropReason, FlowState, Protocol, ServerIndex, Settings, Timeouts};
use frames::{Director, Plan, Verdict, client_of, icmp_of, tcp_of, tcp6_of, udp_of};

/// Director with a table that is one neighborhood: every flow could have any of its entries.
fn director(servers: u16, queues: usize) -> (Director, u32) {
    let plan = Plan::with_servers(servers);
    let director = Director::with(plan, queues, Capacity { flows_v4: 0, flows_v6: 0 });
    let entries = director.handles[0].memory.capacity().flows_v4 as u32;
    assert!((32..1000).contains(&entries), "{entries}");
    (director, entries)
}

fn establish(director: &mut Director, worker: usize, numbers: std::ops::Range<u32>) {
    director.feed(worker, numbers.clone().map(|number| tcp_of(number, "S")));
    director.feed(worker, numbers.map(|number| tcp_of(number, "A")));
}

fn has_flow(director: &Director, worker: usize, number: u32) -> bool {
    let (client, port) = client_of(number, false);
    director.flow(worker, client, port, Protocol::Tcp).is_some()
}

fn server_of(verdict: Verdict) -> [u8; 6] {
    match verdict {
        Verdict::Forwarded(mac) => mac,
        Verdict::Dropped(reason) => panic!("dropped: {}", reason.name()),
    }
}

#[test]
fn the_half_open_flow_that_was_idle_the_longest_goes_first() {
    let (mut director, entries) = director(4, 1);
    for number in 0..entries {
        director.send(0, &tcp_of(number, "S"));
        director.now += 128;
    }
    // A retransmission makes the oldest one young again, an ACK makes the next one established.
    director.send(0, &tcp_of(0, "S"));
    director.send(0, &tcp_of(1, "A"));
    for number in 0..4 {
        server_of(director.send(0, &tcp_of(entries + number, "S")));
        assert!(has_flow(&director, 0, entries + number));
        assert!(!has_flow(&director, 0, 2 + number), "the oldest goes");
        assert!(has_flow(&director, 0, 3 + number), "only the oldest goes");
    }
    let counts = director.counts(0);
    assert_eq!((counts.flows_evicted, counts.overflowed), (4, 0));
    assert_eq!(counts.flows_v4, u64::from(entries));
    assert!(has_flow(&director, 0, 0) && has_flow(&director, 0, 1));
}

#[test]
fn expired_flows_go_before_half_open_ones() {
    let (mut director, entries) = director(4, 1);
    establish(&mut director, 0, 0..1);
    director.send(0, &tcp_of(0, "R"));
    director.now += 128;
    director.feed(0, (1..entries).map(|number| tcp_of(number, "S")));
    // CLOSE lasts 10 s. No turn in between, so the sweep has not been there.
    director.now += 10_300;
    server_of(director.send(0, &tcp_of(entries, "S")));
    assert!(!has_flow(&director, 0, 0));
    let counts = director.counts(0);
    assert_eq!((counts.flows_expired, counts.flows_evicted, counts.overflowed), (1, 0, 0));
}

#[test]
fn nothing_else_goes() {
    let (mut director, entries) = director(4, 1);
    establish(&mut director, 0, 0..entries);
    let states = [("R", FlowState::Close), ("FA", FlowState::FinWait)];
    for (number, (flags, _)) in (0..).zip(states) {
        director.send(0, &tcp_of(number, flags));
    }
    server_of(director.send(0, &tcp_of(entries, "S")));
    let counts = director.counts(0);
    assert_eq!((counts.flows_evicted, counts.overflowed), (0, 1));
    assert_eq!(counts.flows_v4, u64::from(entries));
    assert!((0..entries).all(|number| has_flow(&director, 0, number)));
}

#[test]
fn nobody_is_evicted_for_a_flow_that_nobody_serves() {
    let (mut director, entries) = director(1, 1);
    director.feed(0, (0..entries).map(|number| tcp_of(number, "S")));
    director.plan.member(ServerIndex(0)).weight = 0;
    director.publish();
    let dropped = director.send(0, &tcp_of(entries, "S"));
    assert_eq!(dropped, Verdict::Dropped(DropReason::NoServer));
    assert_eq!(director.counts(0).flows_evicted, 0);
}

/// The number of flows that overflow in the tests below: with four servers, the chance that a
/// scheduler would have chosen alike for all of them is nil.
const EXTRA: u32 = 40;

#[test]
fn an_overflowed_flow_keeps_its_server() {
    let (mut director, entries) = director(4, 2);
    establish(&mut director, 0, 0..entries);
    let mut servers = Vec::new();
    for number in entries..entries + EXTRA {
        let server = server_of(director.send(0, &tcp_of(number, "S")));
        for flags in ["S", "A", "AP", "FA", "A", "R"] {
            assert_eq!(server_of(director.send(0, &tcp_of(number, flags))), server, "{flags}");
        }
        assert!(!has_flow(&director, 0, number));
        servers.push(server);
    }
    let different: std::collections::HashSet<_> = servers.iter().collect();
    assert_eq!(different.len(), 4, "all servers are chosen");
    assert_eq!(director.counts(0).overflowed, u64::from(2 * EXTRA), "SYNs");
    assert_eq!(director.counts(0).overflow_followers, u64::from(5 * EXTRA), "others");

    // On another worker, whose table has room.
    for (number, &server) in (entries..).zip(&servers) {
        assert_eq!(server_of(director.send(1, &icmp_of(number))), server);
    }
    for (number, &server) in (entries..).zip(&servers) {
        assert_eq!(server_of(director.send(1, &tcp_of(number, "A"))), server);
        assert!(!has_flow(&director, 1, number), "what is no SYN creates no flow");
    }

    // Others end and there is room again: what was not remembered still is not scheduled anew.
    director.feed(0, (0..entries).map(|number| tcp_of(number, "R")));
    director.pass_long(30_000);
    assert_eq!(director.counts(0).flows_v4, 0);
    for (number, &server) in (entries..).zip(&servers) {
        assert_eq!(server_of(director.send(0, &tcp_of(number, "A"))), server);
        assert_eq!(server_of(director.send(0, &icmp_of(number))), server);
        assert_eq!(server_of(director.send(0, &tcp_of(number, "S"))), server);
        assert!(has_flow(&director, 0, number), "a SYN gets an entry");
        assert_eq!(server_of(director.send(1, &tcp_of(number, "S"))), server);
    }
}

#[test]
fn an_overflowed_syn_repeated_on_another_worker_keeps_its_server() {
    let (mut director, entries) = director(4, 2);
    establish(&mut director, 0, 0..entries);
    for number in entries..entries + EXTRA {
        let server = server_of(director.send(0, &tcp_of(number, "S")));
        assert_eq!(server_of(director.send(1, &tcp_of(number, "S"))), server);
        assert!(has_flow(&director, 1, number), "there is room");
        assert_eq!(server_of(director.send(0, &tcp_of(number, "A"))), server);
    }
}

#[test]
fn udp_and_ipv6_overflow_likewise() {
    let mut plan = Plan::with_servers(4);
    let dns = plan.add_service(frames::VIP, 53, Protocol::Udp);
    let web6 = plan.add_service(frames::VIP6, 80, Protocol::Tcp);
    for machine in 1..=4 {
        plan.add_member(dns, machine, 1);
        plan.add_member(web6, machine, 1);
    }
    let mut director = Director::with(plan, 1, Capacity { flows_v4: 0, flows_v6: 0 });
    let entries = director.handles[0].memory.capacity().flows_v4 as u32;
    director.feed(0, (0..entries).map(udp_of));
    for flags in ["S", "A"] {
        director.feed(0, (0..entries).map(|number| tcp6_of(number, flags)));
    }
    let counts = director.counts(0);
    assert_eq!((counts.flows_v4, counts.flows_v6), (entries.into(), entries.into()));
    for number in entries..entries + EXTRA {
        let (udp, tcp6) = (udp_of(number), tcp6_of(number, "S"));
        let (first, first6) = (director.send(0, &udp), director.send(0, &tcp6));
        assert_eq!(server_of(director.send(0, &udp)), server_of(first));
        assert_eq!(server_of(director.send(0, &tcp6_of(number, "A"))), server_of(first6));
    }
    let counts = director.counts(0);
    assert_eq!((counts.flows_v4, counts.flows_v6), (entries.into(), entries.into()));
}

#[test]
fn what_is_no_flow_is_dropped_as_long_as_nothing_overflowed() {
    let (mut director, entries) = director(4, 2);
    establish(&mut director, 0, 0..entries);
    let unknown = Verdict::Dropped(DropReason::UnknownFlow);
    assert_eq!(director.send(0, &tcp_of(entries, "A")), unknown);
    assert_eq!(director.send(1, &tcp_of(entries, "A")), unknown);
    assert_eq!(director.send(0, &icmp_of(entries)), Verdict::Dropped(DropReason::UnknownIcmp));
}

/// An overflow, remembered by both of two directors whose sweeps are in different places.
fn overflowed_at(offset: u64) -> (Director, u32) {
    let (mut director, entries) = director(4, 1);
    // As if asleep: a whole pass of the sweep is due when the overflow happens.
    director.now += 16_000 + offset;
    establish(&mut director, 0, 0..entries);
    server_of(director.send(0, &tcp_of(entries, "S")));
    (director, entries)
}

#[test]
fn an_overflow_is_remembered_for_the_established_timeout_and_then_forgotten() {
    for offset in [0, 1, 5_000, 8_000, 15_999] {
        let (mut director, number) = overflowed_at(offset);
        director.pass_long(899_990);
        server_of(director.send(0, &tcp_of(number, "A")));

        let (mut director, number) = overflowed_at(offset);
        director.pass_long(900_000 + 4 * 16_000);
        let unknown = Verdict::Dropped(DropReason::UnknownFlow);
        assert_eq!(director.send(0, &tcp_of(number, "A")), unknown);
        assert_eq!(director.send(0, &icmp_of(number)), Verdict::Dropped(DropReason::UnknownIcmp));
    }
}

#[test]
fn an_overflowed_flow_that_is_never_idle_is_never_forgotten() {
    let (mut director, number) = overflowed_at(0);
    let server = server_of(director.send(0, &tcp_of(number, "A")));
    for _ in 0..10 {
        director.pass_long(890_000);
        assert_eq!(server_of(director.send(0, &tcp_of(number, "A"))), server);
    }
}

#[test]
fn after_an_overflow_is_forgotten_the_scheduler_is_asked_again() {
    let (mut director, entries) = overflowed_at(0);
    director.pass_long(900_000 + 4 * 16_000);
    let before = director.counts(0).overflow_followers;
    director.feed(0, (entries..entries + 8).map(|number| tcp_of(number, "S")));
    assert_eq!(director.counts(0).overflow_followers, before);
    for server in (0..4).map(ServerIndex) {
        assert_eq!(director.load(0, server).inactive, 2, "round robin");
    }
}

#[test]
fn the_longest_timeouts_are_remembered_as_long_as_the_mark_can_count() {
    let (mut director, entries) = director(4, 1);
    let timeouts = Timeouts { established: u32::MAX, ..Timeouts::default() };
    director.set(Settings { timeouts, ..Settings::default() });
    establish(&mut director, 0, 0..entries);
    let server = server_of(director.send(0, &tcp_of(entries, "S")));
    // 4095 sweeps of 16 s, rather less.
    director.pass_long(4_000 * 16_000);
    assert_eq!(server_of(director.send(0, &tcp_of(entries, "A"))), server);
}
