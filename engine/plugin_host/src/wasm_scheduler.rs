//! A plugin's instance as the dataplane's scheduler.

use crate::Limits;
use crate::latency::{Latency, SAMPLED_ONE_IN};
use crate::running::Running;
use dataplane::{Candidate, Failure, Load, NewFlow, Scheduler};
use shunt_abi::Server;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use wasmtime::Trap;

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
            calls: 0,
            latency,
        }
    }

    /// The instance's linear memory.
    pub fn memory(&self) -> &[u8] {
        self.running.memory.data(&self.running.store)
    }

    fn call_update(&mut self) -> Result<(), Failure> {
        let Running { store, update, .. } = &mut self.running;
        let Some(update) = update else { return Ok(()) };
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
    fn servers_changed(&mut self, candidates: &[Candidate]) -> Result<(), Failure> {
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
        self.call_update()
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
        (server.active, server.inactive) = (load.active, load.inactive);
        layout.write_load(memory.data_mut(store), slot, server);
    }

    #[inline]
    fn choose(&mut self, flow: &NewFlow) -> Result<usize, Failure> {
        if self.overfull {
            return Err(Failure::OutOfRange);
        }
        let Running { store, memory, layout, .. } = &mut self.running;
        if layout.wants_flow() {
            layout.write_flow(memory.data_mut(store), flow);
        }
        let sampled = self.calls.is_multiple_of(SAMPLED_ONE_IN).then(Instant::now);
        self.calls = self.calls.wrapping_add(1);
        let answer = self.call_schedule();
        if let Some(began) = sampled {
            self.latency.record(began.elapsed());
        }
        let slot = usize::try_from(answer?).map_err(|_| Failure::OutOfRange)?;
        if slot < self.count { Ok(slot) } else { Err(Failure::OutOfRange) }
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
