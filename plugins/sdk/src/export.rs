//! What [`export!`](crate::export!) is made of. Not for use by hand.

use crate::{Needs, Placement, Scheduler, Servers};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use shunt_abi::{ABI_VERSION, CAPACITY_MAX, Flow, NO_SERVER, Server, Table, WANTS_LOAD};

/// A plugin's static memory: the records that the host writes, and the scheduler.
pub struct Plugin<S>(UnsafeCell<Memory<S>>);

/// All zeros before `init`, so that the module's file does not hold it.
#[repr(C, align(16))]
struct Memory<S> {
    keys: [f64; CAPACITY_MAX],
    servers: [Server; CAPACITY_MAX],
    table: Table,
    flow: Flow,
    /// Whether `scheduler` holds one.
    initialized: bool,
    scheduler: MaybeUninit<S>,
}

// SAFETY: the macro makes statics of this type for wasm32 only, in modules without shared memory,
// which therefore have one thread.
unsafe impl<S> Sync for Plugin<S> {}

impl<S: Scheduler> Plugin<S> {
    /// Memory in the state that `init` expects.
    #[allow(clippy::new_without_default)] // a static needs a const fn
    pub const fn new() -> Plugin<S> {
        // SAFETY: every field of the records is an integer or a float, or an array of them, for
        // which all zeros is a value; `false` is 0; and `MaybeUninit` may be anything.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }

    /// Answers `shunt_init`.
    ///
    /// # Safety
    /// No other call on this plugin is under way.
    pub unsafe fn init(&'static self, worker: i32, workers: i32, seed: i64) -> i32 {
        // SAFETY: the caller sees to it that this is the only reference.
        let memory = unsafe { &mut *self.0.get() };
        let Needs { load, flow } = S::NEEDS;
        memory.table.abi_version = ABI_VERSION;
        memory.table.capacity = CAPACITY_MAX as u32;
        memory.table.wants = if load { WANTS_LOAD } else { 0 };
        memory.table.servers = address(&raw mut memory.servers);
        memory.table.keys = if load { address(&raw mut memory.keys) } else { 0 };
        memory.table.flow = if flow { address(&raw mut memory.flow) } else { 0 };
        memory.scheduler.write(S::new(Placement {
            worker: worker as u32 as usize,
            workers: workers as u32 as usize,
            seed: seed as u64,
        }));
        memory.initialized = true;
        address(&raw mut memory.table) as i32
    }

    /// Answers `shunt_update`.
    ///
    /// # Safety
    /// No other call on this plugin is under way.
    pub unsafe fn update(&'static self) {
        // SAFETY: the caller sees to it that this is the only reference.
        let memory = unsafe { &mut *self.0.get() };
        if let Some((scheduler, servers, _)) = memory.parts() {
            scheduler.servers_changed(servers);
        }
    }

    /// Answers `shunt_schedule`.
    ///
    /// # Safety
    /// No other call on this plugin is under way.
    #[inline]
    pub unsafe fn schedule(&'static self) -> i32 {
        // SAFETY: the caller sees to it that this is the only reference.
        let memory = unsafe { &mut *self.0.get() };
        memory
            .parts()
            .and_then(|(scheduler, servers, flow)| scheduler.choose(servers, flow))
            .map_or(NO_SERVER, |slot| i32::try_from(slot).unwrap_or(NO_SERVER))
    }
}

impl<S: Scheduler> Memory<S> {
    /// What a call needs: the scheduler, the servers and the flow.
    #[inline]
    fn parts(&mut self) -> Option<(&mut S, Servers<'_>, &Flow)> {
        // The host never writes a greater count; the bound spares a check that could panic.
        let count = (self.table.count as usize).min(CAPACITY_MAX);
        let keys: &[f64] = if S::NEEDS.load { &self.keys } else { &[] };
        let servers = Servers::new(&self.servers[..count], keys);
        if !self.initialized {
            return None;
        }
        // SAFETY: `init` has written it.
        let scheduler = unsafe { self.scheduler.assume_init_mut() };
        Some((scheduler, servers, &self.flow))
    }
}

/// An address in linear memory, whose contents the host may from now on change between calls.
fn address<T>(target: *mut T) -> u32 {
    target.expose_provenance() as u32
}

/// The bytes of `text`, for a section of their own.
pub const fn bytes<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let mut at = 0;
    while at < N {
        bytes[at] = text.as_bytes()[at];
        at += 1;
    }
    bytes
}
