//! Frames are conserved and every packet is accounted for, whatever the rings do; and the same
//! packets in give the same packets out.

use dataplane::{Capacity, DropReason, FlowRecord, Settings, UnknownFlow, WorkerCounts};
use frames::{Director, Plan, Random, frame, icmp_of, tcp_of, tcp6_of, udp_of};
use xsk::{BURST_MAX, Port};

const FRAMES: usize = 256;

/// A turn of worker 0 after which the books must balance; what it received.
fn turn(director: &mut Director) -> usize {
    let received = director.workers[0].turn(director.now);
    director.check(0);
    received
}

#[test]
fn a_short_tx_ring_drops_what_it_cannot_take() {
    let mut director = Director::new(Plan::with_servers(2));
    director.workers[0].port_mut().limit_tx_ring(10);
    for round in 0..20 {
        for number in 0..BURST_MAX as u32 {
            assert!(director.workers[0].port_mut().inject(&tcp_of(number, "S")));
        }
        assert_eq!(turn(&mut director), BURST_MAX);
        assert_eq!(director.workers[0].port_mut().sent().len(), 10);
        let dropped = director.dropped(0, DropReason::TxRingFull);
        assert_eq!(dropped, (round + 1) * (BURST_MAX as u64 - 10));
    }
    assert_eq!(director.workers[0].port().counters().tx_ring_full, 20 * 54);
}

#[test]
fn a_kernel_that_stalls_loses_nothing() {
    let mut director = Director::new(Plan::with_servers(2));
    director.workers[0].port_mut().limit_tx_ring(100);
    director.workers[0].port_mut().stall(true);
    let mut injected = 0u64;
    for number in 0..FRAMES as u32 {
        injected += u64::from(director.workers[0].port_mut().inject(&tcp_of(number, "S")));
    }
    assert_eq!(injected, FRAMES as u64);
    while turn(&mut director) != 0 {}
    assert!(director.workers[0].port_mut().sent().is_empty());
    assert_eq!(director.counts(0).forwarded, 100);
    assert_eq!(director.dropped(0, DropReason::TxRingFull), injected - 100);

    director.workers[0].port_mut().stall(false);
    turn(&mut director);
    assert_eq!(director.workers[0].port_mut().sent().len(), 100, "late, but whole");
    turn(&mut director);
    let census = director.workers[0].port().census();
    assert_eq!(census.fill, census.total, "every frame is back");
}

#[test]
fn an_empty_fill_ring_is_counted_and_filled_again() {
    let mut director = Director::new(Plan::with_servers(2));
    for number in 0..FRAMES as u32 {
        assert!(director.workers[0].port_mut().inject(&tcp_of(number, "S")));
    }
    assert!(!director.workers[0].port_mut().inject(&tcp_of(0, "S")), "no frame is left");
    while turn(&mut director) != 0 {}
    assert_eq!(director.counts(0).received, FRAMES as u64);
    assert_ne!(director.counts(0).fill_ring_empty, 0);
    assert_eq!(director.workers[0].port_mut().sent().len(), FRAMES);
    turn(&mut director);
    assert!(director.workers[0].port_mut().inject(&tcp_of(0, "S")));
}

#[test]
fn turns_are_counted_by_what_they_found() {
    let mut director = Director::new(Plan::with_servers(1));
    let before = director.counts(0);
    for number in 0..3 {
        director.send(0, &tcp_of(number, "S"));
        director.turn_all();
        director.turn_all();
    }
    director.workers[0].sleep(std::time::Duration::ZERO);
    director.turn_all();
    let after = director.counts(0);
    assert_eq!(after.bursts - before.bursts, 3);
    assert_eq!(after.empty_polls - before.empty_polls, 7);
    assert_eq!(after.sleeps - before.sleeps, 1);
    let bytes = tcp_of(0, "S").len() as u64;
    assert_eq!(after.received_bytes - before.received_bytes, 3 * bytes);
}

/// Any packet, good or bad, of few flows.
fn any_packet(random: &mut Random) -> Vec<u8> {
    let number = random.below(300) as u32;
    let flags = *random.pick(&["S", "S", "A", "A", "A", "AP", "FA", "R", "SA", "-"]);
    let mut packet = match random.below(12) {
        0 => udp_of(number),
        1 | 2 => tcp6_of(number, flags),
        3 => icmp_of(number),
        4 => frame("ip client > vip more / udp 4000 > 53"),
        5 => frame("vlan 5 / ip client > vip / tcp 4000 > 81 S"),
        6 => (0..random.below(100)).map(|_| random.number() as u8).collect(),
        _ => tcp_of(number, flags),
    };
    if random.once_in(20) {
        packet.truncate(random.below(packet.len() + 1));
    }
    if random.once_in(20) && !packet.is_empty() {
        let position = random.below(packet.len());
        packet[position] ^= 1 << random.below(8);
    }
    packet
}

#[test]
fn frames_are_conserved_under_any_fault() {
    for seed in 0..8 {
        let mut random = Random::new(seed);
        let capacity = Capacity { flows_v4: 100, flows_v6: 50 };
        let mut director = Director::with(Plan::standard(), 1, capacity);
        let mut taken = 0;
        for _ in 0..400 {
            let port = director.workers[0].port_mut();
            match random.below(6) {
                0 => port.limit_tx_ring(random.below(FRAMES)),
                1 => port.stall(random.once_in(2)),
                2 => taken += port.sent().len() as u64,
                _ => {}
            }
            for _ in 0..random.below(100) {
                port.inject(&any_packet(&mut random));
            }
            assert!(port.census().is_conserved());
            director.now += random.below(2_000) as u64;
            turn(&mut director);
        }
        let port = director.workers[0].port_mut();
        port.stall(false);
        port.limit_tx_ring(FRAMES);
        while turn(&mut director) != 0 {}
        taken += director.workers[0].port_mut().sent().len() as u64;
        let counts = director.counts(0);
        assert!(counts.resets > 0);
        assert_eq!(taken, counts.forwarded + counts.resets, "what was forwarded was sent");
        turn(&mut director);
        let census = director.workers[0].port().census();
        assert_eq!(census.fill, census.total);
    }
}

/// Everything that can be seen of a life over three workers.
fn life(seed: u64) -> (Vec<Vec<u8>>, Vec<WorkerCounts>, Vec<FlowRecord>) {
    let mut random = Random::new(seed);
    let capacity = Capacity { flows_v4: 60, flows_v6: 30 };
    let mut director = Director::with(Plan::standard(), 3, capacity);
    let mut sent = Vec::new();
    for _ in 0..800 {
        let worker = random.below(3);
        let packets: Vec<_> = (0..random.below(20)).map(|_| any_packet(&mut random)).collect();
        let packets: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
        for packet in &packets {
            assert!(director.workers[worker].port_mut().inject(packet));
        }
        director.workers[worker].turn(director.now);
        sent.extend(director.workers[worker].port_mut().sent());
        director.now += random.below(1_000) as u64;
        match random.below(100) {
            0 => director.publish(),
            1 => {
                let unknown_flow = *random.pick(&UnknownFlow::ALL);
                director.set(Settings { unknown_flow, ..Settings::default() });
            }
            2 => director.now += 60_000,
            _ => {}
        }
    }
    (0..3).for_each(|worker| director.check(worker));
    let counts = (0..3).map(|worker| director.counts(worker)).collect();
    let flows = (0..3).flat_map(|worker| director.flows(worker)).collect();
    (sent, counts, flows)
}

#[test]
fn the_same_packets_in_give_the_same_packets_out() {
    for seed in 0..3 {
        let first = life(seed);
        assert!(first.0.len() > 1_000, "much was forwarded");
        assert_eq!(first, life(seed), "seed {seed}");
    }
    assert_ne!(life(0).0, life(1).0);
}
