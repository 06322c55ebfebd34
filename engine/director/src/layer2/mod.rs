//! What is said on the link about who has an address: ARP (RFC 826, 5227) and neighbor discovery
//! (RFC 4861, 4862).

pub mod frames;
pub mod who_has;

use std::io;
use std::net::IpAddr;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use xsk::PacketSocket;

/// What it is asked by who has an address, as sentences call it.
pub fn question(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ARP" } else { "neighbor solicitations" }
}

/// A socket whose frames can be awaited.
// What the compiler is told to overlook is that a type may give away another descriptor each time
// it is asked, or close it early. A packet socket owns the one that it has.
#[allow(deprecated)]
pub fn awaited(socket: PacketSocket) -> io::Result<AsyncFd<PacketSocket>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}
