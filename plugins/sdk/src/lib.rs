//! What the author of a shunt scheduler plugin depends on.
//!
//! Implement [`Scheduler`], name the type in [`export!`], and build a `cdylib` for
//! `wasm32-unknown-unknown`. Natively the same crate is an ordinary library, which [`testing`]
//! plays servers and flows to.
//! plugins/README.md shows a whole plugin.

#![cfg_attr(target_arch = "wasm32", no_std)]

mod costs;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod export;
mod imports;
mod line;
mod params;
mod servers;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

#[doc(hidden)]
pub use imports::write_log;
pub use imports::{now_ms, random};
pub use params::{ParamError, Params};
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

/// What is kept current for a scheduler. Less is faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// [`Server::active`], [`Server::inactive`] and [`Servers::least_connections`].
    pub load: bool,
    /// [`Server::active`], [`Server::inactive`] and [`Servers::least_cost`].
    pub cost: bool,
    /// The [`Flow`]. Otherwise all of its fields are 0.
    pub flow: bool,
}

impl Needs {
    /// Addresses and weights.
    pub const NOTHING: Needs = Needs { load: false, cost: false, flow: false };
    /// The servers' connections, too, and which has the least.
    pub const LOAD: Needs = Needs { load: true, ..Needs::NOTHING };
    /// The servers' connections, too, and which costs least.
    pub const COST: Needs = Needs { cost: true, ..Needs::NOTHING };
    /// The flow, too.
    pub const FLOW: Needs = Needs { flow: true, ..Needs::NOTHING };

    /// Both: `Needs::LOAD.and(Needs::FLOW)`.
    pub const fn and(self, other: Needs) -> Needs {
        Needs {
            load: self.load || other.load,
            cost: self.cost || other.cost,
            flow: self.flow || other.flow,
        }
    }
}

/// A scheduler.
///
/// `new`, `configure` and the first `servers_changed` run on the control thread, the rest on the
/// worker: its time is the packets' time.
pub trait Scheduler: Sized {
    /// What it looks at besides addresses and weights.
    const NEEDS: Needs = Needs::NOTHING;

    /// Whether it takes parameters. If not, a service that gives it some is refused.
    const PARAMS: bool = false;

    /// The version of what [`save`](Scheduler::save) writes. 0: it hands nothing over.
    const STATE_VERSION: u32 = 0;

    /// The most bytes that [`save`](Scheduler::save) writes. A director refuses plugins that want
    /// more than its limit `state`, which is 4096 with four bytes for the version.
    const STATE_BYTES: usize = 4092;

    /// A scheduler that has seen nothing yet.
    fn new(placement: Placement) -> Self;

    /// The parameters of the service. Called once after `new`, if there are any. When they change,
    /// there is a new instance.
    ///
    /// # Errors
    /// The service is refused with this sentence.
    #[allow(clippy::result_large_err)] // without an allocator, a sentence is where it is
    fn configure(&mut self, params: Params<'_>) -> Result<(), ParamError> {
        params.only(&[])
    }

    /// The servers or their weights are now these. Called before the first `choose` and after
    /// every change.
    fn servers_changed(&mut self, servers: Servers<'_>) {
        let _ = servers;
    }

    /// What the next flow would cost on this server: [`Servers::least_cost`] finds the least. By
    /// default what IPVS's `lc` compares, active × 256 + inactive connections.
    ///
    /// Called for servers that take new flows, when their connections have changed, and for all
    /// after `servers_changed` and `restore`: it must follow from the server and from what
    /// `configure`, `servers_changed` and `restore` have left in `self`. A server of infinite cost
    /// is not chosen, and neither is one whose cost is no number (NaN).
    fn cost(&self, server: &Server) -> f64 {
        // Below 2^53, so that the conversion is exact.
        server.overhead() as f64
    }

    /// The slot of the server that `flow` goes to. `None` declines: the flow gets the native
    /// fallback. So it does after a slot that does not exist or takes no new flows, which are
    /// failures.
    fn choose(&mut self, servers: Servers<'_>, flow: &Flow) -> Option<usize>;

    /// Writes what the instance that replaces this one should know, and returns how many bytes
    /// these are; 0 if there is nothing.
    fn save(&self, state: &mut [u8]) -> usize {
        let _ = state;
        0
    }

    /// Takes over what an instance of a former version of the plugin, or of this one, has saved with
    /// its [`STATE_VERSION`](Scheduler::STATE_VERSION). Called after `servers_changed` and before
    /// the first `choose`, if there is anything. `false` if it cannot: then `self` must be as
    /// before.
    fn restore(&mut self, servers: Servers<'_>, version: u32, state: &[u8]) -> bool {
        let _ = (servers, version, state);
        false
    }
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
            use $crate::export::{Plugin, bytes, room};

            const VERSION: &str = ::core::env!("CARGO_PKG_VERSION");

            // SAFETY: a custom section of this name holds nothing but these bytes, and nothing
            // reads it at run time.
            #[unsafe(link_section = "shunt.version")]
            static VERSION_SECTION: [u8; VERSION.len()] = bytes(VERSION);

            static PLUGIN: Plugin<
                $scheduler,
                { room::keys::<$scheduler>() },
                { room::costs::<$scheduler>() },
                { room::params::<$scheduler>() },
                { room::state::<$scheduler>() },
            > = Plugin::new();

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

            // SAFETY: as above.
            #[unsafe(no_mangle)]
            extern "C" fn shunt_configure(length: i32) -> i32 {
                // SAFETY: as above.
                unsafe { PLUGIN.configure(length) }
            }

            // SAFETY: as above.
            #[unsafe(no_mangle)]
            extern "C" fn shunt_save() -> i32 {
                // SAFETY: as above.
                unsafe { PLUGIN.save() }
            }

            // SAFETY: as above.
            #[unsafe(no_mangle)]
            extern "C" fn shunt_restore(length: i32) -> i32 {
                // SAFETY: as above.
                unsafe { PLUGIN.restore(length) }
            }
        };
    };
}
