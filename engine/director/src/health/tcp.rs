//! `tcp`: does the server take a connection?

use super::doing::Doing;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// Connects.
pub(super) async fn connect(address: SocketAddr, doing: &Doing) -> Result<TcpStream, String> {
    doing.now(format!("connect to {address}"));
    TcpStream::connect(address).await.map_err(|error| doing.io(&error))
}

/// Connects, and closes as any client does that has nothing more to say: the server's program sees
/// the end of its input, not an error, and since the director closes first, it is the director
/// that keeps the connection in TIME_WAIT (RFC 9293, 3.6.1), one for each check of a minute.
pub(super) async fn check(address: SocketAddr, doing: &Doing) -> Result<(), String> {
    connect(address, doing).await.map(drop)
}
