use super::DestinationHashing;
use histories::history;
use proptest::prelude::*;
use shunt_sdk::Flow;
use shunt_sdk::testing::{Event, Host};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[path = "../../ipvs/tests/histories/mod.rs"]
mod histories;

fn host(weights: &[u32]) -> Host<DestinationHashing> {
    let mut host = Host::new(0, 1);
    host.set_weights(weights);
    host
}

fn to(destination: u32) -> Flow {
    let destination = Ipv4Addr::from(destination).to_ipv6_mapped().octets();
    Flow { destination, ..Flow::default() }
}

#[test]
fn a_destination_stays_with_its_server_whoever_asks() {
    let mut host = host(&[1; 5]);
    for destination in 0..300 {
        let first = host.choose(&to(destination));
        assert!(first.is_some());
        let flow = Flow { source: [9; 16], source_port: 7, ..to(destination) };
        assert_eq!(host.choose(&flow), first);
    }
}

#[test]
fn weights_make_no_difference_above_0() {
    let (mut one, mut other) = (host(&[1, 1, 0]), host(&[9, 4000, 0]));
    let mut flows = [0; 2];
    for destination in 0..3000 {
        let choice = one.choose(&to(destination));
        assert_eq!(choice, other.choose(&to(destination)));
        if let Some(slot) = choice {
            flows[slot] += 1;
        }
    }
    assert!(flows.iter().all(|flows| (900..1100).contains(flows)), "a third each: {flows:?}");
}

#[test]
fn nobody_is_chosen_when_nobody_takes_new_flows() {
    assert_eq!(host(&[]).choose(&to(1)), None);
    assert_eq!(host(&[0, 0]).choose(&to(1)), None);
}

#[test]
fn only_the_first_256_servers_have_a_place() {
    let mut host = host(&[1; 300]);
    for destination in 0..2000 {
        assert!(host.choose(&to(destination)).unwrap() < 256);
    }
}

#[test]
fn it_takes_no_parameters() {
    assert!(host(&[1]).set_params(&[("sh-port", "true")]).is_err());
}

/// Counts places off on a map of addresses, and hashes as ip_vs_dh_hashkey does.
fn model(history: &[Event]) -> Vec<Option<usize>> {
    let mut by_address = BTreeMap::new();
    let mut weights = Vec::new();
    let mut choices = Vec::new();
    for event in history {
        match event {
            Event::Servers(servers) => {
                weights = servers.iter().map(|&(_, weight)| weight).collect();
                by_address = (0..)
                    .zip(servers)
                    .filter(|(_, (address, weight))| !address.is_unspecified() || *weight > 0)
                    .map(|(slot, &(address, _))| match address {
                        IpAddr::V4(address) => (address.to_ipv6_mapped(), slot),
                        IpAddr::V6(address) => (address, slot),
                    })
                    .collect();
            }
            Event::Flow(flow) => {
                let destination = Ipv6Addr::from(flow.destination);
                let value = match destination.to_ipv4_mapped() {
                    Some(address) => u32::from(address),
                    None => {
                        let parts = destination.segments();
                        let word =
                            |at: usize| (u32::from(parts[at]) << 16) | u32::from(parts[at + 1]);
                        word(0) ^ word(2) ^ word(4) ^ word(6)
                    }
                };
                let product = u64::from(value) * 0x61C8_8647;
                let place = (product % (1 << 32)) as usize / (1 << 24);
                let turn = place.checked_rem(by_address.len());
                let slot = turn.and_then(|turn| by_address.values().nth(turn).copied());
                choices.push(slot.filter(|&slot: &usize| weights[slot] > 0));
            }
            _ => {}
        }
    }
    choices
}

proptest! {
    #[test]
    fn it_chooses_as_the_model_does(history in history()) {
        let mut host = Host::<DestinationHashing>::new(0, 1);
        prop_assert_eq!(host.play(&history), model(&history));
    }
}
