//! A module that runs: its store, its exports, its limits.

use crate::check::Facts;
use crate::table::Layout;
use crate::{Error, Limits, Placement, Refusal};
use shunt_abi::{ABI_VERSION, export};
use std::fmt;
use wasmtime::{
    Engine, Instance, Memory, Module, ResourceLimiter, Store, Trap, TypedFunc, WasmParams,
    WasmResults,
};

const START: &str = "the start function";

/// What an instance may still grow by.
pub(crate) struct Growth {
    memory: usize,
    table_elements: usize,
    /// The instance has started: growing takes system calls, which a worker does not make.
    sealed: bool,
}

impl ResourceLimiter for Growth {
    fn memory_growing(
        &mut self,
        _: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(!self.sealed && desired <= self.memory)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // One budget for all tables of the instance.
        let more = desired.saturating_sub(current);
        if self.sealed || more > self.table_elements {
            return Ok(false);
        }
        self.table_elements -= more;
        Ok(true)
    }
}

/// An instance after `shunt_init`.
pub(crate) struct Running {
    pub store: Store<Growth>,
    pub memory: Memory,
    pub schedule: TypedFunc<(), i32>,
    pub update: Option<TypedFunc<(), ()>>,
    pub configure: Option<TypedFunc<i32, i32>>,
    pub save: Option<TypedFunc<(), i32>>,
    pub restore: Option<TypedFunc<i32, i32>>,
    pub layout: Layout,
    /// Of one call on the control thread.
    pub init_fuel: u64,
}

impl Running {
    /// Instantiates a checked module and runs its start function and `shunt_init`.
    pub fn start(
        engine: &Engine,
        module: &Module,
        facts: &Facts,
        limits: &Limits,
        placement: Placement,
    ) -> Result<Running, Failed> {
        let growth =
            Growth { memory: limits.memory, table_elements: limits.table_elements, sealed: false };
        let mut store = Store::try_new(engine, growth).map_err(no_room)?;
        store.limiter(|growth| growth);
        let fuel = limits.init_fuel;
        store.set_fuel(fuel).map_err(no_room)?;
        let instance = Instance::new(&mut store, module, &[]).map_err(|error| {
            match error.downcast_ref::<Trap>() {
                Some(_) => Failed::Refused(ended(START, fuel, &error)),
                None => no_room(error),
            }
        })?;
        let abi_version: TypedFunc<(), i32> = function(&mut store, &instance, export::ABI_VERSION)?;
        let found = call(&mut store, &abi_version, (), export::ABI_VERSION, fuel)? as u32;
        if found != ABI_VERSION {
            return Err(Failed::Refused(Refusal::AbiVersion { found }));
        }
        let init: TypedFunc<(i32, i32, i64), i32> = function(&mut store, &instance, export::INIT)?;
        let Placement { worker, workers, seed } = placement;
        let arguments = (worker as i32, workers as i32, seed as i64);
        let address = call(&mut store, &init, arguments, export::INIT, fuel)? as u32;
        store.data_mut().sealed = true;

        let memory = instance.get_memory(&mut store, export::MEMORY);
        let memory = memory.ok_or_else(|| lost(export::MEMORY))?;
        let layout = Layout::read(memory.data(&store), address, limits.state)
            .and_then(|layout| facts.check_against(&layout).map(|()| layout))
            .map_err(Failed::Refused)?;
        layout.write_first(memory.data_mut(&mut store), worker, workers);
        let mut exports = Exports { store: &mut store, instance: &instance };
        let keeps = layout.state().is_some();
        let running = Running {
            schedule: function(exports.store, &instance, export::SCHEDULE)?,
            update: exports.optional(export::UPDATE, facts.has_update)?,
            configure: exports.optional(export::CONFIGURE, layout.params().is_some())?,
            save: exports.optional(export::SAVE, keeps && facts.has_save)?,
            restore: exports.optional(export::RESTORE, keeps && facts.has_restore)?,
            memory,
            layout,
            init_fuel: fuel,
            store,
        };
        Ok(running)
    }
}

/// What an instance exports.
struct Exports<'a> {
    store: &'a mut Store<Growth>,
    instance: &'a Instance,
}

impl Exports<'_> {
    /// A function that is not of use in every plugin.
    fn optional<P: WasmParams, R: WasmResults>(
        &mut self,
        name: &'static str,
        wanted: bool,
    ) -> Result<Option<TypedFunc<P, R>>, Failed> {
        if wanted { function(self.store, self.instance, name).map(Some) } else { Ok(None) }
    }
}

/// Why a module does not run.
#[derive(Debug)]
pub(crate) enum Failed {
    /// It is its author's to mend.
    Refused(Refusal),
    /// It is the machine's fault.
    NoRoom(String),
}

impl fmt::Display for Failed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failed::Refused(refusal) => refusal.fmt(formatter),
            Failed::NoRoom(reason) => reason.fmt(formatter),
        }
    }
}

impl Failed {
    /// The error to report about the plugin of this name.
    pub fn of(self, plugin: &str) -> Error {
        let plugin = plugin.to_owned();
        match self {
            Failed::Refused(refusal) => Error::Refused { plugin, refusal },
            Failed::NoRoom(reason) => Error::Instantiate { plugin, reason },
        }
    }
}

fn no_room(error: wasmtime::Error) -> Failed {
    Failed::NoRoom(format!("{error:#}"))
}

/// An export that the check has seen and the engine does not find: they read the file differently.
fn lost(name: &str) -> Failed {
    Failed::Refused(Refusal::Malformed { reason: format!("the export {name} is lost") })
}

fn function<P: WasmParams, R: WasmResults>(
    store: &mut Store<Growth>,
    instance: &Instance,
    name: &'static str,
) -> Result<TypedFunc<P, R>, Failed> {
    instance.get_typed_func(store, name).map_err(|_| lost(name))
}

pub(crate) fn call<P: WasmParams, R: WasmResults>(
    store: &mut Store<Growth>,
    function: &TypedFunc<P, R>,
    arguments: P,
    name: &'static str,
    fuel: u64,
) -> Result<R, Failed> {
    store.set_fuel(fuel).map_err(no_room)?;
    function.call(store, arguments).map_err(|error| Failed::Refused(ended(name, fuel, &error)))
}

/// How a call ended that did not return.
fn ended(function: &'static str, fuel: u64, error: &wasmtime::Error) -> Refusal {
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Refusal::OutOfFuel { function, fuel },
        Some(trap) => Refusal::Trap { function, trap: trap.to_string() },
        None => Refusal::Trap { function, trap: format!("{error:#}") },
    }
}
