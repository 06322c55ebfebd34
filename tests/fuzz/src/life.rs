//! One worker, and the inputs that it lives through.

use crate::input::{Event, Input};
use crate::judge::{Expected, judge};
use crate::tally::Tally;
use dataplane::{
    Capacity, DropReason, Protocol, ServerIndex, ServerState, ServiceKey, Settings, UnknownFlow,
    Update, WorkerCounts,
};
use frames::{Director, Layer, Plan, Random, Verdict, build, flags, mac_of};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

/// Inputs between two changes by the control plane.
const CHANGE: usize = 64;

/// A director and all that was done to it.
pub struct Life {
    director: Director,
    random: Random,
    /// The inputs so far, for when something goes wrong.
    pub inputs: Vec<Input>,
    /// What chose its settings.
    pub number: u64,
}

/// What a packet did, apart from its verdict.
fn effects(before: &WorkerCounts, after: &WorkerCounts) -> u32 {
    let changed = [
        before.flows_created != after.flows_created,
        before.flows_expired != after.flows_expired,
        before.flows_evicted != after.flows_evicted,
        before.overflowed != after.overflowed,
        before.overflow_followers != after.overflow_followers,
        before.flows_v6 != after.flows_v6,
    ];
    changed.iter().fold(0, |bits, &changed| bits << 1 | u32::from(changed))
}

impl Life {
    /// The life with this number: services, settings and faults follow from it.
    pub fn new(number: u64) -> Life {
        let mut random = Random::new(number);
        let capacity = Capacity { flows_v4: 0, flows_v6: 0 };
        let mut director = Director::with(Plan::standard(), 1, capacity);
        if number % 4 == 3 {
            let unknown_flow = UnknownFlow::Schedule;
            director.set(Settings { unknown_flow, ..Settings::default() });
        }
        if number % 8 == 5 {
            director.workers[0].port_mut().limit_tx_ring(random.below(2));
        }
        Life { director, random, inputs: Vec::new(), number }
    }

    /// The control plane changes something about a server. Returns a packet of one of its flows,
    /// if it has any, to meet the change.
    fn change(&mut self) -> Option<Event> {
        let server = ServerIndex(self.random.below(4) as u16);
        let member = self.director.plan.member(server);
        let healthy = Plan::standard().member(server).clone();
        match self.random.below(8) {
            0 => member.state = ServerState::Expired,
            1 => member.neighbor = None,
            2 => member.state = ServerState::Removed,
            3 => member.weight = 0,
            _ => *member = healthy,
        }
        // Adopted in the turn of the next packet, before any sweep.
        let update = Update { table: Some(self.director.plan.table().into()), ..Update::default() };
        let mailbox = &mut self.director.handles[0].mailbox;
        assert!(mailbox.send(Box::new(update)).is_ok());
        while mailbox.reap().is_some() {}
        let flows = self.director.flows(0);
        let flow = flows.iter().find(|flow| flow.server == server)?;
        let key = self.director.plan.service(flow.service).key;
        let layers = match (flow.source, key.address) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Layer::ipv4(from, to),
            (IpAddr::V6(from), IpAddr::V6(to)) => Layer::ipv6(from, to),
            _ => return None,
        };
        let transport = match key.protocol {
            Protocol::Tcp => Layer::tcp(flow.source_port, key.port, flags("A")),
            Protocol::Udp => Layer::udp(flow.source_port, key.port),
        };
        Some(Event { wait: 0, packet: build(&[layers, transport]) })
    }

    /// Executes an input, notes in `tally` how far its packets got, and returns what it showed,
    /// as numbers of which only equality says something.
    ///
    /// # Panics
    /// When the dataplane is wrong.
    pub fn execute(&mut self, input: &Input, tally: &mut Tally) -> Vec<u64> {
        let is_time = self.inputs.len() % CHANGE == CHANGE - 1;
        let meeting = if is_time { self.change() } else { None };
        self.inputs.push(input.clone());
        let (mut verdicts, mut features, mut row) = (Vec::new(), Vec::new(), 0u64);
        for event in meeting.iter().chain(input) {
            let before = self.director.counts(0);
            let verdict = self.arrive(event);
            let effects = effects(&before, &self.director.counts(0));
            let bits = match verdict {
                Verdict::Forwarded(_) => 0,
                Verdict::Dropped(reason) => 1 + reason as u64,
            };
            row = (row << 10 | bits << 6 | u64::from(effects)) & 0xf_ffff;
            features.push(number_of((shape(&event.packet), bits, effects)));
            features.push(number_of(row));
            verdicts.push(verdict);
        }
        tally.note(&verdicts);
        features
    }

    /// What was counted.
    pub fn counts(&self) -> WorkerCounts {
        self.director.counts(0)
    }

    fn arrive(&mut self, event: &Event) -> Verdict {
        self.director.now += u64::from(event.wait);
        let verdict = self.director.send(0, &event.packet);
        self.compare(verdict, judge(&event.packet));
        verdict
    }

    /// Whether the verdict is what the judge expects.
    fn compare(&mut self, verdict: Verdict, expected: Expected) {
        let (vip, port, protocol, error, vlans) = match expected {
            Expected::Unparsed(reason) => {
                assert_eq!(verdict, Verdict::Dropped(reason.into()));
                return;
            }
            Expected::For { vip, port, protocol, error, vlans } => {
                (vip, port, protocol, error, vlans)
            }
        };
        let key = ServiceKey { address: vip, port, protocol };
        let services = self.director.plan.services.iter().flatten();
        let Some(service) = services.into_iter().find(|service| service.key == key) else {
            assert_eq!(verdict, Verdict::Dropped(DropReason::NoService), "{key:?}");
            return;
        };
        match verdict {
            Verdict::Forwarded(mac) => {
                let mut members = service.members.iter().flatten();
                let member = members.find(|member| mac_of(member.machine) == mac);
                let member = member.unwrap_or_else(|| panic!("{mac:02x?} does not serve {key:?}"));
                let neighbor = member.neighbor.expect("frames go to known neighbors");
                assert_eq!(neighbor.vlans, vlans, "{member:?}");
                assert!(error || member.state != ServerState::Expired, "{member:?}");
            }
            Verdict::Dropped(DropReason::OtherVlan) => {
                // Of a service, all are on the same network here.
                let mut neighbors = service.members.iter().flatten().filter_map(|m| m.neighbor);
                assert!(neighbors.all(|neighbor| neighbor.vlans != vlans), "{vlans:?} {key:?}");
            }
            Verdict::Dropped(DropReason::UnknownIcmp) => assert!(error),
            Verdict::Dropped(DropReason::UnknownFlow) => assert!(!error),
            Verdict::Dropped(
                reason @ (DropReason::Malformed
                | DropReason::UnknownProtocol
                | DropReason::Fragment
                | DropReason::NoService),
            ) => panic!("{} though it is for {key:?}", reason.name()),
            Verdict::Dropped(_) => {}
        }
    }
}

fn number_of(feature: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    feature.hash(&mut hasher);
    hasher.finish()
}

/// Roughly what a packet is like: the lengths and bytes that a parser branches on, by class.
fn shape(packet: &[u8]) -> [u8; 6] {
    let byte = |at: usize| packet.get(at).copied().unwrap_or(0);
    let is_tag = |at: usize| [[0x81, 0], [0x88, 0xa8]].contains(&[byte(at), byte(at + 1)]);
    let tags = (0..3).take_while(|tag| is_tag(12 + 4 * tag)).count();
    let ip = 14 + 4 * tags;
    let length = packet.len().min(127) as u8 / 16;
    let class = |protocol: u8| [0, 1, 6, 17, 43, 44, 51, 58, 60].binary_search(&protocol);
    let detail = |protocol: u8, transport: usize| match protocol {
        6 => byte(transport + 13) & 0x1f,
        17 => 0,
        _ => byte(transport).min(16),
    };
    match [byte(ip - 2), byte(ip - 1)] {
        [8, 0] => {
            let protocol = byte(ip + 9);
            let fragment =
                byte(ip + 6) >> 5 & 1 | u8::from(byte(ip + 6) & 31 | byte(ip + 7) != 0) << 1;
            let transport = ip + usize::from(byte(ip) & 15) * 4;
            let class = class(protocol).unwrap_or(15) as u8;
            [4, tags as u8, byte(ip), fragment << 4 | class, detail(protocol, transport), length]
        }
        [0x86, 0xdd] => {
            let [first, second] = [byte(ip + 6), byte(ip + 40)];
            let classes = class(first).unwrap_or(15) << 4 | class(second).unwrap_or(15);
            [6, tags as u8, byte(ip) >> 4, classes as u8, detail(first, ip + 40), length]
        }
        _ => [0, tags as u8, length, 0, 0, 0],
    }
}
