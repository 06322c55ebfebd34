//! Services and servers that a test can change, and the table that they make.

use crate::{VIP, VIP6};
use dataplane::{
    Candidate, ConsistentTable, Neighbor, Protocol, Server, ServerIndex, ServerState, Service,
    ServiceIndex, ServiceKey, ServiceTable,
};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// A real server of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its index in the table.
    pub index: ServerIndex,
    /// The machine: its number names its address and MAC address, see [`address_of`], [`mac_of`].
    pub machine: u16,
    /// Weight as configured.
    pub weight: u32,
    /// Whether it serves.
    pub state: ServerState,
    /// Its place on the wire.
    pub neighbor: Option<Neighbor>,
}

/// A virtual service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedService {
    /// What clients address.
    pub key: ServiceKey,
    /// By slot.
    pub members: Vec<Option<Member>>,
    /// Whether it was removed.
    pub removed: bool,
}

/// Services and servers, by index.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// By index.
    pub services: Vec<Option<PlannedService>>,
    /// The next server's index.
    pub next_server: u16,
    version: u64,
}

/// The address of machine `number` in the VIP's network.
pub fn address_of(number: u16, ipv6: bool) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    if ipv6 {
        Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, number).into()
    } else {
        IpAddr::from([172, 17, 100 + high, low])
    }
}

/// The MAC address of machine `number`.
pub fn mac_of(number: u16) -> [u8; 6] {
    let [high, low] = number.to_be_bytes();
    [2, 0, 0, 1, high, low]
}

/// The stateless choice over these candidates. Tests ask for the same ones again and again, and
/// to compute it takes a while.
fn consistent_table(candidates: &[Candidate]) -> Arc<ConsistentTable> {
    type Made = HashMap<Vec<(IpAddr, u32)>, Arc<ConsistentTable>>;
    static MADE: LazyLock<Mutex<Made>> = LazyLock::new(Mutex::default);
    let key = candidates.iter().map(|candidate| (candidate.address, candidate.weight)).collect();
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry(key).or_insert_with(|| Arc::new(ConsistentTable::new(candidates))).clone()
}

impl Plan {
    /// The services of the packet tables: `tables/README.md` lists them.
    pub fn standard() -> Plan {
        let mut plan = Plan::default();
        for (vip, vlans, port, protocol, machines) in [
            (VIP, [0, 0], 80, Protocol::Tcp, &[1, 2][..]),
            (VIP, [0, 0], 53, Protocol::Udp, &[1, 2]),
            (VIP6, [0, 0], 80, Protocol::Tcp, &[1, 2]),
            (VIP6, [0, 0], 53, Protocol::Udp, &[1, 2]),
            (VIP, [5, 0], 81, Protocol::Tcp, &[3]),
            (VIP, [5, 7], 82, Protocol::Tcp, &[4]),
            (VIP6, [5, 7], 82, Protocol::Tcp, &[4]),
            (VIP, [0, 0], 83, Protocol::Tcp, &[]),
        ] {
            let service = plan.add_service(vip, port, protocol);
            for &machine in machines {
                plan.add_member(service, machine, 1);
                plan.last_member(service).neighbor = Some(Neighbor { mac: mac_of(machine), vlans });
            }
        }
        let removed = plan.add_service(VIP, 84, Protocol::Tcp);
        plan.add_member(removed, 1, 1);
        plan.service(removed).removed = true;
        plan
    }

    /// One TCP service on port 80 with so many servers of weight 1.
    pub fn with_servers(servers: u16) -> Plan {
        let mut plan = Plan::default();
        let service = plan.add_service(VIP, 80, Protocol::Tcp);
        for machine in 1..=servers {
            plan.add_member(service, machine, 1);
        }
        plan
    }

    /// Adds a service without servers.
    pub fn add_service(&mut self, vip: &str, port: u16, protocol: Protocol) -> ServiceIndex {
        let address = vip.parse().expect("an address");
        let key = ServiceKey { address, port, protocol };
        self.services.push(Some(PlannedService { key, members: vec![], removed: false }));
        ServiceIndex(self.services.len() as u16 - 1)
    }

    /// Adds an untagged server in the service's next slot and returns its index.
    pub fn add_member(&mut self, service: ServiceIndex, machine: u16, weight: u32) -> ServerIndex {
        let index = ServerIndex(self.next_server);
        self.next_server += 1;
        let neighbor = Some(Neighbor { mac: mac_of(machine), vlans: [0, 0] });
        let state = ServerState::Serving;
        self.service(service).members.push(Some(Member {
            index,
            machine,
            weight,
            state,
            neighbor,
        }));
        index
    }

    /// The service at `index`, which must exist.
    pub fn service(&mut self, index: ServiceIndex) -> &mut PlannedService {
        self.services[usize::from(index.0)].as_mut().expect("a planned service")
    }

    fn last_member(&mut self, service: ServiceIndex) -> &mut Member {
        self.service(service).members.last_mut().and_then(Option::as_mut).expect("a member")
    }

    /// The member with this server index, which must exist.
    pub fn member(&mut self, index: ServerIndex) -> &mut Member {
        let mut members = self.services.iter_mut().flatten().flat_map(|s| &mut s.members).flatten();
        members.find(|member| member.index == index).expect("a planned server")
    }

    /// The index of the service at this port, which must exist.
    pub fn at_port(&self, port: u16) -> ServiceIndex {
        let found =
            self.services.iter().position(|s| s.as_ref().is_some_and(|s| s.key.port == port));
        ServiceIndex(found.expect("a service at the port") as u16)
    }

    /// The table, with a version of its own, as the control plane would make it: what is drained,
    /// removed or not reachable has weight 0.
    pub fn table(&mut self) -> ServiceTable {
        self.version += 1;
        let mut servers = vec![None; usize::from(self.next_server)];
        let mut services = Vec::with_capacity(self.services.len());
        for (index, service) in (0..).map(ServiceIndex).zip(&self.services) {
            services.push(service.as_ref().map(|service| self.entry(index, service, &mut servers)));
        }
        ServiceTable::new(services, servers)
    }

    fn entry(
        &self,
        index: ServiceIndex,
        service: &PlannedService,
        servers: &mut [Option<Server>],
    ) -> Service {
        let ipv6 = service.key.address.is_ipv6();
        let mut candidates = Vec::new();
        for (slot, member) in (0..).zip(&service.members) {
            let address = address_of(member.as_ref().map_or(0, |member| member.machine), ipv6);
            let Some(member) = member else {
                candidates.push(Candidate { address, weight: 0 });
                continue;
            };
            let takes = member.state == ServerState::Serving && member.neighbor.is_some();
            candidates.push(Candidate { address, weight: if takes { member.weight } else { 0 } });
            let (state, neighbor) = (member.state, member.neighbor);
            servers[usize::from(member.index.0)] =
                Some(Server { service: index, slot, address, state, neighbor });
        }
        Service {
            key: service.key,
            servers: service.members.iter().map(|m| m.as_ref().map(|m| m.index)).collect(),
            consistent: consistent_table(&candidates),
            candidates,
            version: self.version,
            removed: service.removed,
        }
    }
}
