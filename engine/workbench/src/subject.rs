//! What is tried: a plugin, or in tests of the suite itself a native scheduler.

use dataplane::{Candidate, Failure, Load, Millis, NewFlow, Scheduler};
use plugin_host::{Limits, Params, Placement, Plugin, fuel_left, memory_of};

/// An instance that is asked outside of a worker.
pub(crate) trait Tried: Scheduler {
    /// Fuel that its last call took; 0 if there was none.
    fn fuel(&self) -> u64;

    /// Bytes of memory that it has.
    fn memory(&self) -> usize;
}

/// Something of which instances can be made.
pub(crate) trait Subject {
    /// An instance for this worker. The error is a sentence.
    fn start(&self, placement: Placement) -> Result<Box<dyn Tried>, String>;
}

/// A plugin with a service's parameters.
pub(crate) struct Configured {
    pub plugin: Plugin,
    pub params: Params,
    pub limits: Limits,
}

impl Subject for Configured {
    fn start(&self, placement: Placement) -> Result<Box<dyn Tried>, String> {
        let Configured { plugin, params, limits } = self;
        let (scheduler, _) =
            plugin.scheduler(placement, params).map_err(|error| error.to_string())?;
        Ok(Box::new(Metered { scheduler, limits: *limits, fuel: 0 }))
    }
}

/// A plugin's instance, and what its calls take.
struct Metered {
    scheduler: Box<dyn Scheduler>,
    limits: Limits,
    fuel: u64,
}

impl Metered {
    fn left(&self) -> u64 {
        fuel_left(&*self.scheduler).unwrap_or_default()
    }
}

impl Scheduler for Metered {
    fn servers_changed(&mut self, servers: &[Candidate], now: Millis) -> Result<(), Failure> {
        let before = self.left();
        let answer = self.scheduler.servers_changed(servers, now);
        // Not every plugin has something to be called for it.
        let after = self.left();
        self.fuel = if after == before { 0 } else { self.limits.update_fuel.saturating_sub(after) };
        answer
    }

    fn wants_load(&self) -> bool {
        self.scheduler.wants_load()
    }

    fn load_changed(&mut self, slot: usize, load: Load) {
        self.scheduler.load_changed(slot, load);
    }

    fn choose(&mut self, flow: &NewFlow, now: Millis) -> Result<usize, Failure> {
        let answer = self.scheduler.choose(flow, now);
        self.fuel = self.limits.schedule_fuel.saturating_sub(self.left());
        answer
    }

    fn save(&mut self, now: Millis) -> Option<&[u8]> {
        self.scheduler.save(now)
    }

    fn restore(&mut self, state: &[u8], now: Millis) -> Result<bool, Failure> {
        self.scheduler.restore(state, now)
    }
}

impl Tried for Metered {
    fn fuel(&self) -> u64 {
        self.fuel
    }

    fn memory(&self) -> usize {
        memory_of(&*self.scheduler).map_or(0, <[u8]>::len)
    }
}
