//! The program `shunt`: command line, config, control of the workers, API, metrics, neighbors.
//!
//! ```text
//! main ── cli ── commands ── client ───────────┐ Unix socket, TCP
//!          ├──── doctor, rs                           what is wrong here, and on a real server
//!          └──── run ─┬─ api ◀── api_access ───┘
//!                     ├─ supervisor ─┬─ services, reload, config     what should be done
//!                     │              ├─ neighbors ◀─ netlink, links  where it is on the wire
//!                     │              ├─ health ◀─ health::run        who answers its checks
//!                     │              ├─ vips ◀─ vip_care, layer2     who has the VIPs
//!                     │              ├─ plugins, plugin_store        what can schedule
//!                     │              ├─ plugin_acts, plugin_watch    uploads, rollbacks, failures
//!                     │              ├─ tables ─────────────────────▶ the workers
//!                     │              └─ schedulers ─────────────────▶ the workers
//!                     ├─ worker_thread, cores                        the workers
//!                     └─ exposition, metrics                         what they counted
//! ```
//!
//! A library so that tests can run the very functions that the program runs.

pub mod addresses;
pub mod apart;
pub mod api;
pub mod api_access;
pub mod api_address;
pub mod cli;
pub mod client;
pub mod clock;
pub mod commands;
pub mod config;
pub mod config_api;
mod config_check;
mod config_health;
pub mod config_plugins;
mod config_policy;
#[cfg(test)]
mod config_tests;
pub mod config_text;
pub mod cores;
pub mod demo;
pub mod doctor;
pub mod doctor_cli;
pub mod dumps;
pub mod durations;
pub mod events;
pub mod exposition;
pub mod from_vip;
pub mod health;
pub mod layer2;
pub mod links;
pub mod listen;
pub mod listing;
pub mod log;
pub mod mac;
pub mod metrics;
mod neighbor_entry;
pub mod neighbor_events;
pub mod neighbors;
pub mod netlink;
pub mod netlink_read;
pub mod plugin_acts;
mod plugin_api;
pub mod plugin_cli;
pub mod plugin_commands;
pub mod plugin_listing;
pub mod plugin_report;
pub mod plugin_store;
pub mod plugin_views;
pub mod plugin_watch;
pub mod plugins;
pub mod reload;
pub mod rs;
pub mod rs_cli;
pub mod run;
pub mod scheduler_name;
pub mod schedulers;
pub mod seats;
pub mod secret_files;
pub mod service_name;
pub mod services;
mod services_error;
pub mod signatures;
pub mod supervisor;
pub mod tables;
pub mod tasks;
pub mod views;
pub mod vip_care;
pub mod vip_claims;
pub mod vip_ground;
pub mod vips;
mod watched;
pub mod worker_thread;
