//! Plugins with bytes changed at random: refused, or at worst a plugin that chooses badly.

mod common;

use common::*;
use dataplane::Load;
use plugin_host::{Limits, Params, PluginHost, STOCK};
use proptest::prelude::*;
use std::fs;

/// Little fuel, so that the many that loop do not take long.
fn impatient_host() -> PluginHost {
    let limits = Limits {
        schedule_fuel: 10_000,
        update_fuel: 10_000,
        init_fuel: 10_000,
        ..Limits::default()
    };
    PluginHost::new(limits).unwrap()
}

fn committed(name: &str) -> Vec<u8> {
    let root = env!("CARGO_MANIFEST_DIR");
    fs::read(format!("{root}/../../plugins/{name}/{name}.wasm")).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn changed_bytes_end_no_more_than_the_call(
        stock in 0..STOCK.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut wasm = committed(STOCK[stock]);
        for (at, byte) in changes {
            let at = at.index(wasm.len());
            wasm[at] = byte;
        }
        let Ok(plugin) = impatient_host().load("damaged", &wasm) else { return Ok(()) };
        let Ok((mut scheduler, _)) = plugin.scheduler(ALONE, &Params::new()) else { return Ok(()) };
        let _ = plugin.check_params(&Params::from([("mh-port".to_owned(), "true".to_owned())]));
        for servers in [5, 1024, 1] {
            let servers = candidates(&vec![2; servers.min(plugin.capacity())]);
            let _ = scheduler.servers_changed(&servers, 0);
            for slot in 0..5 {
                scheduler.load_changed(slot, Load { active: slot as u32, inactive: 1 });
                if let Ok(slot) = scheduler.choose(&FLOW, 0) {
                    prop_assert!(slot < servers.len());
                }
            }
            let state = scheduler.save(0).map(<[u8]>::to_vec).unwrap_or_default();
            let _ = scheduler.restore(&state, 0);
        }
    }
}
