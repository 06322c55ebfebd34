//! The program `shunt`: command line, config, control of the workers, API, metrics, neighbors.
//!
//! A library so that tests can run the very functions that the program runs.

pub mod config;
mod config_check;
#[cfg(test)]
mod config_tests;
pub mod neighbors;
pub mod service_name;
pub mod services;
pub mod tables;
