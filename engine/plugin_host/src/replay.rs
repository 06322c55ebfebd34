//! A failed call, called again.

use crate::dump::{Dump, DumpedServer, octets};
use crate::wasm_scheduler::{Function, NO_FLOW, WasmScheduler};
use crate::{Error, Plugin};
use dataplane::{Candidate, Failure, Load, NewFlow, Scheduler};
use shunt_abi::Server;
use std::fmt;

/// Calls after which a replay gives up.
const CALLS_MAX: u64 = 1_000_000;

/// What became of a dumped call when it was called again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// How the failure was brought about again; `None` if it was not.
    pub reproduced: Option<Method>,
    /// What the last call came to.
    pub found: Found,
    /// Whether the module is the one that failed, byte by byte.
    pub same_module: bool,
}

/// How a failure was brought about again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// By the same call over the recorded memory.
    RecordedMemory,
    /// By the same call, so many times, on a fresh instance.
    FreshInstance {
        /// Calls, the failing one included.
        calls: u64,
    },
}

/// What a call came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It did not fail.
    NoFailure,
    /// It failed like this.
    Failure(Failure, Option<String>),
    /// There was no instance to call, for this reason.
    NoInstance(String),
}

impl fmt::Display for Replay {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reproduced {
            Some(Method::RecordedMemory) => write!(to, "reproduced over the recorded memory")?,
            Some(Method::FreshInstance { calls }) => {
                write!(to, "reproduced on a fresh instance at call {calls}")?;
            }
            None => write!(to, "not reproduced")?,
        }
        match &self.found {
            Found::NoFailure => write!(to, ": the call does not fail")?,
            Found::Failure(failure, None) => write!(to, ": {}", failure.name())?,
            Found::Failure(failure, Some(trap)) => write!(to, ": {} ({trap})", failure.name())?,
            Found::NoInstance(reason) => write!(to, ": {reason}")?,
        }
        if !self.same_module {
            write!(to, " (this is another module than the one that failed)")?;
        }
        Ok(())
    }
}

impl Dump {
    /// Calls again what failed: over the recorded memory, and if that does not fail alike, on a
    /// fresh instance as often as it had been called. Deterministic: time is as recorded, and the
    /// random numbers are those that the call drew.
    ///
    /// The memory is what the failed call left behind, so that a call which had changed it before
    /// it failed may take another way; and what a plugin keeps in globals is not in it. For these
    /// there is the fresh instance.
    pub fn replay(&self, plugin: &Plugin) -> Replay {
        let same_module = plugin.digest() == self.digest;
        let replay = |reproduced, found| Replay { reproduced, found, same_module };
        if let Err(reason) = self.check() {
            return replay(None, Found::NoInstance(Error::Dump { reason }.to_string()));
        }
        let over_memory = match self.instance(plugin) {
            Ok(instance) => self.over_recorded_memory(instance),
            Err(error) => return replay(None, Found::NoInstance(error.to_string())),
        };
        if over_memory.as_ref().is_some_and(|found| self.is(found)) {
            return replay(Some(Method::RecordedMemory), over_memory.unwrap_or(Found::NoFailure));
        }
        match self.instance(plugin) {
            Ok(instance) => {
                let (found, calls) = self.on_fresh_instance(instance);
                let method = Method::FreshInstance { calls };
                replay(self.is(&found).then_some(method), found)
            }
            Err(error) => replay(None, Found::NoInstance(error.to_string())),
        }
    }

    /// Whether a call failed as the recorded one did.
    fn is(&self, found: &Found) -> bool {
        matches!(found, Found::Failure(failure, _) if *failure == self.call.failure)
    }

    /// An instance like the one that failed, with the fuel that the call had.
    fn instance(&self, plugin: &Plugin) -> Result<WasmScheduler, Error> {
        let (mut instance, _) = plugin.wasm_scheduler(self.placement, &self.params, None)?;
        instance.schedule_fuel = self.call.fuel;
        if self.function() == Function::Update {
            instance.update_fuel = self.call.fuel;
        }
        Ok(instance)
    }

    /// The call over the recorded memory; `None` if that does not fit the instance.
    fn over_recorded_memory(&self, mut instance: WasmScheduler) -> Option<Found> {
        if instance.memory().len() != self.memory.size {
            return None;
        }
        let servers: Vec<Server> = self.servers.iter().map(server).collect();
        instance.resume(&servers, self.generation, self.call.draws);
        self.memory.put(instance.memory_mut());
        Some(self.call_once(&mut instance, true))
    }

    /// The call on an instance that only knows the servers, until it fails as recorded or was made
    /// as often as in the record. What the last call came to, and how many there were.
    fn on_fresh_instance(&self, mut instance: WasmScheduler) -> (Found, u64) {
        let function = self.function();
        let calls_max = match function {
            Function::Schedule => self.call.calls_before.saturating_add(1),
            Function::Update => u64::from(self.generation),
            Function::Save | Function::Restore => 1,
        };
        if function != Function::Update {
            let told = instance.servers_changed(&self.candidates(), 0);
            if told.is_err() {
                return (found(&instance), 0);
            }
            for (slot, server) in self.servers.iter().enumerate() {
                let load = Load { active: server.active, inactive: server.inactive };
                instance.load_changed(slot, load);
            }
        }
        let mut calls = 0;
        loop {
            let found = self.call_once(&mut instance, false);
            calls += 1;
            let is_torn = matches!(found, Found::Failure(Failure::Trap | Failure::OutOfFuel, _));
            if is_torn || self.is(&found) || calls >= calls_max.min(CALLS_MAX) {
                return (found, calls);
            }
        }
    }

    /// Calls the function once more, with the servers in place if `in_place`.
    fn call_once(&self, instance: &mut WasmScheduler, in_place: bool) -> Found {
        instance.forget_failure();
        let now = self.call.now;
        match self.function() {
            Function::Schedule => instance.choose(&self.flow(), now).is_ok(),
            Function::Update if in_place => instance.call_update(now).is_ok(),
            Function::Update => instance.servers_changed(&self.candidates(), now).is_ok(),
            Function::Save => instance.save(now).is_some(),
            Function::Restore => instance.restore(&self.state(instance), now).is_ok(),
        };
        found(instance)
    }

    fn function(&self) -> Function {
        Function::named(&self.call.function).unwrap_or(Function::Schedule)
    }

    fn flow(&self) -> NewFlow {
        let flow = self.call.flow.as_ref();
        flow.map_or(NO_FLOW, |flow| flow.new_flow())
    }

    fn candidates(&self) -> Vec<Candidate> {
        let candidate =
            |server: &DumpedServer| Candidate { address: server.address, weight: server.weight };
        self.servers.iter().map(candidate).collect()
    }

    /// The state that `shunt_restore` was given, as it is still in the recorded memory.
    fn state(&self, instance: &WasmScheduler) -> Vec<u8> {
        let mut memory = vec![0; self.memory.size];
        self.memory.put(&mut memory);
        let room = instance.layout().state();
        let state = room.and_then(|room| memory.get(room.first(self.call.length)));
        state.unwrap_or_default().to_vec()
    }
}

/// How the last call of an instance failed.
fn found(instance: &WasmScheduler) -> Found {
    instance.failed().map_or(Found::NoFailure, |failed| {
        Found::Failure(failed.failure, failed.trap.map(|trap| trap.to_string()))
    })
}

fn server(dumped: &DumpedServer) -> Server {
    Server {
        weight: dumped.weight,
        active: dumped.active,
        inactive: dumped.inactive,
        address: octets(dumped.address),
        ..Server::default()
    }
}
