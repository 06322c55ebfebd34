//! `udp`: does the server answer a datagram, or at least not say that nobody listens?

use super::doing::Doing;
use super::kinds::{CheckError, Target, UdpCheck};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Bytes of an answer that are looked at.
const ANSWER_MAX: usize = 4_096;

/// A socket that hears this server alone, ICMP errors included.
pub(super) async fn connect(target: &Target, doing: &Doing) -> Result<UdpSocket, CheckError> {
    let any: IpAddr = match target.server {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = target.source.unwrap_or(any);
    let socket = UdpSocket::bind((source, 0)).await.map_err(|error| doing.io(&error))?;
    socket.connect(target.address()).await.map_err(|error| doing.io(&error))?;
    Ok(socket)
}

/// Sends a datagram, and judges the first that comes back.
pub(super) async fn check(
    target: &Target,
    udp: &UdpCheck,
    doing: &Doing,
) -> Result<(), CheckError> {
    doing.now(format!("datagram to {}", target.address()));
    let socket = connect(target, doing).await?;
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
