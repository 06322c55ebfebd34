//! Native schedulers, for tests of the suite itself: some do what no plugin can.

use crate::subject::{Subject, Tried};
use dataplane::{Candidate, Failure, Load, Millis, NewFlow, Scheduler};
use plugin_host::Placement;

/// What a scheduler was told.
#[derive(Default)]
pub(crate) struct Told {
    pub servers: Vec<Candidate>,
    pub loads: Vec<Load>,
    /// What it hands over.
    pub state: Vec<u8>,
}

impl Told {
    /// The first slot from `from` on, and then from 0 on, that takes new flows.
    pub fn available(&self, from: usize) -> Result<usize, Failure> {
        let slots = self.servers.len();
        let around = (0..slots).map(|step| (from + step) % slots);
        around.into_iter().find(|&slot| self.servers[slot].weight > 0).ok_or(Failure::Declined)
    }
}

type Choose = fn(&mut Told, &NewFlow, Millis) -> Result<usize, Failure>;
type Restore = fn(&mut Told, &[u8]) -> Result<bool, Failure>;

/// A scheduler that is a function.
#[derive(Clone, Copy)]
pub(crate) struct Native {
    pub choose: Choose,
    pub restore: Restore,
    /// Bytes of memory more with each choice.
    pub grows: usize,
}

impl Native {
    pub fn new(choose: Choose) -> Native {
        Native { choose, restore: |_, _| Ok(false), grows: 0 }
    }
}

struct Instance {
    native: Native,
    told: Told,
    memory: usize,
}

impl Subject for Native {
    fn start(&self, _: Placement) -> Result<Box<dyn Tried>, String> {
        Ok(Box::new(Instance { native: *self, told: Told::default(), memory: 1 }))
    }
}

impl Scheduler for Instance {
    fn servers_changed(&mut self, servers: &[Candidate], _: Millis) -> Result<(), Failure> {
        self.told.servers = servers.to_vec();
        self.told.loads.resize(servers.len(), Load::default());
        Ok(())
    }

    fn wants_load(&self) -> bool {
        true
    }

    fn load_changed(&mut self, slot: usize, load: Load) {
        self.told.loads[slot] = load;
    }

    fn choose(&mut self, flow: &NewFlow, now: Millis) -> Result<usize, Failure> {
        self.memory += self.native.grows;
        (self.native.choose)(&mut self.told, flow, now)
    }

    fn save(&mut self, _: Millis) -> Option<&[u8]> {
        (!self.told.state.is_empty()).then_some(&self.told.state)
    }

    fn restore(&mut self, state: &[u8], _: Millis) -> Result<bool, Failure> {
        (self.native.restore)(&mut self.told, state)
    }
}

impl Tried for Instance {
    fn fuel(&self) -> u64 {
        1
    }

    fn memory(&self) -> usize {
        self.memory
    }
}

/// Round robin, whose state is a version and the next slot.
pub(crate) fn round_robin(told: &mut Told, _: &NewFlow, _: Millis) -> Result<usize, Failure> {
    let slot = told.available(next(&told.state))?;
    told.state = [1u32.to_le_bytes(), (slot as u32 + 1).to_le_bytes()].concat();
    Ok(slot)
}

/// Takes over what [`round_robin`] saved, and nothing else.
pub(crate) fn restore_round(told: &mut Told, state: &[u8]) -> Result<bool, Failure> {
    let fits = state.len() == 8 && state.starts_with(&1u32.to_le_bytes());
    if fits {
        told.state = state.to_vec();
    }
    Ok(fits)
}

fn next(state: &[u8]) -> usize {
    let bytes = state.get(4..8).and_then(|bytes| bytes.try_into().ok());
    u32::from_le_bytes(bytes.unwrap_or_default()) as usize
}
