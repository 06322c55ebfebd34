//! From what should be done and what is known of the neighbors: the table for the workers of one
//! interface.

use crate::health::weights::{Given, Weights};
use crate::neighbors::Neighbors;
use crate::services::{ServerEntry, ServiceEntry, Services};
use dataplane::{
    Candidate, ConsistentTable, Neighbor, Server, ServerIndex, Service, ServiceIndex, ServiceTable,
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

impl TableMaker {
    /// The table for the workers of interface number `interface`. A server that is not reached on
    /// it has the weight 0 there, whatever `weights` says.
    pub fn make(
        &mut self,
        services: &Services,
        neighbors: &Neighbors,
        weights: &Weights,
        interface: usize,
    ) -> ServiceTable {
        self.made.retain(|&index, _| services.service(index).is_some());
        let mut service_places = vec![None; services.services_len()];
        for (index, entry) in services.services() {
            let weight = |index, address| match neighbors.takes_new_flows(interface, address) {
                true => weights.given(index).weight,
                false => 0,
            };
            service_places[usize::from(index.0)] =
                Some(self.service(services, index, entry, weight));
        }
        let mut server_places = vec![None; services.servers_len()];
        for (index, entry) in services.servers() {
            let neighbor = neighbors.neighbor(interface, entry.address);
            let given = weights.given(index);
            server_places[usize::from(index.0)] = Some(server(entry, given, neighbor));
        }
        ServiceTable::new(service_places, server_places)
    }

    fn service(
        &mut self,
        services: &Services,
        index: ServiceIndex,
        entry: &ServiceEntry,
        weight: impl Fn(ServerIndex, IpAddr) -> u32,
    ) -> Service {
        let nobody = Candidate { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), weight: 0 };
        let candidate = |slot: &Option<ServerIndex>| {
            let index = (*slot)?;
            let ServerEntry { address, sorry, .. } = *services.server(index)?;
            let weight = weight(index, address);
            // Schedulers that keep a place for who takes no flows (mh, sh, dh) are to keep none for
            // the sorry server: its part of the flows would go by hash for as long as all is well.
            (weight > 0 || !sorry).then_some(Candidate { address, weight })
        };
        let slots = entry.slots.iter();
        let candidates: Vec<Candidate> =
            slots.map(|slot| candidate(slot).unwrap_or(nobody)).collect();
        let made = match self.made.remove(&index) {
            Some(made) if made.candidates == candidates => made,
            former => {
                self.last_version += 1;
                let consistent = Arc::new(match former {
                    Some(former) => former.consistent.changed(&former.candidates, &candidates),
                    None => ConsistentTable::new(&candidates),
                });
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

fn server(entry: &ServerEntry, given: Given, neighbor: Option<Neighbor>) -> Server {
    Server {
        service: entry.service,
        slot: entry.slot,
        address: entry.address,
        state: given.state,
        neighbor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::members::Members;
    use crate::health::weights::Scales;
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

    /// The next table, with weights that nothing but the neighbors and the operator decide.
    fn make(
        maker: &mut TableMaker,
        services: &Services,
        neighbors: &Neighbors,
        interface: usize,
    ) -> ServiceTable {
        let (members, former) = (Members::default(), Weights::default());
        let scales = Scales { services, neighbors, members: &members, former: &former, now: 0 };
        maker.make(services, neighbors, &scales.weigh(), interface)
    }

    fn weights(table: &ServiceTable) -> Vec<u32> {
        let service = table.service(ServiceIndex(0)).unwrap();
        service.candidates.iter().map(|candidate| candidate.weight).collect()
    }

    #[test]
    fn weights_are_zero_for_every_reason_to_send_no_new_flows() {
        let (services, neighbors) = two_servers();
        let mut maker = TableMaker::default();
        assert_eq!(weights(&make(&mut maker, &services, &neighbors, 0)), [1, 2]);
        assert_eq!(weights(&make(&mut maker, &services, &neighbors, 1)), [0, 0], "other interface");

        let mut drained = services.clone();
        drained.set_weight(&key(), rs(1), 0).unwrap();
        assert_eq!(weights(&make(&mut maker, &drained, &neighbors, 0)), [0, 2]);

        for removal in [Removal::Drain, Removal::Expire] {
            let mut removed = services.clone();
            removed.remove_server(&key(), rs(2), removal).unwrap();
            assert_eq!(weights(&make(&mut maker, &removed, &neighbors, 0)), [1, 0]);
        }

        let mut gone = services.clone();
        gone.remove_service(&key()).unwrap();
        let table = make(&mut maker, &gone, &neighbors, 0);
        assert_eq!(weights(&table), [0, 0]);
        assert!(table.service(ServiceIndex(0)).unwrap().removed);

        let mut failed = neighbors.clone();
        failed.learned(LINK, rs(1), KernelState::Failed, None, 1);
        let table = make(&mut maker, &services, &failed, 0);
        assert_eq!(weights(&table), [0, 2]);
        let server = table.server(ServerIndex(0)).unwrap();
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
        let before = make(&mut maker, &services, &neighbors, 0);
        services.set_weight(&key(), rs(1), 9).unwrap();
        let after = make(&mut maker, &services, &neighbors, 0);
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
        let first =
            make(&mut maker, &services, &neighbors, 0).service(ServiceIndex(0)).unwrap().version;
        services.remove_service(&key()).unwrap();
        services.free_idle(|_| false);
        services.free_idle(|_| false);
        assert!(make(&mut maker, &services, &neighbors, 0).service(ServiceIndex(0)).is_none());
        let (services, neighbors) = two_servers();
        let again =
            make(&mut maker, &services, &neighbors, 0).service(ServiceIndex(0)).unwrap().version;
        assert!(again > first);
    }

    #[test]
    fn an_empty_slot_takes_no_flows() {
        let (mut services, neighbors) = two_servers();
        services.remove_server(&key(), rs(1), Removal::Drain).unwrap();
        services.free_idle(|_| false);
        services.free_idle(|_| false);
        let table = make(&mut TableMaker::default(), &services, &neighbors, 0);
        assert_eq!(weights(&table), [0, 2]);
        assert_eq!(table.service(ServiceIndex(0)).unwrap().servers[0], None);
    }
}
