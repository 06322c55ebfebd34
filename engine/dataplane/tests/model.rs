//! Random lives beside a model that is too simple to be wrong in the same way: a map of flows and
//! the tables of IPVS, written down again from net/netfilter/ipvs/ip_vs_proto_tcp.c.

use dataplane::{
    Capacity, DropReason, FlowState, Neighbor, Protocol, ServerIndex, ServerState, ServiceIndex,
    Settings, Timeouts, UnknownFlow,
};
use frames::{Director, Layer, Member, Plan, Random, VIP, VIP6, Verdict, build, flags, mac_of};
use std::collections::HashMap;
use std::net::IpAddr;

const MEMBERS: u16 = 3;
const CLIENTS: usize = 25;

/// Client's number and service.
type Name = (u8, ServiceIndex);

#[derive(Debug, Clone, Copy)]
struct ModelFlow {
    server: ServerIndex,
    state: FlowState,
    last: u64,
}

struct Model {
    flows: HashMap<Name, ModelFlow>,
    settings: Settings,
    /// By service, the slot that its round robin looks at next.
    next: HashMap<ServiceIndex, usize>,
}

/// Columns NONE, ES, SR, FW, TW, CL of the INPUT_ONLY table; the row is the strongest flag.
fn next_state(state: Option<FlowState>, flags: u8) -> FlowState {
    use FlowState::{Close as CL, Established as ES, FinWait as FW, SynRecv as SR, TimeWait as TW};
    let row = if flags & 0x04 != 0 {
        [CL, CL, SR, CL, CL, CL]
    } else if flags & 0x02 != 0 {
        [SR, ES, SR, SR, SR, SR]
    } else if flags & 0x01 != 0 {
        [CL, FW, TW, FW, TW, CL]
    } else if flags & 0x10 != 0 {
        [ES, ES, ES, FW, TW, CL]
    } else {
        // Not IPVS's, which goes to CLOSE.
        [ES, ES, SR, FW, TW, CL]
    };
    row[match state {
        None => 0,
        Some(ES) => 1,
        Some(SR) => 2,
        Some(FW) => 3,
        Some(TW) => 4,
        Some(_) => 5,
    }]
}

#[derive(Debug, Clone, Copy)]
enum Content {
    Tcp(u8),
    Udp,
    Error,
}

impl Model {
    fn timeout(&self, state: FlowState) -> u64 {
        let Timeouts { established, fin_wait, udp, syn_recv, time_wait, close } =
            self.settings.timeouts;
        1000 * u64::from(match state {
            FlowState::SynRecv => syn_recv,
            FlowState::Established => established,
            FlowState::FinWait => fin_wait,
            FlowState::TimeWait => time_wait,
            FlowState::Close => close,
            FlowState::Udp => udp,
        })
    }

    fn is_expired(&self, flow: &ModelFlow, now: u64) -> bool {
        now - flow.last > self.timeout(flow.state)
    }

    fn forget_expired(&mut self, now: u64) {
        let expired: Vec<Name> = self
            .flows
            .iter()
            .filter(|(_, flow)| self.is_expired(flow, now))
            .map(|(name, _)| *name)
            .collect();
        for name in expired {
            self.flows.remove(&name);
        }
    }

    fn forget_server(&mut self, server: ServerIndex) {
        self.flows.retain(|_, flow| flow.server != server);
    }

    /// What becomes of a packet.
    fn packet(&mut self, plan: &mut Plan, name: Name, content: Content, now: u64) -> Verdict {
        if self.flows.get(&name).is_some_and(|flow| self.is_expired(flow, now)) {
            self.flows.remove(&name);
        }
        let server = match content {
            Content::Error => match self.flows.get(&name) {
                Some(flow) => flow.server,
                None => return Verdict::Dropped(DropReason::UnknownIcmp),
            },
            Content::Tcp(flags) => match self.tcp(plan, name, flags, now) {
                Ok(server) => server,
                Err(reason) => return Verdict::Dropped(reason),
            },
            Content::Udp => {
                if !self.flows.contains_key(&name)
                    && let Err(reason) = self.begin(plan, name, FlowState::Udp, now)
                {
                    return Verdict::Dropped(reason);
                }
                let flow = self.flows.get_mut(&name).unwrap();
                flow.last = now;
                flow.server
            }
        };
        match plan.member(server).neighbor {
            Some(neighbor) => Verdict::Forwarded(neighbor.mac),
            None => Verdict::Dropped(DropReason::NoNeighbor),
        }
    }

    fn tcp(
        &mut self,
        plan: &mut Plan,
        name: Name,
        flags: u8,
        now: u64,
    ) -> Result<ServerIndex, DropReason> {
        let opens = flags & 0x17 == 0x02;
        let over = |flow: &ModelFlow| matches!(flow.state, FlowState::TimeWait | FlowState::Close);
        if opens && self.flows.get(&name).is_some_and(over) {
            self.flows.remove(&name);
        }
        // What begins need not wait for a server that takes no new flows.
        let begins = |flow: &&ModelFlow| opens && flow.state != FlowState::Established;
        if let Some(server) = self.flows.get(&name).filter(begins).map(|flow| flow.server) {
            let service = plan.service(name.1);
            let takes = |member: &&Member| takes_new_flows(service.removed, member);
            let takers: Vec<_> = service.members.iter().flatten().filter(takes).collect();
            if !takers.is_empty() && takers.iter().all(|taker| taker.index != server) {
                self.flows.remove(&name);
            }
        }
        if let Some(flow) = self.flows.get_mut(&name) {
            flow.state = next_state(Some(flow.state), flags);
            flow.last = now;
            return Ok(flow.server);
        }
        if !opens && (self.settings.unknown_flow != UnknownFlow::Schedule || flags & 0x04 != 0) {
            return Err(DropReason::UnknownFlow);
        }
        self.begin(plan, name, next_state(None, flags), now)
    }

    fn begin(
        &mut self,
        plan: &mut Plan,
        name: Name,
        state: FlowState,
        now: u64,
    ) -> Result<ServerIndex, DropReason> {
        let service = plan.service(name.1);
        if service.removed {
            return Err(DropReason::ServiceRemoved);
        }
        let next = self.next.entry(name.1).or_default();
        let slots = service.members.len();
        let takes = |slot: &usize| takes_new_flows(false, service.members[*slot].as_ref().unwrap());
        let slot = (*next..*next + slots).map(|slot| slot % slots).find(takes);
        let slot = slot.ok_or(DropReason::NoServer)?;
        *next = slot + 1;
        let server = service.members[slot].as_ref().unwrap().index;
        self.flows.insert(name, ModelFlow { server, state, last: now });
        Ok(server)
    }
}

fn takes_new_flows(service_removed: bool, member: &Member) -> bool {
    let serves = !service_removed && member.state == ServerState::Serving;
    serves && member.neighbor.is_some() && member.weight > 0
}

fn client(number: u8, ipv6: bool) -> IpAddr {
    if ipv6 {
        IpAddr::from([0xfd00, 1, 0, 0, 0, 0, 0, u16::from(number)])
    } else {
        IpAddr::from([10, 0, 0, number])
    }
}

/// The packet of this flow.
fn packet(plan: &mut Plan, (number, service): Name, content: Content) -> Vec<u8> {
    let key = plan.service(service).key;
    let header = |from: IpAddr, to: IpAddr| match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Layer::ipv4(from, to),
        (IpAddr::V6(from), IpAddr::V6(to)) => Layer::ipv6(from, to),
        _ => unreachable!("one family"),
    };
    let client = client(number, key.address.is_ipv6());
    let port = 4000;
    let quoted = match key.protocol {
        Protocol::Tcp => Layer::tcp(key.port, port, 0x10),
        Protocol::Udp => Layer::udp(key.port, port),
    };
    let kind = if key.address.is_ipv6() { [2, 0] } else { [3, 4] };
    match content {
        Content::Tcp(flags) => {
            build(&[header(client, key.address), Layer::tcp(port, key.port, flags)])
        }
        Content::Udp => build(&[header(client, key.address), Layer::udp(port, key.port)]),
        Content::Error => build(&[
            header(client, key.address),
            Layer::Icmp { kind },
            header(key.address, client),
            quoted,
        ]),
    }
}

fn plan() -> Plan {
    let mut plan = Plan::default();
    for (vip, port, protocol) in [
        (VIP, 80, Protocol::Tcp),
        (VIP, 53, Protocol::Udp),
        (VIP6, 80, Protocol::Tcp),
        (VIP6, 53, Protocol::Udp),
    ] {
        let service = plan.add_service(vip, port, protocol);
        for machine in 1..=MEMBERS {
            plan.add_member(service, machine, 1);
        }
    }
    plan
}

struct Life {
    director: Director,
    model: Model,
    random: Random,
}

impl Life {
    fn new(seed: u64) -> Life {
        let capacity = Capacity { flows_v4: 100, flows_v6: 100 };
        let model =
            Model { flows: HashMap::new(), settings: Settings::default(), next: HashMap::new() };
        Life { director: Director::with(plan(), 1, capacity), model, random: Random::new(seed) }
    }

    fn send(&mut self) {
        let random = &mut self.random;
        let name = (random.below(CLIENTS) as u8, ServiceIndex(random.below(4) as u16));
        let letters =
            ["S", "S", "S", "A", "A", "A", "AP", "FA", "F", "R", "RA", "SA", "-", "FSRPAUEC", "SF"];
        let protocol = self.director.plan.service(name.1).key.protocol;
        let content = match protocol {
            _ if random.once_in(8) => Content::Error,
            Protocol::Tcp => Content::Tcp(flags(random.pick::<&str>(&letters))),
            Protocol::Udp => Content::Udp,
        };
        let packet = packet(&mut self.director.plan, name, content);
        let expected = self.model.packet(&mut self.director.plan, name, content, self.director.now);
        assert_eq!(self.director.send(0, &packet), expected, "{name:?} {content:?}");
    }

    /// The control plane changes a server or a service.
    fn change(&mut self) {
        let (random, plan) = (&mut self.random, &mut self.director.plan);
        let server = ServerIndex(random.below(4 * usize::from(MEMBERS)) as u16);
        let member = plan.member(server);
        match random.below(6) {
            0 => member.weight = random.below(3) as u32,
            1 => member.state = ServerState::Removed,
            2 => {
                member.state = ServerState::Expired;
                self.model.forget_server(server);
            }
            3 => member.neighbor = None,
            4 => {
                let service = plan.service(ServiceIndex(random.below(4) as u16));
                service.removed = random.once_in(4);
            }
            _ => {
                let mac = mac_of(1 + random.below(500) as u16);
                member.weight = 1;
                member.state = ServerState::Serving;
                member.neighbor = Some(Neighbor { mac, vlans: [0, 0] });
            }
        }
        self.director.publish();
    }

    fn change_settings(&mut self) {
        let unknown_flow = *self.random.pick(&UnknownFlow::ALL);
        let mut seconds = || 1 + self.random.below(200) as u32;
        let timeouts = Timeouts {
            established: seconds(),
            fin_wait: seconds(),
            udp: seconds(),
            syn_recv: seconds(),
            time_wait: seconds(),
            close: seconds(),
        };
        // What the old timeouts had ended must not come back to life in the model.
        self.sweep();
        self.model.settings = Settings { timeouts, unknown_flow };
        self.director.set(self.model.settings);
        self.sweep();
    }

    /// Long enough for the sweep, after which the flows must be the same.
    fn sweep(&mut self) {
        // Whole seconds, so that no flow is between its timeout and the tick that ends it.
        for _ in 0..2 {
            self.director.now += 16_000;
            for _ in 0..8 {
                self.director.turn_all();
            }
        }
        self.model.forget_expired(self.director.now);
        let flows = self.director.flows(0);
        let mut missing = self.model.flows.clone();
        for flow in flows {
            let number = match flow.source {
                IpAddr::V4(address) => address.octets()[3],
                IpAddr::V6(address) => address.octets()[15],
            };
            let name = (number, flow.service);
            let model = missing.remove(&name);
            let model = model.unwrap_or_else(|| panic!("the model has no {flow:?}"));
            assert_eq!((flow.server, flow.state), (model.server, model.state), "{name:?}");
        }
        assert!(missing.is_empty(), "{missing:?} are lost");
        self.director.check(0);
    }
}

fn live(seed: u64) {
    let mut life = Life::new(seed);
    for _ in 0..600 {
        match life.random.below(60) {
            0 | 1 => life.change(),
            2 if life.random.once_in(5) => life.change_settings(),
            3 if life.random.once_in(3) => life.sweep(),
            4..8 => life.director.now += 1_000 * life.random.below(100) as u64,
            _ => life.send(),
        }
    }
    life.sweep();
}

#[test]
fn the_director_does_what_the_model_does() {
    for seed in 0..60 {
        let result = std::panic::catch_unwind(|| live(seed));
        assert!(result.is_ok(), "the life of seed {seed}");
    }
}
