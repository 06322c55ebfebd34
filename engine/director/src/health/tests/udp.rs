use super::{IMPATIENCE, PATIENCE, ask, ask_within, target};
use crate::health::kinds::{CheckKind, Pattern, UdpCheck};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;

fn udp(send: &str, expect: Option<&str>, silence: Duration) -> CheckKind {
    let expect = expect.map(|pattern| Pattern::new(pattern).unwrap());
    CheckKind::Udp(UdpCheck { send: send.to_owned(), expect, silence })
}

async fn bound() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Answers one datagram, and says what it held.
async fn answer(socket: &UdpSocket, with: &[u8]) -> Vec<u8> {
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
    socket.send_to(with, from).await.unwrap();
    buffer[..length].to_vec()
}

#[tokio::test]
async fn silence_is_well_and_takes_its_time() {
    let (_silent, address) = bound().await;
    let begin = Instant::now();
    assert_eq!(ask(udp("", None, IMPATIENCE), address).await, Ok(()));
    assert!(begin.elapsed() >= IMPATIENCE);
}

#[tokio::test]
async fn a_closed_port_refuses_whatever_is_expected() {
    let (socket, address) = bound().await;
    drop(socket);
    for expect in [None, Some("")] {
        let error = ask(udp("?", expect, PATIENCE), address).await.unwrap_err();
        assert_eq!(error, format!("datagram to {address}: refused"));
    }
}

#[tokio::test]
async fn an_answer_ends_the_wait_and_must_match_what_is_expected() {
    let wrong = "the answer does not match /^pong [0-9]+$/";
    for (expect, with, result) in [
        (None, "anything", Ok(())),
        (Some("^pong [0-9]+$"), "pong 17", Ok(())),
        (Some("^pong [0-9]+$"), "pong", Err(wrong)),
        (Some("^pong [0-9]+$"), "", Err(wrong)),
    ] {
        let (socket, address) = bound().await;
        let (found, heard) = tokio::join!(
            ask(udp("ping", expect, PATIENCE), address),
            answer(&socket, with.as_bytes())
        );
        let result = result.map_err(|error| format!("datagram to {address}: {error}"));
        assert_eq!((found, heard.as_slice()), (result, &b"ping"[..]), "{with}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_can_be_expected() {
    let (socket, address) = bound().await;
    let check = udp("?", Some(r"^\xff\x00.$"), PATIENCE);
    let (found, _) = tokio::join!(ask(check, address), answer(&socket, &[0xff, 0, 7]));
    assert_eq!(found, Ok(()));
}

#[tokio::test]
async fn an_expected_answer_that_does_not_come_is_late() {
    let (_silent, address) = bound().await;
    let check = udp("?", Some("x"), PATIENCE);
    let error = ask_within(IMPATIENCE, check, &target(address)).await.unwrap_err();
    assert_eq!(error, format!("datagram to {address}: no answer within 1 s"));
}

#[tokio::test]
async fn another_ones_datagram_is_no_answer() {
    let (socket, address) = bound().await;
    let (stranger, _) = bound().await;
    let target = target(address);
    let check = ask_within(IMPATIENCE, udp("?", Some("x"), PATIENCE), &target);
    let forge = async {
        let mut buffer = [0; 16];
        let (_, from) = socket.recv_from(&mut buffer).await.unwrap();
        stranger.send_to(b"x", from).await.unwrap();
    };
    let (found, ()) = tokio::join!(check, forge);
    assert!(found.unwrap_err().contains("no answer"));
}
