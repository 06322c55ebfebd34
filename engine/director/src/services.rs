//! What the director should do: virtual services, real servers, weights and schedulers.
//!
//! Pure: no network, no workers, no clock. Each service and each server keeps one index for as
//! long as a flow may refer to it. What was removed stays, takes no new flows, and gives its
//! index up only after two checks in a row have found no flow of it.

use crate::config_check::check_member;
use crate::health::Policy;
use crate::mac::Mac;
use crate::scheduler_name::{Params, SchedulerName};
use crate::service_name::ServiceName;
use dataplane::{
    SERVERS_MAX, SERVERS_PER_SERVICE_MAX, SERVICES_MAX, ServerIndex, ServerState, ServiceIndex,
    ServiceKey,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

pub use crate::services_error::ServicesError;

/// Checks in a row that must find no flow of a removed server before its index is free. A flow
/// that is on its way from one worker to another is in neither's table for a moment.
const IDLE_CHECKS: u8 = 2;

/// A virtual service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEntry {
    /// What clients address.
    pub key: ServiceKey,
    /// The name of its scheduler.
    pub scheduler: SchedulerName,
    /// What its scheduler is told.
    pub params: Params,
    /// How it looks after its servers.
    pub policy: Policy,
    /// Removed: it keeps its flows and takes no new ones.
    pub removed: bool,
    /// By slot, its servers, those removed included.
    pub slots: Vec<Option<ServerIndex>>,
}

/// A real server of one virtual service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerEntry {
    /// The service that it belongs to.
    pub service: ServiceIndex,
    /// Its slot there.
    pub slot: u16,
    /// Its address.
    pub address: IpAddr,
    /// Its weight, as the operator set it.
    pub weight: u16,
    /// Whether it serves.
    pub state: ServerState,
    /// It is the service's sorry server: without a check, a weight or a place in the config of its
    /// own.
    pub sorry: bool,
    idle_checks: u8,
}

/// All services and servers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Services {
    services: Vec<Option<ServiceEntry>>,
    servers: Vec<Option<ServerEntry>>,
    by_key: HashMap<ServiceKey, ServiceIndex>,
    macs: BTreeMap<IpAddr, Mac>,
}

/// How a real server is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Its flows stay until they end.
    Drain,
    /// Its flows end with their next packet.
    Expire,
}

/// The indices that came free.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Freed {
    /// Of services.
    pub services: Vec<ServiceIndex>,
    /// Of servers.
    pub servers: Vec<ServerIndex>,
}

impl Freed {
    /// Whether none came free.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.servers.is_empty()
    }
}

impl Services {
    /// All services with their indices, those removed included.
    pub fn services(&self) -> impl Iterator<Item = (ServiceIndex, &ServiceEntry)> {
        (0u16..)
            .zip(&self.services)
            .filter_map(|(index, entry)| entry.as_ref().map(|entry| (ServiceIndex(index), entry)))
    }

    /// All servers with their indices, those removed included.
    pub fn servers(&self) -> impl Iterator<Item = (ServerIndex, &ServerEntry)> {
        (0u16..)
            .zip(&self.servers)
            .filter_map(|(index, entry)| entry.as_ref().map(|entry| (ServerIndex(index), entry)))
    }

    /// The servers of one service by slot, those removed included.
    pub fn members<'a>(
        &'a self,
        service: &'a ServiceEntry,
    ) -> impl Iterator<Item = (ServerIndex, &'a ServerEntry)> {
        service.slots.iter().flatten().filter_map(|&index| Some((index, self.server(index)?)))
    }

    /// The service at `index`.
    pub fn service(&self, index: ServiceIndex) -> Option<&ServiceEntry> {
        self.services.get(usize::from(index.0))?.as_ref()
    }

    /// The server at `index`.
    pub fn server(&self, index: ServerIndex) -> Option<&ServerEntry> {
        self.servers.get(usize::from(index.0))?.as_ref()
    }

    /// The service with this key, even if it is removed.
    pub fn find(&self, key: &ServiceKey) -> Option<ServiceIndex> {
        self.by_key.get(key).copied()
    }

    /// The server of this service with this address, even if it is removed.
    pub fn find_server(&self, service: ServiceIndex, address: IpAddr) -> Option<ServerIndex> {
        let entry = self.service(service)?;
        self.members(entry).find(|(_, server)| server.address == address).map(|(index, _)| index)
    }

    /// One past the highest service index in use.
    pub fn services_len(&self) -> usize {
        self.services.len()
    }

    /// One past the highest server index in use.
    pub fn servers_len(&self) -> usize {
        self.servers.len()
    }

    /// Adds a virtual service, or puts back one whose flows have not all ended yet.
    pub fn add_service(
        &mut self,
        key: ServiceKey,
        scheduler: SchedulerName,
        params: Params,
    ) -> Result<ServiceIndex, ServicesError> {
        if let Some(index) = self.find(&key) {
            let entry = self.service_mut(index);
            if !entry.removed {
                return Err(ServicesError::ServiceExists { service: ServiceName(key) });
            }
            entry.removed = false;
            entry.scheduler = scheduler;
            entry.params = params;
            entry.policy = Policy::default();
            return Ok(index);
        }
        let position = free_position(&self.services, SERVICES_MAX)
            .ok_or(ServicesError::Full { what: "virtual service", limit: SERVICES_MAX })?;
        let (policy, slots) = (Policy::default(), Vec::new());
        let entry = ServiceEntry { key, scheduler, params, policy, removed: false, slots };
        place(&mut self.services, position, entry);
        let index = ServiceIndex(position as u16);
        self.by_key.insert(key, index);
        Ok(index)
    }

    /// Removes a virtual service and its servers: their flows stay until they end.
    pub fn remove_service(&mut self, key: &ServiceKey) -> Result<(), ServicesError> {
        let index = self.serving(key)?;
        self.service_mut(index).removed = true;
        for server in self.servers.iter_mut().flatten().filter(|server| server.service == index) {
            if server.state == ServerState::Serving {
                server.state = ServerState::Removed;
                server.idle_checks = 0;
            }
        }
        Ok(())
    }

    /// Gives a virtual service another scheduler, and `params` instead of the parameters that it
    /// has. Without `params` another version of the same plugin keeps them; another plugin, which
    /// would not know them, starts with none.
    pub fn set_scheduler(
        &mut self,
        key: &ServiceKey,
        scheduler: SchedulerName,
        params: Option<Params>,
    ) -> Result<ServiceIndex, ServicesError> {
        let index = self.serving(key)?;
        let entry = self.service_mut(index);
        let kept = if entry.scheduler.name == scheduler.name {
            std::mem::take(&mut entry.params)
        } else {
            Params::new()
        };
        entry.params = params.unwrap_or(kept);
        entry.scheduler = scheduler;
        Ok(index)
    }

    /// Gives a virtual service's scheduler `params` instead of the parameters that it has.
    pub fn set_params(
        &mut self,
        key: &ServiceKey,
        params: Params,
    ) -> Result<ServiceIndex, ServicesError> {
        let index = self.serving(key)?;
        self.service_mut(index).params = params;
        Ok(index)
    }

    /// Has a virtual service look after its servers like this. Another sorry server takes the place
    /// of the one before, whose flows stay until they end.
    pub fn set_policy(&mut self, key: &ServiceKey, policy: Policy) -> Result<(), ServicesError> {
        let index = self.serving(key)?;
        let (former, sorry) = (self.service_mut(index).policy.sorry_server, policy.sorry_server);
        if former != sorry {
            if let Some(address) = sorry {
                self.check_sorry(*key, index, address)?;
            }
            if let Some(former) = former.and_then(|address| self.find_server(index, address)) {
                let server = self.server_mut(former);
                server.state = ServerState::Removed;
                server.idle_checks = 0;
            }
            if let Some(address) = sorry {
                let server = self.put(index, address, None)?;
                self.server_mut(server).sorry = true;
            }
        }
        self.service_mut(index).policy = policy;
        Ok(())
    }

    fn check_sorry(
        &self,
        key: ServiceKey,
        service: ServiceIndex,
        address: IpAddr,
    ) -> Result<(), ServicesError> {
        check_member(key, address).map_err(ServicesError::NoMember)?;
        let present = self.find_server(service, address).and_then(|index| self.server(index));
        match present {
            Some(server) if server.state == ServerState::Serving => {
                Err(ServicesError::SorryServes { service: ServiceName(key), address })
            }
            _ => Ok(()),
        }
    }

    /// Adds a real server, or puts back one whose flows have not all ended yet: they are its own
    /// again. Without a weight it gets 1, or the one it had.
    pub fn add_server(
        &mut self,
        key: &ServiceKey,
        address: IpAddr,
        weight: Option<u16>,
    ) -> Result<ServerIndex, ServicesError> {
        let service = self.serving(key)?;
        check_member(*key, address).map_err(ServicesError::NoMember)?;
        let present = self.find_server(service, address).and_then(|index| self.server(index));
        if let Some(server) = present.filter(|server| server.state == ServerState::Serving) {
            let (sorry, service) = (server.sorry, ServiceName(*key));
            return Err(match sorry {
                true => ServicesError::SorryServer { service, address },
                false => ServicesError::ServerExists { service, address },
            });
        }
        let index = self.put(service, address, weight)?;
        self.server_mut(index).sorry = false;
        Ok(index)
    }

    /// A server that serves: one that was removed and has its index still, or a new one.
    fn put(
        &mut self,
        service: ServiceIndex,
        address: IpAddr,
        weight: Option<u16>,
    ) -> Result<ServerIndex, ServicesError> {
        if let Some(index) = self.find_server(service, address) {
            let server = self.server_mut(index);
            server.state = ServerState::Serving;
            server.weight = weight.unwrap_or(server.weight);
            return Ok(index);
        }
        let slot = free_position(&self.service_mut(service).slots, SERVERS_PER_SERVICE_MAX).ok_or(
            ServicesError::Full {
                what: "real server in this virtual service",
                limit: SERVERS_PER_SERVICE_MAX,
            },
        )?;
        let position = free_position(&self.servers, SERVERS_MAX)
            .ok_or(ServicesError::Full { what: "real server", limit: SERVERS_MAX })?;
        let index = ServerIndex(position as u16);
        place(&mut self.service_mut(service).slots, slot, index);
        let entry = ServerEntry {
            service,
            slot: slot as u16,
            address,
            weight: weight.unwrap_or(1),
            state: ServerState::Serving,
            sorry: false,
            idle_checks: 0,
        };
        place(&mut self.servers, position, entry);
        Ok(index)
    }

    /// The MAC addresses that real servers were given. A real server is one machine, whatever the
    /// services that it is in.
    pub fn macs(&self) -> &BTreeMap<IpAddr, Mac> {
        &self.macs
    }

    /// Gives a real server's MAC address. Where another service has been using it with another one,
    /// that stays.
    pub fn give_mac(&mut self, address: IpAddr, mac: Mac) -> Result<(), ServicesError> {
        let uses = |server: &ServerEntry| {
            server.address == address && server.state == ServerState::Serving
        };
        let several = self.servers().filter(|(_, server)| uses(server)).count() > 1;
        match self.macs.get(&address) {
            Some(&given) if given != mac && several => {
                Err(ServicesError::OtherMac { address, given })
            }
            _ => {
                self.macs.insert(address, mac);
                Ok(())
            }
        }
    }

    /// The config file now gives this MAC address, or none any more: its word is the last.
    pub fn set_mac(&mut self, address: IpAddr, mac: Option<Mac>) {
        match mac {
            Some(mac) => self.macs.insert(address, mac),
            None => self.macs.remove(&address),
        };
    }

    /// Gives a real server another weight.
    pub fn set_weight(
        &mut self,
        key: &ServiceKey,
        address: IpAddr,
        weight: u16,
    ) -> Result<(), ServicesError> {
        let index = self.known_server(key, address)?;
        let server = self.server_mut(index);
        if server.sorry {
            return Err(ServicesError::SorryServer { service: ServiceName(*key), address });
        }
        if server.state != ServerState::Serving {
            return Err(ServicesError::ServerRemoved { service: ServiceName(*key), address });
        }
        server.weight = weight;
        Ok(())
    }

    /// Takes a real server out. One that is only draining can still be expired.
    pub fn remove_server(
        &mut self,
        key: &ServiceKey,
        address: IpAddr,
        removal: Removal,
    ) -> Result<(), ServicesError> {
        let index = self.known_server(key, address)?;
        let server = self.server_mut(index);
        if server.sorry {
            return Err(ServicesError::SorryServer { service: ServiceName(*key), address });
        }
        server.state = match (server.state, removal) {
            (ServerState::Serving, Removal::Drain) => ServerState::Removed,
            (ServerState::Serving | ServerState::Removed, Removal::Expire) => ServerState::Expired,
            _ => return Err(ServicesError::ServerRemoved { service: ServiceName(*key), address }),
        };
        server.idle_checks = 0;
        Ok(())
    }

    /// Whether anything is removed and not yet gone.
    pub fn has_removed(&self) -> bool {
        self.services.iter().flatten().any(|service| service.removed)
            || self.servers.iter().flatten().any(|server| server.state != ServerState::Serving)
    }

    /// One check: frees the indices of what is removed and had no flow in this check and the one
    /// before. To be called when every worker has adopted the present state, and not more often
    /// than a flow can be on its way between two workers.
    pub fn free_idle(&mut self, has_flows: impl Fn(ServerIndex) -> bool) -> Freed {
        let mut freed = Freed::default();
        for position in 0..self.servers.len() {
            let index = ServerIndex(position as u16);
            let Some(server) = &mut self.servers[position] else { continue };
            if server.state == ServerState::Serving {
                continue;
            }
            server.idle_checks = if has_flows(index) { 0 } else { server.idle_checks + 1 };
            if server.idle_checks >= IDLE_CHECKS {
                let (service, slot) = (server.service, server.slot);
                self.servers[position] = None;
                let slots = &mut self.service_mut(service).slots;
                slots[usize::from(slot)] = None;
                truncate(slots);
                freed.servers.push(index);
            }
        }
        for position in 0..self.services.len() {
            let Some(service) = &self.services[position] else { continue };
            if service.removed && service.slots.is_empty() {
                self.by_key.remove(&service.key);
                self.services[position] = None;
                freed.services.push(ServiceIndex(position as u16));
            }
        }
        truncate(&mut self.servers);
        truncate(&mut self.services);
        if !freed.servers.is_empty() {
            let left: BTreeSet<IpAddr> = self.servers().map(|(_, server)| server.address).collect();
            self.macs.retain(|address, _| left.contains(address));
        }
        freed
    }

    /// The service with this key, if it is not removed.
    pub fn serving(&self, key: &ServiceKey) -> Result<ServiceIndex, ServicesError> {
        self.find(key)
            .filter(|&index| self.service(index).is_some_and(|service| !service.removed))
            .ok_or_else(|| ServicesError::UnknownService {
                service: ServiceName(*key),
                known: self
                    .services()
                    .filter(|(_, service)| !service.removed)
                    .map(|(_, service)| ServiceName(service.key).to_string())
                    .collect(),
            })
    }

    fn known_server(
        &self,
        key: &ServiceKey,
        address: IpAddr,
    ) -> Result<ServerIndex, ServicesError> {
        let service = self.serving(key)?;
        self.find_server(service, address).ok_or_else(|| ServicesError::UnknownServer {
            service: ServiceName(*key),
            address,
            known: self
                .service(service)
                .into_iter()
                .flat_map(|entry| self.members(entry))
                .map(|(_, server)| server.address.to_string())
                .collect(),
        })
    }

    fn service_mut(&mut self, index: ServiceIndex) -> &mut ServiceEntry {
        self.services[usize::from(index.0)].as_mut().expect("an index in use has an entry")
    }

    fn server_mut(&mut self, index: ServerIndex) -> &mut ServerEntry {
        self.servers[usize::from(index.0)].as_mut().expect("an index in use has an entry")
    }
}

fn free_position<T>(places: &[Option<T>], limit: usize) -> Option<usize> {
    let position = places.iter().position(Option::is_none).unwrap_or(places.len());
    (position < limit).then_some(position)
}

fn place<T>(places: &mut Vec<Option<T>>, position: usize, entry: T) {
    if position == places.len() {
        places.push(Some(entry));
    } else {
        places[position] = Some(entry);
    }
}

fn truncate<T>(places: &mut Vec<Option<T>>) {
    while matches!(places.last(), Some(None)) {
        places.pop();
    }
}

#[cfg(test)]
#[path = "services_tests.rs"]
mod tests;
