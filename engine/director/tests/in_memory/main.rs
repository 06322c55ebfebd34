//! The control plane with everything but the kernel: config, supervisor, workers, plugins, API,
//! commands and metrics.

mod access;
mod api;
mod changes;
mod commands;
mod health;
mod metrics;
mod plugin_commands;
mod plugin_troubles;
mod plugins;
mod raised;
mod worker_threads;
mod world;
