//! A packet socket between the two ends of a veth pair.

use crate::pair::{FAR_MAC, NEAR, NEAR_MAC, PATIENCE, Pair};
use lab::wait_until;
use std::io::ErrorKind;
use xsk::{FilterStep, PacketSocket};

/// An EtherType for experiments (IEEE 802, local experimental).
const PROTOCOL: u16 = 0x88b5;
/// BPF_LD | BPF_B | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K and BPF_RET | BPF_K.
const LOAD: u16 = 0x30;
const EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

fn frame(destination: [u8; 6], source: [u8; 6], protocol: u16, content: u8) -> Vec<u8> {
    let mut frame = [&destination[..], &source, &protocol.to_be_bytes()].concat();
    frame.extend([content; 46]);
    frame
}

#[test]
fn frames_come_and_go_and_the_filter_holds() {
    let pair = Pair::new("packets", 1);
    let index = pair.near.run(|| nix::net::if_::if_nametoindex(NEAR)).unwrap().unwrap();
    let step = |code, yes, no, value| FilterStep { code, yes, no, value };
    let only_sevens = [
        step(LOAD, 0, 0, 14),
        step(EQUAL, 0, 1, 7),
        step(RETURN, 0, 0, u32::MAX),
        step(RETURN, 0, 0, 0),
    ];
    let socket = pair.near.run(|| PacketSocket::open(index, PROTOCOL, &only_sevens)).unwrap();
    let socket = socket.unwrap();
    let mut buffer = [0; 2048];
    let nothing = socket.receive(&mut buffer).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);

    let wire = pair.wire();
    let ours = frame(FAR_MAC, NEAR_MAC, PROTOCOL, 7);
    socket.send(&ours).unwrap();
    let seen = wire.receive_such(PATIENCE, |frame| frame.bytes == ours).unwrap();
    assert!(seen.is_some_and(|frame| !frame.outgoing));

    for (protocol, content) in [(PROTOCOL, 1), (PROTOCOL + 1, 7), (PROTOCOL, 7)] {
        wire.send(&frame(NEAR_MAC, FAR_MAC, protocol, content)).unwrap();
    }
    let mut received = Vec::new();
    wait_until(PATIENCE, "a frame has come", || {
        received.extend(socket.receive(&mut buffer).ok().map(|length| buffer[..length].to_vec()));
        !received.is_empty()
    })
    .unwrap();
    // The last one sent is the only one that is let through, and what was sent is not heard.
    assert_eq!(received, [frame(NEAR_MAC, FAR_MAC, PROTOCOL, 7)]);
    assert_eq!(socket.receive(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
}
