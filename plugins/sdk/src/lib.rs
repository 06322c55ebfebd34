//! What the author of a shunt scheduler plugin depends on.
//!
//! Implement [`Scheduler`], name the type in [`export!`], and build a `cdylib` for
//! `wasm32-unknown-unknown`. Natively the same crate is an ordinary library, which [`testing`]
//! plays servers and flows to.
//! plugins/README.md shows a whole plugin.

#![cfg_attr(target_arch = "wasm32", no_std)]

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod export;
mod servers;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

pub use servers::Servers;
#[doc(hidden)]
pub use shunt_abi as abi;
pub use shunt_abi::{Flow, Server};

/// Where an instance works. One instance serves one virtual service on one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// Number of the worker, from 0. Workers that begin at different servers do not all send
    /// their first flow to the same one.
    pub worker: usize,
    /// Workers that serve the same virtual service.
    pub workers: usize,
    /// What random choices begin with. Two instances never get the same.
    pub seed: u64,
}

/// What the host keeps current for a scheduler. Less is faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// [`Server::active`], [`Server::inactive`] and [`Servers::least_connections`].
    pub load: bool,
    /// The [`Flow`]. Otherwise all of its fields are 0.
    pub flow: bool,
}

impl Needs {
    /// Addresses and weights.
    pub const NOTHING: Needs = Needs { load: false, flow: false };
    /// The servers' connections, too.
    pub const LOAD: Needs = Needs { load: true, flow: false };
    /// The flow, too.
    pub const FLOW: Needs = Needs { load: false, flow: true };
}

/// A scheduler.
pub trait Scheduler: Sized {
    /// What it looks at besides addresses and weights.
    const NEEDS: Needs = Needs::NOTHING;

    /// A scheduler that has seen nothing yet.
    fn new(placement: Placement) -> Self;

    /// The servers or their weights are now these. Called before the first `choose` and after
    /// every change. Its time is the packets' time: it runs on the worker.
    fn servers_changed(&mut self, servers: Servers<'_>) {
        let _ = servers;
    }

    /// The slot of the server that `flow` goes to. `None`, a slot that does not exist and one
    /// that takes no new flows are failures: the flow gets the native fallback.
    fn choose(&mut self, servers: Servers<'_>, flow: &Flow) -> Option<usize>;
}

/// Makes the crate a plugin whose scheduler is the given type. Does nothing but on wasm32.
///
/// The plugin's version is the crate's. A crate with `#![no_std]` gets its panic handler from
/// here; one that uses the standard library says `shunt_sdk::export!(MyScheduler, std)`.
#[macro_export]
macro_rules! export {
    ($scheduler:ty) => {
        $crate::export!($scheduler, std);

        #[cfg(target_arch = "wasm32")]
        #[panic_handler]
        fn panic(_: &::core::panic::PanicInfo<'_>) -> ! {
            ::core::arch::wasm32::unreachable()
        }
    };
    ($scheduler:ty, std) => {
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = {
            // The bound is checked natively, too.
            const fn is_scheduler<S: $crate::Scheduler>() {}
            is_scheduler::<$scheduler>();
        };

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::export::{Plugin, bytes};

            const VERSION: &str = ::core::env!("CARGO_PKG_VERSION");

            // SAFETY: a custom section of this name holds nothing but these bytes, and nothing
            // reads it at run time.
            #[unsafe(link_section = "shunt.version")]
            static VERSION_SECTION: [u8; VERSION.len()] = bytes(VERSION);

            static PLUGIN: Plugin<$scheduler> = Plugin::new();

            // SAFETY: the host is the only caller of the exports below, from one thread at a
            // time, and none of them calls another: no two run at once, as `Plugin` demands.
            // Their names are the contract's, and occur nowhere else.
            #[unsafe(no_mangle)]
            extern "C" fn shunt_abi_version() -> i32 {
                $crate::abi::ABI_VERSION as i32
            }

            // SAFETY: as above.
            #[unsafe(no_mangle)]
            extern "C" fn shunt_init(worker: i32, workers: i32, seed: i64) -> i32 {
                // SAFETY: as above.
                unsafe { PLUGIN.init(worker, workers, seed) }
            }

            // SAFETY: as above.
            #[unsafe(no_mangle)]
            extern "C" fn shunt_update() {
                // SAFETY: as above.
                unsafe { PLUGIN.update() }
            }

            // SAFETY: as above.
            #[unsafe(no_mangle)]
            extern "C" fn shunt_schedule() -> i32 {
                // SAFETY: as above.
                unsafe { PLUGIN.schedule() }
            }
        };
    };
}
