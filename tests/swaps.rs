//! A plugin is replaced again and again while traffic goes on, in short: `many_swaps` is the whole
//! of it.

mod common;

use common::numbered::Rate;
use common::swaps::{Scale, swap_many_services, swap_under_load};
use std::time::Duration;

/// At what an unoptimised build does on two cores that do other things beside.
#[test]
fn a_hundred_swaps_under_load_are_not_noticed() {
    swap_under_load(Scale {
        swaps: 100,
        connections: 100,
        rate: Rate { packets: 10_000, new_flows: 1_000 },
        pace: Duration::from_millis(100),
        offered: 0.5,
    });
}

#[test]
fn two_hundred_and_fifty_six_services_swap_at_once() {
    swap_many_services(256);
}
