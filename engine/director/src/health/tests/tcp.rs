use super::{IMPATIENCE, PATIENCE, ask, ask_within, judge_within, target};
use crate::health::kinds::{CheckError, CheckKind, Target};
use nix::sys::socket::{Backlog, listen as set_backlog};
use std::net::SocketAddr;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn a_listener_is_well_and_sees_an_ordinary_end() {
    let (listener, address) = listen().await;
    let (result, accepted) = tokio::join!(ask(CheckKind::Tcp, address), listener.accept());
    assert_eq!(result, Ok(()));
    let mut input = Vec::new();
    // A reset would be an error.
    assert_eq!(accepted.unwrap().0.read_to_end(&mut input).await.unwrap(), 0);
}

#[tokio::test]
async fn by_ipv6_too() {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    assert_eq!(ask(CheckKind::Tcp, listener.local_addr().unwrap()).await, Ok(()));
}

#[tokio::test]
async fn it_comes_from_the_address_that_it_is_to_come_from() {
    let (listener, address) = listen().await;
    let source = Some([127, 0, 0, 2].into());
    let target = Target { source, ..target(address) };
    // Ports in TIME_WAIT are no hindrance.
    for _ in 0..3 {
        let (result, accepted) =
            tokio::join!(ask_within(PATIENCE, CheckKind::Tcp, &target), listener.accept());
        assert_eq!(result, Ok(()));
        assert_eq!(Some(accepted.unwrap().1.ip()), source);
    }
    let strange = Target { source: Some([192, 0, 2, 1].into()), ..target };
    let error = judge_within(PATIENCE, CheckKind::Tcp, &strange).await.unwrap_err();
    let said = format!("connect to {address}: Cannot assign requested address");
    assert_eq!(error, CheckError::Unable(said), "no fault of the server");
}

#[tokio::test]
async fn a_closed_port_refuses() {
    let (listener, address) = listen().await;
    drop(listener);
    let error = ask(CheckKind::Tcp, address).await.unwrap_err();
    assert_eq!(error, format!("connect to {address}: refused"));
}

#[tokio::test]
async fn a_listener_that_accepts_nobody_is_late() {
    let (listener, address) = listen().await;
    // One connection waits for accept(2); the SYNs of others are dropped.
    set_backlog(&listener, Backlog::new(0).unwrap()).unwrap();
    let _waiting = TcpStream::connect(address).await.unwrap();
    let error = ask_within(IMPATIENCE, CheckKind::Tcp, &target(address)).await.unwrap_err();
    assert_eq!(error, format!("connect to {address}: no answer within 1 s"));
}
