//! What [`export!`](crate::export!) is made of. Not for use by hand.

use crate::costs::Costs;
use crate::{Needs, Params, Placement, Scheduler, Servers};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use shunt_abi::{ABI_VERSION, CAPACITY_MAX, Changes, Flow, NO_SERVER, Server, Table, WANTS_LOAD};

/// Bytes of the version before the state.
const VERSION: usize = size_of::<u32>();

/// How much memory a scheduler of type `S` needs for what it asks for. The macro counts, since it
/// knows the type.
pub mod room {
    use crate::Scheduler;
    use shunt_abi::{CAPACITY_MAX, PARAMS_MAX};

    /// Load keys.
    pub const fn keys<S: Scheduler>() -> usize {
        if S::NEEDS.load { CAPACITY_MAX } else { 0 }
    }

    /// Sets of costs.
    pub const fn costs<S: Scheduler>() -> usize {
        S::NEEDS.cost as usize
    }

    /// Bytes of parameters.
    pub const fn params<S: Scheduler>() -> usize {
        if S::PARAMS { PARAMS_MAX } else { 0 }
    }

    /// Bytes of state.
    pub const fn state<S: Scheduler>() -> usize {
        if S::STATE_VERSION == 0 { 0 } else { super::VERSION + S::STATE_BYTES }
    }
}

/// A plugin's static memory: the records that the host writes, and the scheduler.
pub struct Plugin<S, const KEYS: usize, const COSTS: usize, const PARAMS: usize, const STATE: usize>(
    UnsafeCell<Memory<S, KEYS, COSTS, PARAMS, STATE>>,
);

/// All zeros before `init`, so that the module's file does not hold it.
#[repr(C, align(16))]
struct Memory<S, const KEYS: usize, const COSTS: usize, const PARAMS: usize, const STATE: usize> {
    keys: [f64; KEYS],
    costs: [Costs; COSTS],
    servers: [Server; CAPACITY_MAX],
    table: Table,
    flow: Flow,
    changes: [Changes; COSTS],
    params: [u8; PARAMS],
    state: [u8; STATE],
    /// Whether `scheduler` holds one.
    initialized: bool,
    scheduler: MaybeUninit<S>,
}

// SAFETY: the macro makes statics of this type for wasm32 only, in modules without shared memory,
// which therefore have one thread.
unsafe impl<S, const KEYS: usize, const COSTS: usize, const PARAMS: usize, const STATE: usize> Sync
    for Plugin<S, KEYS, COSTS, PARAMS, STATE>
{
}

impl<S: Scheduler, const KEYS: usize, const COSTS: usize, const PARAMS: usize, const STATE: usize>
    Plugin<S, KEYS, COSTS, PARAMS, STATE>
{
    /// Memory in the state that `init` expects.
    #[allow(clippy::new_without_default)] // a static needs a const fn
    pub const fn new() -> Plugin<S, KEYS, COSTS, PARAMS, STATE> {
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
        let Needs { load, cost, flow } = S::NEEDS;
        let when = |wanted: bool, address: u32| if wanted { address } else { 0 };
        memory.table.abi_version = ABI_VERSION;
        memory.table.capacity = CAPACITY_MAX as u32;
        memory.table.wants = if load || cost { WANTS_LOAD } else { 0 };
        memory.table.servers = address(&raw mut memory.servers);
        memory.table.keys = when(load, address(&raw mut memory.keys));
        memory.table.flow = when(flow, address(&raw mut memory.flow));
        memory.table.changes = when(cost, address(&raw mut memory.changes));
        memory.table.params = when(PARAMS > 0, address(&raw mut memory.params));
        memory.table.params_capacity = PARAMS as u32;
        memory.table.state = when(STATE > 0, address(&raw mut memory.state));
        memory.table.state_capacity = STATE as u32;
        memory.scheduler.write(S::new(Placement {
            worker: worker as u32 as usize,
            workers: workers as u32 as usize,
            seed: seed as u64,
        }));
        memory.initialized = true;
        address(&raw mut memory.table) as i32
    }

    /// Answers `shunt_configure`.
    ///
    /// # Safety
    /// No other call on this plugin is under way.
    pub unsafe fn configure(&'static self, length: i32) -> i32 {
        if PARAMS == 0 {
            return -1;
        }
        // SAFETY: the caller sees to it that this is the only reference.
        let memory = unsafe { &mut *self.0.get() };
        memory.configure(length as u32 as usize).unwrap_or(-1)
    }

    /// Answers `shunt_update`.
    ///
    /// # Safety
    /// No other call on this plugin is under way.
    pub unsafe fn update(&'static self) {
        // SAFETY: the caller sees to it that this is the only reference.
        let memory = unsafe { &mut *self.0.get() };
        if let Some(parts) = memory.parts() {
            parts.scheduler.servers_changed(parts.servers);
            parts.costs.iter_mut().for_each(Costs::forget);
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
        memory.schedule().map_or(NO_SERVER, |slot| i32::try_from(slot).unwrap_or(NO_SERVER))
    }

    /// Answers `shunt_save`.
    ///
    /// # Safety
    /// No other call on this plugin is under way.
    pub unsafe fn save(&'static self) -> i32 {
        if STATE == 0 {
            return 0;
        }
        // SAFETY: the caller sees to it that this is the only reference.
        let memory = unsafe { &mut *self.0.get() };
        memory.save().unwrap_or(0)
    }

    /// Answers `shunt_restore`.
    ///
    /// # Safety
    /// No other call on this plugin is under way.
    pub unsafe fn restore(&'static self, length: i32) -> i32 {
        if STATE == 0 {
            return 1;
        }
        // SAFETY: the caller sees to it that this is the only reference.
        let memory = unsafe { &mut *self.0.get() };
        match memory.restore(length as u32 as usize) {
            Some(true) => 0,
            _ => 1,
        }
    }
}

/// What a call needs.
struct Parts<'a, S> {
    scheduler: &'a mut S,
    servers: Servers<'a>,
    flow: &'a Flow,
    costs: &'a mut [Costs],
    changes: &'a [Changes],
    params: &'a mut [u8],
    state: &'a mut [u8],
}

impl<S: Scheduler, const KEYS: usize, const COSTS: usize, const PARAMS: usize, const STATE: usize>
    Memory<S, KEYS, COSTS, PARAMS, STATE>
{
    /// The parts, once there is a scheduler.
    #[inline]
    fn parts(&mut self) -> Option<Parts<'_, S>> {
        // The host never writes a greater count; the bound spares a check that could panic.
        let count = (self.table.count as usize).min(CAPACITY_MAX);
        if !self.initialized {
            return None;
        }
        let mut servers = Servers::new(&self.servers[..count], &self.keys);
        if COSTS > 0 {
            servers = servers.with_least_cost(None);
        }
        Some(Parts {
            // SAFETY: `init` has written it.
            scheduler: unsafe { self.scheduler.assume_init_mut() },
            servers,
            flow: &self.flow,
            costs: &mut self.costs,
            changes: &self.changes,
            params: &mut self.params,
            state: &mut self.state,
        })
    }

    #[inline]
    fn schedule(&mut self) -> Option<usize> {
        let Parts { scheduler, mut servers, flow, costs, changes, .. } = self.parts()?;
        if let ([costs], [changes]) = (costs, changes) {
            let least = costs.follow(changes, &servers, |server| scheduler.cost(server));
            servers = servers.with_least_cost(least);
        }
        scheduler.choose(servers, flow)
    }

    fn configure(&mut self, length: usize) -> Option<i32> {
        let Parts { scheduler, params, .. } = self.parts()?;
        let lines = core::str::from_utf8(params.get(..length)?).ok()?;
        let Err(error) = scheduler.configure(Params::new(lines)) else { return Some(0) };
        let sentence = error.bytes();
        params.get_mut(..sentence.len())?.copy_from_slice(sentence);
        // Without a word it must not look like consent.
        (!sentence.is_empty()).then_some(sentence.len() as i32)
    }

    fn save(&mut self) -> Option<i32> {
        let Parts { scheduler, state, .. } = self.parts()?;
        let (version, state) = state.split_first_chunk_mut::<VERSION>()?;
        let length = scheduler.save(state);
        if length == 0 || length > state.len() {
            return None;
        }
        *version = S::STATE_VERSION.to_le_bytes();
        Some((VERSION + length) as i32)
    }

    fn restore(&mut self, length: usize) -> Option<bool> {
        let Parts { scheduler, servers, costs, state, .. } = self.parts()?;
        let (version, state) = state.get(..length)?.split_first_chunk::<VERSION>()?;
        costs.iter_mut().for_each(Costs::forget);
        Some(scheduler.restore(servers, u32::from_le_bytes(*version), state))
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
