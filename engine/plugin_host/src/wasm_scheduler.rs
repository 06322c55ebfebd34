//! A plugin's instance as the dataplane's scheduler.

use crate::Limits;
use crate::running::Running;
use dataplane::{Candidate, Failure, Latency, Load, Millis, NewFlow, Scheduler};
use shunt_abi::{CHANGES_ALL, NO_SERVER, Server};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use wasmtime::Trap;

/// Calls of which one is timed: two clock reads cost more than a call of `rr`.
const SAMPLED_ONE_IN: u64 = 64;

/// One instance, for one virtual service on one worker.
pub(crate) struct WasmScheduler {
    running: Running,
    schedule_fuel: u64,
    update_fuel: u64,
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
    /// Calls so far.
    calls: u64,
    latency: Arc<Latency>,
}

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
        }
    }

    /// The instance's linear memory.
    pub fn memory(&self) -> &[u8] {
        self.running.memory.data(&self.running.store)
    }

    /// Fuel that the last call left.
    pub fn fuel_left(&self) -> Option<u64> {
        self.running.store.get_fuel().ok()
    }

    fn call_update(&mut self, now: Millis) -> Result<(), Failure> {
        let Running { store, update, .. } = &mut self.running;
        let Some(update) = update else { return Ok(()) };
        store.data_mut().now = now;
        store.set_fuel(self.update_fuel).map_err(failure)?;
        update.call(store, ()).map_err(failure)
    }

    #[inline]
    fn call_schedule(&mut self) -> Result<i32, Failure> {
        let Running { store, schedule, .. } = &mut self.running;
        store.set_fuel(self.schedule_fuel).map_err(failure)?;
        schedule.call(store, ()).map_err(failure)
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
        if layout.wants_flow() {
            layout.write_flow(memory.data_mut(store), flow);
        }
        let sampled = self.calls.is_multiple_of(SAMPLED_ONE_IN).then(Instant::now);
        self.calls = self.calls.wrapping_add(1);
        let answer = self.call_schedule();
        if let Some(began) = sampled {
            self.latency.record(began.elapsed());
        }
        let answer = answer?;
        let Running { store, memory, layout, .. } = &mut self.running;
        if layout.wants_changes() && self.changes != 0 {
            self.changes = 0;
            layout.write_changes(memory.data_mut(store), 0);
        }
        match usize::try_from(answer) {
            Ok(slot) if slot < self.count => Ok(slot),
            _ if answer == NO_SERVER => Err(Failure::Declined),
            _ => Err(Failure::OutOfRange),
        }
    }

    fn save(&mut self, now: Millis) -> Option<&[u8]> {
        let Running { store, memory, save, layout, .. } = &mut self.running;
        let (save, room) = (save.as_ref()?, layout.state()?);
        store.data_mut().now = now;
        store.set_fuel(self.schedule_fuel).ok()?;
        let length = usize::try_from(save.call(&mut *store, ()).ok()?).ok()?;
        (1..=room.capacity).contains(&length).then(|| &memory.data(store)[room.first(length)])
    }

    fn restore(&mut self, state: &[u8], now: Millis) -> Result<bool, Failure> {
        let Running { store, memory, restore, layout, .. } = &mut self.running;
        let (Some(restore), Some(room)) = (restore, layout.state()) else { return Ok(false) };
        if state.len() > room.capacity {
            return Ok(false);
        }
        memory.data_mut(&mut *store)[room.first(state.len())].copy_from_slice(state);
        store.data_mut().now = now;
        store.set_fuel(self.schedule_fuel).map_err(failure)?;
        restore.call(store, state.len() as i32).map(|answer| answer == 0).map_err(failure)
    }
}

/// Why a call did not return. Out of line, since it is the rare case that may free memory.
#[cold]
fn failure(error: wasmtime::Error) -> Failure {
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Failure::OutOfFuel,
        _ => Failure::Trap,
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}
