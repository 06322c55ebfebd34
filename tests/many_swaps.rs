//! A thousand swaps at full load. For an optimised build on a machine that does nothing beside:
//! cargo test --release -p director --features ci --test many_swaps -- --nocapture

mod common;

use common::numbered::Rate;
use common::swaps::{Scale, swap_under_load};
use std::time::Duration;

#[test]
fn a_thousand_swaps_under_load_are_not_noticed() {
    swap_under_load(Scale {
        swaps: 1_000,
        connections: 500,
        rate: Rate { packets: 50_000, new_flows: 5_000 },
        pace: Duration::from_millis(250),
        // What was not sent in time is caught up with, but for the last burst.
        offered: 0.99,
    });
}
