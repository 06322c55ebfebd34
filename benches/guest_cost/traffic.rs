//! The packets that go through the guest, and the check that each one comes back as it should.

use anyhow::{Result, bail, ensure};
use frames::{Layer, build, flags};
use guest::{Guest, NIC_MAC};
use std::collections::HashMap;
use std::time::{Duration, Instant};

pub const VIP: [u8; 4] = [172, 17, 100, 100];
pub const PORT: u16 = 80;
/// Whom the packets come from.
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
pub const SERVERS: u8 = 2;
/// Flows that are open before established ones are measured.
pub const FLOWS: u32 = 1000;
/// Bytes of a packet: Ethernet, IPv4 and TCP.
const HEADERS: usize = 14 + 20 + 20;
/// Bytes of a frame on Ethernet, without its checksum.
const FRAME_MIN: usize = 60;
/// How long a burst may stay away.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the first packet may stay away: some NICs reset their link when an XDP program comes.
const FIRST_PATIENCE: Duration = Duration::from_secs(30);
const FIRST_RETRY: Duration = Duration::from_millis(300);

/// The MAC address of a server, counted from 1.
pub fn server_mac(server: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, server]
}

/// What flows send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Packets of the open flows, in turn.
    Established,
    /// The SYN of a flow that has not been.
    New,
}

/// One client after the other opens flows; who got which server is kept.
pub struct Traffic {
    servers: HashMap<u32, [u8; 6]>,
    /// The next flow that has not been.
    fresh: u32,
    next: u32,
}

impl Traffic {
    pub fn new() -> Traffic {
        Traffic { servers: HashMap::new(), fresh: 0, next: 0 }
    }

    /// Opens the flows that established packets will be of. Waits until the first one goes
    /// through.
    pub fn open(&mut self, guest: &mut Guest) -> Result<()> {
        let begun = Instant::now();
        while !self.exchange(guest, &[frame(0, "S")], FIRST_RETRY)? {
            ensure!(begun.elapsed() < FIRST_PATIENCE, "the first packet does not come back");
        }
        self.fresh = FLOWS;
        for letters in ["S", "A"] {
            for first in (0..FLOWS).step_by(50) {
                let burst: Vec<_> = (first..first + 50).map(|flow| frame(flow, letters)).collect();
                ensure!(self.exchange(guest, &burst, PATIENCE)?, "packets are lost");
            }
        }
        Ok(())
    }

    /// Sends so many bursts, one when the last is back.
    pub fn run(&mut self, guest: &mut Guest, kind: Kind, bursts: u32, size: u32) -> Result<()> {
        for _ in 0..bursts {
            let burst: Vec<_> = (0..size).map(|_| self.next_frame(kind)).collect();
            ensure!(self.exchange(guest, &burst, PATIENCE)?, "packets are lost");
        }
        Ok(())
    }

    /// How many of the flows each server got.
    pub fn shares(&self) -> Vec<usize> {
        let of = |mac| self.servers.values().filter(|&&server| server == mac).count();
        (1..=SERVERS).map(server_mac).map(of).collect()
    }

    fn next_frame(&mut self, kind: Kind) -> (u32, Vec<u8>) {
        match kind {
            Kind::Established => {
                self.next = (self.next + 1) % FLOWS;
                frame(self.next, "A")
            }
            Kind::New => {
                self.fresh += 1;
                frame(self.fresh - 1, "S")
            }
        }
    }

    /// Sends a burst and waits until all of it is back, each packet rewritten to a server, the
    /// one that its flow got before. False if some did not come in time.
    fn exchange(
        &mut self,
        guest: &mut Guest,
        burst: &[(u32, Vec<u8>)],
        patience: Duration,
    ) -> Result<bool> {
        let frames: Vec<&[u8]> = burst.iter().map(|(_, frame)| &frame[..]).collect();
        guest.wire.send(&frames)?;
        let mut missing: HashMap<Vec<u8>, u32> =
            burst.iter().map(|(flow, frame)| (constant(frame), *flow)).collect();
        let deadline = Instant::now() + patience;
        while !missing.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(back) = guest.wire.receive(left)? else { return Ok(false) };
            ensure!(back.len() >= HEADERS, "a frame of {} bytes", back.len());
            let macs = &back[..12];
            // Else an answer to a packet that was given up.
            let Some(flow) = missing.remove(&constant(&back)) else { continue };
            let server = (1..=SERVERS).map(server_mac).find(|mac| mac[..] == macs[..6]);
            let Some(server) = server.filter(|_| macs[6..] == NIC_MAC) else {
                bail!("a packet of flow {flow} came back with MAC addresses {macs:02x?}");
            };
            let chosen = *self.servers.entry(flow).or_insert(server);
            ensure!(chosen == server, "flow {flow} has moved from {chosen:02x?} to {server:02x?}");
        }
        Ok(true)
    }
}

/// The part of a packet that no forwarder may change. IPVS lowers the TTL (decrement_ttl in
/// net/netfilter/ipvs/ip_vs_xmit.c), and with it the checksum, and it leaves the padding out.
fn constant(frame: &[u8]) -> Vec<u8> {
    let mut constant = frame[..HEADERS].to_vec();
    constant[..12].fill(0);
    for changed in [22, 24, 25] {
        constant[changed] = 0;
    }
    constant
}

/// A packet of a flow, with its flow.
fn frame(flow: u32, letters: &str) -> (u32, Vec<u8>) {
    let client = (0x0a00_0000 + flow / 60_000).into();
    let ethernet = Layer::Ethernet { macs: [NIC_MAC, ROUTER_MAC], ethertype: None };
    let ip = Layer::ipv4(client, VIP.into());
    let tcp = Layer::tcp(1024 + (flow % 60_000) as u16, PORT, flags(letters));
    let mut frame = build(&[ethernet, ip, tcp]);
    frame.resize(FRAME_MIN, 0);
    (flow, frame)
}
