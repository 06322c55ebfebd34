//! What the host knows of an instance while it runs, and the functions that a plugin may import.

use crate::log::LogWriter;
use crate::random::Random;
use crate::{Error, Limits, Placement};
use dataplane::Millis;
use shunt_abi::{export, import};
use wasmtime::{Caller, Engine, InstancePre, Linker, Memory, Module, ResourceLimiter, Trap};

/// Fuel that a call of `log` costs, so that the limit on fuel still bounds the time.
const LOG_FUEL: u64 = 200;
/// Fuel that a call of another import costs.
const IMPORT_FUEL: u64 = 20;

/// What the host knows of an instance while it runs.
pub(crate) struct Context {
    growth: Growth,
    /// The worker's clock.
    pub now: Millis,
    pub random: Random,
    log: Option<LogWriter>,
    /// Once the instance has started.
    memory: Option<Memory>,
}

impl Context {
    /// Of an instance that has not started yet.
    pub fn new(limits: &Limits, placement: Placement, log: Option<LogWriter>) -> Context {
        let Limits { memory, table_elements, .. } = *limits;
        Context {
            growth: Growth { memory, table_elements, sealed: false },
            now: 0,
            random: Random::new(placement.seed, placement.worker),
            log,
            memory: None,
        }
    }

    /// What limits the instance's growth.
    pub fn limiter(&mut self) -> &mut Growth {
        &mut self.growth
    }

    /// The instance has started and has this memory. From here on it does not grow.
    pub fn has_started(&mut self, memory: Memory) {
        self.growth.sealed = true;
        self.memory = Some(memory);
    }
}

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

/// The module with its imports in place: what is looked up by name is looked up here, once.
pub(crate) fn link(
    engine: &Engine,
    module: &Module,
    plugin: &str,
) -> Result<InstancePre<Context>, Error> {
    let mut linker = Linker::new(engine);
    linker
        .func_wrap(import::MODULE, import::LOG, log)
        .and_then(|linker| linker.func_wrap(import::MODULE, import::NOW_MS, now_ms))
        .and_then(|linker| linker.func_wrap(import::MODULE, import::RANDOM, random))
        .and_then(|linker| linker.instantiate_pre(module))
        .map_err(|error| Error::Instantiate {
            plugin: plugin.to_owned(),
            reason: format!("{error:#}"),
        })
}

fn log(mut caller: Caller<'_, Context>, address: i32, length: i32) -> wasmtime::Result<()> {
    pay(&mut caller, LOG_FUEL)?;
    let memory = match caller.data().memory {
        Some(memory) => memory,
        None => {
            let memory = caller.get_export(export::MEMORY).and_then(|export| export.into_memory());
            memory.ok_or(Trap::MemoryOutOfBounds)?
        }
    };
    let (memory, context) = memory.data_and_store_mut(&mut caller);
    let (from, length) = (address as u32 as usize, length as u32 as usize);
    let line = from.checked_add(length).and_then(|to| memory.get(from..to));
    let line = line.ok_or(Trap::MemoryOutOfBounds)?;
    if let Some(log) = &mut context.log {
        log.line(line, context.now);
    }
    Ok(())
}

fn now_ms(mut caller: Caller<'_, Context>) -> wasmtime::Result<i64> {
    pay(&mut caller, IMPORT_FUEL)?;
    Ok(caller.data().now as i64)
}

fn random(mut caller: Caller<'_, Context>) -> wasmtime::Result<i64> {
    pay(&mut caller, IMPORT_FUEL)?;
    Ok(caller.data_mut().random.next() as i64)
}

/// Takes fuel for a call. The engine counts the plugin's own instructions, not the host's.
fn pay(caller: &mut Caller<'_, Context>, price: u64) -> wasmtime::Result<()> {
    let left = caller.get_fuel()?.checked_sub(price).ok_or(Trap::OutOfFuel)?;
    caller.set_fuel(left)
}
