//! What a client hears of a TCP connection that the director does not know.

use dataplane::{DropReason, ServerIndex, ServerState, Settings, UnknownFlow, Update};
use frames::{Director, Plan, Verdict, frame, icmp_of, mac_of, tcp_of, udp_of};
use xsk::BURST_MAX;

/// Where the TCP header of a plain IPv4 packet is.
const TCP: usize = 34;

fn director() -> Director {
    Director::new(Plan::standard())
}

/// The answers to one packet, whose form [`Director::burst_and_answers`] checks.
fn answers(director: &mut Director, packet: &[u8]) -> Vec<Vec<u8>> {
    let (sent, answers) = director.burst_and_answers(0, &[packet]);
    assert_eq!(sent, [] as [Vec<u8>; 0]);
    answers
}

#[test]
fn a_reset_is_what_a_capture_of_a_kernel_shows() {
    let mut packet = frame("ip client > vip / tcp 4000 > 80 AP / data 5");
    packet[TCP + 4..TCP + 12].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    let expected = [
        &[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0][..],
        &[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0x05, 0xa7],
        &[172, 17, 100, 100, 192, 168, 100, 11],
        &[0, 80, 0x0f, 0xa0, 5, 6, 7, 8, 0, 0, 0, 0, 0x50, 4, 0, 0],
    ]
    .concat();
    let [answer] = &answers(&mut director(), &packet)[..] else { panic!("one answer") };
    assert_eq!(answer[..TCP + 16], expected);
    assert_eq!(answer.len(), 59, "as long as what came, which was no whole Ethernet frame");
}

#[test]
fn without_an_acknowledgment_what_was_sent_is_acknowledged() {
    for (letters, data, length) in [("F", 0, 1), ("-", 7, 7), ("F", 100, 101), ("SF", 3, 5)] {
        let mut packet = frame(&format!("ip client > vip / tcp 4000 > 80 {letters} / data {data}"));
        packet[TCP + 4..TCP + 8].copy_from_slice(&(u32::MAX - 1).to_be_bytes());
        let [answer] = &answers(&mut director(), &packet)[..] else { panic!("one answer") };
        let acknowledged = u32::from_be_bytes(answer[TCP + 8..TCP + 12].try_into().unwrap());
        assert_eq!(acknowledged, (u32::MAX - 1).wrapping_add(length), "{letters} {data}");
    }
}

#[test]
fn it_is_told_whatever_way_it_came() {
    let mut director = director();
    for packet in [
        "ip client > vip options=8 / tcp 4000 > 80 A options=12 / data 900",
        "ip6 client6 > vip6 / tcp 4000 > 80 FA",
        "ip6 client6 > vip6 / hop / dest units=2 / tcp 4000 > 80 A / data 30",
        "vlan 5 / ip client > vip / tcp 4000 > 80 A",
        "vlan 5 type=0x88a8 / vlan 6 / ip6 client6 > vip6 / tcp 4000 > 80 A",
    ] {
        assert_eq!(answers(&mut director, &frame(packet)).len(), 1, "{packet}");
    }
    assert_eq!(director.counts(0).resets, 5);
    assert_eq!(director.dropped(0, DropReason::UnknownFlow), 5, "answered or not, it is dropped");
}

#[test]
fn who_cannot_have_meant_it_is_not_answered() {
    let mut director = director();
    for packet in [
        "ip client > vip / tcp 4000 > 80 R",
        "ip client > vip / tcp 4000 > 80 RA",
        "ip vip > vip / tcp 80 > 80 A",
        "ip 224.0.0.1 > vip / tcp 4000 > 80 A",
        "ip 255.255.255.255 > vip / tcp 4000 > 80 A",
        "ip 0.0.0.0 > vip / tcp 4000 > 80 A",
        "ip 127.0.0.1 > vip / tcp 4000 > 80 A",
        "ip6 :: > vip6 / tcp 4000 > 80 A",
        "ip6 ::1 > vip6 / tcp 4000 > 80 A",
        "ip6 ff02::1 > vip6 / tcp 4000 > 80 A",
        // Of other reasons to drop.
        "ip client > vip / tcp 4000 > 83 S",
        "ip client > vip / tcp 4000 > 8080 A",
        "ip client > vip more / tcp 4000 > 80 A",
    ] {
        assert_eq!(answers(&mut director, &frame(packet)).len(), 0, "{packet}");
    }
    let mut from_a_group = tcp_of(1, "A");
    from_a_group[6] |= 1;
    assert_eq!(answers(&mut director, &from_a_group).len(), 0);
    assert_eq!(answers(&mut director, &icmp_of(1)).len(), 0);
    assert_eq!(director.counts(0).resets, 0);
}

#[test]
fn settings_decide() {
    let mut director = director();
    for (unknown_flow, expected) in
        [(UnknownFlow::Drop, 0), (UnknownFlow::Reset, 1), (UnknownFlow::Schedule, 0)]
    {
        director.set(Settings { unknown_flow, ..Settings::default() });
        let packet = tcp_of(1, "A");
        assert_eq!(director.burst_and_answers(0, &[&packet]).1.len(), expected);
    }
    assert_eq!(director.counts(0).forwarded, 1, "what was scheduled");
}

#[test]
fn clients_of_an_expired_server_hear_of_it() {
    let mut director = director();
    let syn = frame("ip client > vip / tcp 4000 > 80 S");
    assert_eq!(director.send(0, &syn), Verdict::Forwarded(mac_of(1)));
    director.plan.member(ServerIndex(0)).state = ServerState::Expired;
    // In one turn with the packet, before the sweep comes by.
    let update = Update { table: Some(director.plan.table().into()), ..Update::default() };
    assert!(director.handles[0].mailbox.send(Box::new(update)).is_ok());
    let next = frame("ip client > vip / tcp 4000 > 80 A");
    for reason in [DropReason::ServerExpired, DropReason::UnknownFlow] {
        assert_eq!(answers(&mut director, &next).len(), 1);
        assert_eq!(director.dropped(0, reason), 1);
    }
}

#[test]
fn answers_follow_the_packets_of_flows() {
    let mut director = director();
    let packets: Vec<Vec<u8>> = (0..BURST_MAX as u32)
        .map(|number| match number % 4 {
            0 => tcp_of(number, "S"),
            1 => tcp_of(number, "A"),
            2 => udp_of(number),
            _ => tcp_of(number, "R"),
        })
        .collect();
    let packets: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
    let (sent, answers) = director.burst_and_answers(0, &packets);
    assert_eq!((sent.len(), answers.len()), (BURST_MAX / 2, BURST_MAX / 4));
}

#[test]
fn there_are_only_so_many() {
    let mut director = director();
    for number in 0..1_200 {
        director.burst(0, &[&tcp_of(number, "A")]);
    }
    assert_eq!(director.counts(0).resets, 1_000);
    director.now += 2;
    for number in 0..1_200 {
        director.burst(0, &[&tcp_of(number, "A")]);
    }
    assert_eq!(director.counts(0).resets, 1_020);
    assert_eq!(director.dropped(0, DropReason::UnknownFlow), 2_400);
}

#[test]
fn a_full_tx_ring_loses_answers_and_no_frames() {
    let mut director = director();
    director.workers[0].port_mut().limit_tx_ring(3);
    let packets: Vec<Vec<u8>> = (0..8).map(|number| tcp_of(number, "A")).collect();
    let packets: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
    let (sent, answers) = director.burst_and_answers(0, &packets);
    assert_eq!((sent.len(), answers.len()), (0, 3));
    assert_eq!(director.dropped(0, DropReason::UnknownFlow), 8);
    assert_eq!(director.dropped(0, DropReason::TxRingFull), 0, "each is dropped once");
}
