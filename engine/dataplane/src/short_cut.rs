//! What most packets need: no VLAN tag, no IP options, and a flow that is known and whose state stays
//! as it is.
//!
//! Everything here leaves what it does not take to [`Decider`], which would do just the same with
//! what it takes, only slower. What is looked up once a burst is in the locals of these loops:
//! the instructions between two packets are those of the packets.

use crate::counters::Servers;
use crate::decision::{Arrival, Decider, Known, Moment};
use crate::direct_routing::{Source, rewrite};
use crate::flow_key::{FlowHasher, ServiceTag, key_v4, key_v6};
use crate::flow_state::{Event, Lifetimes, Ticks};
use crate::flow_table::Homes;
use crate::parse::{Plain, TCP, UDP, parse_plain_ipv4, parse_plain_ipv6};
use crate::service_table::{Passage, Protocol, Route, word_v4};
use xsk::{Packet, Port};

/// How many packets ahead of their parsing their first cache lines are asked for.
///
/// Frames are 2 KiB apart, so that those lines share two sets of a first-level cache, which has
/// room for 16 to 24 of them: a burst that is asked for at once is gone when its turn comes.
const AHEAD: usize = 12;

impl Decider {
    /// First step, a whole burst: parses the packets, finds their virtual services and asks for
    /// their flows' buckets.
    #[inline]
    pub fn recognise_burst(
        &mut self,
        port: &impl Port,
        burst: &[Packet],
        arrivals: &mut [Arrival],
    ) {
        burst.iter().take(AHEAD).for_each(|packet| port.prefetch(packet));
        let mut next = 0;
        while let Some(packet) = burst.get(next) {
            let (rest, places) = (&burst[next..], &mut arrivals[next..]);
            let done = match Plain::kind_of(port.bytes(packet)) {
                Some(Plain::TcpIpv4) => self.recognise_ipv4::<TCP>(port, rest, places),
                Some(Plain::UdpIpv4) => self.recognise_ipv4::<UDP>(port, rest, places),
                Some(Plain::TcpIpv6) => self.recognise_ipv6::<TCP>(port, rest, places),
                Some(Plain::UdpIpv6) => self.recognise_ipv6::<UDP>(port, rest, places),
                None => 0,
            };
            if done == 0 {
                arrivals[next] = self.recognise(port.bytes(packet));
                prefetch_ahead(port, rest, 0);
            }
            next += done.max(1);
        }
    }

    /// The same for the first packets of the burst, up to the first that is not plain IPv4 of this
    /// protocol. Returns how many.
    #[inline]
    fn recognise_ipv4<const PROTOCOL: u8>(
        &mut self,
        port: &impl Port,
        burst: &[Packet],
        arrivals: &mut [Arrival],
    ) -> usize {
        let hasher = self.hasher;
        let homes = self.memory.flows_v4.homes();
        // Most packets are for the service of the packet before.
        let mut last = self.last_service;
        let mut done = 0;
        for (packet, arrival) in burst.iter().zip(arrivals) {
            prefetch_ahead(port, burst, done);
            let parsed = parse_plain_ipv4::<PROTOCOL>(port.bytes(packet));
            let Some(([client, vip], transport)) = parsed else { break };
            let protocol = if PROTOCOL == TCP { Protocol::Tcp } else { Protocol::Udp };
            let word = word_v4(vip, transport.service_port, protocol);
            if word != last.0 {
                let Some(service) = self.table.find_v4(word) else { break };
                last = (word, service.into());
            }
            let key = key_v4(client, transport.client_port, last.1);
            *arrival = Arrival::V4(known(&homes, hasher, key, last.1, transport.event));
            done += 1;
        }
        self.last_service = last;
        done
    }

    /// The same for plain IPv6.
    #[inline(never)]
    fn recognise_ipv6<const PROTOCOL: u8>(
        &self,
        port: &impl Port,
        burst: &[Packet],
        arrivals: &mut [Arrival],
    ) -> usize {
        let hasher = self.hasher;
        let homes = self.memory.flows_v6.homes();
        let mut done = 0;
        for (packet, arrival) in burst.iter().zip(arrivals) {
            prefetch_ahead(port, burst, done);
            let parsed = parse_plain_ipv6::<PROTOCOL>(port.bytes(packet));
            let Some(([client, vip], transport)) = parsed else { break };
            let protocol = if PROTOCOL == TCP { Protocol::Tcp } else { Protocol::Udp };
            let service = self.table.find_v6(vip, transport.service_port, protocol);
            let Some(service) = service.map(ServiceTag::from) else { break };
            let key = key_v6(client, transport.client_port, service);
            *arrival = Arrival::V6(known(&homes, hasher, key, service, transport.event));
            done += 1;
        }
        done
    }

    /// The other three steps and the rewrite for the first packets of the burst, up to the first
    /// that needs more than this. Returns how many.
    #[inline]
    pub fn continue_flows(
        &self,
        port: &mut impl Port,
        burst: &[Packet],
        arrivals: &[Arrival],
        now: Moment,
    ) -> usize {
        let homes_v4 = self.memory.flows_v4.homes();
        let homes_v6 = self.memory.flows_v6.homes();
        let short_cut = ShortCut {
            routes: self.table.routes(),
            servers: self.memory.counters.servers(),
            lifetimes: &self.lifetimes,
            source: port.mac().into(),
            now: now.ticks,
        };
        let mut packets = burst.iter().zip(arrivals);
        let stop = packets.position(|(packet, arrival)| {
            let packet = port.bytes_mut(packet);
            let taken = match arrival {
                Arrival::V4(known) => short_cut.take(&homes_v4, known, packet),
                Arrival::V6(known) => short_cut.take(&homes_v6, known, packet),
                Arrival::Unwanted(_) => false,
            };
            !taken
        });
        stop.unwrap_or(burst.len())
    }
}

/// Asks for the packet that comes [`AHEAD`] packets after the one at `index`.
#[inline]
fn prefetch_ahead(port: &impl Port, burst: &[Packet], index: usize) {
    if let Some(packet) = burst.get(index + AHEAD) {
        port.prefetch(packet);
    }
}

/// A packet of the flow with this key. Its bucket is asked for.
#[inline]
fn known<const KEY: usize, const WORDS: usize>(
    homes: &Homes<'_, KEY, WORDS>,
    hasher: FlowHasher,
    key: [u64; KEY],
    service: ServiceTag,
    event: Event,
) -> Known<KEY> {
    let hash = hasher.hash(&key);
    let home = homes.of(hash);
    homes.prefetch(home);
    Known { key, hash, passage: Passage::new(service, [0, 0]), home: home as u32, event }
}

/// What the packets of a burst are looked up in, besides their flow tables.
struct ShortCut<'a> {
    routes: &'a [Route],
    servers: Servers<'a>,
    lifetimes: &'a Lifetimes,
    source: Source,
    now: Ticks,
}

impl ShortCut<'_> {
    /// Forwards the packet, if its flow is known, lives and stays as it is, and its server takes the
    /// packet.
    #[inline]
    fn take<const KEY: usize, const WORDS: usize>(
        &self,
        homes: &Homes<'_, KEY, WORDS>,
        known: &Known<KEY>,
        packet: &mut [u8],
    ) -> bool {
        let home = known.home as usize;
        let found = homes.find(&known.key, home).or_else(|| {
            // What opens a flow is not taken in any case.
            if known.event.is_special() { None } else { homes.find_further(&known.key, home) }
        });
        let Some((remembered, flow)) = found else { return false };
        let server = flow.server();
        let Some(route) = self.routes.get(usize::from(server.0)) else { return false };
        if route.passage != known.passage || !flow.goes_on(known.event, self.now, self.lifetimes) {
            return false;
        }
        rewrite(packet, route.destination, self.source);
        self.servers.count_packet(server, packet.len());
        remembered.note(flow, self.now);
        true
    }
}
