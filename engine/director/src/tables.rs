//! From what should be done and what is known of the neighbors: the table for the workers of one
//! interface.

use crate::neighbors::Neighbors;
use crate::services::{ServerEntry, ServiceEntry, Services};
use dataplane::{
    Candidate, ConsistentTable, Neighbor, Server, ServerState, Service, ServiceIndex, ServiceTable,
};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Makes the tables of one interface, one after another.
///
/// A service whose candidates are as before keeps its version and its consistent table: the
/// workers then have nothing to tell its scheduler, and nothing is computed.
#[derive(Debug, Default)]
pub struct TableMaker {
    last_version: u64,
    made: HashMap<ServiceIndex, Made>,
}

#[derive(Debug)]
struct Made {
    candidates: Vec<Candidate>,
    version: u64,
    consistent: Arc<ConsistentTable>,
}

/// The weight that the scheduler sees: the operator's, or 0 when no new flow can be sent there.
pub fn effective_weight(service: &ServiceEntry, server: &ServerEntry, usable: bool) -> u32 {
    let serving = !service.removed && server.state == ServerState::Serving && usable;
    if serving { u32::from(server.weight) } else { 0 }
}

impl TableMaker {
    /// The table for the workers of interface number `interface`.
    pub fn make(
        &mut self,
        services: &Services,
        neighbors: &Neighbors,
        interface: usize,
    ) -> ServiceTable {
        self.made.retain(|&index, _| services.service(index).is_some());
        let mut service_places = vec![None; services.services_len()];
        for (index, entry) in services.services() {
            let usable = |address| neighbors.takes_new_flows(interface, address);
            service_places[usize::from(index.0)] =
                Some(self.service(services, index, entry, usable));
        }
        let mut server_places = vec![None; services.servers_len()];
        for (index, entry) in services.servers() {
            let neighbor = neighbors.neighbor(interface, entry.address);
            server_places[usize::from(index.0)] = Some(server(entry, neighbor));
        }
        ServiceTable::new(service_places, server_places)
    }

    fn service(
        &mut self,
        services: &Services,
        index: ServiceIndex,
        entry: &ServiceEntry,
        usable: impl Fn(IpAddr) -> bool,
    ) -> Service {
        let nobody = Candidate { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), weight: 0 };
        let candidates: Vec<Candidate> = entry
            .slots
            .iter()
            .map(|slot| {
                slot.and_then(|index| services.server(index)).map_or(nobody, |server| Candidate {
                    address: server.address,
                    weight: effective_weight(entry, server, usable(server.address)),
                })
            })
            .collect();
        let made = match self.made.remove(&index) {
            Some(made) if made.candidates == candidates => made,
            _ => {
                self.last_version += 1;
                let consistent = Arc::new(ConsistentTable::new(&candidates));
                Made { candidates, version: self.last_version, consistent }
            }
        };
        let service = Service {
            key: entry.key,
            servers: entry.slots.clone(),
            candidates: made.candidates.clone(),
            version: made.version,
            consistent: made.consistent.clone(),
            removed: entry.removed,
        };
        self.made.insert(index, made);
        service
    }
}

fn server(entry: &ServerEntry, neighbor: Option<Neighbor>) -> Server {
    Server {
        service: entry.service,
        slot: entry.slot,
        address: entry.address,
        state: entry.state,
        neighbor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::neighbors::{KernelState, Reach};
    use crate::scheduler_name::Params;
    use crate::services::Removal;
    use dataplane::{Protocol, ServiceKey};

    const LINK: u32 = 7;
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn key() -> ServiceKey {
        ServiceKey { address: [172, 17, 100, 100].into(), port: 80, protocol: Protocol::Tcp }
    }

    fn rs(host: u8) -> IpAddr {
        [172, 17, 100, host].into()
    }

    /// Two servers on interface 0, both resolved.
    fn two_servers() -> (Services, Neighbors) {
        let (mut services, mut neighbors) = (Services::default(), Neighbors::default());
        services.add_service(key(), "rr".parse().unwrap(), Params::new()).unwrap();
        neighbors.want([rs(1), rs(2)]);
        for host in [1, 2] {
            services.add_server(&key(), rs(host), Some(u16::from(host))).unwrap();
            let reach = Reach::OnLink { interface: 0, link: LINK, vlans: [0, 0], source: None };
            neighbors.place(rs(host), reach);
            neighbors.learned(LINK, rs(host), KernelState::Reachable, Some(MAC), 0);
        }
        (services, neighbors)
    }

    fn weights(table: &ServiceTable) -> Vec<u32> {
        let service = table.service(ServiceIndex(0)).unwrap();
        service.candidates.iter().map(|candidate| candidate.weight).collect()
    }

    #[test]
    fn weights_are_zero_for_every_reason_to_send_no_new_flows() {
        let (services, neighbors) = two_servers();
        let mut maker = TableMaker::default();
        assert_eq!(weights(&maker.make(&services, &neighbors, 0)), [1, 2]);
        assert_eq!(weights(&maker.make(&services, &neighbors, 1)), [0, 0], "other interface");

        let mut drained = services.clone();
        drained.set_weight(&key(), rs(1), 0).unwrap();
        assert_eq!(weights(&maker.make(&drained, &neighbors, 0)), [0, 2]);

        for removal in [Removal::Drain, Removal::Expire] {
            let mut removed = services.clone();
            removed.remove_server(&key(), rs(2), removal).unwrap();
            assert_eq!(weights(&maker.make(&removed, &neighbors, 0)), [1, 0]);
        }

        let mut gone = services.clone();
        gone.remove_service(&key()).unwrap();
        let table = maker.make(&gone, &neighbors, 0);
        assert_eq!(weights(&table), [0, 0]);
        assert!(table.service(ServiceIndex(0)).unwrap().removed);

        let mut failed = neighbors.clone();
        failed.learned(LINK, rs(1), KernelState::Failed, None, 1);
        let table = maker.make(&services, &failed, 0);
        assert_eq!(weights(&table), [0, 2]);
        let server = table.server(dataplane::ServerIndex(0)).unwrap();
        assert_eq!(server.neighbor.map(|neighbor| neighbor.mac), Some(MAC), "its flows go on");
    }

    #[test]
    fn a_service_whose_candidates_are_as_before_keeps_its_version() {
        let (mut services, neighbors) = two_servers();
        let other = ServiceKey { port: 81, ..key() };
        services.add_service(other, "rr".parse().unwrap(), Params::new()).unwrap();
        services.add_server(&other, rs(1), None).unwrap();
        let mut maker = TableMaker::default();
        let version =
            |table: &ServiceTable, index| table.service(ServiceIndex(index)).unwrap().version;
        let before = maker.make(&services, &neighbors, 0);
        services.set_weight(&key(), rs(1), 9).unwrap();
        let after = maker.make(&services, &neighbors, 0);
        assert_ne!(version(&before, 0), version(&after, 0));
        assert_eq!(version(&before, 1), version(&after, 1));
        let consistent = |table: &ServiceTable, index| {
            table.service(ServiceIndex(index)).unwrap().consistent.clone()
        };
        assert!(Arc::ptr_eq(&consistent(&before, 1), &consistent(&after, 1)));
        assert!(!Arc::ptr_eq(&consistent(&before, 0), &consistent(&after, 0)));
    }

    #[test]
    fn a_version_is_never_used_twice_even_when_an_index_is() {
        let (mut services, neighbors) = two_servers();
        let mut maker = TableMaker::default();
        let first = maker.make(&services, &neighbors, 0).service(ServiceIndex(0)).unwrap().version;
        services.remove_service(&key()).unwrap();
        services.free_idle(|_| false);
        services.free_idle(|_| false);
        assert!(maker.make(&services, &neighbors, 0).service(ServiceIndex(0)).is_none());
        let (services, neighbors) = two_servers();
        let again = maker.make(&services, &neighbors, 0).service(ServiceIndex(0)).unwrap().version;
        assert!(again > first);
    }

    #[test]
    fn an_empty_slot_takes_no_flows() {
        let (mut services, neighbors) = two_servers();
        services.remove_server(&key(), rs(1), Removal::Drain).unwrap();
        services.free_idle(|_| false);
        services.free_idle(|_| false);
        let table = TableMaker::default().make(&services, &neighbors, 0);
        assert_eq!(weights(&table), [0, 2]);
        assert_eq!(table.service(ServiceIndex(0)).unwrap().servers[0], None);
    }
}
