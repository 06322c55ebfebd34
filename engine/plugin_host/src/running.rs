//! A module that runs: its store, its exports, its limits.

use crate::check::Facts;
use crate::imports::Context;
use crate::log::LogWriter;
use crate::table::Layout;
use crate::{Error, Limits, Placement, Refusal};
use shunt_abi::{ABI_VERSION, export};
use std::fmt;
use wasmtime::{Instance, InstancePre, Memory, Store, Trap, TypedFunc, WasmParams, WasmResults};

const START: &str = "the start function";

/// An instance after `shunt_init`.
pub(crate) struct Running {
    pub store: Store<Context>,
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
        module: &InstancePre<Context>,
        facts: &Facts,
        limits: &Limits,
        placement: Placement,
        log: Option<LogWriter>,
    ) -> Result<Running, Failed> {
        let context = Context::new(limits, placement, log);
        let mut store = Store::try_new(module.module().engine(), context).map_err(no_room)?;
        store.limiter(|context| context.limiter());
        let fuel = limits.init_fuel;
        store.set_fuel(fuel).map_err(no_room)?;
        let instance =
            module.instantiate(&mut store).map_err(|error| match error.downcast_ref::<Trap>() {
                Some(_) => Failed::Refused(ended(START, fuel, &error)),
                None => no_room(error),
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

        let memory = instance.get_memory(&mut store, export::MEMORY);
        let memory = memory.ok_or_else(|| lost(export::MEMORY))?;
        store.data_mut().has_started(memory);
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
    store: &'a mut Store<Context>,
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
    store: &mut Store<Context>,
    instance: &Instance,
    name: &'static str,
) -> Result<TypedFunc<P, R>, Failed> {
    instance.get_typed_func(store, name).map_err(|_| lost(name))
}

pub(crate) fn call<P: WasmParams, R: WasmResults>(
    store: &mut Store<Context>,
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
