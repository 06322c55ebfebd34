//! Numbered UDP packets at a steady rate, from a client to the real servers: which were lost, which
//! came twice, and whether a flow moved.
//!
//! Most packets are of flows that go on all the time. The others are of a new flow each.

use lab::{Netns, Topology, vip};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, setsockopt,
    socket, sockopt,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Flows that go on all the time.
pub const LASTING: usize = 400;
/// Time from one burst to the next.
const PACE: Duration = Duration::from_millis(1);
/// After a pause that the machine has made, no more at once than this many times the usual burst:
/// a veth's ring holds 256 frames.
const CATCH_UP: u64 = 2;
/// Receive buffer of a real server, in bytes: some 40,000 packets.
const RECEIVE_BUFFER: usize = 32 << 20;
/// How long the receivers sleep when nothing is there, and how often they look for the end.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// Source ports of a source address, and the first of them.
const PORTS: u64 = 60_000;
const PORT_FIRST: u16 = 2_000;
/// Hosts of the client's network that flows come from, and the first of them. None is there, and
/// nobody answers.
const HOSTS: u64 = 200;
const HOST_FIRST: u8 = 20;
/// IP and UDP headers, then the packet's number and its flow's.
const HEADERS: usize = 28;
const PACKET: usize = HEADERS + 16;
/// No real server yet.
const NOWHERE: u8 = 0;

/// How many packets a second.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// All of them.
    pub packets: u64,
    /// Those that begin a flow.
    pub new_flows: u64,
}

/// What has arrived.
struct Arrived {
    /// A bit for each packet.
    seen: Vec<AtomicU64>,
    /// Packets, the first of each number only.
    count: AtomicU64,
    /// Packets whose number had come before.
    twice: AtomicU64,
    /// Packets of lasting flows that came elsewhere than those before.
    moved: AtomicU64,
    /// The real server of each lasting flow.
    places: Vec<AtomicU8>,
}

/// What became of the packets.
#[derive(Debug, Clone, Copy)]
pub struct Tally {
    pub sent: u64,
    pub new_flows: u64,
    pub lost: u64,
    pub twice: u64,
    pub moved: u64,
    /// From the first packet to the last.
    pub time: Duration,
}

/// A sender in the client's namespace, and a receiver in each real server's.
pub struct Numbered {
    arrived: Arc<Arrived>,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: JoinHandle<(u64, Duration)>,
    receivers: Vec<JoinHandle<()>>,
}

impl Numbered {
    /// Starts to receive, then to send. `most` is more than the packets that will be sent.
    pub fn start(topology: &Topology, port: u16, rate: Rate, most: u64) -> Numbered {
        let IpAddr::V4(vip) = vip(lab::Family::V4) else { unreachable!("an IPv4 address") };
        let to = SocketAddrV4::new(vip, port);
        let arrived = Arc::new(Arrived {
            seen: (0..most.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            count: AtomicU64::new(0),
            twice: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            places: (0..LASTING).map(|_| AtomicU8::new(NOWHERE)).collect(),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let receivers = topology
            .real_servers
            .iter()
            .zip(1..)
            .map(|(netns, number)| receive(netns, number, to, arrived.clone(), stop.clone()))
            .collect();
        let sent = Arc::new(AtomicU64::new(0));
        let socket = topology.client.run(raw_socket).unwrap();
        let sender = {
            let (stop, sent) = (stop.clone(), sent.clone());
            thread::spawn(move || send_until(&socket, to, rate, most, &stop, &sent))
        };
        Numbered { arrived, stop, sent, sender, receivers }
    }

    /// The real server of each lasting flow, by the flow's source.
    pub fn places(&self) -> Vec<(SocketAddr, u8)> {
        (0..LASTING as u64)
            .map(|flow| (source(flow).into(), self.arrived.places[flow as usize].load(Relaxed)))
            .collect()
    }

    /// Packets sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Stops sending, waits until nothing more comes, and counts.
    pub fn finish(self) -> Tally {
        self.stop.store(true, Relaxed);
        let (new_flows, time) = self.sender.join().unwrap();
        // The receivers end when they find nothing any more.
        for receiver in self.receivers {
            receiver.join().unwrap();
        }
        let (sent, arrived) = (self.sent.load(Relaxed), &self.arrived);
        Tally {
            sent,
            new_flows,
            lost: sent - arrived.count.load(Relaxed),
            twice: arrived.twice.load(Relaxed),
            moved: arrived.moved.load(Relaxed),
            time,
        }
    }
}

/// Where a flow comes from. Lasting ones are the first.
fn source(flow: u64) -> SocketAddrV4 {
    let host = HOST_FIRST + (flow / PORTS % HOSTS) as u8;
    SocketAddrV4::new(Ipv4Addr::new(192, 168, 100, host), PORT_FIRST + (flow % PORTS) as u16)
}

/// Sends IPv4 packets as they are given (raw(7), IPPROTO_RAW), so that one socket has all flows.
fn raw_socket() -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Raw).unwrap()
}

/// RFC 791 and RFC 768. The kernel fills in lengths, number and checksum of the IP header; the
/// UDP checksum is optional.
fn write_packet(packet: &mut [u8; PACKET], to: SocketAddrV4, number: u64, flow: u64) {
    let from = source(flow);
    packet[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0]);
    packet[12..16].copy_from_slice(&from.ip().octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    packet[20..22].copy_from_slice(&from.port().to_be_bytes());
    packet[22..24].copy_from_slice(&to.port().to_be_bytes());
    packet[24..26].copy_from_slice(&((PACKET - 20) as u16).to_be_bytes());
    packet[26..28].fill(0);
    packet[28..36].copy_from_slice(&number.to_be_bytes());
    packet[36..].copy_from_slice(&flow.to_be_bytes());
}

/// Returns the new flows, and the time it took.
fn send_until(
    socket: &OwnedFd,
    to: SocketAddrV4,
    rate: Rate,
    most: u64,
    stop: &AtomicBool,
    sent: &AtomicU64,
) -> (u64, Duration) {
    let begun = Instant::now();
    let address = SockaddrIn::from(to);
    let (mut number, mut lasting, mut new) = (0, 0, 0);
    let burst_max = CATCH_UP * (rate.packets * PACE.as_micros() as u64).div_ceil(1_000_000);
    let mut packet = [0; PACKET];
    for round in 1u32.. {
        if stop.load(Relaxed) {
            break;
        }
        let due = (begun.elapsed().as_micros() as u64 * rate.packets / 1_000_000).min(most);
        for _ in 0..due.saturating_sub(number).min(burst_max) {
            // The first packets are of the lasting flows, so that these are there.
            let begins = number > LASTING as u64 && number * rate.new_flows / rate.packets > new;
            let flow = if begins { LASTING as u64 + new } else { lasting };
            write_packet(&mut packet, to, number, flow);
            sendto(socket.as_raw_fd(), &packet, &address, MsgFlags::empty()).unwrap();
            number += 1;
            if begins { new += 1 } else { lasting = (lasting + 1) % LASTING as u64 }
        }
        sent.store(number, Relaxed);
        thread::sleep((PACE * round).saturating_sub(begun.elapsed()));
    }
    (new, begun.elapsed())
}

fn receive(
    netns: &Netns,
    real_server: u8,
    at: SocketAddrV4,
    arrived: Arc<Arrived>,
    stop: Arc<AtomicBool>,
) -> JoinHandle<()> {
    let socket = netns.run(|| UdpSocket::bind(at)).unwrap().unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).unwrap();
    socket.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let mut payload = [0; 64];
        loop {
            // Looked at first: what was sent before the stop is on its way, or here.
            let stopped = stop.load(Relaxed);
            let before = arrived.count.load(Relaxed);
            while let Ok(length) = socket.recv(&mut payload) {
                note(&payload[..length], real_server, &arrived);
            }
            thread::sleep(if stopped { LOOK_AGAIN * 200 } else { LOOK_AGAIN });
            if stopped && arrived.count.load(Relaxed) == before {
                return;
            }
        }
    })
}

fn note(payload: &[u8], real_server: u8, arrived: &Arrived) {
    let word = |at: usize| u64::from_be_bytes(payload[at..at + 8].try_into().unwrap());
    let (number, flow) = (word(0), word(8));
    let bit = 1 << (number % 64);
    if arrived.seen[(number / 64) as usize].fetch_or(bit, Relaxed) & bit == 0 {
        arrived.count.fetch_add(1, Relaxed);
    } else {
        arrived.twice.fetch_add(1, Relaxed);
    }
    if let Some(place) = arrived.places.get(flow as usize) {
        let former = place.swap(real_server, Relaxed);
        if former != NOWHERE && former != real_server {
            arrived.moved.fetch_add(1, Relaxed);
        }
    }
}
