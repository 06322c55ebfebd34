//! From what this machine is like to whether it can serve a VIP. Nothing is read here.

use crate::mac::mac_text;
use crate::rs::facts::{ALL, Facts, Held, Key, LinkFacts, Readiness, Setting, sysctl_name, width};
use crate::rs::finding::{Area, Finding};
use crate::rs::persist::LOOPBACK;
use crate::rs_cli::{Listens, VipTarget};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// Bytes of a packet on an Ethernet that nobody has changed.
const MTU_USUAL: u32 = 1500;
/// Bytes of the largest packet that a director takes: more does not fit into a frame of its rings
/// (engine/xsk, `interface`).
const MTU_OF_DIRECTOR: u32 = 3818;

/// A socket that waits for connections or datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub address: SocketAddr,
    /// An IPv6 socket that takes no IPv4 (IPV6_V6ONLY).
    pub v6only: bool,
    /// Index of the only interface it takes packets from (SO_BINDTODEVICE); 0 for any.
    pub link: u32,
}

/// The way that a packet takes from this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Index of the link.
    pub link: u32,
    /// The gateway, if the destination is not on the link itself.
    pub gateway: Option<IpAddr>,
    /// Bytes of the largest packet, if the route itself says so.
    pub mtu: Option<u32>,
}

/// What is known of one VIP beyond the machine's own facts.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The VIP, and the service's port.
    pub vip: VipTarget,
    /// Whose way back it is; nobody's in particular if none was named.
    pub client: Option<IpAddr>,
    /// The way from the VIP to the client; or why there is none.
    pub back: Result<Way, String>,
    /// Index of the link by which the director's packets come, as far as can be told.
    pub arrival: Option<u32>,
    /// Whether the kernel takes a packet from the client to the VIP by that link; nothing where it
    /// was not asked.
    pub taken: Option<bool>,
    /// Who answers for the VIP, by the index of the link; or why nobody could be asked.
    pub owners: Result<BTreeMap<u32, BTreeSet<[u8; 6]>>, String>,
    /// Who answers for the gateway of the way back.
    pub gateway_macs: BTreeSet<[u8; 6]>,
}

impl Surroundings {
    /// How a sentence names the client.
    fn whom(&self) -> String {
        self.client.map_or_else(|| "clients".to_owned(), |client| client.to_string())
    }
}

/// All that a check is made of.
#[derive(Debug, Clone)]
pub struct Known {
    /// This machine.
    pub facts: Facts,
    /// The service's protocol.
    pub protocol: Listens,
    /// Its sockets; or why they cannot be read.
    pub listeners: Result<Vec<Listener>, String>,
}

/// What is to say of a VIP.
pub fn check(known: &Known, of: &Surroundings) -> Vec<Finding> {
    let facts = &known.facts;
    let vip = of.vip.address;
    let mut findings = address(facts, vip);
    if vip.is_ipv4() {
        findings.extend(arp(facts, vip));
    }
    findings.push(director(facts, of));
    if vip.is_ipv4() {
        findings.extend(rp_filter(facts, of));
    }
    findings.push(listener(known, of));
    findings.push(way_back(facts, of));
    findings.extend(mtu(known, of));
    findings
}

fn name(facts: &Facts, index: u32) -> String {
    facts.link_at(index).map_or_else(|| format!("link {index}"), |link| link.name.clone())
}

/// The command that sets up what is missing, where the VIP is.
fn setup(facts: &Facts, vip: IpAddr) -> String {
    let mut silent = facts.places(vip).map(|(link, _)| link).filter(|link| !link.answers);
    match silent.next() {
        Some(link) if link.name != LOOPBACK => {
            format!("`shunt rs setup --vip {vip} --interface {}`", link.name)
        }
        _ => format!("`shunt rs setup --vip {vip}`"),
    }
}

fn address(facts: &Facts, vip: IpAddr) -> Vec<Finding> {
    let subject = vip.to_string();
    let mut findings: Vec<Finding> =
        facts.places(vip).map(|(link, held)| place(&subject, link, held)).collect();
    if findings.is_empty() {
        let sentence = format!(
            "{vip} is on no interface, so packets for it are dropped: clients wait in vain"
        );
        let remedy = setup(facts, vip);
        findings.push(Finding::problem(Area::Address, &subject, sentence).mended_by(remedy));
    }
    findings
}

fn place(subject: &str, link: &LinkFacts, held: &Held) -> Finding {
    let Held { address: vip, prefix, readiness, .. } = held;
    let name = &link.name;
    let remove = format!("`ip address del {vip}/{prefix} dev {name}`");
    let again = match name.as_str() {
        dummy if !link.answers && dummy != LOOPBACK => {
            format!("{remove}, then `shunt rs setup --vip {vip} --interface {dummy}`")
        }
        _ => format!("{remove}, then `shunt rs setup --vip {vip}`"),
    };
    let problem = |sentence: String| Finding::problem(Area::Address, subject, sentence);
    if link.answers {
        return problem(format!(
            "{vip} is on {name}, which answers for it, so this machine takes the director's traffic"
        ))
        .mended_by(again);
    }
    if *prefix != width(*vip) {
        return problem(format!(
            "{vip} is on {name} with a prefix of /{prefix}, so this machine takes that whole network for its own"
        ))
        .mended_by(again);
    }
    if !link.up {
        return problem(format!("{vip} is on {name}, which is down: packets for it are dropped"))
            .mended_by(format!("`ip link set {name} up`"));
    }
    match readiness {
        Readiness::Ready => {
            Finding::ok(Area::Address, subject, format!("{vip}/{prefix} is on {name}"))
        }
        Readiness::Tentative => problem(format!(
            "{vip} is on {name}, but not in use yet: the kernel still looks for a duplicate"
        ))
        .mended_by(again),
        Readiness::Duplicate => problem(format!(
            "{vip} is on {name}, but not in use: the kernel has found the director's and calls it a duplicate"
        ))
        .mended_by(again),
    }
}

fn arp(facts: &Facts, vip: IpAddr) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut silent: BTreeMap<(i32, i32), Vec<&str>> = BTreeMap::new();
    for link in facts.links.iter().filter(|link| link.answers) {
        let Some(own) = link.conf else { continue };
        let effective = own.with(&facts.all);
        let wrong: Vec<Key> =
            Key::BOTH.into_iter().filter(|key| !key.serves(effective.get(*key))).collect();
        if wrong.is_empty() {
            let values = (effective.arp_ignore, effective.arp_announce);
            silent.entry(values).or_default().push(&link.name);
        }
        findings.extend(wrong.into_iter().map(|key| talkative(facts, link, key, vip)));
    }
    for ((ignore, announce), names) in silent {
        let names = names.join(", ");
        let sentence =
            format!("{names}: arp_ignore {ignore} and arp_announce {announce} in effect");
        findings.push(Finding::ok(Area::Arp, &names, sentence));
    }
    findings
}

/// An interface with a value in effect that does not serve.
fn talkative(facts: &Facts, link: &LinkFacts, key: Key, vip: IpAddr) -> Finding {
    let own = link.conf.unwrap_or_default();
    let effective = own.with(&facts.all).get(key);
    let name = &link.name;
    let does = match (key, effective) {
        (Key::ArpIgnore, 8) => {
            "answers no ARP at all, so that nobody finds this machine".to_owned()
        }
        (Key::ArpIgnore, _) if facts.places(vip).next().is_none() => {
            format!("would answer ARP for {vip} and take the director's traffic, if it were here")
        }
        (Key::ArpIgnore, _) => {
            format!("answers ARP for {vip}, so this machine takes the director's traffic")
        }
        (Key::ArpAnnounce, _) => format!(
            "may ask by ARP from {vip}, so that others learn this machine's MAC address for it"
        ),
    };
    // The greater value counts: it is the interface's own that must go down, or that of all that
    // is too low or too high.
    let (culprit, value) = if own.get(key) == effective && effective > key.wanted() {
        (name.as_str(), own.get(key))
    } else {
        (ALL, facts.all.get(key))
    };
    let setting = Setting::new(culprit, key);
    let remedy = if culprit == ALL && effective < key.wanted() {
        setup(facts, vip)
    } else {
        format!("`sysctl -w {setting}={}`", key.wanted())
    };
    let key = key.name();
    let sentence = format!("{name} {does}: {key} {effective} is in effect ({setting} is {value})");
    Finding::problem(Area::Arp, name, sentence).mended_by(remedy)
}

fn director(facts: &Facts, of: &Surroundings) -> Finding {
    let vip = of.vip.address;
    let subject = vip.to_string();
    let owners = match &of.owners {
        Err(reason) => {
            let sentence = format!("who has {vip} on the wire cannot be asked: {reason}");
            return Finding::warning(Area::Director, &subject, sentence)
                .mended_by("repeat as root (CAP_NET_RAW)");
        }
        Ok(owners) => owners,
    };
    let all: Vec<String> = owners
        .iter()
        .flat_map(|(link, macs)| {
            macs.iter().map(|mac| format!("{} on {}", mac_text(*mac), name(facts, *link)))
        })
        .collect();
    match all.as_slice() {
        [] => Finding::warning(
            Area::Director,
            &subject,
            format!(
                "nobody answers for {vip} on this machine's networks: no director is at work there"
            ),
        )
        .mended_by("on the director: `shunt doctor`"),
        [one] => {
            Finding::ok(Area::Director, &subject, format!("{one} answers for {vip}: the director"))
        }
        several => Finding::warning(
            Area::Director,
            &subject,
            format!(
                "{} answer for {vip}: one of them is the director, the others take traffic from it",
                several.join(" and ")
            ),
        )
        .mended_by(format!(
            "on the machines with these MAC addresses: `shunt rs check --vip {vip}`"
        )),
    }
}

fn rp_filter(facts: &Facts, of: &Surroundings) -> Option<Finding> {
    let link = facts.link_at(of.arrival?)?;
    let name = &link.name;
    let effective = link.conf?.with(&facts.all).rp_filter;
    let client = of.whom();
    let back = of.back.as_ref().ok().copied();
    let loosen = format!("`sysctl -w {}=2`", sysctl_name(name, "rp_filter"));
    let strict = effective == 1 && back.is_some_and(|way| way.link != link.index);
    if strict && of.taken != Some(true) {
        let other = back.map(|way| self::name(facts, way.link)).unwrap_or_default();
        let sentence = format!(
            "{name} takes packets only from where the way back leads (rp_filter 1 in effect), and the one to {client} leads by {other}: what the director sends is dropped"
        );
        return Some(Finding::problem(Area::RpFilter, name, sentence).mended_by(loosen));
    }
    if back.is_none() && effective > 0 {
        let sentence = format!(
            "{name} takes packets only from where there is a way back to (rp_filter {effective} in effect), and there is none to {client}: what the director sends is dropped"
        );
        let remedy = "`ip route add default via GATEWAY`";
        return Some(Finding::problem(Area::RpFilter, name, sentence).mended_by(remedy));
    }
    if of.taken == Some(false) {
        let (vip, sentence) = (of.vip.address, "the kernel does not take packets");
        let sentence = format!(
            "{sentence} from {client} to {vip} by {name} (rp_filter {effective} in effect)"
        );
        let remedy = format!("`ip rule` and `ip route get {vip} from CLIENT iif {name}` say more");
        return Some(Finding::problem(Area::RpFilter, name, sentence).mended_by(remedy));
    }
    let sentence = format!("{name} takes packets from {client}: rp_filter {effective} in effect");
    Some(Finding::ok(Area::RpFilter, name, sentence))
}

/// Why a listener on the service's port gets nothing for the VIP; nothing if it gets it.
fn misses(facts: &Facts, of: &Surroundings, listener: &Listener) -> Option<String> {
    let Listener { address, v6only, link } = listener;
    if *link != 0 && of.arrival.is_some_and(|arrival| arrival != *link) {
        return Some(format!("{address} takes packets from {} only", name(facts, *link)));
    }
    let wildcard = address.ip().is_unspecified();
    let takes = match (of.vip.address, address.ip().to_canonical()) {
        (vip, bound) if vip == bound => true,
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => wildcard,
        // A dual-stack socket.
        (IpAddr::V4(_), IpAddr::V6(_)) if wildcard && *v6only => {
            return Some(format!("{address} takes IPv6 only (IPV6_V6ONLY)"));
        }
        (IpAddr::V4(_), IpAddr::V6(_)) => wildcard,
        (IpAddr::V6(_), IpAddr::V4(_)) => false,
    };
    (!takes).then(|| format!("{address} takes packets for that address only"))
}

fn listener(known: &Known, of: &Surroundings) -> Finding {
    let vip = of.vip.address;
    let Some(port) = of.vip.port else {
        let sentence = "who listens was not looked at, because no port was named";
        let with_port = SocketAddr::new(vip, 80);
        return Finding::warning(Area::Listener, &vip.to_string(), sentence)
            .mended_by(format!("`shunt rs check --vip {with_port}`, or whichever port it is"));
    };
    let protocol = known.protocol;
    let service = SocketAddr::new(vip, port);
    let subject = format!("{protocol}:{service}");
    let listeners = match &known.listeners {
        Err(reason) => {
            let sentence = format!("who listens cannot be read: {reason}");
            return Finding::warning(Area::Listener, &subject, sentence)
                .mended_by(format!("`ss -ln{} sport = {port}`", &protocol.to_string()[..1]));
        }
        Ok(listeners) => listeners,
    };
    let mut others = Vec::new();
    for listener in listeners.iter().filter(|listener| listener.address.port() == port) {
        match misses(&known.facts, of, listener) {
            None => {
                let sentence = format!("{} listens for {subject}", listener.address);
                return Finding::ok(Area::Listener, &subject, sentence);
            }
            Some(why) => others.push(why),
        }
    }
    let mut sentence = format!("nobody listens on {subject}, so connections are refused");
    if !others.is_empty() {
        others.sort_unstable();
        sentence = format!("{sentence}; {}", others.join(", "));
    }
    let anywhere: IpAddr = if vip.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let anywhere = SocketAddr::new(anywhere, port);
    Finding::problem(Area::Listener, &subject, sentence)
        .mended_by(format!("start the service, and have it listen on {anywhere} or {service}"))
}

fn way_back(facts: &Facts, of: &Surroundings) -> Finding {
    let (vip, client) = (of.vip.address, of.whom());
    let subject = client.clone();
    let problem = |sentence: String| Finding::problem(Area::WayBack, &subject, sentence);
    let way = match &of.back {
        Err(reason) => {
            return problem(format!(
                "there is no way back to {client} ({reason}), so they get no answer"
            ))
            .mended_by("`ip route add default via GATEWAY`, the network's router");
        }
        Ok(way) => way,
    };
    let by = name(facts, way.link);
    let Some(gateway) = way.gateway else {
        return Finding::ok(
            Area::WayBack,
            &subject,
            format!("the way back to {client} leads by {by}, without a gateway"),
        );
    };
    let replace = format!("`ip route replace default via GATEWAY dev {by}`, the network's router");
    if gateway == vip {
        return problem(format!(
            "the way back to {client} leads by {gateway}, the VIP itself, which ends on this machine"
        ))
        .mended_by(replace);
    }
    let owners = of.owners.as_ref().ok().and_then(|owners| owners.get(&way.link));
    let shared = owners.and_then(|owners| owners.intersection(&of.gateway_macs).next());
    if let Some(mac) = shared {
        return problem(format!(
            "the way back to {client} leads by {gateway}, which is the director ({} answers for it and for {vip}): what comes from its own VIP it does not forward",
            mac_text(*mac)
        ))
        .mended_by(replace);
    }
    if of.gateway_macs.is_empty() && of.owners.is_ok() {
        return problem(format!(
            "the way back to {client} leads by {gateway} on {by}, which does not answer: clients get no answer either"
        ))
        .mended_by(format!("is {gateway} up? `ip neigh show {gateway}`; else {replace}"));
    }
    let sentence = format!("the way back to {client} leads by {gateway} on {by}");
    let nobody = owners.is_none_or(BTreeSet::is_empty);
    if nobody {
        let sentence = format!(
            "{sentence}; whether that is the director cannot be told: nobody answers for {vip} there"
        );
        return Finding::warning(Area::WayBack, &subject, sentence);
    }
    Finding::ok(Area::WayBack, &subject, format!("{sentence}, which is not the director"))
}

fn mtu(known: &Known, of: &Surroundings) -> Option<Finding> {
    let facts = &known.facts;
    let arrival = facts.link_at(of.arrival?)?;
    let (name, takes) = (&arrival.name, arrival.mtu);
    let way = of.back.as_ref().ok()?;
    let back = facts.link_at(way.link)?;
    // What this machine tells its clients it takes goes by the way back (tcp(7), TCP_MAXSEG).
    let told = way.mtu.map_or(back.mtu, |mtu| mtu.min(back.mtu));
    let finding = |sentence: String| Finding::problem(Area::Mtu, name, sentence);
    if told > takes {
        return Some(
            finding(format!(
                "clients are told of packets of {told} bytes, the MTU of the way back by {}, but {name}, where they come in, takes {takes}",
                back.name
            ))
            .mended_by(format!("`ip link set dev {name} mtu {told}`")),
        );
    }
    if told > MTU_OF_DIRECTOR {
        let sentence = format!(
            "clients are told of packets of {told} bytes, and a director takes {MTU_OF_DIRECTOR} at most"
        );
        let advmss = MTU_USUAL - 40;
        let remedy = format!(
            "`ip route change default via GATEWAY dev {} advmss {advmss}`, if clients can send such",
            back.name
        );
        return Some(Finding::warning(Area::Mtu, name, sentence).mended_by(remedy));
    }
    if takes < MTU_USUAL && known.protocol == Listens::Udp {
        let sentence = format!(
            "{name} takes packets of {takes} bytes, and a director tells nobody of longer ones: they are lost"
        );
        let remedy = format!("`ip link set dev {name} mtu {MTU_USUAL}`, if the network takes it");
        return Some(Finding::warning(Area::Mtu, name, sentence).mended_by(remedy));
    }
    let sentence = format!("{name} takes packets of {takes} bytes, and clients are told of {told}");
    Some(Finding::ok(Area::Mtu, name, sentence))
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
