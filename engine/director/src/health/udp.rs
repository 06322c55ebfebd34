//! `udp`: does the server answer a datagram, or at least not say that nobody listens?

use super::doing::Doing;
use super::kinds::UdpCheck;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Bytes of an answer that are looked at.
const ANSWER_MAX: usize = 4_096;

/// A socket that hears this server alone, ICMP errors included.
pub(super) async fn connect(address: SocketAddr, doing: &Doing) -> Result<UdpSocket, String> {
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await.map_err(|error| doing.io(&error))?;
    socket.connect(address).await.map_err(|error| doing.io(&error))?;
    Ok(socket)
}

/// Sends a datagram, and judges the first that comes back.
pub(super) async fn check(
    address: SocketAddr,
    udp: &UdpCheck,
    doing: &Doing,
) -> Result<(), String> {
    doing.now(format!("datagram to {address}"));
    let socket = connect(address, doing).await?;
    socket.send(udp.send.as_bytes()).await.map_err(|error| doing.io(&error))?;
    let mut buffer = [0; ANSWER_MAX];
    let answer = socket.recv(&mut buffer);
    let answer = match &udp.expect {
        Some(_) => answer.await,
        None => match timeout(udp.silence, answer).await {
            Ok(answer) => answer,
            Err(_) => return Ok(()),
        },
    };
    let length = answer.map_err(|error| doing.io(&error))?;
    match &udp.expect {
        Some(pattern) if !pattern.is_match(&buffer[..length]) => {
            Err(doing.failed(format!("the answer does not match {pattern}")))
        }
        _ => Ok(()),
    }
}
