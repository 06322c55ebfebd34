//! The real servers' health: what is asked of each, and what follows from the answers.

pub mod kinds;
