//! The algorithm as the paper describes it, of any size: each server has a list of all places in
//! the order in which it wants them, and they take turns.

use crate::hash::{below, identity, next};
use shunt_sdk::Flow;
use shunt_sdk::testing::Event;
use std::collections::HashMap;
use std::net::IpAddr;

pub fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The table over servers with these addresses and weights above 0: by place, the index of the
/// server there.
pub fn table(size: usize, servers: &[([u8; 16], u32)]) -> Vec<Option<usize>> {
    let mut order: Vec<usize> = (0..servers.len()).collect();
    order.sort_by_key(|&index| identity(&servers[index].0));
    let total: u128 = servers.iter().map(|server| u128::from(server.1)).sum();
    let others = size.saturating_sub(servers.len()) as u128;
    let mut shares = vec![0; servers.len()];
    let mut weights = 0;
    for &index in &order {
        let before = others * weights / total;
        weights += u128::from(servers[index].1);
        shares[index] = 1 + others * weights / total - before;
    }
    let wanted = |index: usize, rank: usize| {
        let identity = identity(&servers[index].0);
        let offset = below(next(identity, 1), size);
        let skip = below(next(identity, 2), size - 1) + 1;
        (offset + rank * skip) % size
    };
    let mut places = vec![None; size];
    let mut ranks = vec![0; servers.len()];
    let mut taken = 0;
    while taken < size && shares.iter().any(|&share| share > 0) {
        for &index in order.iter().filter(|&&index| shares[index] > 0) {
            let rank = (ranks[index]..size).find(|&rank| places[wanted(index, rank)].is_none());
            let Some(rank) = rank else { break };
            places[wanted(index, rank)] = Some(index);
            ranks[index] = rank + 1;
            taken += 1;
        }
        shares.iter_mut().for_each(|share| *share -= u128::min(*share, 1));
    }
    places
}

/// What `mh` chooses, from the description.
pub fn play(history: &[Event], size: usize, port: bool, fallback: bool) -> Vec<Option<usize>> {
    let mut servers: Vec<(IpAddr, u32)> = Vec::new();
    let mut last_weights: HashMap<(usize, IpAddr), u32> = HashMap::new();
    let mut places = vec![None; size];
    let mut choices = Vec::new();
    for event in history {
        match event {
            Event::Servers(now) => {
                servers.clone_from(now);
                last_weights.retain(|&(slot, address), _| {
                    servers.get(slot).is_some_and(|server| server.0 == address)
                });
                for (slot, &(address, weight)) in servers.iter().enumerate() {
                    if weight > 0 {
                        last_weights.insert((slot, address), weight);
                    }
                }
                let members: Vec<_> = last_weights.iter().collect();
                let records: Vec<_> = members
                    .iter()
                    .map(|((_, address), weight)| (octets(*address), **weight))
                    .collect();
                let slot = |index: usize| members[index].0.0;
                places = table(size, &records).into_iter().map(|i| i.map(slot)).collect();
            }
            Event::Flow(flow) => choices.push(choose(&servers, &places, flow, port, fallback)),
            _ => {}
        }
    }
    choices
}

fn choose(
    servers: &[(IpAddr, u32)],
    places: &[Option<usize>],
    flow: &Flow,
    port: bool,
    fallback: bool,
) -> Option<usize> {
    let size = places.len();
    let hash = crate::hash::flow_hash(&flow.source, if port { flow.source_port } else { 0 });
    let first = below(hash, size);
    let mut tried = vec![first];
    if fallback {
        tried.extend((1..=256).map(|number| below(next(hash, number), size)));
        tried.extend((0..size).map(|step| (first + step) % size));
    }
    tried.into_iter().filter_map(|place| places[place]).find(|&slot| servers[slot].1 > 0)
}
