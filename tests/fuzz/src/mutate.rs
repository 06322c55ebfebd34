//! Where inputs come from: valid packets, and what can be done to them.

use crate::input::{EVENTS_MAX, Event, Input, PACKET_MAX};
use dataplane::Protocol;
use frames::{CLIENT, CLIENT6, Layer, Layers, Random, VIP, VIP6, build, flags};

/// Flows that inputs speak of: a bit more than the flow tables of a life hold.
const FLOWS: usize = 120;
/// Bytes and words at which code tends to do something else.
const EDGES: [u8; 10] = [0, 1, 4, 5, 6, 15, 0x45, 0x7f, 0x80, 0xff];
const EDGE_WORDS: [u16; 8] = [0, 1, 7, 8, 20, 40, 0x2000, 0xffff];

fn ip(random: &mut Random, ipv6: bool, from_vip: bool) -> Layer {
    let host = random.below(2) as u8;
    if ipv6 {
        let mut client: std::net::Ipv6Addr = CLIENT6.parse().expect("an address");
        client = (u128::from(client) + u128::from(host)).into();
        let vip = VIP6.parse().expect("an address");
        if from_vip { Layer::ipv6(vip, client) } else { Layer::ipv6(client, vip) }
    } else {
        let mut client: std::net::Ipv4Addr = CLIENT.parse().expect("an address");
        client = (u32::from(client) + u32::from(host)).into();
        let vip = VIP.parse().expect("an address");
        if from_vip { Layer::ipv4(vip, client) } else { Layer::ipv4(client, vip) }
    }
}

fn ports(random: &mut Random, service: u16) -> [u16; 2] {
    [4_000 + random.below(FLOWS / 2) as u16, service]
}

/// A transport header towards a service, or away from it.
fn transport(random: &mut Random, from_vip: bool) -> (Layer, u16) {
    let protocol = if random.once_in(3) { Protocol::Udp } else { Protocol::Tcp };
    let service = match protocol {
        Protocol::Udp => 53,
        Protocol::Tcp => *random.pick(&[80, 80, 80, 80, 80, 81, 82, 83, 84]),
    };
    let mut ports = ports(random, service);
    if from_vip {
        ports.reverse();
    }
    let letters = ["S", "S", "S", "A", "A", "AP", "FA", "R", "RA", "SA", "-", "SEC"];
    let layer = match protocol {
        Protocol::Udp => Layer::Udp { ports, length: None },
        Protocol::Tcp => Layer::Tcp {
            ports,
            flags: flags(random.pick::<&str>(&letters)),
            options: 4 * random.below(3),
            words: None,
        },
    };
    (layer, service)
}

fn extensions(random: &mut Random, layers: &mut Layers) {
    while random.once_in(3) {
        let units = random.below(3) as u8;
        layers.push(match random.below(8) {
            0 => {
                let offset = if random.once_in(2) { 0 } else { random.below(200) as u16 };
                Layer::Fragment { offset, more: random.once_in(2) }
            }
            n => Layer::Extension { number: [0, 43, 51, 60][n % 4], units },
        });
    }
}

/// A valid packet of one of the services' protocols, or an ICMP error about one.
pub fn valid_packet(random: &mut Random) -> Vec<u8> {
    let ipv6 = random.once_in(3);
    let is_error = random.once_in(5);
    let (transport, service) = transport(random, is_error);
    let mut layers = Layers::new();
    let tags: &[u16] = match service {
        81 => &[5],
        82 => &[5, 7],
        _ if random.once_in(30) => &[9],
        _ => &[],
    };
    for &id in tags {
        let announced = if random.once_in(3) { 0x88a8 } else { frames::ETHERTYPE_VLAN };
        layers.push(Layer::Vlan { id, announced });
    }
    layers.push(ip(random, ipv6, false));
    if let Some(Layer::Ipv4 { options, .. }) = layers.last_mut()
        && random.once_in(6)
    {
        *options = 4 * random.below(11);
    }
    if ipv6 && random.once_in(3) {
        extensions(random, &mut layers);
    }
    if is_error {
        let kind = if ipv6 { 1 + random.below(4) } else { *random.pick(&[3, 11, 12]) } as u8;
        layers.push(Layer::Icmp { kind: [kind, random.below(5) as u8] });
        if random.once_in(2) {
            layers.push(Layer::Keep(20 + random.below(80)));
        }
        layers.push(ip(random, ipv6, true));
        if ipv6 && random.once_in(4) {
            extensions(random, &mut layers);
        }
    }
    layers.push(transport);
    if random.once_in(3) {
        layers.push(Layer::Data(vec![random.number() as u8; random.below(200)]));
    }
    let mut packet = build(&layers);
    if packet.len() < 60 && random.once_in(2) {
        packet.resize(60, 0);
    }
    packet
}

fn wait(random: &mut Random) -> u32 {
    match random.below(20_000) {
        0 => random.below(1_000_000) as u32,
        1..6 => random.below(70_000) as u32,
        6..1_000 => random.below(300) as u32,
        _ => 0,
    }
}

/// An input of valid packets.
pub fn valid_input(random: &mut Random) -> Input {
    (0..=random.below(4))
        .map(|_| Event { wait: wait(random), packet: valid_packet(random) })
        .collect()
}

/// Changes an input in a few places. `other` lends events.
pub fn mutate(random: &mut Random, input: &mut Input, other: &Input) {
    for _ in 0..=random.below(3) {
        let at = random.below(input.len());
        match random.below(12) {
            0 => input.insert(at, input[at].clone()),
            1 => input.insert(at, Event { wait: wait(random), packet: valid_packet(random) }),
            2 if input.len() > 1 => drop(input.remove(at)),
            3 => input[at] = random.pick(other).clone(),
            4 => {
                let with = random.below(input.len());
                input.swap(at, with);
            }
            5 => input[at].wait = wait(random),
            _ => mutate_packet(random, &mut input[at].packet),
        }
        input.truncate(EVENTS_MAX);
    }
}

/// A place in the packet, more often near its beginning.
fn place(random: &mut Random, length: usize) -> usize {
    let within = if random.once_in(3) { length } else { length.min(64) };
    random.below(within)
}

fn mutate_packet(random: &mut Random, packet: &mut Vec<u8>) {
    if packet.is_empty() {
        *packet = valid_packet(random);
        return;
    }
    let at = place(random, packet.len());
    match random.below(9) {
        0 | 1 => packet[at] ^= 1 << random.below(8),
        2 => packet[at] = *random.pick(&EDGES),
        3 => packet[at] = random.number() as u8,
        4 => {
            let word = random.pick(&EDGE_WORDS).to_be_bytes();
            packet.iter_mut().skip(at).zip(word).for_each(|(byte, edge)| *byte = edge);
        }
        5 => {
            let inserted = vec![random.number() as u8; 1 + random.below(12)];
            packet.splice(at..at, inserted);
        }
        6 => {
            let end = (at + 1 + random.below(12)).min(packet.len());
            packet.drain(at..end);
        }
        7 => packet.truncate(at),
        _ => repair(packet),
    }
    packet.truncate(PACKET_MAX);
}

/// Makes the IP header's length true, so that what is behind it is looked at.
fn repair(packet: &mut [u8]) {
    let mut ip = 14;
    while packet.get(ip - 2..ip).is_some_and(|kind| kind == [0x81, 0] || kind == [0x88, 0xa8]) {
        ip += 4;
    }
    let Some(length) = packet.len().checked_sub(ip) else { return };
    match packet.get(ip).map(|first| first >> 4) {
        Some(4) if length >= 20 => {
            packet[ip + 2..ip + 4].copy_from_slice(&(length as u16).to_be_bytes());
        }
        Some(6) if length >= 40 => {
            packet[ip + 4..ip + 6].copy_from_slice(&(length as u16 - 40).to_be_bytes());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::{Expected, judge};

    #[test]
    fn most_valid_packets_are_for_a_service() {
        let mut random = Random::new(1);
        let parsed = (0..1_000)
            .filter(|_| matches!(judge(&valid_packet(&mut random)), Expected::For { .. }))
            .count();
        assert!(parsed > 850, "{parsed} of 1000: the others are fragments and short quotes");
    }

    #[test]
    fn mutations_keep_the_limits() {
        let mut random = Random::new(2);
        let mut input = valid_input(&mut random);
        let other = valid_input(&mut random);
        for _ in 0..20_000 {
            mutate(&mut random, &mut input, &other);
            assert!((1..=EVENTS_MAX).contains(&input.len()));
            assert!(input.iter().all(|event| event.packet.len() <= PACKET_MAX));
        }
    }

    #[test]
    fn repaired_lengths_are_true() {
        for text in [
            "ip client > vip total=9 / tcp 1 > 80 S",
            "vlan 5 / vlan 6 / ip6 client6 > vip6 length=9 / tcp 1 > 80 S",
        ] {
            let mut packet = frames::frame(text);
            assert!(matches!(judge(&packet), Expected::Unparsed(_)));
            repair(&mut packet);
            assert!(matches!(judge(&packet), Expected::For { .. }));
        }
    }
}
