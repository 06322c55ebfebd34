//! Network namespaces, links and small servers for shunt's demo and whole-program tests.
//!
//! Everything is made inside namespaces of its own, never on the host's interfaces, and is removed
//! when its value is dropped, when a signal ends the process, or, had the process no chance, by
//! the next [`sweep_leftovers`]. Nothing but the command `ip` of iproute2 is needed, and `mount` where
//! a machine has files of its own.

mod cleanup;
mod command;
mod content;
mod director;
mod error;
mod http_client;
mod http_server;
mod huge_pages;
mod lock;
mod netns;
mod offload;
mod own_files;
mod process;
mod symlink;
mod temp_dir;
mod topology;
mod udp_echo;
mod wait;
mod wire;

pub use cleanup::{catch_signals, interrupted, sleep_if_interrupted};
pub use command::{line, run, run_with_input};
pub use content::Content;
pub use director::{Config, Director, METRICS, VirtualService};
pub use error::{Doing, Error, Result};
pub use http_client::{Answer, HttpClient, get_once, get_once_here};
pub use http_server::HttpServer;
pub use huge_pages::HugePages;
pub use lock::{LOCK_FILE, MachineLock};
pub use netns::{Netns, require_root, sweep_leftovers};
pub use own_files::OwnFiles;
pub use process::Process;
pub use symlink::Symlink;
pub use temp_dir::TempDir;
pub use topology::{
    Family, NIC, Plan, ROUTER_INSIDE, ROUTER_OUTSIDE, Topology, client_address, director_address,
    director_mac, mac_text, real_server_address, real_server_mac, router_address, router_mac, vip,
};
pub use udp_echo::{UdpClient, UdpEcho};
pub use wait::{wait_for, wait_until};
pub use wire::{Capture, SeenFrame, Wire};
