//! From one config file to the next: only what differs between the two files is applied, so that
//! what was changed at run time stays.

use crate::config::{self, Config, ServerConfig, ServiceConfig};
use crate::health::Policy;
use crate::mac::Mac;
use crate::scheduler_name::{Params, SchedulerName};
use crate::service_name::ServiceName;
use crate::services::{Removal, Services, ServicesError};
use dataplane::{ServerState, ServiceKey};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// One difference between two files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// A service that only the new file has.
    NewService(ServiceConfig),
    /// A service that only the old file has.
    NoService(ServiceKey),
    /// Another scheduler, or other parameters of it.
    Scheduler(ServiceKey, SchedulerName, Params),
    /// Another way to look after the servers.
    Policy(ServiceKey, Policy),
    /// A server that only the new file has.
    NewServer(ServiceKey, ServerConfig),
    /// A server that only the old file has.
    NoServer(ServiceKey, IpAddr),
    /// Another weight.
    Weight(ServiceKey, ServerConfig),
    /// What MAC address a real server has in the new file, if any.
    Mac(IpAddr, Option<Mac>),
}

/// What is different in the services of a new file.
pub fn differences(old: &[ServiceConfig], new: &[ServiceConfig]) -> Vec<Difference> {
    let mut differences = Vec::new();
    for service in old {
        if find(new, &service.key).is_none() {
            differences.push(Difference::NoService(service.key));
        }
    }
    for service in new {
        match find(old, &service.key) {
            None => differences.push(Difference::NewService(service.clone())),
            Some(former) => compare(former, service, &mut differences),
        }
    }
    differences.extend(other_macs(old, new));
    differences
}

/// Where real servers have other MAC addresses. One that goes with its server is not among them: it
/// stays for the flows that the server still has.
fn other_macs(old: &[ServiceConfig], new: &[ServiceConfig]) -> Vec<Difference> {
    let by_address = |services: &[ServiceConfig]| {
        let servers = services.iter().flat_map(|service| &service.servers);
        let macs = config::macs(services);
        let mac = |server: &ServerConfig| (server.address, macs.get(&server.address).copied());
        servers.map(mac).collect::<BTreeMap<IpAddr, Option<Mac>>>()
    };
    let before = by_address(old);
    let after = by_address(new).into_iter();
    let other = after.filter(|(address, mac)| before.get(address) != Some(mac));
    other.map(|(address, mac)| Difference::Mac(address, mac)).collect()
}

fn find<'a>(services: &'a [ServiceConfig], key: &ServiceKey) -> Option<&'a ServiceConfig> {
    services.iter().find(|service| service.key == *key)
}

fn compare(old: &ServiceConfig, new: &ServiceConfig, differences: &mut Vec<Difference>) {
    let key = new.key;
    if (&old.scheduler, &old.params) != (&new.scheduler, &new.params) {
        let (scheduler, params) = (new.scheduler.clone(), new.params.clone());
        differences.push(Difference::Scheduler(key, scheduler, params));
    }
    let in_file = |servers: &[ServerConfig], address| {
        servers.iter().find(|server| server.address == address).copied()
    };
    for server in &old.servers {
        if in_file(&new.servers, server.address).is_none() {
            differences.push(Difference::NoServer(key, server.address));
        }
    }
    // Before the servers that come: one of them may have been the sorry server.
    if old.policy != new.policy {
        differences.push(Difference::Policy(key, new.policy.clone()));
    }
    for &server in &new.servers {
        match in_file(&old.servers, server.address) {
            None => differences.push(Difference::NewServer(key, server)),
            Some(former) if former.weight != server.weight => {
                differences.push(Difference::Weight(key, server));
            }
            Some(_) => {}
        }
    }
}

/// Applies differences between files to what is in force. What was changed at run time may have
/// anticipated or overtaken one: then it has nothing to do. Returns remarks for the log.
pub fn apply(
    services: &mut Services,
    differences: &[Difference],
) -> Result<Vec<String>, ServicesError> {
    let mut remarks = Vec::new();
    // What goes makes room for what comes.
    let (going, coming): (Vec<_>, Vec<_>) = differences.iter().partition(|difference| {
        matches!(difference, Difference::NoService(_) | Difference::NoServer(..))
    });
    for difference in going.into_iter().chain(coming) {
        apply_one(services, difference, &mut remarks)?;
    }
    Ok(remarks)
}

fn apply_one(
    services: &mut Services,
    difference: &Difference,
    remarks: &mut Vec<String>,
) -> Result<(), ServicesError> {
    match difference {
        Difference::NewService(service) => {
            let ServiceConfig { key, scheduler, params, policy, servers } = service;
            let (scheduler, params) = (scheduler.clone(), params.clone());
            if services.serving(key).is_ok() {
                services.set_scheduler(key, scheduler, Some(params))?;
            } else {
                services.add_service(*key, scheduler, params)?;
            }
            services.set_policy(key, policy.clone())?;
            for server in servers {
                put_server(services, key, server)?;
            }
            Ok(())
        }
        Difference::NoService(key) => ignore_missing(services.remove_service(key)),
        Difference::Scheduler(key, scheduler, params) => {
            let (scheduler, params) = (scheduler.clone(), params.clone());
            ignore_missing(services.set_scheduler(key, scheduler, Some(params)).map(|_| ()))
        }
        Difference::Policy(key, policy) => ignore_missing(services.set_policy(key, policy.clone())),
        Difference::NewServer(key, server) => put_server(services, key, server),
        Difference::NoServer(key, address) => {
            ignore_missing(services.remove_server(key, *address, Removal::Drain))
        }
        Difference::Weight(key, server) => {
            let set = services.set_weight(key, server.address, server.weight);
            if set.is_err() {
                remarks.push(format!(
                    "{} of {} has another weight in the config, but was removed at run time and stays so; `shunt server add` puts it back",
                    server.address,
                    ServiceName(*key)
                ));
            }
            ignore_missing(set)
        }
        Difference::Mac(address, mac) => {
            services.set_mac(*address, *mac);
            Ok(())
        }
    }
}

fn put_server(
    services: &mut Services,
    key: &ServiceKey,
    server: &ServerConfig,
) -> Result<(), ServicesError> {
    let serving = services
        .find(key)
        .and_then(|service| services.find_server(service, server.address))
        .and_then(|index| services.server(index))
        .is_some_and(|server| server.state == ServerState::Serving);
    if serving {
        services.set_weight(key, server.address, server.weight)
    } else {
        services.add_server(key, server.address, Some(server.weight)).map(|_| ())
    }
}

fn ignore_missing(result: Result<(), ServicesError>) -> Result<(), ServicesError> {
    match result {
        Err(
            ServicesError::UnknownService { .. }
            | ServicesError::UnknownServer { .. }
            | ServicesError::ServerRemoved { .. },
        ) => Ok(()),
        other => other,
    }
}

/// Takes from the new file what a running director can change. All else stays as it is, so that
/// the next file is compared with that.
pub fn take_over(running: &mut Config, new: Config) {
    let stack = running.plugins.limits.stack;
    running.settings = new.settings;
    running.services = new.services;
    running.plugins = new.plugins;
    // The engine is built with it.
    running.plugins.limits.stack = stack;
}

/// What the new file changes and a running director cannot: one sentence for each.
pub fn needs_restart(running: &Config, new: &Config) -> Vec<String> {
    let changed = [
        ("poll", running.poll != new.poll),
        ("flows and flows_v6", running.capacity != new.capacity),
        ("[[interface]]", running.interfaces != new.interfaces),
        ("[api]", running.api != new.api),
        ("[metrics]", running.metrics_listen != new.metrics_listen),
        ("manage_vip", running.manage_vip != new.manage_vip),
        ("duplicate_vip", running.duplicate_vip != new.duplicate_vip),
        ("state_dir", running.state_dir != new.state_dir),
        ("stack of [plugins]", running.plugins.limits.stack != new.plugins.limits.stack),
    ];
    changed
        .iter()
        .filter(|(_, changed)| *changed)
        .map(|(key, _)| {
            format!("{key} changed in the config, which takes effect at the next start")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::kinds::{CheckKind, HealthCheck, OnFailure};
    use crate::scheduler_name::stock_only;
    use crate::services::ServerEntry;
    use dataplane::Protocol;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn key(port: u16) -> ServiceKey {
        ServiceKey { address: [172, 17, 100, 100].into(), port, protocol: Protocol::Tcp }
    }

    /// Scheduler, its parameters, the weight and something more of each server; quorum, sorry
    /// server and whether there is a check.
    type Drawn = (&'static str, Params, BTreeMap<u8, (u8, u16)>, (u16, Option<u8>, bool));

    fn file() -> impl Strategy<Value = Vec<ServiceConfig>> {
        let server = (1..6u8, 0..4u16);
        let servers = prop::collection::btree_map(1..6u8, server, 0..5);
        let param = prop::collection::btree_map("[a-c]", "[0-2]", 0..3);
        // Among them an address that is a real server in another file.
        let policy = (1..3u16, prop::option::of(5..8u8), any::<bool>());
        let service =
            (prop::sample::select(vec!["rr", "wrr", "lc", "rr@0"]), param, servers, policy);
        let services = prop::collection::btree_map(80..84u16, service, 0..4);
        // A real server is one machine in all services.
        let macs = prop::collection::btree_map(1..6u8, 1..3u8, 0..3);
        (services, macs).prop_map(|(services, macs)| {
            let make = |(port, service): (u16, Drawn)| {
                let (scheduler, params, servers, (quorum, sorry, checked)) = service;
                let sorry = sorry.filter(|host| !servers.contains_key(host));
                let policy = Policy {
                    check: checked.then(|| Arc::new(tcp())),
                    quorum,
                    sorry_server: sorry.map(|host| [172, 17, 100, host].into()),
                    ..Policy::default()
                };
                let server = |(host, (_, weight))| ServerConfig {
                    address: [172, 17, 100, host].into(),
                    weight,
                    mac: macs.get(&host).map(|&last| [2, 0, 0, 0, 0, last]),
                };
                let servers = servers.into_iter().map(server).collect();
                let scheduler = scheduler.parse().unwrap();
                ServiceConfig { key: key(port), scheduler, params, policy, servers }
            };
            services.into_iter().map(make).collect()
        })
    }

    fn tcp() -> HealthCheck {
        HealthCheck {
            kind: CheckKind::Tcp,
            port: None,
            interval: HealthCheck::INTERVAL,
            timeout: HealthCheck::TIMEOUT,
            rise: HealthCheck::RISE,
            fall: HealthCheck::FALL,
            jitter: HealthCheck::JITTER,
            on_failure: OnFailure::Drain,
        }
    }

    /// What serves, as a file would say it.
    fn serving(services: &Services) -> Vec<ServiceConfig> {
        let mut all: Vec<ServiceConfig> = services
            .services()
            .filter(|(_, service)| !service.removed)
            .map(|(_, service)| {
                let server = |ServerEntry { address, weight, .. }: &ServerEntry| ServerConfig {
                    address: *address,
                    weight: *weight,
                    mac: services.macs().get(address).copied(),
                };
                let mut servers: Vec<ServerConfig> = services
                    .members(service)
                    .filter(|(_, server)| server.state == ServerState::Serving && !server.sorry)
                    .map(|(_, entry)| server(entry))
                    .collect();
                servers.sort_by_key(|server| server.address);
                let (scheduler, params) = (service.scheduler.clone(), service.params.clone());
                let policy = service.policy.clone();
                ServiceConfig { key: service.key, scheduler, params, policy, servers }
            })
            .collect();
        all.sort_by_key(|service| service.key);
        all
    }

    fn follow(services: &mut Services, old: &[ServiceConfig], new: &[ServiceConfig]) {
        apply(services, &differences(old, new)).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

        #[test]
        fn without_changes_at_run_time_the_last_file_is_in_force(
            files in prop::collection::vec((file(), 0..4u8), 1..8),
        ) {
            let (mut services, mut former) = (Services::default(), Vec::new());
            for (file, checks) in files {
                follow(&mut services, &former, &file);
                prop_assert_eq!(serving(&services), file.clone());
                // Between two reloads some of what was removed may be gone for good.
                for _ in 0..checks {
                    services.free_idle(|index| index.0 % 2 == 0);
                }
                former = file;
            }
        }

        #[test]
        fn a_file_that_says_the_same_changes_nothing(file in file(), weight in 0..9u16) {
            let mut services = Services::default();
            follow(&mut services, &[], &file);
            if let Some(service) = file.first() {
                // Whatever happens at run time.
                let _ = services.add_server(&service.key, [172, 17, 100, 9].into(), Some(weight));
                let _ = services.set_weight(&service.key, [172, 17, 100, 1].into(), weight);
                let _ = services.remove_server(&service.key, [172, 17, 100, 2].into(), Removal::Drain);
                let params = Params::from([("a".into(), "9".into())]);
                let _ = services.set_scheduler(&service.key, "lc".parse().unwrap(), Some(params));
            }
            let before = services.clone();
            follow(&mut services, &file, &file);
            prop_assert_eq!(services, before);
        }
    }

    #[test]
    fn a_file_that_catches_up_with_the_run_time_has_nothing_to_do() {
        let service = |servers: &[(u8, u16)]| ServiceConfig {
            key: key(80),
            scheduler: "rr".parse().unwrap(),
            params: Params::new(),
            policy: Policy::default(),
            servers: servers
                .iter()
                .map(|&(host, weight)| ServerConfig {
                    address: [172, 17, 100, host].into(),
                    weight,
                    mac: None,
                })
                .collect(),
        };
        let (old, new) = (vec![service(&[(1, 1), (2, 1)])], vec![service(&[(2, 4), (3, 5)])]);
        let mut services = Services::default();
        follow(&mut services, &[], &old);
        services.remove_server(&key(80), [172, 17, 100, 1].into(), Removal::Expire).unwrap();
        services.set_weight(&key(80), [172, 17, 100, 2].into(), 4).unwrap();
        services.add_server(&key(80), [172, 17, 100, 3].into(), Some(9)).unwrap();
        follow(&mut services, &old, &new);
        assert_eq!(serving(&services), new, "and the file's word is the last");
    }

    #[test]
    fn a_mac_address_is_the_files_or_what_run_time_has_given() {
        let [first, second] = [1, 2].map(|last| [2, 0, 0, 0, 0, last]);
        let file = |hosts: &[(u8, Option<Mac>)]| {
            let server = |&(host, mac): &(u8, Option<Mac>)| ServerConfig {
                address: [172, 17, 100, host].into(),
                weight: 1,
                mac,
            };
            let servers = hosts.iter().map(server).collect();
            let (params, policy) = (Params::new(), Policy::default());
            let scheduler = "rr".parse().unwrap();
            vec![ServiceConfig { key: key(80), scheduler, params, policy, servers }]
        };
        let (rs1, rs2): (IpAddr, IpAddr) = ([172, 17, 100, 1].into(), [172, 17, 100, 2].into());
        let files = [
            file(&[(1, Some(first)), (2, None)]),
            file(&[(2, None)]),
            file(&[(1, None), (2, None)]),
        ];
        let mut services = Services::default();
        follow(&mut services, &[], &files[0]);
        assert_eq!(services.macs(), &[(rs1, first)].into());
        services.give_mac(rs2, second).unwrap();
        follow(&mut services, &files[0], &files[0]);
        follow(&mut services, &files[0], &files[1]);
        let both = [(rs1, first), (rs2, second)].into();
        assert_eq!(services.macs(), &both, "its flows go there, and the other is not the file's");
        follow(&mut services, &files[1], &files[2]);
        assert_eq!(services.macs(), &[(rs2, second)].into(), "the file has none for it now");
    }

    #[test]
    fn what_can_change_is_taken_over_and_the_rest_is_said_once_more_each_time() {
        let parse = |first_line: &str, plugins: &str| {
            let text = format!("{first_line}\n[plugins]\n{plugins}\n[[interface]]\nname = 'e'\n");
            Config::parse(&text, &stock_only).unwrap()
        };
        let begun = parse("", "");
        let file = parse(
            "state_dir = '/srv'\ntimeouts = { udp = 9 }",
            "stack = 20000\nfuel = 50000\nfailures = 3\nwindow = 4\nkeep = 5\ninstances = 6",
        );
        let mut running = begun.clone();
        for _ in 0..2 {
            let remarks = needs_restart(&running, &file);
            assert_eq!(remarks.len(), 2, "{remarks:?}");
            assert!(remarks[0].starts_with("state_dir changed in the config"), "{remarks:?}");
            assert!(remarks[1].starts_with("stack of [plugins] changed"), "{remarks:?}");
            take_over(&mut running, file.clone());
            let mut expected = file.clone();
            expected.state_dir = begun.state_dir.clone();
            expected.plugins.limits.stack = begun.plugins.limits.stack;
            assert_eq!(running, expected);
        }
        assert_eq!(needs_restart(&running, &begun), [] as [String; 0]);
    }

    #[test]
    fn a_weight_for_a_server_that_was_removed_at_run_time_is_remarked_upon() {
        let service = |weight| ServiceConfig {
            key: key(80),
            scheduler: "rr".parse().unwrap(),
            params: Params::new(),
            policy: Policy::default(),
            servers: vec![ServerConfig { address: [172, 17, 100, 1].into(), weight, mac: None }],
        };
        let mut services = Services::default();
        follow(&mut services, &[], &[service(1)]);
        services.remove_server(&key(80), [172, 17, 100, 1].into(), Removal::Drain).unwrap();
        let remarks = apply(&mut services, &differences(&[service(1)], &[service(2)])).unwrap();
        assert!(remarks[0].contains("`shunt server add` puts it back"), "{remarks:?}");
        assert_eq!(serving(&services)[0].servers, []);
    }
}
