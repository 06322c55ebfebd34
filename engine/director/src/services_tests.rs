use super::*;
use crate::health::weights::Weights;
use crate::neighbors::Neighbors;
use crate::tables::TableMaker;
use dataplane::Protocol;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn key(port: u16) -> ServiceKey {
    ServiceKey { address: [172, 17, 100, 100].into(), port, protocol: Protocol::Tcp }
}

fn name(text: &str) -> SchedulerName {
    text.parse().unwrap()
}

fn rs(host: u8) -> IpAddr {
    [172, 17, 100, host].into()
}

fn one_service() -> Services {
    let mut services = Services::default();
    services.add_service(key(80), name("rr"), Params::new()).unwrap();
    services.add_server(&key(80), rs(1), None).unwrap();
    services.add_server(&key(80), rs(2), Some(3)).unwrap();
    services
}

#[test]
fn a_removed_server_keeps_its_index_until_two_checks_find_no_flow() {
    let mut services = one_service();
    services.remove_server(&key(80), rs(1), Removal::Drain).unwrap();
    assert!(services.free_idle(|_| true).is_empty());
    assert!(services.free_idle(|_| false).is_empty());
    assert!(services.free_idle(|_| true).is_empty(), "a flow came back: count again");
    assert!(services.free_idle(|_| false).is_empty());
    assert_eq!(services.server(ServerIndex(0)).unwrap().state, ServerState::Removed);
    let freed = services.free_idle(|_| false);
    assert_eq!(freed, Freed { services: vec![], servers: vec![ServerIndex(0)] });
    assert_eq!(services.server(ServerIndex(0)), None);
    assert_eq!(services.server(ServerIndex(1)).unwrap().slot, 1, "the others keep their slots");
    assert_eq!(services.add_server(&key(80), rs(9), None), Ok(ServerIndex(0)));
}

#[test]
fn a_given_mac_address_is_that_of_the_machine_in_all_services() {
    let [first, second] = [1, 2].map(|last| [2, 0, 0, 0, 0, last]);
    let mut services = one_service();
    services.give_mac(rs(1), first).unwrap();
    services.give_mac(rs(1), second).unwrap();
    services.add_service(key(81), name("rr"), Params::new()).unwrap();
    services.add_server(&key(81), rs(1), None).unwrap();
    services.give_mac(rs(1), second).unwrap();
    let refused = services.give_mac(rs(1), first).unwrap_err().to_string();
    assert!(refused.contains("has the MAC address 02:00:00:00:00:02"), "{refused}");
    // It stays as long as a flow may go there.
    for port in [80, 81] {
        services.remove_server(&key(port), rs(1), Removal::Drain).unwrap();
    }
    services.free_idle(|_| false);
    assert_eq!(services.macs(), &[(rs(1), second)].into());
    services.free_idle(|_| false);
    assert_eq!(services.macs(), &BTreeMap::new());
}

#[test]
fn another_version_keeps_the_parameters_and_another_plugin_starts_with_none() {
    let param = |value: &str| Params::from([("k".to_owned(), value.to_owned())]);
    let mut services = Services::default();
    let index = services.add_service(key(80), name("my"), param("1")).unwrap();
    for (scheduler, given, expected) in [
        ("my@2", None, param("1")),
        ("my", None, param("1")),
        ("my", Some(param("2")), param("2")),
        ("my@1", Some(Params::new()), Params::new()),
        ("my", Some(param("3")), param("3")),
        ("mine", None, Params::new()),
        ("my", Some(param("4")), param("4")),
    ] {
        services.set_scheduler(&key(80), name(scheduler), given).unwrap();
        let entry = services.service(index).unwrap();
        assert_eq!((&entry.scheduler, &entry.params), (&name(scheduler), &expected));
    }
    services.set_params(&key(80), param("5")).unwrap();
    let entry = services.service(index).unwrap();
    assert_eq!((&entry.scheduler, &entry.params), (&name("my"), &param("5")));
    services.remove_service(&key(80)).unwrap();
    services.add_service(key(80), name("rr"), param("6")).unwrap();
    assert_eq!(services.service(index).unwrap().params, param("6"));
    assert!(services.set_params(&key(81), param("7")).is_err());
}

#[test]
fn a_serving_server_is_never_freed() {
    let mut services = one_service();
    for _ in 0..5 {
        assert!(services.free_idle(|_| false).is_empty());
    }
}

#[test]
fn adding_a_removed_server_again_re_attaches_it() {
    let mut services = one_service();
    for removal in [Removal::Drain, Removal::Expire] {
        services.remove_server(&key(80), rs(2), removal).unwrap();
        assert!(services.free_idle(|_| false).is_empty());
        assert_eq!(services.add_server(&key(80), rs(2), None), Ok(ServerIndex(1)));
        let server = services.server(ServerIndex(1)).unwrap();
        assert_eq!((server.state, server.weight), (ServerState::Serving, 3));
        assert!(services.free_idle(|_| false).is_empty());
    }
    services.remove_server(&key(80), rs(2), Removal::Drain).unwrap();
    services.add_server(&key(80), rs(2), Some(8)).unwrap();
    assert_eq!(services.server(ServerIndex(1)).unwrap().weight, 8);
}

#[test]
fn a_draining_server_can_still_be_expired() {
    let mut services = one_service();
    services.remove_server(&key(80), rs(1), Removal::Drain).unwrap();
    services.remove_server(&key(80), rs(1), Removal::Expire).unwrap();
    assert_eq!(services.server(ServerIndex(0)).unwrap().state, ServerState::Expired);
    for removal in [Removal::Drain, Removal::Expire] {
        let again = services.remove_server(&key(80), rs(1), removal);
        assert!(matches!(again, Err(ServicesError::ServerRemoved { .. })), "{again:?}");
    }
}

#[test]
fn a_removed_service_drains_and_comes_back_with_its_flows() {
    let mut services = one_service();
    services.remove_service(&key(80)).unwrap();
    assert!(services.service(ServiceIndex(0)).unwrap().removed);
    assert!(services.servers().all(|(_, server)| server.state == ServerState::Removed));
    assert!(services.free_idle(|index| index == ServerIndex(0)).is_empty());
    let freed = services.free_idle(|index| index == ServerIndex(0));
    assert_eq!(freed, Freed { services: vec![], servers: vec![ServerIndex(1)] });

    assert_eq!(services.add_service(key(80), name("lc"), Params::new()), Ok(ServiceIndex(0)));
    assert_eq!(services.add_server(&key(80), rs(1), None), Ok(ServerIndex(0)));
    assert_eq!(services.service(ServiceIndex(0)).unwrap().scheduler, name("lc"));

    services.remove_service(&key(80)).unwrap();
    services.free_idle(|_| false);
    let freed = services.free_idle(|_| false);
    assert_eq!(freed, Freed { services: vec![ServiceIndex(0)], servers: vec![ServerIndex(0)] });
    assert_eq!(services, Services::default());
}

#[test]
fn refusals_name_what_there_is_and_change_nothing() {
    let mut services = one_service();
    let before = services.clone();
    for (refused, expected) in [
        (services.add_service(key(80), name("rr"), Params::new()).map(|_| ()), "exists already"),
        (services.remove_service(&key(81)), "there is only tcp:172.17.100.100:80"),
        (services.set_scheduler(&key(81), name("rr"), None).map(|_| ()), "no virtual service"),
        (services.add_server(&key(80), rs(1), None).map(|_| ()), "shunt server set"),
        (services.add_server(&key(80), rs(100), None).map(|_| ()), "is the VIP itself"),
        (
            services.add_server(&key(80), "2001:db8::1".parse().unwrap(), None).map(|_| ()),
            "same family",
        ),
        (services.set_weight(&key(80), rs(7), 1), "there are 172.17.100.1, 172.17.100.2"),
        (services.remove_server(&key(80), rs(7), Removal::Drain), "has no real server"),
    ] {
        let message = refused.unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(services, before);
    services.remove_server(&key(80), rs(1), Removal::Drain).unwrap();
    let message = services.set_weight(&key(80), rs(1), 1).unwrap_err().to_string();
    assert!(message.contains("`shunt server add` puts it back"), "{message}");
    services.remove_service(&key(80)).unwrap();
    let message = services.add_server(&key(80), rs(3), None).unwrap_err().to_string();
    assert!(message.contains("there is none"), "{message}");
}

#[test]
fn a_service_has_at_most_so_many_servers() {
    let mut services = one_service();
    let address = |number: usize| IpAddr::from([10, 1, (number / 256) as u8, (number % 256) as u8]);
    for number in 2..SERVERS_PER_SERVICE_MAX {
        services.add_server(&key(80), address(number), None).unwrap();
    }
    let refused = services.add_server(&key(80), address(0), None).unwrap_err();
    assert!(refused.to_string().contains("1024"), "{refused}");
}

/// What an operator, the clients and the passing time may do.
#[derive(Debug, Clone)]
enum Step {
    AddService(u16),
    RemoveService(u16),
    AddServer(u16, u8, u16),
    SetWeight(u16, u8, u16),
    RemoveServer(u16, u8, bool),
    FlowBegins(usize),
    FlowEnds(usize),
    Check,
}

fn step() -> impl Strategy<Value = Step> {
    let (port, host) = (80..83u16, 1..6u8);
    prop_oneof![
        1 => port.clone().prop_map(Step::AddService),
        1 => port.clone().prop_map(Step::RemoveService),
        4 => (port.clone(), host.clone(), 0..5u16).prop_map(|(p, h, w)| Step::AddServer(p, h, w)),
        1 => (port.clone(), host.clone(), 0..5u16).prop_map(|(p, h, w)| Step::SetWeight(p, h, w)),
        3 => (port, host, any::<bool>()).prop_map(|(p, h, e)| Step::RemoveServer(p, h, e)),
        4 => any::<usize>().prop_map(Step::FlowBegins),
        3 => any::<usize>().prop_map(Step::FlowEnds),
        5 => Just(Step::Check),
    ]
}

type Wanted = BTreeMap<ServiceKey, BTreeMap<IpAddr, u16>>;
type Flow = (ServerIndex, ServiceKey, IpAddr);

/// Plays one step on the services and, from what a reader of the manual would expect, on `wanted`.
fn play(services: &mut Services, wanted: &mut Wanted, flows: &mut Vec<Flow>, step: Step) {
    match step {
        Step::AddService(port) => {
            let added = services.add_service(key(port), name("rr"), Params::new()).is_ok();
            assert_eq!(added, !wanted.contains_key(&key(port)));
            wanted.entry(key(port)).or_default();
        }
        Step::RemoveService(port) => {
            let removed = services.remove_service(&key(port)).is_ok();
            assert_eq!(removed, wanted.remove(&key(port)).is_some());
        }
        Step::AddServer(port, host, weight) => {
            let added = services.add_server(&key(port), rs(host), Some(weight)).is_ok();
            let members = wanted.get_mut(&key(port));
            assert_eq!(added, members.as_ref().is_some_and(|m| !m.contains_key(&rs(host))));
            if added {
                members.unwrap().insert(rs(host), weight);
            }
        }
        Step::SetWeight(port, host, weight) => {
            let set = services.set_weight(&key(port), rs(host), weight).is_ok();
            let member = wanted.get_mut(&key(port)).and_then(|m| m.get_mut(&rs(host)));
            assert_eq!(set, member.is_some());
            if let Some(member) = member {
                *member = weight;
            }
        }
        Step::RemoveServer(port, host, expire) => {
            let removal = if expire { Removal::Expire } else { Removal::Drain };
            let removed = services.remove_server(&key(port), rs(host), removal).is_ok();
            let was = wanted.get_mut(&key(port)).and_then(|m| m.remove(&rs(host))).is_some();
            // Expiring what drains already is allowed, and changes no wish.
            assert!(removed == was || (removed && expire));
        }
        Step::FlowBegins(choice) => {
            let serving: Vec<Flow> = services
                .servers()
                .filter(|(_, server)| server.state == ServerState::Serving && server.weight > 0)
                .map(|(index, s)| (index, services.service(s.service).unwrap().key, s.address))
                .collect();
            if !serving.is_empty() {
                flows.push(serving[choice % serving.len()]);
            }
        }
        Step::FlowEnds(choice) => {
            if !flows.is_empty() {
                flows.swap_remove(choice % flows.len());
            }
        }
        Step::Check => {
            services.free_idle(|index| flows.iter().any(|flow| flow.0 == index));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_flow_ever_meets_a_stranger(steps in prop::collection::vec(step(), 1..120)) {
        let mut services = Services::default();
        let (mut wanted, mut flows) = (Wanted::new(), Vec::new());
        let (mut maker, neighbors) = (TableMaker::default(), Neighbors::default());
        for step in steps {
            play(&mut services, &mut wanted, &mut flows, step);
            // The table checks that services and servers name each other.
            maker.make(&services, &neighbors, &Weights::default(), 0);

            for &(index, key, address) in &flows {
                let server = services.server(index).expect("a server with flows keeps its index");
                prop_assert_eq!(server.address, address);
                let service = services.service(server.service).expect("and so does its service");
                prop_assert_eq!(service.key, key);
                prop_assert_eq!(services.find(&key), Some(server.service));
            }
            let serving: Wanted = services
                .services()
                .filter(|(_, service)| !service.removed)
                .map(|(_, service)| {
                    let members = services
                        .members(service)
                        .filter(|(_, server)| server.state == ServerState::Serving)
                        .map(|(_, server)| (server.address, server.weight));
                    (service.key, members.collect())
                })
                .collect();
            prop_assert_eq!(&serving, &wanted);
            for (index, server) in services.servers() {
                let service = services.service(server.service).unwrap();
                prop_assert_eq!(service.slots[usize::from(server.slot)], Some(index));
            }
            let members: usize = services.services().map(|(_, s)| services.members(s).count()).sum();
            prop_assert_eq!(members, services.servers().count());
        }
        flows.clear();
        for port in 80..83 {
            let _ = services.remove_service(&key(port));
        }
        services.free_idle(|_| false);
        services.free_idle(|_| false);
        prop_assert_eq!(services, Services::default());
    }
}
