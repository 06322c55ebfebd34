//! The real servers' health: what is asked of each, and what follows from the answers.

pub mod dr;
mod dr_packet;
pub mod kinds;
