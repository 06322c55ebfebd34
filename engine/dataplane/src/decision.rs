//! The decision about one packet, in four steps: virtual service, flow, scheduler (only when there
//! is no flow), neighbor. Each step that can fail names its reason.

use crate::direct_routing::rewrite;
use crate::drop_reason::DropReason;
use crate::flow_key::{FlowHasher, Key, key_v4, key_v6, mapped};
use crate::flow_state::{FlowState, Lifetimes, Ticks};
use crate::flow_table::{Flow, FlowTable, Place};
use crate::parse::{Addresses, Content, Headers, parse_any, parse_plain};
use crate::peers::{News, Peers, What};
use crate::scheduler::{Instance, Load, Loads, NewFlow};
use crate::service_table::{
    Protocol, ServerIndex, ServerState, Service, ServiceIndex, ServiceTable,
};
use crate::service_table::{Route, passage, word_v4};
use crate::settings::{Settings, UnknownFlow};
use crate::worker_memory::{Millis, WorkerMemory, ticks};
use crate::{SERVICES_MAX, WorkerCounts};
use std::sync::Arc;

/// A packet whose virtual service is known: the first step is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    key: Key,
    hash: u64,
    /// The flow's home in this worker's table.
    home: u32,
    service: ServiceIndex,
    content: Content,
    vlans: [u16; 2],
    /// [`passage`] of a packet in the middle of its flow, else [`NEEDS_A_LOOK`].
    passage: u64,
}

/// The passage of a packet that may change more than the state of its flow, which no server has.
const NEEDS_A_LOOK: u64 = u64::MAX - 1;

/// No service has the port 0, and so none this word.
const NO_SERVICE: (u64, ServiceIndex) = (0, ServiceIndex(u16::MAX));

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
pub(crate) type Select<const KEY: usize, const WORDS: usize> =
    fn(&WorkerMemory) -> &FlowTable<KEY, WORDS>;

pub(crate) const V4: Select<1, 8> = |memory| &memory.flows_v4;
pub(crate) const V6: Select<3, 16> = |memory| &memory.flows_v6;

/// Ticks that a flow had no packet when the worker that has it is told of one elsewhere: a second.
const REPORT_AFTER: Ticks = 8;

/// A flow that was found; without a place if it is another worker's and did not fit here.
type Found = (Option<Place>, Flow);

/// Decides for one worker.
pub(crate) struct Decider {
    pub table: Arc<ServiceTable>,
    /// The service found last, by [`word_v4`].
    last_service: (u64, ServiceIndex),
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
        self.lifetimes = Lifetimes::new(&settings.timeouts);
        self.overflow_sweeps = crate::expiry::sweeps_in(self.lifetimes.longest());
    }

    /// First step: parses the packet and finds its virtual service.
    #[inline]
    pub fn recognise(&mut self, packet: &[u8], arrivals: &mut Vec<Result<Arrival, DropReason>>) {
        // Each way ends in a push of its own: what meets before is first written to the stack.
        match parse_plain(packet) {
            Some(headers) => arrivals.push(self.arrive(&headers)),
            None => arrivals.push(self.recognise_any(packet)),
        }
    }

    #[inline(never)]
    fn recognise_any(&mut self, packet: &[u8]) -> Result<Arrival, DropReason> {
        self.arrive(&parse_any(packet)?)
    }

    #[inline]
    fn arrive(&mut self, headers: &Headers) -> Result<Arrival, DropReason> {
        let Headers { vlans, addresses, client_port, service_port, content } = *headers;
        let protocol = content.protocol();
        let (service, key, hash, home) = match addresses {
            Addresses::V4 { client, vip } => {
                let service = self.find_service_v4(word_v4(vip, service_port, protocol))?;
                let key = key_v4(client, client_port, service);
                let hash = self.hasher.hash(&key);
                (service, Key::V4(key), hash, self.memory.flows_v4.home(hash))
            }
            Addresses::V6 { client, vip } => {
                let service = self.table.find_v6(vip, service_port, protocol);
                let service = service.ok_or(DropReason::NoService)?;
                let key = key_v6(client, client_port, service);
                let hash = self.hasher.hash(&key);
                (service, Key::V6(key), hash, self.memory.flows_v6.home(hash))
            }
        };
        let passage = if content.continues() { passage(service, vlans) } else { NEEDS_A_LOOK };
        Ok(Arrival { key, hash, home: home as u32, service, content, vlans, passage })
    }

    /// Most packets are for the service of the packet before.
    #[inline]
    fn find_service_v4(&mut self, word: u64) -> Result<ServiceIndex, DropReason> {
        if self.last_service.0 != word {
            let service = self.table.find_v4(word).ok_or(DropReason::NoService)?;
            self.last_service = (word, service);
        }
        Ok(self.last_service.1)
    }

    /// Brings the packet's part of the flow table into the cache.
    #[inline]
    pub fn touch(&self, arrival: &Arrival) -> u64 {
        match arrival.key {
            Key::V4(_) => self.memory.flows_v4.touch(arrival.home as usize),
            Key::V6(_) => self.memory.flows_v6.touch(arrival.home as usize),
        }
    }

    /// The other three steps, and the rewrite: `packet` leaves for an RS, from `source`.
    #[inline]
    pub fn decide(
        &mut self,
        arrival: &Arrival,
        packet: &mut [u8],
        source: [u8; 6],
        now: Moment,
    ) -> Result<(), DropReason> {
        let continued = match &arrival.key {
            Key::V4(key) => self.continue_flow(V4, key, arrival, packet, source, now),
            Key::V6(key) => self.continue_flow(V6, key, arrival, packet, source, now),
        };
        if continued { Ok(()) } else { self.decide_anything(arrival, packet, source, now) }
    }

    /// What most packets need: the flow is where it should be, it lives, its server takes the
    /// packet. False leaves it to [`Decider::decide_anything`], which would do just the same.
    #[inline]
    fn continue_flow<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: Select<KEY, WORDS>,
        key: &[u64; KEY],
        arrival: &Arrival,
        packet: &mut [u8],
        source: [u8; 6],
        now: Moment,
    ) -> bool {
        let found = select(&self.memory).find_at_home(key, arrival.home as usize);
        let Some((place, flow)) = found else {
            return false;
        };
        let Some(Route { passage, neighbor: Some(neighbor), .. }) = self.table.route(flow.server())
        else {
            return false;
        };
        if *passage != arrival.passage || flow.is_expired(now.ticks, &self.lifetimes) {
            return false;
        }
        rewrite(packet, neighbor.mac, source);
        self.memory.counters.count_packet(flow.server(), packet.len());
        self.move_on(select, place, flow, arrival.content, now);
        true
    }

    #[inline(never)]
    fn decide_anything(
        &mut self,
        arrival: &Arrival,
        packet: &mut [u8],
        source: [u8; 6],
        now: Moment,
    ) -> Result<(), DropReason> {
        let server = match &arrival.key {
            Key::V4(key) => self.find_server(V4, key, arrival, now)?,
            Key::V6(key) => self.find_server(V6, key, arrival, now)?,
        };
        let destination = self.find_neighbor(server, arrival)?;
        rewrite(packet, destination, source);
        self.memory.counters.count_packet(server, packet.len());
        Ok(())
    }

    fn find_server<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: Select<KEY, WORDS>,
        key: &[u64; KEY],
        arrival: &Arrival,
        now: Moment,
    ) -> Result<ServerIndex, DropReason> {
        let found = select(&self.memory).find(key, arrival.hash);
        if let Content::Error(_) = arrival.content {
            return self.server_of_error(select, key, arrival, found.map(|(_, flow)| flow), now);
        }
        let found = match found {
            Some((place, flow)) if !flow.is_expired(now.ticks, &self.lifetimes) => {
                Some((Some(place), flow))
            }
            Some((place, flow)) => {
                self.counts.flows_expired += 1;
                self.end(select, place, flow);
                self.adopt(select, key, arrival, now)
            }
            None => self.adopt(select, key, arrival, now),
        };
        if let Some(found) = found
            && let Some(server) = self.follow(select, key, found, arrival, now)?
        {
            return Ok(server);
        }
        self.begin(select, key, arrival, now)
    }

    /// Second step, a known flow: its state moves on. `None` when the packet starts anew.
    fn follow<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: Select<KEY, WORDS>,
        key: &[u64; KEY],
        (place, flow): Found,
        arrival: &Arrival,
        now: Moment,
    ) -> Result<Option<ServerIndex>, DropReason> {
        let content = arrival.content;
        let opens = matches!(content, Content::Tcp(flags) if flags.opens());
        let route = self.table.route(flow.server());
        let state = route.filter(|route| route.service == arrival.service).and_then(|r| r.state);
        let anew = match state {
            // Not a server of this service: the entry outlived its server.
            None => true,
            Some(ServerState::Expired) => true,
            // Of a flow that is over and has no room here, the next one may have overflowed.
            Some(ServerState::Serving | ServerState::Removed) => {
                flow.state().is_over()
                    && (opens || place.is_none() && self.has_overflowed(select, arrival.hash))
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
                    let news = News { key: arrival.key, what: What::Ended(last) };
                    self.peers.tell(select, key, arrival.hash, news);
                }
            }
            let lost = state == Some(ServerState::Expired)
                && content.protocol() == Protocol::Tcp
                && !opens;
            return if lost { Err(DropReason::ServerExpired) } else { Ok(None) };
        }
        match place {
            Some(place) => self.move_on(select, place, flow, content, now),
            None => self.report(select, key, flow, arrival, now),
        }
        Ok(Some(flow.server()))
    }

    /// A flow that stays another worker's had a packet here: its owner hears of it in time.
    fn report<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: Select<KEY, WORDS>,
        key: &[u64; KEY],
        flow: Flow,
        arrival: &Arrival,
        now: Moment,
    ) {
        let state = state_after(flow, arrival.content);
        if state != flow.state() || flow.was_seen_before(now.ticks.wrapping_sub(REPORT_AFTER)) {
            let news = News { key: arrival.key, what: What::Lives(state) };
            self.peers.tell(select, key, arrival.hash, news);
        }
    }

    /// The flow at `place` had a packet.
    #[inline]
    fn move_on<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: Select<KEY, WORDS>,
        place: Place,
        flow: Flow,
        content: Content,
        now: Moment,
    ) {
        self.note(select, place, flow, state_after(flow, content), now);
    }

    /// Second step, a flow that another worker knows: from now on it is this worker's.
    #[inline(never)]
    fn adopt<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: Select<KEY, WORDS>,
        key: &[u64; KEY],
        arrival: &Arrival,
        now: Moment,
    ) -> Option<Found> {
        let hash = arrival.hash;
        let flow = self.peers.find(select, key, hash)?;
        if flow.is_expired(now.ticks, &self.lifetimes) {
            return None;
        }
        // Who cannot be told would count the flow as well: it stays there until the next packet.
        if !self.peers.can_be_told(select, key, hash) {
            return Some((None, flow));
        }
        let Some(place) = self.make_room(select, hash, now) else {
            return Some((None, flow));
        };
        let flow = flow.taken_over(now.ticks);
        self.put(select, place, key, hash, flow);
        self.counts.flows_adopted += 1;
        self.peers.tell(select, key, hash, News { key: arrival.key, what: What::Moved });
        Some((Some(place), flow))
    }

    /// Third step: a new flow, or a packet whose flow there was no room for.
    #[inline(never)]
    fn begin<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: Select<KEY, WORDS>,
        key: &[u64; KEY],
        arrival: &Arrival,
        now: Moment,
    ) -> Result<ServerIndex, DropReason> {
        let overflowed = self.has_overflowed(select, arrival.hash);
        let state = match arrival.content {
            Content::Tcp(flags) => {
                if !flags.opens() {
                    if overflowed {
                        // While such a flow has packets, its overflow is not forgotten.
                        self.counts.overflow_followers += 1;
                        select(&self.memory).mark_overflow(arrival.hash, self.overflow_sweeps);
                        return self.consistent_server(arrival);
                    }
                    if self.settings.unknown_flow == UnknownFlow::Drop || flags.resets() {
                        return Err(DropReason::UnknownFlow);
                    }
                }
                FlowState::first(flags)
            }
            _ => FlowState::Udp,
        };
        // Asked first, so that nothing is evicted for a flow that nobody will serve.
        let consistent = self.consistent_server(arrival)?;
        let Some(place) = self.make_room(select, arrival.hash, now) else {
            self.counts.overflowed += 1;
            select(&self.memory).mark_overflow(arrival.hash, self.overflow_sweeps);
            return Ok(consistent);
        };
        let server = if overflowed {
            // Whether this is the flow that found no room cannot be told; if it is, it must go
            // where its first packet went.
            self.counts.overflow_followers += 1;
            consistent
        } else {
            self.schedule(arrival, now).unwrap_or(consistent)
        };
        self.put(select, place, key, arrival.hash, Flow::new(server, state, now.ticks));
        self.counts.flows_created += 1;
        self.memory.counters.count_connection(server);
        Ok(server)
    }

    /// The scheduler's choice, if it made one that is of use.
    fn schedule(&mut self, arrival: &Arrival, now: Moment) -> Option<ServerIndex> {
        let service = self.table.service(arrival.service)?;
        let instance = self.schedulers.get_mut(usize::from(arrival.service.0))?.as_mut()?;
        let loads = WorkerLoads { memory: &self.memory, peers: &self.peers };
        let slot = instance.schedule(service, &new_flow(service, arrival), &loads, now.millis);
        service.servers.get(slot.ok()?).copied()?
    }

    /// The flow that an ICMP error quotes stays as it is: the error says nothing about its state.
    #[inline(never)]
    fn server_of_error<const KEY: usize, const WORDS: usize>(
        &mut self,
        select: Select<KEY, WORDS>,
        key: &[u64; KEY],
        arrival: &Arrival,
        own: Option<Flow>,
        now: Moment,
    ) -> Result<ServerIndex, DropReason> {
        // Errors come from routers, so a NIC seldom puts them on their flow's queue.
        let lives = |flow: &Flow| !flow.is_expired(now.ticks, &self.lifetimes);
        let flow =
            own.filter(lives).or_else(|| self.peers.find(select, key, arrival.hash).filter(lives));
        if let Some(flow) = flow
            && let Some(route) = self.table.route(flow.server())
            && route.service == arrival.service
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
        select: Select<KEY, WORDS>,
        hash: u64,
    ) -> bool {
        select(&self.memory).has_overflowed(hash) || self.peers.have_overflowed(select, hash)
    }

    /// The stateless choice.
    fn consistent_server(&self, arrival: &Arrival) -> Result<ServerIndex, DropReason> {
        let service = self.table.service(arrival.service).ok_or(DropReason::NoService)?;
        if service.removed {
            return Err(DropReason::ServiceRemoved);
        }
        let slot = service.consistent.choose(arrival.hash).ok_or(DropReason::NoServer)?;
        service.servers.get(slot).copied().flatten().ok_or(DropReason::NoServer)
    }

    /// Fourth step: the MAC address of the server.
    fn find_neighbor(&self, index: ServerIndex, arrival: &Arrival) -> Result<[u8; 6], DropReason> {
        let route = self.table.route(index).ok_or(DropReason::NoServer)?;
        let neighbor = route.neighbor.as_ref().ok_or(DropReason::NoNeighbor)?;
        if neighbor.vlans != arrival.vlans {
            return Err(DropReason::OtherVlan);
        }
        Ok(neighbor.mac)
    }
}

/// The state of a flow after a packet.
#[inline]
fn state_after(flow: Flow, content: Content) -> FlowState {
    match content {
        Content::Tcp(flags) => flow.state().after(flags),
        Content::Udp | Content::Error(_) => flow.state(),
    }
}

fn new_flow(service: &Service, arrival: &Arrival) -> NewFlow {
    let (source, source_port) = arrival.key.client();
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
