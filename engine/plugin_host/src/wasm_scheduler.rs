//! A plugin's instance as the dataplane's scheduler.

use crate::dump::octets;
use crate::running::Running;
use crate::table::Layout;
use crate::{Limits, Params, Placement, Plugin};
use dataplane::{Candidate, Failure, Latency, Load, Millis, NewFlow, Scheduler};
use shunt_abi::{CHANGES_ALL, NO_SERVER, Server};
use std::sync::Arc;
use std::time::Instant;
use wasmtime::Trap;

/// Calls of which one is timed: two clock reads cost more than a call of `rr`.
const SAMPLED_ONE_IN: u64 = 64;

/// One instance, for one virtual service on one worker.
pub(crate) struct WasmScheduler {
    running: Running,
    pub schedule_fuel: u64,
    pub update_fuel: u64,
    /// By slot, as many as the capacity: what the plugin was told. Its own copy it may overwrite.
    servers: Box<[Server]>,
    /// Slots in use.
    count: usize,
    /// Changes of the servers so far.
    generation: u32,
    /// There are more servers than the plugin has slots: it cannot be asked.
    overfull: bool,
    /// Entries of the list of changes; more than there is room for: any may have changed.
    changes: usize,
    /// Calls of `shunt_schedule` so far.
    calls: u64,
    latency: Arc<Latency>,
    /// What it was made of; `None` for one that is tried.
    origin: Option<Box<Origin>>,
    /// The last call that failed.
    failed: Option<FailedCall>,
}

/// What an instance was made of.
pub(crate) struct Origin {
    pub plugin: Plugin,
    pub placement: Placement,
    pub params: Params,
}

/// A call of the plugin that failed, and what it was given. In place before the call, so that
/// noting it needs no memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FailedCall {
    pub function: Function,
    pub failure: Failure,
    /// Which trap, if it was one.
    pub trap: Option<Trap>,
    /// What `shunt_schedule` answered, if it did.
    pub answer: Option<i32>,
    pub flow: NewFlow,
    pub now: Millis,
    /// Random numbers drawn before the call.
    pub draws: u64,
    /// Calls of `shunt_schedule` before this one.
    pub calls_before: u64,
    /// Bytes of state that `shunt_restore` was given.
    pub length: usize,
}

/// The functions that are called on a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Schedule,
    Update,
    Save,
    Restore,
}

/// What the calls without a flow are noted with.
pub(crate) const NO_FLOW: NewFlow = NewFlow {
    source: [0; 16],
    destination: [0; 16],
    source_port: 0,
    destination_port: 0,
    protocol: 0,
};

impl WasmScheduler {
    pub fn new(running: Running, limits: &Limits, latency: Arc<Latency>) -> WasmScheduler {
        WasmScheduler {
            servers: vec![Server::default(); running.layout.capacity].into(),
            running,
            schedule_fuel: limits.schedule_fuel,
            update_fuel: limits.update_fuel,
            count: 0,
            generation: 0,
            overfull: false,
            changes: usize::MAX,
            calls: 0,
            latency,
            origin: None,
            failed: None,
        }
    }

    /// The same with a note of what it was made of.
    pub fn of(mut self, origin: Origin) -> WasmScheduler {
        self.origin = Some(Box::new(origin));
        self
    }

    /// What it was made of.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_deref()
    }

    /// The last call that failed.
    pub fn failed(&self) -> Option<&FailedCall> {
        self.failed.as_ref()
    }

    /// Forgets the last call that failed.
    pub fn forget_failure(&mut self) {
        self.failed = None;
    }

    /// The servers in use, by slot, as the plugin was told of them.
    pub fn servers(&self) -> &[Server] {
        &self.servers[..self.count]
    }

    /// Changes of the servers so far.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The instance's linear memory.
    pub fn memory(&self) -> &[u8] {
        self.running.memory.data(&self.running.store)
    }

    /// Fuel that the last call left.
    pub fn fuel_left(&self) -> Option<u64> {
        self.running.store.get_fuel().ok()
    }

    /// The instance's linear memory, to be changed.
    pub fn memory_mut(&mut self) -> &mut [u8] {
        self.running.memory.data_mut(&mut self.running.store)
    }

    /// Where the plugin laid out its table.
    pub fn layout(&self) -> &Layout {
        &self.running.layout
    }

    /// Makes this instance go on where another was: with these servers and after so many random
    /// numbers. The memory is the caller's part.
    pub fn resume(&mut self, servers: &[Server], generation: u32, draws: u64) {
        self.count = servers.len().min(self.servers.len());
        self.overfull = servers.len() > self.servers.len();
        self.servers[..self.count].copy_from_slice(&servers[..self.count]);
        self.generation = generation;
        self.running.store.data_mut().random.draws = draws;
    }

    /// Notes a call that failed, and answers with the failure.
    #[cold]
    fn note(&mut self, function: Function, end: End, given: Given) -> Failure {
        let End { failure, trap, answer } = end;
        let Given { flow, now, draws, length } = given;
        let calls_before = match function {
            Function::Schedule => self.calls.saturating_sub(1),
            _ => self.calls,
        };
        self.failed = Some(FailedCall {
            function,
            failure,
            trap,
            answer,
            flow,
            now,
            draws,
            calls_before,
            length,
        });
        failure
    }

    /// What a call is given that has no flow.
    fn given(&self, now: Millis) -> Given {
        Given { flow: NO_FLOW, now, draws: self.running.store.data().random.draws, length: 0 }
    }

    /// Calls `shunt_update`.
    pub fn call_update(&mut self, now: Millis) -> Result<(), Failure> {
        let given = self.given(now);
        let Running { store, update, .. } = &mut self.running;
        let Some(update) = update else { return Ok(()) };
        store.data_mut().now = now;
        let end = store.set_fuel(self.update_fuel).and_then(|()| update.call(store, ()));
        end.map_err(|error| self.note(Function::Update, End::of(error), given))
    }

    #[inline]
    fn call_schedule(&mut self) -> wasmtime::Result<i32> {
        let Running { store, schedule, .. } = &mut self.running;
        store.set_fuel(self.schedule_fuel)?;
        schedule.call(store, ())
    }

    /// Calls `shunt_save`. The bytes that it wrote; `None` if there are none.
    fn call_save(&mut self, now: Millis) -> Result<Option<&[u8]>, Failure> {
        let given = self.given(now);
        let Running { store, save, layout, .. } = &mut self.running;
        let (Some(save), Some(room)) = (save, layout.state()) else { return Ok(None) };
        store.data_mut().now = now;
        let end = store.set_fuel(self.schedule_fuel).and_then(|()| save.call(store, ()));
        let answer = end.map_err(|error| self.note(Function::Save, End::of(error), given))?;
        let length = usize::try_from(answer).unwrap_or(0);
        if length > room.capacity {
            let end = End { failure: Failure::OutOfRange, trap: None, answer: Some(answer) };
            return Err(self.note(Function::Save, end, given));
        }
        Ok((length > 0).then(|| &self.memory()[room.first(length)]))
    }
}

/// What a call is given.
#[derive(Clone, Copy)]
struct Given {
    flow: NewFlow,
    now: Millis,
    draws: u64,
    length: usize,
}

/// How a call ended that is of no use.
struct End {
    failure: Failure,
    trap: Option<Trap>,
    answer: Option<i32>,
}

impl End {
    /// That of a call that did not return. Out of line, since it is the rare case that frees
    /// memory: the engine's error.
    #[cold]
    fn of(error: wasmtime::Error) -> End {
        let trap = error.downcast_ref::<Trap>().copied();
        let failure = match trap {
            Some(Trap::OutOfFuel) => Failure::OutOfFuel,
            _ => Failure::Trap,
        };
        End { failure, trap, answer: None }
    }
}

impl Scheduler for WasmScheduler {
    fn servers_changed(&mut self, candidates: &[Candidate], now: Millis) -> Result<(), Failure> {
        let Running { store, memory, layout, .. } = &mut self.running;
        self.overfull = candidates.len() > layout.capacity;
        if self.overfull {
            return Err(Failure::OutOfRange);
        }
        let bytes = memory.data_mut(store);
        for (server, candidate) in self.servers.iter_mut().zip(candidates) {
            let address = octets(candidate.address);
            if server.address != address {
                // A newcomer in the slot of another. Its own connections are told next.
                *server = Server { address, ..Server::default() };
            }
            server.weight = candidate.weight;
        }
        let in_use = candidates.len().max(self.count);
        if let Some(gone) = self.servers.get_mut(candidates.len()..in_use) {
            gone.fill(Server::default());
        }
        for (slot, server) in self.servers.iter().enumerate().take(in_use) {
            layout.write_server(bytes, slot, server);
        }
        self.count = candidates.len();
        self.generation = self.generation.wrapping_add(1);
        layout.write_count(bytes, self.count as u32, self.generation);
        layout.write_changes(bytes, CHANGES_ALL);
        self.changes = usize::MAX;
        self.call_update(now)
    }

    fn wants_load(&self) -> bool {
        self.running.layout.wants_load
    }

    #[inline]
    fn load_changed(&mut self, slot: usize, load: Load) {
        let Running { store, memory, layout, .. } = &mut self.running;
        if slot >= self.count || !layout.wants_load {
            return;
        }
        let server = &mut self.servers[slot];
        if (server.active, server.inactive) == (load.active, load.inactive) {
            return;
        }
        (server.active, server.inactive) = (load.active, load.inactive);
        let bytes = memory.data_mut(store);
        layout.write_load(bytes, slot, server);
        if layout.wants_changes() {
            if self.changes < layout.capacity {
                layout.write_change(bytes, self.changes, slot as u16);
                self.changes += 1;
                layout.write_changes(bytes, self.changes as u32);
            } else if self.changes == layout.capacity {
                layout.write_changes(bytes, CHANGES_ALL);
                self.changes = usize::MAX;
            }
        }
    }

    #[inline]
    fn choose(&mut self, flow: &NewFlow, now: Millis) -> Result<usize, Failure> {
        if self.overfull {
            return Err(Failure::OutOfRange);
        }
        let Running { store, memory, layout, .. } = &mut self.running;
        store.data_mut().now = now;
        let draws = store.data().random.draws;
        if layout.wants_flow() {
            layout.write_flow(memory.data_mut(store), flow);
        }
        let sampled = self.calls.is_multiple_of(SAMPLED_ONE_IN).then(Instant::now);
        self.calls = self.calls.wrapping_add(1);
        let answer = self.call_schedule();
        if let Some(began) = sampled {
            self.latency.record(began.elapsed());
        }
        let given = Given { flow: *flow, now, draws, length: 0 };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Err(self.note(Function::Schedule, End::of(error), given)),
        };
        let Running { store, memory, layout, .. } = &mut self.running;
        if layout.wants_changes() && self.changes != 0 {
            self.changes = 0;
            layout.write_changes(memory.data_mut(store), 0);
        }
        let slot = usize::try_from(answer).unwrap_or(usize::MAX);
        let failure = match self.servers().get(slot) {
            Some(server) if server.weight > 0 => return Ok(slot),
            Some(_) => Failure::Unavailable,
            None if answer == NO_SERVER => return Err(Failure::Declined),
            None => Failure::OutOfRange,
        };
        let end = End { failure, trap: None, answer: Some(answer) };
        Err(self.note(Function::Schedule, end, given))
    }

    fn save(&mut self, now: Millis) -> Option<&[u8]> {
        self.call_save(now).ok()?
    }

    fn restore(&mut self, state: &[u8], now: Millis) -> Result<bool, Failure> {
        let given = Given { length: state.len(), ..self.given(now) };
        let Running { store, memory, restore, layout, .. } = &mut self.running;
        let (Some(restore), Some(room)) = (restore, layout.state()) else { return Ok(false) };
        if state.len() > room.capacity {
            return Ok(false);
        }
        memory.data_mut(&mut *store)[room.first(state.len())].copy_from_slice(state);
        store.data_mut().now = now;
        let length = state.len() as i32;
        let end = store.set_fuel(self.schedule_fuel).and_then(|()| restore.call(store, length));
        match end {
            Ok(answer) => Ok(answer == 0),
            Err(error) => Err(self.note(Function::Restore, End::of(error), given)),
        }
    }
}
