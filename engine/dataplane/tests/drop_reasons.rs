//! Every reason to drop is raised by a packet.

use dataplane::{DropReason, ServerState};
use frames::{Director, Plan, Verdict, frame, mac_of};

/// Brings a director into the state in which the packet returned is dropped for `reason`.
fn provoke(director: &mut Director, reason: DropReason) -> Vec<u8> {
    let syn = frame("ip client > vip / tcp 4000 > 80 S");
    let ack = frame("ip client > vip / tcp 4000 > 80 A");
    let web = director.plan.at_port(80);
    let first = director.plan.service(web).members[0].as_ref().unwrap().index;
    match reason {
        DropReason::Malformed => syn[..53].to_vec(),
        DropReason::UnknownProtocol => frame("eth type=0x0806 / data 28"),
        DropReason::Fragment => frame("ip client > vip more / udp 4000 > 53"),
        DropReason::NoService => frame("ip client > vip / tcp 4000 > 8080 S"),
        DropReason::ServiceRemoved => frame("ip client > vip / tcp 4000 > 84 S"),
        DropReason::UnknownFlow => ack,
        DropReason::UnknownIcmp => {
            frame("ip router > vip / icmp 3 4 / ip vip > client / tcp 80 > 4000 A")
        }
        DropReason::NoServer => frame("ip client > vip / tcp 4000 > 83 S"),
        DropReason::ServerExpired => {
            assert_eq!(director.send(0, &syn), Verdict::Forwarded(mac_of(1)));
            director.plan.member(first).state = ServerState::Expired;
            // In one turn with the packet, before the sweep comes by.
            let update = dataplane::Update {
                table: Some(director.plan.table().into()),
                ..dataplane::Update::default()
            };
            assert!(director.handles[0].mailbox.send(Box::new(update)).is_ok());
            ack
        }
        DropReason::NoNeighbor => {
            assert_eq!(director.send(0, &syn), Verdict::Forwarded(mac_of(1)));
            director.plan.member(first).neighbor = None;
            director.publish();
            ack
        }
        DropReason::OtherVlan => frame("vlan 6 / ip client > vip / tcp 4000 > 80 S"),
        DropReason::TxRingFull => {
            director.workers[0].port_mut().limit_tx_ring(0);
            syn
        }
    }
}

#[test]
fn every_reason_is_raised_by_a_packet_and_counted_once() {
    for reason in DropReason::ALL {
        let mut director = Director::new(Plan::standard());
        let packet = provoke(&mut director, reason);
        let before = director.counts(0).dropped;
        assert_eq!(director.send(0, &packet), Verdict::Dropped(reason));
        let mut expected = before;
        expected[reason as usize] += 1;
        assert_eq!(director.counts(0).dropped, expected, "{}", reason.name());
    }
}

#[test]
fn labels_are_told_apart() {
    let mut names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), DropReason::ALL.len());
    for (position, reason) in DropReason::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, position, "the order of the counters");
    }
}
