//! Random histories for the property tests of the schedulers.

use proptest::prelude::*;
use shunt_sdk::testing::Event;

/// Up to 200 events over up to 40 servers (more than two vectors of load keys), which come, go,
/// drain, and get more or fewer connections between flows.
pub fn history() -> impl Strategy<Value = Vec<Event>> {
    // Small weights and loads make ties, great loads reach the limits.
    let weight = prop_oneof![2 => Just(0), 6 => 1..6u32, 1 => 0..=700u32];
    let load = prop_oneof![6 => 0..4u32, 1 => any::<u32>()];
    let event = prop_oneof![
        1 => prop::collection::vec(weight, 0..40).prop_map(Event::Weights),
        3 => (0..40usize, load.clone(), load)
            .prop_map(|(slot, active, inactive)| Event::Load { slot, active, inactive }),
        8 => Just(Event::Choose),
    ];
    prop::collection::vec(event, 0..200)
}
