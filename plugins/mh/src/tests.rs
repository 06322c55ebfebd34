use super::Maglev;
use crate::hash::{flow_hash, identity};
use crate::lookup::{Lookup, SIZES};
use histories::history;
use proptest::prelude::*;
use shunt_sdk::Flow;
use shunt_sdk::testing::Host;
use std::net::{IpAddr, Ipv4Addr};

#[path = "../../ipvs/tests/histories/mod.rs"]
mod histories;
mod model;
mod published;

fn host(weights: &[u32], params: &[(&str, &str)]) -> Host<Maglev> {
    let mut host = Host::new(0, 1);
    host.set_params(params).unwrap();
    host.set_weights(weights);
    host
}

/// Addresses of so many servers.
fn addresses(count: usize) -> Vec<[u8; 16]> {
    let first = u32::from(Ipv4Addr::new(172, 17, 0, 1));
    (first..).take(count).map(|bits| Ipv4Addr::from(bits).to_ipv6_mapped().octets()).collect()
}

fn from(source: [u8; 4], source_port: u16) -> Flow {
    let source = Ipv4Addr::from(source).to_ipv6_mapped().octets();
    Flow { source, source_port, ..Flow::default() }
}

#[test]
fn nobody_is_chosen_when_nobody_takes_new_flows() {
    for params in [&[][..], &[("mh-fallback", "true")]] {
        assert_eq!(host(&[], params).choose(&Flow::default()), None);
        let mut host = host(&[0, 0], params);
        assert_eq!(host.choose(&Flow::default()), None);
        host.set_weights(&[0, 2]);
        assert_eq!(host.choose(&Flow::default()), Some(1));
        host.set_weights(&[0, 0]);
        assert_eq!(host.choose(&Flow::default()), None);
    }
}

#[test]
fn ports_count_if_they_shall() {
    for (port, servers) in [("false", 1), ("true", 4)] {
        let mut host = host(&[1; 4], &[("mh-port", port)]);
        let mut found: Vec<_> =
            (1..200).map(|port| host.choose(&from([10, 0, 0, 1], port))).collect();
        found.sort();
        found.dedup();
        assert_eq!(found.len(), servers);
    }
}

#[test]
fn the_last_server_is_found_by_the_fallback() {
    let mut weights = [1; 1024];
    let mut host = host(&weights, &[("mh-fallback", "true")]);
    weights = [0; 1024];
    weights[700] = 1;
    host.set_weights(&weights);
    for client in 0..200 {
        assert_eq!(host.choose(&from([10, 0, 0, client], 0)), Some(700));
    }
}

#[test]
fn with_more_servers_than_places_the_table_is_full() {
    let mut host = host(&[1; 1024], &[("mh-table", "251")]);
    for client in 0..200 {
        assert!(host.choose(&from([10, 0, 0, client], 0)).is_some());
    }
}

#[test]
fn parameters_that_make_no_sense_are_refused() {
    let mut host = host(&[1], &[]);
    let refused =
        |host: &mut Host<Maglev>, key, value| host.set_params(&[(key, value)]).unwrap_err();
    assert_eq!(refused(&mut host, "mh-port", "1"), "mh-port takes true or false, not \"1\"");
    assert_eq!(
        refused(&mut host, "mh-table", "4096"),
        "mh-table takes 251, 509, 1021, 2039 or 4093, not \"4096\""
    );
    assert_eq!(
        refused(&mut host, "sh-port", "true"),
        "there is no parameter sh-port; there is mh-fallback, mh-port and mh-table"
    );
    for size in SIZES {
        host.set_params(&[("mh-table", &size.to_string())]).unwrap();
    }
}

/// Directors of different versions serve side by side: these numbers may never change.
#[test]
fn every_director_builds_this_table() {
    assert_eq!(identity(&addresses(1)[0]), IDENTITY);
    assert_eq!(flow_hash(&from([192, 168, 100, 11], 0).source, 40_000), HASH);
    let mut lookup = Lookup::new();
    let addresses = addresses(5);
    lookup.servers_changed(addresses.iter().zip([1, 2, 3, 4, 5]));
    let digest = (0..lookup.size()).fold(0u64, |digest, place| {
        digest.wrapping_mul(0x100_0000_01b3) ^ lookup.slot(place).unwrap() as u64
    });
    assert_eq!(digest, DIGEST);
}

const IDENTITY: u64 = 0x1297_e437_1616_34b8;
const HASH: u64 = 0x8159_dc28_2b80_d837;
const DIGEST: u64 = 0x9ff2_f9ad_2594_6fab;

proptest! {
    // The model of a table takes milliseconds.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn it_chooses_as_the_model_does(
        history in history(),
        size in prop::sample::select(&SIZES[..]),
        port in any::<bool>(),
        fallback in any::<bool>(),
    ) {
        let mut host = Host::<Maglev>::new(0, 1);
        let text = |flag: bool| if flag { "true" } else { "false" };
        let size_text = size.to_string();
        let params =
            [("mh-port", text(port)), ("mh-fallback", text(fallback)), ("mh-table", &size_text)];
        host.set_params(&params).unwrap();
        prop_assert_eq!(host.play(&history), model::play(&history, size, port, fallback));
    }

    /// The same servers in other slots, added in another order: the same server for each client.
    #[test]
    fn slots_make_no_difference(
        order in Just((0..30usize).collect::<Vec<_>>()).prop_shuffle(),
        weights in prop::collection::vec(0..700u32, 30),
        size in prop::sample::select(&SIZES[..]),
    ) {
        let addresses = addresses(30);
        let nobody = [0; 16];
        let [mut one, mut other] = [Lookup::new(), Lookup::new()];
        one.resize(size);
        other.resize(size);
        one.servers_changed(addresses.iter().zip(weights.iter().copied()));
        for count in [3, 17, 30] {
            let servers = order.iter().enumerate().map(|(slot, &server)| match slot < count {
                true => (&addresses[server], weights[server]),
                false => (&nobody, 0),
            });
            other.servers_changed(servers);
        }
        for place in 0..size {
            let address = one.slot(place).map(|slot| addresses[slot]);
            prop_assert_eq!(other.slot(place).map(|slot| addresses[order[slot]]), address);
        }
    }
}

#[test]
fn addresses_of_both_families_count() {
    let server = |text: &str| (text.parse::<IpAddr>().unwrap(), 1);
    let mut host = host(&[], &[]);
    host.set_servers(&[server("2001:db8::1"), server("10.0.0.1"), server("2001:db8:0:1::1")]);
    let mut flows = [0; 3];
    for client in 0..3000u32 {
        let source = (u128::from(client) << 64 | 1).to_be_bytes();
        flows[host.choose(&Flow { source, ..Flow::default() }).unwrap()] += 1;
    }
    assert!(flows.iter().all(|flows| (850..1150).contains(flows)), "{flows:?}");
}
