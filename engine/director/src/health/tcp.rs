//! `tcp`: does the server take a connection?

use super::doing::Doing;
use super::kinds::{CheckError, Target};
use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpSocket, TcpStream};

/// Connects.
pub(super) async fn connect(target: &Target, doing: &Doing) -> Result<TcpStream, CheckError> {
    let address = target.address();
    doing.now(format!("connect to {address}"));
    let connected = match target.source {
        Some(source) => connect_from(SocketAddr::new(source, 0), address).await,
        None => TcpStream::connect(address).await,
    };
    connected.map_err(|error| doing.io(&error))
}

async fn connect_from(source: SocketAddr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Else each connection in TIME_WAIT, towards whomever, would keep its port from all others.
    socket.set_reuseaddr(true)?;
    socket.bind(source)?;
    socket.connect(address).await
}

/// Connects, and closes as any client does that has nothing more to say: the server's program sees
/// the end of its input, not an error, and since the director closes first, it is the director
/// that keeps the connection in TIME_WAIT (RFC 9293, 3.6.1), one for each check of a minute.
pub(super) async fn check(target: &Target, doing: &Doing) -> Result<(), CheckError> {
    connect(target, doing).await.map(drop)
}
