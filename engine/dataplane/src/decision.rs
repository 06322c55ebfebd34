//! The decision about one packet, in four steps: virtual service, flow, scheduler (only when there
//! is no flow), neighbor. Each step that can fail names its reason.

use crate::direct_routing::{Destination, Source, rewrite};
use crate::drop_reason::DropReason;
use crate::flow_key::{FlowHasher, Key, ServiceTag, key_v4, key_v6, mapped};
use crate::flow_state::{Event, FlowState, Lifetimes, Ticks};
use crate::flow_table::{Flow, FlowTable, FlowsV4, FlowsV6, Place};
use crate::parse::{Addresses, Headers, Transport, parse_any};
use crate::peers::{News, Peers, What};
use crate::scheduler::{Instance, Load, Loads, NewFlow};
use crate::service_table::{Passage, ServerIndex, ServerState, Service, ServiceTable, word_v4};
use crate::settings::{Settings, UnknownFlow};
use crate::worker_memory::{Millis, WorkerMemory, ticks};
use crate::{SERVICES_MAX, WorkerCounts};
use std::sync::Arc;

/// A packet after the first step: its virtual service is known, or it is to be dropped.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arrival {
    V4(Known<1>),
    V6(Known<3>),
    Unwanted(DropReason),
}

impl Arrival {
    /// Whether the packet may do more than go on with its flow, for all that it says itself.
    #[inline]
    pub fn is_special(&self) -> bool {
        match self {
            Arrival::V4(known) => known.event.is_special(),
            Arrival::V6(known) => known.event.is_special(),
            Arrival::Unwanted(_) => true,
        }
    }
}

/// A packet whose virtual service is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<const KEY: usize> {
    pub key: [u64; KEY],
    pub hash: u64,
    pub passage: Passage,
    /// The flow's home in this worker's table.
    pub home: u32,
    pub event: Event,
}

/// No service has the port 0, and so none this word.
const NO_SERVICE: (u64, ServiceTag) = (0, ServiceTag::NONE);

/// A moment, in both of the dataplane's units.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub millis: Millis,
    pub ticks: Ticks,
}

impl Moment {
    pub fn new(millis: Millis) -> Moment {
        Moment { millis, ticks: ticks(millis) }
    }
}

/// The flow table of one address family, out of a worker's memory.
pub(crate) trait Select<const KEY: usize, const WORDS: usize>: Copy {
    fn of(self, memory: &WorkerMemory) -> &FlowTable<KEY, WORDS>;
}

#[derive(Clone, Copy)]
pub(crate) struct V4;

#[derive(Clone, Copy)]
pub(crate) struct V6;

impl Select<1, 8> for V4 {
    #[inline]
    fn of(self, memory: &WorkerMemory) -> &FlowsV4 {
        &memory.flows_v4
    }
}

impl Select<3, 16> for V6 {
    #[inline]
    fn of(self, memory: &WorkerMemory) -> &FlowsV6 {
        &memory.flows_v6
    }
}

/// Ticks that a flow had no packet when the worker that has it is told of one elsewhere: a second.
const REPORT_AFTER: Ticks = 8;

/// A flow that was found; without a place if it is another worker's and did not fit here.
type Found = (Option<Place>, Flow);

/// Decides for one worker.
pub(crate) struct Decider {
    pub table: Arc<ServiceTable>,
    /// The service found last, by [`word_v4`]; its tag is [`ServiceTag::NONE`] if it is no service.
    pub last_service: (u64, ServiceTag),
    pub settings: Settings,
    pub lifetimes: Lifetimes,
    pub schedulers: Vec<Option<Box<Instance>>>,
    pub counts: WorkerCounts,
    pub memory: Arc<WorkerMemory>,
    pub peers: Peers,
    pub hasher: FlowHasher,
    /// Sweeps after which an overflow is forgotten.
    pub overflow_sweeps: u32,
}

impl Decider {
    pub fn new(memory: Arc<WorkerMemory>, peers: Peers, hasher: FlowHasher) -> Decider {
        let settings = Settings::default();
        let mut decider = Decider {
            table: Arc::default(),
            last_service: NO_SERVICE,
            settings,
            lifetimes: Lifetimes::new(&settings.timeouts),
            schedulers: std::iter::repeat_with(|| None).take(SERVICES_MAX).collect(),
            counts: WorkerCounts::default(),
            memory,
            peers,
            hasher,
            overflow_sweeps: 0,
        };
        decider.set(settings);
        decider
    }

    /// Swaps in the services and servers of an update.
    pub fn swap_table(&mut self, table: &mut Arc<ServiceTable>) {
        std::mem::swap(table, &mut self.table);
        self.last_service = NO_SERVICE;
    }

    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
        self.lifetimes.set(&settings.timeouts);
        self.overflow_sweeps = crate::expiry::sweeps_in(self.lifetimes.longest());
    }

    /// First step, any packet: parses it and finds its virtual service.
    #[inline(never)]
    pub fn recognise(&self, packet: &[u8]) -> Arrival {
        parse_any(packet)
            .and_then(|headers| self.arrive(&headers))
            .unwrap_or_else(Arrival::Unwanted)
    }

    fn arrive(&self, headers: &Headers) -> Result<Arrival, DropReason> {
        let Headers { vlans, addresses, transport } = *headers;
        let Transport { client_port, service_port, event } = transport;
        let protocol = event.protocol();
        match addresses {
            Addresses::V4 { client, vip } => {
                let service = self.table.find_v4(word_v4(vip, service_port, protocol));
                let service = service.ok_or(DropReason::NoService)?.into();
                let known = self.known(V4, key_v4(client, client_port, service), vlans, event);
                Ok(Arrival::V4(known))
            }
            Addresses::V6 { client, vip } => {
                let service = self.table.find_v6(vip, service_port, protocol);
                let service = service.ok_or(DropReason::NoService)?.into();
                let known = self.known(V6, key_v6(client, client_port, service), vlans, event);
                Ok(Arrival::V6(known))
            }
        }
    }

    fn known<const KEY: usize, const WORDS: usize>(
        &self,
        select: impl Select<KEY, WORDS>,
        key: [u64; KEY],
        vlans: [u16; 2],
        event: Event,
    ) -> Known<KEY> {
        let table = select.of(&self.memory);
        let hash = self.hasher.hash(&key);
        let home = table.home(hash);
        table.prefetch(home);
        let passage = Passage::new(ServiceTag::of_word(key[KEY - 1]), vlans);
        Known { key, hash, passage, home: home as u32, event }
    }

    /// If the packet is likely to begin a flow, it will be looked for in every peer's table.
    #[inline]
    pub fn prefetch_from_peers(&self, arrival: &Arrival) {
        match arrival {
            _ if self.peers.is_empty() => {}
            Arrival::V4(known) if known.event.is_special() => self.peers.prefetch(V4, known.hash),
            Arrival::V6(known) if known.event.is_special() => self.peers.prefetch(V6, known.hash),
            _ => {}
        }
    }

    /// The other three steps, any packet, and the rewrite: `packet` leaves for an RS, from `source`.
    #[inline(never)]
    pub fn decide<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: impl Select<KEY, WORDS>,
        arrival: &Known<KEY>,
        packet: &mut [u8],
        source: Source,
        now: Moment,
    ) -> Result<(), DropReason> {
        let server = self.find_server(select, arrival, now)?;
        let destination = self.find_neighbor(server, arrival.passage)?;
        rewrite(packet, destination, source);
        self.memory.counters.count_packet(server, packet.len());
        Ok(())
    }

    fn find_server<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: impl Select<KEY, WORDS>,
        arrival: &Known<KEY>,
        now: Moment,
    ) -> Result<ServerIndex, DropReason> {
        let found = select.of(&self.memory).find(&arrival.key, arrival.hash);
        if arrival.event.is_error() {
            return self.server_of_error(select, arrival, found.map(|(_, flow)| flow), now);
        }
        let found = match found {
            Some((place, flow)) if !flow.is_expired(now.ticks, &self.lifetimes) => {
                Some((Some(place), flow))
            }
            Some((place, flow)) => {
                self.counts.flows_expired += 1;
                self.end(select, place, flow);
                self.adopt(select, arrival, now)
            }
            None => self.adopt(select, arrival, now),
        };
        if let Some(found) = found
            && let Some(server) = self.follow(select, found, arrival, now)?
        {
            return Ok(server);
        }
        self.begin(select, arrival, now)
    }

    /// Second step, a known flow: its state moves on. `None` when the packet starts anew.
    fn follow<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: impl Select<KEY, WORDS>,
        (place, flow): Found,
        arrival: &Known<KEY>,
        now: Moment,
    ) -> Result<Option<ServerIndex>, DropReason> {
        let event = arrival.event;
        let opens = event.opens();
        let route = self.table.route(flow.server());
        let state =
            route.filter(|route| route.service == arrival.passage.service()).and_then(|r| r.state);
        let anew = match state {
            // Not a server of this service: the entry outlived its server.
            None => true,
            Some(ServerState::Expired) => true,
            // Of a flow that is over and has no room here, the next one may have overflowed.
            Some(ServerState::Serving | ServerState::Removed) => {
                let over = flow.state().is_over()
                    && (opens || place.is_none() && self.has_overflowed(select, arrival.hash));
                // Nobody has answered yet, or the client has closed and uses its port again: either
                // has nothing to lose on another server.
                let begins = opens && flow.state() != FlowState::Established;
                over || begins && self.is_passed_over(flow.server(), arrival)
            }
        };
        if anew {
            match place {
                Some(place) => {
                    self.counts.flows_expired += 1;
                    self.end(select, place, flow);
                }
                None => {
                    let last =
                        if flow.was_seen_before(now.ticks) { now.ticks } else { flow.seen() };
                    let news = News { key: Key::new(&arrival.key), what: What::Ended(last) };
                    self.peers.tell(select, &arrival.key, arrival.hash, news);
                }
            }
            let lost = state == Some(ServerState::Expired) && event.is_tcp() && !opens;
            return if lost { Err(DropReason::ServerExpired) } else { Ok(None) };
        }
        match place {
            Some(place) => self.note(select, place, flow, flow.state().after(event), now),
            None => self.report(select, flow, arrival, now),
        }
        Ok(Some(flow.server()))
    }

    /// Whether a server takes no new flows while others of its service do
    /// (`expire_nodest_conn` in ip_vs_in_hook of net/netfilter/ipvs/ip_vs_core.c, which asks the
    /// weight, too).
    fn is_passed_over<const KEY: usize>(&self, server: ServerIndex, arrival: &Known<KEY>) -> bool {
        let service = self.table.service(arrival.passage.service());
        let slot = self.table.route(server).map(|route| usize::from(route.slot));
        service.zip(slot).is_some_and(|(service, slot)| {
            service.candidates.get(slot).is_some_and(|candidate| candidate.weight == 0)
                && !service.removed
                && !service.consistent.is_empty()
        })
    }

    /// A flow that stays another worker's had a packet here: its owner hears of it in time.
    fn report<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: impl Select<KEY, WORDS>,
        flow: Flow,
        arrival: &Known<KEY>,
        now: Moment,
    ) {
        let state = flow.state().after(arrival.event);
        if state != flow.state() || flow.was_seen_before(now.ticks.wrapping_sub(REPORT_AFTER)) {
            let news = News { key: Key::new(&arrival.key), what: What::Lives(state) };
            self.peers.tell(select, &arrival.key, arrival.hash, news);
        }
    }

    /// Second step, a flow that another worker knows: from now on it is this worker's.
    #[inline(never)]
    fn adopt<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: impl Select<KEY, WORDS>,
        arrival: &Known<KEY>,
        now: Moment,
    ) -> Option<Found> {
        let hash = arrival.hash;
        let flow = self.peers.find(select, &arrival.key, hash)?;
        if flow.is_expired(now.ticks, &self.lifetimes) {
            return None;
        }
        // Who cannot be told would count the flow as well: it stays there until the next packet.
        if !self.peers.can_be_told(select, &arrival.key, hash) {
            return Some((None, flow));
        }
        let Some(place) = self.make_room(select, hash, now) else {
            return Some((None, flow));
        };
        let flow = flow.taken_over(now.ticks);
        self.put(select, place, &arrival.key, hash, flow);
        self.counts.flows_adopted += 1;
        self.peers.tell(
            select,
            &arrival.key,
            hash,
            News { key: Key::new(&arrival.key), what: What::Moved },
        );
        Some((Some(place), flow))
    }

    /// Third step: a new flow, or a packet whose flow there was no room for.
    #[inline(never)]
    fn begin<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: impl Select<KEY, WORDS>,
        arrival: &Known<KEY>,
        now: Moment,
    ) -> Result<ServerIndex, DropReason> {
        let overflowed = self.has_overflowed(select, arrival.hash);
        let event = arrival.event;
        if event.is_tcp() && !event.opens() {
            if overflowed {
                // While such a flow has packets, its overflow is not forgotten.
                self.counts.overflow_followers += 1;
                select.of(&self.memory).mark_overflow(arrival.hash, self.overflow_sweeps);
                return self.consistent_server(arrival);
            }
            if self.settings.unknown_flow != UnknownFlow::Schedule || event.resets() {
                return Err(DropReason::UnknownFlow);
            }
        }
        // Asked first, so that nothing is evicted for a flow that nobody will serve.
        self.find_service(arrival)?;
        let Some(place) = self.make_room(select, arrival.hash, now) else {
            self.counts.overflowed += 1;
            select.of(&self.memory).mark_overflow(arrival.hash, self.overflow_sweeps);
            return self.consistent_server(arrival);
        };
        let server = if overflowed {
            // Whether this is the flow that found no room cannot be told; if it is, it must go
            // where its first packet went.
            self.counts.overflow_followers += 1;
            self.consistent_server(arrival)?
        } else {
            match self.schedule(arrival, now) {
                Some(server) => server,
                None => self.consistent_server(arrival)?,
            }
        };
        self.put(
            select,
            place,
            &arrival.key,
            arrival.hash,
            Flow::new(server, FlowState::first(event), now.ticks),
        );
        self.counts.flows_created += 1;
        self.memory.counters.count_connection(server);
        Ok(server)
    }

    /// The scheduler's choice, if it made one that is of use.
    fn schedule<const KEY: usize>(
        &mut self,
        arrival: &Known<KEY>,
        now: Moment,
    ) -> Option<ServerIndex> {
        let index = arrival.passage.service();
        let service = self.table.service(index)?;
        let instance = self.schedulers.get_mut(usize::from(index.0))?.as_mut()?;
        let loads = WorkerLoads { memory: &self.memory, peers: &self.peers };
        let slot = instance.schedule(service, &new_flow(service, arrival), &loads, now.millis);
        service.servers.get(slot.ok()?).copied()?
    }

    /// The flow that an ICMP error quotes stays as it is: the error says nothing about its state.
    #[inline(never)]
    fn server_of_error<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: impl Select<KEY, WORDS>,
        arrival: &Known<KEY>,
        own: Option<Flow>,
        now: Moment,
    ) -> Result<ServerIndex, DropReason> {
        // Errors come from routers, so a NIC seldom puts them on their flow's queue.
        let lives = |flow: &Flow| !flow.is_expired(now.ticks, &self.lifetimes);
        let flow = own
            .filter(lives)
            .or_else(|| self.peers.find(select, &arrival.key, arrival.hash).filter(lives));
        if let Some(flow) = flow
            && let Some(route) = self.table.route(flow.server())
            && route.service == arrival.passage.service()
        {
            return Ok(flow.server());
        }
        let overflowed = self.has_overflowed(select, arrival.hash);
        if !overflowed {
            return Err(DropReason::UnknownIcmp);
        }
        self.counts.overflow_followers += 1;
        self.consistent_server(arrival)
    }

    /// Whether a flow with this hash may have found no room lately, here or elsewhere.
    fn has_overflowed<const KEY: usize, const WORDS: usize>(
        &self,
        select: impl Select<KEY, WORDS>,
        hash: u64,
    ) -> bool {
        select.of(&self.memory).has_overflowed(hash) || self.peers.have_overflowed(select, hash)
    }

    /// The packet's service, if it takes new flows.
    fn find_service<const KEY: usize>(&self, arrival: &Known<KEY>) -> Result<&Service, DropReason> {
        let service = self.table.service(arrival.passage.service()).ok_or(DropReason::NoService)?;
        if service.removed {
            return Err(DropReason::ServiceRemoved);
        }
        if service.consistent.is_empty() { Err(DropReason::NoServer) } else { Ok(service) }
    }

    /// The stateless choice.
    fn consistent_server<const KEY: usize>(
        &self,
        arrival: &Known<KEY>,
    ) -> Result<ServerIndex, DropReason> {
        let service = self.find_service(arrival)?;
        let slot = service.consistent.choose(arrival.hash).ok_or(DropReason::NoServer)?;
        service.servers.get(slot).copied().flatten().ok_or(DropReason::NoServer)
    }

    /// Fourth step: the MAC address of the server.
    fn find_neighbor(
        &self,
        index: ServerIndex,
        passage: Passage,
    ) -> Result<Destination, DropReason> {
        let route = self.table.route(index).ok_or(DropReason::NoServer)?;
        let vlans = route.vlans.ok_or(DropReason::NoNeighbor)?;
        if vlans != passage.vlans() {
            return Err(DropReason::OtherVlan);
        }
        Ok(route.destination)
    }
}

fn new_flow<const KEY: usize>(service: &Service, arrival: &Known<KEY>) -> NewFlow {
    let (source, source_port) = Key::new(&arrival.key).client();
    NewFlow {
        source,
        destination: mapped(service.key.address),
        source_port,
        destination_port: service.key.port,
        protocol: service.key.protocol as u8,
    }
}

struct WorkerLoads<'a> {
    memory: &'a WorkerMemory,
    peers: &'a Peers,
}

impl Loads for WorkerLoads<'_> {
    fn has_others(&self) -> bool {
        !self.peers.is_empty()
    }

    fn own(&self, server: ServerIndex) -> Load {
        self.memory.counters.load(server)
    }

    fn others(&self, server: ServerIndex) -> Load {
        self.peers.load(server)
    }
}
