use super::SourceHashing;
use histories::history;
use proptest::prelude::*;
use shunt_sdk::Flow;
use shunt_sdk::testing::{Event, Host};
use std::net::{IpAddr, Ipv6Addr};

#[path = "../../ipvs/tests/histories/mod.rs"]
mod histories;

fn host(weights: &[u32], params: &[(&str, &str)]) -> Host<SourceHashing> {
    let mut host = Host::new(0, 1);
    host.set_params(params).unwrap();
    host.set_weights(weights);
    host
}

fn from(source: [u8; 4], source_port: u16) -> Flow {
    let source = std::net::Ipv4Addr::from(source).to_ipv6_mapped().octets();
    Flow { source, source_port, ..Flow::default() }
}

#[test]
fn a_client_stays_with_its_server() {
    let mut host = host(&[1; 5], &[]);
    for client in 0..=255 {
        let first = host.choose(&from([10, 9, 8, client], 1));
        assert!(first.is_some());
        assert_eq!(host.choose(&from([10, 9, 8, client], 2)), first);
    }
}

#[test]
fn clients_are_spread_by_weight() {
    let mut host = host(&[1, 3], &[]);
    let mut flows = [0; 2];
    for client in 0..10_000u32 {
        let [_, b, c, d] = client.to_be_bytes();
        flows[host.choose(&from([10, b, c, d], 0)).unwrap()] += 1;
    }
    assert!((2300..2700).contains(&flows[0]), "{flows:?}");
}

#[test]
fn ports_spread_the_flows_of_one_client_if_they_count() {
    let mut host = host(&[1; 4], &[("sh-port", "true")]);
    let mut flows = [0; 4];
    for port in 1024..2048 {
        flows[host.choose(&from([10, 0, 0, 1], port)).unwrap()] += 1;
    }
    assert!(flows.iter().all(|&flows| (200..320).contains(&flows)), "{flows:?}");
}

#[test]
fn flows_of_a_drained_server_are_declined_unless_there_is_a_fallback() {
    for (fallback, declines) in [("false", true), ("true", false)] {
        let mut host = host(&[1; 4], &[("sh-fallback", fallback)]);
        let before: Vec<_> = (0..=255).map(|c| host.choose(&from([10, 0, 0, c], 0))).collect();
        host.set_weights(&[1, 0, 1, 1]);
        for (client, before) in (0..=255).zip(before) {
            let now = host.choose(&from([10, 0, 0, client], 0));
            match before {
                Some(1) => assert_eq!(now.is_none(), declines),
                before => assert_eq!(now, before, "the other servers keep their clients"),
            }
            assert_ne!(now, Some(1));
        }
    }
}

#[test]
fn nobody_is_chosen_when_nobody_takes_new_flows() {
    for weights in [&[][..], &[0, 0]] {
        assert_eq!(host(weights, &[]).choose(&Flow::default()), None);
        assert_eq!(host(weights, &[("sh-fallback", "true")]).choose(&Flow::default()), None);
    }
}

#[test]
fn slots_make_no_difference() {
    let address = |host| IpAddr::from([10, 0, 0, host]);
    let (mut one, mut other) = (host(&[], &[]), host(&[], &[]));
    one.set_servers(&[(address(1), 2), (address(2), 3), (address(3), 1)]);
    let nobody = IpAddr::from([0, 0, 0, 0]);
    other.set_servers(&[(address(3), 1), (nobody, 0), (address(1), 2), (address(2), 3)]);
    for client in 0..=255 {
        let flow = from([10, 0, 0, client], 0);
        let [one, other] = [&mut one, &mut other].map(|host| {
            let slot = host.choose(&flow).unwrap();
            host.servers()[slot].address
        });
        assert_eq!(one, other);
    }
}

#[test]
fn parameters_that_make_no_sense_are_refused() {
    let mut host = host(&[1], &[]);
    let refused =
        |host: &mut Host<SourceHashing>, key, value| host.set_params(&[(key, value)]).unwrap_err();
    assert_eq!(refused(&mut host, "sh-port", "yes"), "sh-port takes true or false, not \"yes\"");
    assert_eq!(
        refused(&mut host, "mh-port", "true"),
        "there is no parameter mh-port; there is sh-fallback and sh-port"
    );
}

/// Writes the 256 places out as a list, and hashes as ip_vs_sh_hashkey does.
struct Model {
    port: bool,
    fallback: bool,
    places: Vec<usize>,
    weights: Vec<u32>,
}

impl Model {
    fn servers_changed(&mut self, servers: &[(IpAddr, u32)]) {
        let mut order: Vec<_> = servers
            .iter()
            .enumerate()
            .filter(|(_, (address, weight))| *weight > 0 || !address.is_unspecified())
            .map(|(slot, &(address, weight))| {
                let address = match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped(),
                    IpAddr::V6(address) => address,
                };
                (address, slot, weight)
            })
            .collect();
        order.sort();
        let round = order
            .iter()
            .flat_map(|&(_, slot, weight)| vec![slot; weight.clamp(1, 256) as usize])
            .collect::<Vec<_>>();
        self.places = round.iter().copied().cycle().take(256).collect();
        self.weights = servers.iter().map(|&(_, weight)| weight).collect();
    }

    fn place(&self, flow: &Flow) -> usize {
        let source = Ipv6Addr::from(flow.source);
        let address = match source.to_ipv4_mapped() {
            Some(address) => u64::from(u32::from(address)),
            None => {
                let bits = u128::from(source);
                u64::from((bits ^ (bits >> 32) ^ (bits >> 64) ^ (bits >> 96)) as u32)
            }
        };
        let port = if self.port { u64::from(flow.source_port) } else { 0 };
        let value = (address + port) % (1 << 32);
        ((value * 0x61C8_8647) % (1 << 32)) as usize / (1 << 24)
    }

    fn choose(&self, flow: &Flow) -> Option<usize> {
        let place = self.place(flow);
        let first = *self.places.get(place)?;
        if self.weights[first] > 0 {
            return Some(first);
        }
        if !self.fallback {
            return None;
        }
        for offset in 0..256 {
            let further = (offset + place) % 256;
            let slot = self.places[(further + place) % 256];
            if self.weights[slot] > 0 {
                return Some(slot);
            }
        }
        None
    }
}

fn model(history: &[Event], port: bool, fallback: bool) -> Vec<Option<usize>> {
    let mut model = Model { port, fallback, places: Vec::new(), weights: Vec::new() };
    let mut choices = Vec::new();
    for event in history {
        match event {
            Event::Servers(servers) => model.servers_changed(servers),
            Event::Flow(flow) => choices.push(model.choose(flow)),
            _ => {}
        }
    }
    choices
}

proptest! {
    #[test]
    fn it_chooses_as_the_model_does(
        history in history(),
        port in any::<bool>(),
        fallback in any::<bool>(),
    ) {
        let mut host = Host::<SourceHashing>::new(0, 1);
        let text = |flag: bool| if flag { "true" } else { "false" };
        host.set_params(&[("sh-port", text(port)), ("sh-fallback", text(fallback))]).unwrap();
        prop_assert_eq!(host.play(&history), model(&history, port, fallback));
    }
}
