//! From one config file to the next: only what differs between the two files is applied, so that
//! what was changed at run time stays.

use crate::config::{Config, ServerConfig, ServiceConfig};
use crate::service_name::ServiceName;
use crate::services::{Removal, Services, ServicesError};
use dataplane::{ServerState, ServiceKey};
use std::net::IpAddr;

/// One difference between two files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// A service that only the new file has.
    NewService(ServiceConfig),
    /// A service that only the old file has.
    NoService(ServiceKey),
    /// Another scheduler.
    Scheduler(ServiceKey, String),
    /// A server that only the new file has.
    NewServer(ServiceKey, ServerConfig),
    /// A server that only the old file has.
    NoServer(ServiceKey, IpAddr),
    /// Another weight.
    Weight(ServiceKey, ServerConfig),
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
    differences
}

fn find<'a>(services: &'a [ServiceConfig], key: &ServiceKey) -> Option<&'a ServiceConfig> {
    services.iter().find(|service| service.key == *key)
}

fn compare(old: &ServiceConfig, new: &ServiceConfig, differences: &mut Vec<Difference>) {
    let key = new.key;
    if old.scheduler != new.scheduler {
        differences.push(Difference::Scheduler(key, new.scheduler.clone()));
    }
    let in_file = |servers: &[ServerConfig], address| {
        servers.iter().find(|server| server.address == address).copied()
    };
    for server in &old.servers {
        if in_file(&new.servers, server.address).is_none() {
            differences.push(Difference::NoServer(key, server.address));
        }
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
            let ServiceConfig { key, scheduler, servers } = service;
            if services.serving(key).is_ok() {
                services.set_scheduler(key, scheduler)?;
            } else {
                services.add_service(*key, scheduler)?;
            }
            for server in servers {
                put_server(services, key, server)?;
            }
            Ok(())
        }
        Difference::NoService(key) => ignore_missing(services.remove_service(key)),
        Difference::Scheduler(key, scheduler) => {
            ignore_missing(services.set_scheduler(key, scheduler).map(|_| ()))
        }
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

/// What the new file changes and a running director cannot: one sentence for each.
pub fn needs_restart(running: &Config, new: &Config) -> Vec<String> {
    let changed = [
        ("poll", running.poll != new.poll),
        ("flows and flows_v6", running.capacity != new.capacity),
        ("[[interface]]", running.interfaces != new.interfaces),
        ("[api]", running.api_socket != new.api_socket),
        ("[metrics]", running.metrics_listen != new.metrics_listen),
    ];
    changed
        .iter()
        .filter(|(_, changed)| *changed)
        .map(|(key, _)| {
            format!("{key} changed in the config, which takes effect at the next start")
        })
        .collect()
}
