//! Loads, checks, instantiates and calls scheduler plugins.
//!
//! ```text
//! PluginHost ── load / stock ──▶ Plugin ── instantiate ──▶ Prepared { instance, latency, log }
//!                (control thread)           (control thread)      └── moves to a worker
//! ```
//!
//! Everything that compiles, maps memory or frees happens on the control thread; a worker only
//! calls, through [`dataplane::Scheduler`]. A call that returns allocates nothing. One that does
//! not (a trap, or the end of its fuel) allocates the engine's error, 72 bytes in two pieces, and
//! frees it at once: the engine has no other way to say so. It happens once in the life of an
//! instance, which is not asked again. The contract with the plugin is ABI
//! version 1, described in plugins/ABI.md.

#![forbid(unsafe_code)]

mod check;
mod compile;
mod dump;
mod error;
mod host;
mod imports;
mod limits;
mod log;
mod pages;
mod params;
mod plugin;
mod probe;
mod random;
mod replay;
mod room;
mod running;
mod table;
mod wasm_scheduler;

pub use check::wasm_of;
#[doc(no_inline)]
pub use dataplane::{Latency, LatencyCounts};
pub use dump::{Dump, DumpedCall, DumpedFlow, DumpedMemory, DumpedPage, DumpedServer};
pub use error::{Error, Refusal};
pub use host::{PluginHost, STOCK, prepare_worker_thread};
pub use limits::Limits;
pub use log::{Log, LogLine};
pub use params::Params;
pub use plugin::{About, Placement, Plugin, Prepared, digest};
pub use probe::{fuel_left, memory_of};
pub use replay::{Found, Method, Replay};
pub use shunt_abi::ABI_VERSION;
