//! Loads as `lblc` and `lblcr` compare them.

use shunt_sdk::Server;

/// What is compared: the server's connections over its weight, which is above 0. The kernel
/// multiplies crosswise; so exact a quotient orders all but loads that differ by less than 2^-52.
#[inline]
pub fn load(server: &Server) -> f64 {
    server.overhead() as f64 / f64::from(server.weight)
}

/// Whether a server has more active connections than its weight while another has fewer than half
/// of its own weight (`is_overloaded` in ip_vs_lblc.c).
#[inline]
pub fn is_overloaded(server: &Server, servers: &[Server]) -> bool {
    let is_idle = |other: &Server| u64::from(other.active) * 2 < u64::from(other.weight);
    server.active > server.weight && servers.iter().any(is_idle)
}
