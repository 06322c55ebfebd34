//! Tables of packets: what goes in, what becomes of it, and what the flow table remembers.
//!
//! A table is a text file of cases, each of which meets a fresh director with the services of
//! [`Plan::standard`]:
//!
//! ```text
//! [a SYN opens a flow, an ACK establishes it]          a case and its name
//! ip client > vip / tcp 4000 > 80 S => rs1 SYN_RECV    a packet, its way, its flow's state
//! ip client > vip / tcp 4000 > 80 A => rs1 ESTABLISHED
//! wait 900.3                                           seconds
//! ip client > vip / tcp 4000 > 80 A => unknown_flow none
//! ```
//!
//! Before `=>`, layers in order. `|` may follow, with `cut 33` (only the first 33 bytes arrive),
//! `cut each` (a packet for every length that is too short), `pad 60` (zeros up to 60 bytes) or
//! `times 3`. Behind `=>`, the real server (`rs1`, by its MAC address) or the drop reason's label,
//! then the state of the packet's flow, or `none`. The flow is that of the packet, or for an ICMP
//! error that of the packet it quotes.
//!
//! Layers: `eth [type=]`, `vlan ID [type=]`, `ip A > B [df] [more] [evil] [offset=] [options=]
//! [total=] [words=] [version=] [proto=]`, `ip6 A > B [length=] [version=] [next=]`, `hop`,
//! `route`, `dest`, `auth` (each `[units=]`), `frag6 OFFSET [more]`, `tcp P > Q FLAGS [options=]
//! [words=]`, `udp P > Q [length=]`, `icmp TYPE CODE`, `data BYTES`, `keep BYTES` (of all that
//! follows). Addresses: literal, or `client`, `other`, `router`, `vip` and the same with a 6.
//! What is not said is filled in truthfully.
//!
//! Settings: `set unknown_flow=schedule`, or `drop`. Whether a packet that is dropped is answered as it
//! must be is checked everywhere: see [`Director::burst`].

use crate::director::{Director, Verdict};
use crate::packet::{Layer, Layers, build};
use crate::plan::{Plan, mac_of};
use crate::text::parse_layers;
use dataplane::{Protocol, Settings, UnknownFlow};
use std::net::IpAddr;

/// A case: a story in packets.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it is about.
    pub name: String,
    /// Its steps, each with the line that it stands on.
    pub steps: Vec<(usize, Step)>,
}

/// One line of a case.
#[derive(Debug, Clone)]
pub enum Step {
    /// Packets arrive.
    Arrive {
        /// The packet's layers.
        layers: Layers,
        /// The packets as they arrive.
        packets: Vec<Vec<u8>>,
        /// The RS's number or the drop reason's label.
        verdict: Result<u16, String>,
        /// What the flow's state must be afterwards, `none` if there must be no flow.
        state: String,
    },
    /// Milliseconds pass.
    Wait(u64),
    /// Unknown flows are treated like this from now on.
    Set(UnknownFlow),
}

/// The cases of a table, or the line that cannot be read and why.
pub fn parse(text: &str) -> Result<Vec<Case>, String> {
    let mut cases: Vec<Case> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            cases.push(Case { name: name.to_owned(), steps: Vec::new() });
            continue;
        }
        let step = parse_step(line).map_err(|error| format!("line {number}: {error}"))?;
        let case = cases.last_mut().ok_or(format!("line {number}: before the first case"))?;
        case.steps.push((number, step));
    }
    Ok(cases)
}

fn parse_step(line: &str) -> Result<Step, String> {
    if let Some(seconds) = line.strip_prefix("wait ") {
        let seconds: f64 = seconds.trim().parse().map_err(|error| format!("{error}"))?;
        return Ok(Step::Wait((seconds * 1000.0).round() as u64));
    }
    match line {
        "set unknown_flow=schedule" => return Ok(Step::Set(UnknownFlow::Schedule)),
        "set unknown_flow=reset" => return Ok(Step::Set(UnknownFlow::Reset)),
        "set unknown_flow=drop" => return Ok(Step::Set(UnknownFlow::Drop)),
        _ => {}
    }
    let (packet, outcome) = line.split_once("=>").ok_or("no `=>`")?;
    let mut parts = packet.split('|').map(str::trim);
    let layers = parse_layers(parts.next().unwrap_or_default())?;
    let mut packets = vec![build(&layers)];
    for change in parts {
        packets = alter(packets, change)?;
    }
    let mut outcome = outcome.split_whitespace();
    let verdict = outcome.next().ok_or("nothing behind `=>`")?;
    let state = outcome.next().ok_or("no state of the flow")?.to_owned();
    let server = verdict.strip_prefix("rs").and_then(|number| number.parse().ok());
    let verdict = server.ok_or(verdict.to_owned());
    Ok(Step::Arrive { layers, packets, verdict, state })
}

fn alter(packets: Vec<Vec<u8>>, change: &str) -> Result<Vec<Vec<u8>>, String> {
    let (kind, amount) = change.split_once(' ').ok_or(format!("`{change}` lacks a number"))?;
    if (kind, amount) == ("cut", "each") {
        let cut = |packet: &Vec<u8>| (0..packet.len()).map(|n| packet[..n].to_vec()).collect();
        return Ok(packets.iter().flat_map::<Vec<_>, _>(cut).collect());
    }
    let amount: usize = amount.parse().map_err(|error| format!("`{change}`: {error}"))?;
    let alter = |mut packet: Vec<u8>| match kind {
        "cut" if amount < packet.len() => {
            packet.truncate(amount);
            Ok(vec![packet])
        }
        "pad" if amount > packet.len() => {
            packet.resize(amount, 0);
            Ok(vec![packet])
        }
        "times" => Ok(vec![packet; amount]),
        _ => Err(format!("`{change}` makes no sense for {} bytes", packet.len())),
    };
    let altered: Result<Vec<_>, String> = packets.into_iter().map(alter).collect();
    Ok(altered?.concat())
}

/// The client's address and port, and the protocol, that a packet's flow has.
fn flow_of(layers: &Layers) -> Option<(IpAddr, u16, Protocol)> {
    let quotes = layers.iter().any(|layer| matches!(layer, Layer::Icmp { .. }));
    let mut addresses = None;
    let mut ports = None;
    for layer in layers {
        match layer {
            Layer::Ipv4 { addresses: [a, b], .. } => addresses = Some([(*a).into(), (*b).into()]),
            Layer::Ipv6 { addresses: [a, b], .. } => addresses = Some([(*a).into(), (*b).into()]),
            Layer::Tcp { ports: p, .. } => ports = Some((*p, Protocol::Tcp)),
            Layer::Udp { ports: p, .. } => ports = Some((*p, Protocol::Udp)),
            _ => {}
        }
    }
    let client = usize::from(quotes);
    let (ports, protocol) = ports?;
    Some((addresses?[client], ports[client], protocol))
}

impl Case {
    /// Plays the case and panics where it goes another way.
    pub fn play(&self, file: &str) {
        let mut director = Director::new(Plan::standard());
        for (line, step) in &self.steps {
            let place = format!("{file}:{line}: [{}]", self.name);
            match step {
                Step::Wait(millis) => director.now += millis,
                Step::Set(unknown_flow) => {
                    director.set(Settings { unknown_flow: *unknown_flow, ..Settings::default() });
                }
                Step::Arrive { layers, packets, verdict, state } => {
                    for packet in packets {
                        let (length, seen) = (packet.len(), director.send(0, packet));
                        check_verdict(seen, verdict, &format!("{place}, {length} bytes"));
                    }
                    let flow = flow_of(layers).and_then(|(client, port, protocol)| {
                        director.flow(0, client, port, protocol)
                    });
                    let seen = flow.map_or("none", |flow| flow.state.name());
                    assert_eq!(seen, state, "{place}: the flow's state");
                }
            }
        }
    }
}

fn check_verdict(seen: Verdict, expected: &Result<u16, String>, place: &str) {
    let agrees = match (seen, expected) {
        (Verdict::Forwarded(mac), Ok(machine)) => mac == mac_of(*machine),
        (Verdict::Dropped(reason), Err(label)) => reason.name() == label,
        _ => false,
    };
    assert!(agrees, "{place}: {seen:02x?}, expected {expected:?}");
}
