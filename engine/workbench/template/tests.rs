//! The scheduler natively, without WebAssembly: `Host` plays shunt.

use super::*;
use shunt_sdk::testing::Host;

/// The first flow of client number `client`.
fn from(client: u32) -> Flow {
    Flow {
        source: core::net::Ipv4Addr::from(0x0a00_0000 + client).to_ipv6_mapped().octets(),
        ..Flow::default()
    }
}

/// A host with so many servers of weight 1, on the only worker.
fn host(servers: usize) -> Host<TwoOfAClient> {
    let mut host = Host::new(0, 1);
    host.set_weights(&vec![1; servers]);
    host
}

#[test]
fn a_client_comes_back_to_its_server() {
    let mut host = host(16);
    for client in 0..100 {
        assert_eq!(host.choose(&from(client)), host.choose(&from(client)));
    }
}

#[test]
fn every_server_gets_its_part() {
    let mut host = host(16);
    let mut flows = [0; 16];
    for client in 0..16_000 {
        flows[host.choose(&from(client)).expect("there are servers")] += 1;
    }
    assert!(flows.iter().all(|count| (800..1200).contains(count)), "{flows:?}");
}

#[test]
fn of_two_servers_the_less_loaded_one() {
    let mut host = host(2);
    host.set_load(0, 100, 0);
    let chosen: Vec<_> = (0..100).map(|client| host.choose(&from(client))).collect();
    // Both servers are the busy one for a quarter of the clients.
    let spared = chosen.iter().filter(|&&slot| slot == Some(1)).count();
    assert!((60..90).contains(&spared), "{spared} of 100");
    // A hundred times the weight takes a hundred times the connections.
    host.set_weights(&[200, 1]);
    host.set_load(1, 1, 0);
    let chosen = (0..100).filter(|&client| host.choose(&from(client)) == Some(0)).count();
    assert!((60..90).contains(&chosen), "{chosen} of 100");
}

#[test]
fn drained_servers_get_nothing() {
    let mut host = host(4);
    host.set_weights(&[0, 1, 0, 1]);
    assert!((0..100).all(|client| matches!(host.choose(&from(client)), Some(1 | 3))));
    host.set_weights(&[0, 0, 0, 0]);
    assert_eq!(host.choose(&from(1)), None);
    host.set_weights(&[]);
    assert_eq!(host.choose(&from(1)), None);
}
