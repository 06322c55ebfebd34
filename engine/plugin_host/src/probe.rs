//! What can be seen of an instance that is asked outside of a worker.

use crate::wasm_scheduler::WasmScheduler;
use dataplane::Scheduler;
use std::any::Any;

/// Fuel that the last call of a plugin's instance left of what it was given: that of
/// [`Limits::schedule_fuel`](crate::Limits::schedule_fuel) after a `choose`, for example. `None`
/// for a scheduler that is no plugin.
pub fn fuel_left(scheduler: &dyn Scheduler) -> Option<u64> {
    instance(scheduler)?.fuel_left()
}

/// The linear memory of a plugin's instance. `None` for a scheduler that is no plugin.
pub fn memory_of(scheduler: &dyn Scheduler) -> Option<&[u8]> {
    instance(scheduler).map(WasmScheduler::memory)
}

fn instance(scheduler: &dyn Scheduler) -> Option<&WasmScheduler> {
    (scheduler as &dyn Any).downcast_ref()
}
