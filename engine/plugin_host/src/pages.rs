//! Memory that is in place before a worker needs it.
//!
//! The kernel gives an instance the pages of its memory when they are first written, which takes
//! microseconds each. Which pages the calls of a plugin write (its stack, its state) is found out
//! once, on the trial instance. Calls on the real one would tell, too, but change its state.

use crate::Limits;
use crate::running::Running;
use crate::wasm_scheduler::WasmScheduler;
use dataplane::{Candidate, Latency, Load, NewFlow, Scheduler};
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Bytes of the smallest page that the kernel gives.
const PAGE: usize = 4096;

/// Places in linear memory.
pub(crate) struct Pages(Vec<usize>);

impl Pages {
    /// The pages that a few calls write. Uses the instance up. How the calls end does not matter
    /// here: those of the worker will be counted.
    pub fn written_by_calls(running: Running, limits: &Limits) -> Pages {
        let before = running.memory.data(&running.store).to_vec();
        let mut scheduler = WasmScheduler::new(running, limits, Arc::new(Latency::default()));
        let servers = [1, 2].map(|host| Candidate {
            address: Ipv4Addr::new(192, 0, 2, host).into(),
            weight: u32::from(host),
        });
        let flow = NewFlow {
            source: Ipv4Addr::new(198, 51, 100, 1).to_ipv6_mapped().octets(),
            destination: Ipv4Addr::new(203, 0, 113, 1).to_ipv6_mapped().octets(),
            source_port: 40_000,
            destination_port: 80,
            protocol: 6,
        };
        if scheduler.servers_changed(&servers, 0).is_ok() {
            scheduler.load_changed(0, Load { active: 1, inactive: 1 });
            let _ = (0..4).try_for_each(|_| scheduler.choose(&flow, 0).map(drop));
            let state = scheduler.save(0).map(<[u8]>::to_vec);
            let _ = state.map(|state| scheduler.restore(&state, 0));
        }
        let after = scheduler.memory();
        let pages = before.chunks(PAGE).zip(after.chunks(PAGE)).enumerate();
        Pages(pages.filter(|(_, (old, new))| old != new).map(|(page, _)| page * PAGE).collect())
    }

    /// Writes to each page what is there already.
    pub fn touch(&self, running: &mut Running) {
        let state = running.layout.state().map_or(0..0, |room| room.first(room.capacity));
        let memory = running.memory.data_mut(&mut running.store);
        for &place in self.0.iter().chain(&Vec::from_iter(state.step_by(PAGE))) {
            if let Some(byte) = memory.get_mut(place) {
                *byte = black_box(*byte);
            }
        }
    }
}
