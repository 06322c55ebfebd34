//! Random histories for the property tests of the schedulers that look at addresses and the time.

use proptest::prelude::*;
use shunt_sdk::Flow;
use shunt_sdk::testing::Event;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Up to 150 events over up to 24 slots. Servers come, go, drain, come back, and take the slot of
/// another; their connections change; minutes or days pass; flows come from few clients and from
/// many, for few destinations and for many.
pub fn history() -> impl Strategy<Value = Vec<Event>> {
    let load = prop_oneof![6 => 0..6u32, 2 => 0..3000u32, 1 => any::<u32>()];
    let pass = prop_oneof![
        4 => 0..90_000u64,
        2 => 0..40 * 60_000u64,
        1 => 0..3 * 24 * 60 * 60_000u64,
    ];
    let event = prop_oneof![
        2 => servers().prop_map(Event::Servers),
        4 => (0..24usize, load.clone(), load)
            .prop_map(|(slot, active, inactive)| Event::Load { slot, active, inactive }),
        2 => pass.prop_map(Event::Pass),
        12 => flow().prop_map(Event::Flow),
    ];
    prop::collection::vec(event, 0..150)
}

/// Servers by slot, no two with the same address, some slots empty.
fn servers() -> impl Strategy<Value = Vec<(IpAddr, u32)>> {
    let weight = prop_oneof![
        3 => Just(0),
        8 => 1..6u32,
        2 => 0..=700u32,
        1 => Just(65_535),
    ];
    let hosts = Just((1..=40u8).collect::<Vec<_>>()).prop_shuffle();
    let slot = (prop::bool::weighted(0.15), weight);
    (any::<bool>(), hosts, prop::collection::vec(slot, 0..24)).prop_map(
        |(shuffled, mut hosts, slots)| {
            if !shuffled {
                // As they mostly are: the same servers in the same slots, other weights.
                hosts.sort();
            }
            slots
                .into_iter()
                .zip(hosts)
                .map(|((is_empty, weight), host)| match is_empty {
                    true => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
                    false => (server(host), weight),
                })
                .collect()
        },
    )
}

/// Every fourth server has an IPv6 address.
fn server(host: u8) -> IpAddr {
    match host % 4 {
        0 => Ipv6Addr::new(0x2001, 0xdb8, 0, u16::from(host) << 8, 0, 0, 0, u16::from(host)).into(),
        _ => Ipv4Addr::new(10, 0, host % 3, host).into(),
    }
}

fn flow() -> impl Strategy<Value = Flow> {
    let address = prop_oneof![
        3 => (0..4u32).prop_map(|host| Ipv4Addr::from(0xc0a8_6400 + host).to_ipv6_mapped()),
        2 => any::<u32>().prop_map(|address| Ipv4Addr::from(address).to_ipv6_mapped()),
        1 => any::<u128>().prop_map(Ipv6Addr::from),
    ];
    let port = prop_oneof![Just(40_000), any::<u16>()];
    (address.clone(), address, port).prop_map(|(source, destination, source_port)| Flow {
        source: source.octets(),
        destination: destination.octets(),
        source_port,
        destination_port: 80,
        protocol: 6,
    })
}
