//! Random histories for the property tests of the schedulers, and what plays them to a reference
//! model.

#![allow(dead_code)] // each test file uses some of it

use proptest::prelude::*;
use shunt_sdk::testing::{Event, Host};
use shunt_sdk::{Flow, Scheduler, Server};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Slots that are in use at most: more than two vectors of load keys.
const SLOTS: usize = 40;

/// A host whose servers have these weights and active connections.
pub fn host<S: Scheduler>(servers: &[(u32, u32)]) -> Host<S> {
    let mut host = Host::new(0, 1);
    let weights: Vec<_> = servers.iter().map(|&(weight, _)| weight).collect();
    host.set_weights(&weights);
    for (slot, &(_, active)) in servers.iter().enumerate() {
        host.set_load(slot, active, 0);
    }
    host
}

/// Up to 200 events over up to 40 servers, which come, go, drain, and get more or fewer connections
/// between flows.
pub fn history() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        1 => prop::collection::vec(weight(), 0..SLOTS).prop_map(Event::Weights),
        3 => load(SLOTS, connections()),
        8 => Just(Event::Choose),
    ];
    prop::collection::vec(event, 0..200)
}

/// As [`history`], with flows of several clients, servers that get other addresses, weights up to
/// the greatest, instances that are replaced, and time that passes.
///
/// Half of the histories know small numbers only, so that ties and limits are met often.
pub fn full_history() -> impl Strategy<Value = Vec<Event>> {
    let small = events(6, prop_oneof![1 => Just(0), 4 => 1..6u32].boxed(), (0..8u32).boxed());
    prop_oneof![small, events(SLOTS, full_weight().boxed(), connections())]
}

fn events(
    slots: usize,
    weight: BoxedStrategy<u32>,
    connections: BoxedStrategy<u32>,
) -> BoxedStrategy<Vec<Event>> {
    let server = (address(), weight.clone());
    let event = prop_oneof![
        2 => prop::collection::vec(weight, 0..slots).prop_map(Event::Weights),
        2 => prop::collection::vec(server, 0..slots).prop_map(Event::Servers),
        16 => load(slots, connections),
        16 => flow().prop_map(Event::Flow),
        4 => Just(Event::Choose),
        2 => Just(Event::Swap),
        1 => (0..5_000u64).prop_map(Event::Pass),
    ];
    prop::collection::vec(event, 0..200).boxed()
}

// Small weights and loads make ties, great ones reach the limits.

fn weight() -> impl Strategy<Value = u32> {
    prop_oneof![2 => Just(0), 6 => 1..6u32, 1 => 0..=700u32]
}

fn full_weight() -> impl Strategy<Value = u32> {
    prop_oneof![8 => weight(), 1 => 1..=65_535u32, 1 => Just(65_535)]
}

/// Below 2^28, from where on quotients of floats need not be in order.
fn connections() -> BoxedStrategy<u32> {
    prop_oneof![6 => 0..4u32, 2 => 0..700u32, 1 => 0..1u32 << 28].boxed()
}

fn load(slots: usize, connections: BoxedStrategy<u32>) -> impl Strategy<Value = Event> {
    (0..slots, connections.clone(), connections).prop_map(|(slot, active, inactive)| Event::Load {
        slot,
        active,
        inactive,
    })
}

/// One of few, so that servers keep theirs at times, and two may even have the same.
fn address() -> impl Strategy<Value = IpAddr> {
    (any::<bool>(), 0..64u16).prop_map(|(is_v6, host)| match is_v6 {
        true => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host).into(),
        false => Ipv4Addr::new(10, 1, 0, host as u8).into(),
    })
}

fn flow() -> impl Strategy<Value = Flow> {
    (address(), 0..3u8, any::<u16>(), prop_oneof![Just(80), Just(443)], any::<bool>()).prop_map(
        |(source, vip, source_port, destination_port, is_tcp)| Flow {
            source: octets(source),
            destination: Ipv4Addr::new(172, 17, 100, vip).to_ipv6_mapped().octets(),
            source_port,
            destination_port,
            protocol: if is_tcp { 6 } else { 17 },
        },
    )
}

/// An address as the records have it.
pub fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// A scheduler again, in another way: plain loops, written from the kernel's description.
pub trait Model {
    /// The servers or their weights have changed.
    fn servers_changed(&mut self, servers: &[Server]) {
        let _ = servers;
    }

    /// The slot for this flow.
    fn choose(&mut self, servers: &[Server], flow: &Flow) -> Option<usize>;
}

/// Plays a history to a model, with records of its own. Replaced instances and time make no
/// difference to it.
pub fn play_model(model: &mut impl Model, history: &[Event]) -> Vec<Option<usize>> {
    let mut servers: Vec<Server> = Vec::new();
    let mut choices = Vec::new();
    for event in history {
        match event {
            Event::Weights(weights) => {
                let named = weights.iter().zip(0u32..).map(|(&weight, slot)| {
                    (IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + slot)), weight)
                });
                servers = renewed(&servers, named);
                model.servers_changed(&servers);
            }
            Event::Servers(named) => {
                servers = renewed(&servers, named.iter().copied());
                model.servers_changed(&servers);
            }
            &Event::Load { slot, active, inactive } => {
                if let Some(server) = servers.get_mut(slot) {
                    (server.active, server.inactive) = (active, inactive);
                }
            }
            Event::Choose => choices.push(model.choose(&servers, &Flow::default())),
            Event::Flow(flow) => choices.push(model.choose(&servers, flow)),
            _ => {}
        }
    }
    choices
}

/// These servers; one that is in the slot where it was keeps its connections.
fn renewed(before: &[Server], named: impl Iterator<Item = (IpAddr, u32)>) -> Vec<Server> {
    named
        .enumerate()
        .map(|(slot, (address, weight))| {
            let address = octets(address);
            match before.get(slot) {
                Some(&server) if server.address == address => Server { weight, ..server },
                _ => Server { weight, address, ..Server::default() },
            }
        })
        .collect()
}
