//! Two namespaces with a veth pair between them.

use lab::{MachineLock, Netns, Wire};
use std::time::{Duration, Instant};
use xsk::{
    BURST_MAX, Error, Interface, InterfaceOptions, Packet, Port, PortCounters, SteerCounts,
    SteerKey, XskPort,
};

/// The end whose queues are opened.
pub const NEAR: &str = "near0";
pub const NEAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The end that packets come from and go to.
pub const FAR: &str = "far0";
pub const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// How long the kernel may take for what it does at once when the machine is idle.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Pair {
    pub near: Netns,
    pub far: Netns,
    _lock: MachineLock,
}

impl Pair {
    /// A pair with so many queues at both ends. Neither end's kernel sends anything of its own.
    pub fn new(purpose: &str, queues: u32) -> Pair {
        let lock = MachineLock::acquire().unwrap();
        let near = Netns::create(&format!("{purpose}-near")).unwrap();
        let far = Netns::create(&format!("{purpose}-far")).unwrap();
        for netns in [&near, &far] {
            for place in ["all", "default"] {
                netns.sysctl(&format!("net.ipv6.conf.{place}.disable_ipv6"), "1").unwrap();
            }
        }
        let count = format!("numrxqueues {queues} numtxqueues {queues}");
        let (near_mac, far_mac) = (lab::mac_text(NEAR_MAC), lab::mac_text(FAR_MAC));
        near.ip(&format!(
            "link add {NEAR} address {near_mac} arp off {count} type veth \
             peer name {FAR} address {far_mac} arp off {count} netns {}",
            far.name()
        ))
        .unwrap();
        far.ip(&format!("link set {FAR} arp off up")).unwrap();
        near.ip(&format!("link set {NEAR} up")).unwrap();
        Pair { near, far, _lock: lock }
    }

    pub fn try_open(&self, options: &InterfaceOptions) -> Result<Interface, Error> {
        self.near.run(|| xsk::open(options)).unwrap()
    }

    /// Opens the near end with small rings.
    pub fn open(&self) -> Interface {
        self.try_open(&small(NEAR)).unwrap()
    }

    /// Opens the near end, steers to these services and attaches.
    pub fn steer(&self, options: &InterfaceOptions, services: &[SteerKey]) -> Interface {
        let mut interface = self.try_open(options).unwrap();
        interface.steer.set_services(services).unwrap();
        self.attach(&mut interface);
        interface
    }

    /// Attaches from within the namespace: the interface's number means another one outside.
    pub fn attach(&self, interface: &mut Interface) {
        let mode = self.near.run(|| interface.steer.attach()).unwrap().unwrap();
        assert_eq!(mode, xsk::AttachMode::Native, "{:?}", interface.steer.native_refusal());
    }

    /// Frames in and out of the far end.
    pub fn wire(&self) -> Wire {
        Wire::open(&self.far, FAR).unwrap()
    }

    /// What `ip` says of an XDP program on the near end.
    pub fn attached(&self) -> Option<String> {
        let links = self.near.ip(&format!("-j -d link show dev {NEAR}")).unwrap();
        let at = links.find("\"xdp\":")?;
        Some(links[at..].to_owned())
    }
}

/// Rings of 256 and 512 frames: enough for a test, and soon wrapped.
pub fn small(name: &str) -> InterfaceOptions {
    InterfaceOptions { frames: 512, ring_size: 256, ..InterfaceOptions::new(name) }
}

/// Everything that the XDP program has counted.
pub fn total(counts: &SteerCounts) -> u64 {
    counts.redirected + counts.shed + counts.passed.iter().sum::<u64>()
}

/// The next packet of a port, and nothing behind it.
pub fn receive_one(port: &mut XskPort) -> Option<Vec<u8>> {
    let mut burst = Vec::with_capacity(BURST_MAX);
    port.reclaim();
    port.receive(&mut burst);
    assert!(burst.len() <= 1, "{} packets where one was expected", burst.len());
    let bytes = burst.pop().map(|packet| {
        let bytes = port.bytes(&packet).to_vec();
        port.release(packet);
        bytes
    });
    port.refill();
    bytes
}

/// A worker that sends packets back with the MAC addresses exchanged.
pub struct Reflector {
    burst: Vec<Packet>,
    unsent: Vec<Packet>,
    /// Every so many packets are dropped, 0 for none.
    pub drop_every: u64,
    pub received: u64,
    pub sent: u64,
    pub dropped: u64,
}

impl Reflector {
    pub fn new() -> Reflector {
        let burst = Vec::with_capacity(BURST_MAX);
        let unsent = Vec::with_capacity(BURST_MAX);
        Reflector { burst, unsent, drop_every: 0, received: 0, sent: 0, dropped: 0 }
    }

    /// One turn. Returns how many packets there were.
    pub fn turn(&mut self, port: &mut XskPort) -> usize {
        port.reclaim();
        let count = port.receive(&mut self.burst);
        let dropped = self.burst.extract_if(.., |packet| {
            self.received += 1;
            let (destination, rest) = port.bytes_mut(packet).split_at_mut(6);
            destination.swap_with_slice(&mut rest[..6]);
            self.drop_every != 0 && self.received.is_multiple_of(self.drop_every)
        });
        self.unsent.extend(dropped);
        self.sent += port.send(&mut self.burst) as u64;
        for packet in self.unsent.drain(..).chain(self.burst.drain(..)) {
            self.dropped += 1;
            port.release(packet);
        }
        port.flush();
        port.refill();
        let census = port.census();
        assert!(census.is_conserved() && census.held == 0, "{census:?}");
        count
    }

    /// Turns until `done`, asleep when there is nothing to do.
    pub fn run_until(
        &mut self,
        port: &mut XskPort,
        until: &str,
        mut done: impl FnMut(&Reflector, &XskPort) -> bool,
    ) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self, port) {
            assert!(
                Instant::now() < deadline,
                "not yet: {until}; received {}, sent {}, {:?}, {:?}, {:?}",
                self.received,
                self.sent,
                port.census(),
                port.counters(),
                port.monitor().statistics()
            );
            if self.turn(port) == 0 {
                port.wait(Duration::from_millis(5));
            }
        }
    }
}

/// All frames are back: nothing is on its way out.
pub fn all_sent(port: &XskPort) -> bool {
    let census = port.census();
    census.tx == 0 && census.completion == 0 && census.rx == 0
}

/// Of what a port counts, what a healthy run does not raise.
pub fn faults(counters: &PortCounters) -> (u64, u64) {
    (counters.tx_ring_full, counters.fill_ring_empty)
}
