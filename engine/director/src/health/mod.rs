//! The real servers' health: what is asked of each, and what follows from the answers.

mod command;
mod dns;
pub(crate) mod doing;
pub mod dr;
mod dr_packet;
mod http;
pub mod kinds;
mod tcp;
mod tls;
mod udp;

#[cfg(test)]
mod tests;
