//! Virtual services and real servers as the control plane hands them to the workers.
//!
//! A table is immutable. Every change of services, servers, weights or neighbors makes a new one,
//! and a worker swaps one pointer. What outlives a table (flows, counters, scheduler instances)
//! refers to it by [`ServiceIndex`] and [`ServerIndex`], which the control plane keeps stable and
//! gives to a newcomer only when no flow is left that refers to the former holder.

use crate::consistent::ConsistentTable;
use crate::direct_routing::Destination;
use crate::flow_key::ServiceTag;
use crate::scheduler::{Candidate, SERVERS_PER_SERVICE_MAX};
use hashbrown::{HashMap, HashTable};
use std::net::IpAddr;
use std::sync::Arc;

/// The most virtual services of a director.
pub const SERVICES_MAX: usize = 4096;
/// The most real servers of a director, each counted once per virtual service.
pub const SERVERS_MAX: usize = 65_535;

/// Position of a virtual service in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceIndex(pub u16);

/// Position of a real server, as a member of one virtual service, in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerIndex(pub u16);

/// Transport protocol of a virtual service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp = 6,
    /// User Datagram Protocol.
    Udp = 17,
}

/// What a client addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The VIP.
    pub address: IpAddr,
    /// The port, never 0.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// A real server's place on the wire: what is known of its neighbor entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbor {
    /// The RS's MAC address.
    pub mac: [u8; 6],
    /// The VLAN ids that frames on the RS's interface carry, outermost first; 0 means no tag.
    /// A packet with other tags cannot reach the RS by a rewrite of its MAC addresses.
    pub vlans: [u16; 2],
}

/// What a flow of this server may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// In service. New flows according to its weight.
    Serving,
    /// Removed: established flows stay, no new ones.
    Removed,
    /// Removed with `--expire`: its flows end with their next packet.
    Expired,
}

/// A real server of one virtual service.
#[derive(Debug, Clone)]
pub struct Server {
    /// The virtual service that it belongs to.
    pub service: ServiceIndex,
    /// Its place among the service's candidates.
    pub slot: u16,
    /// Its address.
    pub address: IpAddr,
    /// Whether it serves.
    pub state: ServerState,
    /// Where its frames go; `None` while its MAC address is not known on this worker's interface.
    pub neighbor: Option<Neighbor>,
}

/// A virtual service.
#[derive(Debug, Clone)]
pub struct Service {
    /// What clients address.
    pub key: ServiceKey,
    /// By slot: the server, or `None` where a slot is empty.
    pub servers: Vec<Option<ServerIndex>>,
    /// By slot, what the scheduler sees. As long as `servers`.
    pub candidates: Vec<Candidate>,
    /// Changes whenever `candidates` does, so that a worker knows when to tell the scheduler.
    pub version: u64,
    /// The stateless choice over the same candidates.
    pub consistent: Arc<ConsistentTable>,
    /// Removed: its flows stay until they end, there are no new ones.
    pub removed: bool,
}

/// All services and servers, as the workers of one interface see them.
#[derive(Debug, Clone, Default)]
pub struct ServiceTable {
    services: Vec<Option<Service>>,
    servers: Vec<Option<Server>>,
    by_key_v4: HashTable<(u64, ServiceIndex)>,
    by_key_v6: HashMap<([u8; 16], u16, Protocol), ServiceIndex>,
    routes: Vec<Route>,
    expires: bool,
}

/// What the packet path needs of a server, close together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    /// Of the packets that may go to the server; [`Passage::CLOSED`] if none may.
    pub passage: Passage,
    /// The server's MAC address, if there is a neighbor.
    pub destination: Destination,
    pub service: ServiceIndex,
    pub slot: u16,
    /// `None` where there is no server.
    pub state: Option<ServerState>,
    /// The VLAN tags of its neighbor's frames, if there is a neighbor.
    pub vlans: Option<[u16; 2]>,
}

/// What a packet and a server must have in common, in one word: virtual service and VLAN tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passage(u64);

impl Passage {
    /// Of a server that takes no packets. No packet has it: no service has this tag.
    const CLOSED: Passage = Passage(0);

    #[inline]
    pub fn new(service: ServiceTag, vlans: [u16; 2]) -> Passage {
        Passage(u64::from(vlans[0]) << 48 | u64::from(vlans[1]) << 32 | service.word())
    }

    pub fn service(self) -> ServiceIndex {
        ServiceTag::of_word(self.0).service()
    }

    pub fn vlans(self) -> [u16; 2] {
        [(self.0 >> 48) as u16, (self.0 >> 32) as u16]
    }
}

impl Route {
    fn new(server: Option<&Server>) -> Route {
        let Some(&Server { service, slot, state, neighbor, .. }) = server else {
            return Route {
                passage: Passage::CLOSED,
                destination: [0; 6].into(),
                service: ServiceIndex(u16::MAX),
                slot: 0,
                state: None,
                vlans: None,
            };
        };
        let passage = match neighbor {
            Some(neighbor) if state != ServerState::Expired => {
                Passage::new(service.into(), neighbor.vlans)
            }
            _ => Passage::CLOSED,
        };
        Route {
            passage,
            destination: neighbor.map_or([0; 6], |neighbor| neighbor.mac).into(),
            service,
            slot,
            state: Some(state),
            vlans: neighbor.map(|neighbor| neighbor.vlans),
        }
    }
}

/// An IPv4 service's address, port (both as on the wire) and protocol in one word, never 0.
#[inline]
pub(crate) fn word_v4(vip: [u8; 4], port: [u8; 2], protocol: Protocol) -> u64 {
    let port = u64::from(u16::from_ne_bytes(port));
    u64::from(u32::from_ne_bytes(vip)) << 32 | port << 16 | protocol as u64
}

/// The operator chooses these keys, nobody else: one multiplication spreads them well enough.
#[inline]
fn hash_v4(word: u64) -> u64 {
    let product = u128::from(word) * 0x9e37_79b9_7f4a_7c15;
    product as u64 ^ (product >> 64) as u64
}

/// Panics unless the service's slots hold servers that name it and their slot.
fn check_members(index: ServiceIndex, service: &Service, servers: &[Option<Server>]) {
    let Service { key, servers: slots, candidates, .. } = service;
    assert!(slots.len() <= SERVERS_PER_SERVICE_MAX, "{key:?} has {} slots", slots.len());
    assert_eq!(slots.len(), candidates.len(), "one candidate a slot of {key:?}");
    for (slot, (member, candidate)) in slots.iter().zip(candidates).enumerate() {
        let Some(member) = member else {
            assert_eq!(candidate.weight, 0, "the empty slot {slot} of {key:?} has no weight");
            continue;
        };
        let server = servers.get(usize::from(member.0)).and_then(Option::as_ref);
        let named = server.is_some_and(|s| s.service == index && usize::from(s.slot) == slot);
        assert!(named, "slot {slot} of {key:?} holds {member:?}, which is not its own: {server:?}");
    }
}

impl ServiceTable {
    /// A table of these services and servers, each at its index.
    ///
    /// # Panics
    /// When there are more than [`SERVICES_MAX`] or [`SERVERS_MAX`], when two services have the
    /// same key, or when a service and its servers do not name each other: better on the control
    /// thread than on a worker.
    pub fn new(services: Vec<Option<Service>>, servers: Vec<Option<Server>>) -> ServiceTable {
        assert!(services.len() <= SERVICES_MAX, "more than {SERVICES_MAX} services");
        assert!(servers.len() <= SERVERS_MAX, "more than {SERVERS_MAX} servers");
        let mut by_key_v4 = HashTable::new();
        let mut by_key_v6 = HashMap::new();
        for (index, service) in (0..).map(ServiceIndex).zip(&services) {
            let Some(service) = service else { continue };
            check_members(index, service, &servers);
            let ServiceKey { address, port, protocol } = service.key;
            let is_new = match address {
                IpAddr::V4(vip) => {
                    let word = word_v4(vip.octets(), port.to_be_bytes(), protocol);
                    let is_new =
                        by_key_v4.find(hash_v4(word), |e: &(u64, _)| e.0 == word).is_none();
                    by_key_v4.insert_unique(hash_v4(word), (word, index), |e| hash_v4(e.0));
                    is_new
                }
                IpAddr::V6(vip) => {
                    by_key_v6.insert((vip.octets(), port, protocol), index).is_none()
                }
            };
            assert!(is_new, "two services are {:?}", service.key);
        }
        let expires = servers.iter().flatten().any(|s| s.state == ServerState::Expired);
        let routes = servers.iter().map(|server| Route::new(server.as_ref())).collect();
        ServiceTable { services, servers, by_key_v4, by_key_v6, routes, expires }
    }

    /// The service with this VIP, port and protocol, as [`word_v4`] has them.
    pub(crate) fn find_v4(&self, word: u64) -> Option<ServiceIndex> {
        self.by_key_v4.find(hash_v4(word), |entry| entry.0 == word).map(|entry| entry.1)
    }

    /// The service with this VIP, port and protocol.
    pub(crate) fn find_v6(
        &self,
        vip: &[u8; 16],
        port: [u8; 2],
        protocol: Protocol,
    ) -> Option<ServiceIndex> {
        self.by_key_v6.get(&(*vip, u16::from_be_bytes(port), protocol)).copied()
    }

    /// The service at `index`.
    #[inline]
    pub fn service(&self, index: ServiceIndex) -> Option<&Service> {
        self.services.get(usize::from(index.0))?.as_ref()
    }

    /// The server at `index`.
    #[inline]
    pub fn server(&self, index: ServerIndex) -> Option<&Server> {
        self.servers.get(usize::from(index.0))?.as_ref()
    }

    /// The packet path's view of all servers, by index.
    #[inline]
    pub(crate) fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The packet path's view of the server at `index`.
    #[inline]
    pub(crate) fn route(&self, index: ServerIndex) -> Option<&Route> {
        self.routes.get(usize::from(index.0))
    }

    /// Where frames for the server at `index` go, if it has a neighbor.
    pub(crate) fn destination(&self, index: ServerIndex) -> Option<Destination> {
        self.route(index).filter(|route| route.vlans.is_some()).map(|route| route.destination)
    }

    /// Whether a server's flows are to end at once.
    pub(crate) fn expires(&self) -> bool {
        self.expires
    }
}
