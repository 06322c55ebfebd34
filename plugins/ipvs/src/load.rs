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
    // Twice the active ones are less than the weight, which is below 2^16.
    let is_idle = |other: &Server| other.active < (other.weight + 1) >> 1;
    if server.active <= server.weight {
        return false;
    }
    // The engine counts fuel at each turn of a loop: with few, long turns that is cheap.
    let (eights, rest) = servers.as_chunks::<8>();
    eights.iter().any(|eight| eight.iter().fold(false, |any, other| any | is_idle(other)))
        || rest.iter().any(is_idle)
}
