//! From what this machine is like to whether it can serve a VIP. Nothing is read here.

use crate::mac::mac_text;
use crate::rs::facts::{ALL, Facts, Held, Key, LinkFacts, Readiness, Setting, sysctl_name, width};
use crate::rs::finding::{Area, Finding, unasked, unseen};
use crate::rs::persist::LOOPBACK;
use crate::rs_cli::{Listens, VipTarget};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// Bytes of a packet on an Ethernet that nobody has changed.
const MTU_USUAL: u32 = 1500;
/// Bytes of the largest packet that a director takes: more does not fit into a frame of its rings
/// (engine/xsk, `interface`).
const MTU_OF_DIRECTOR: u32 = 3818;
/// Bytes of a packet's headers of IPv4 and TCP: what is not its segment.
pub const HEADERS_V4: u32 = 40;
/// The same for IPv6.
pub const HEADERS_V6: u32 = 60;

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
    /// Bytes of the largest packet that the other end is told of, if the route itself limits it:
    /// by its MTU, or by the segment that it announces (`advmss`).
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
    /// Whether packets that come by that link and are for others are forwarded.
    pub forwards: bool,
    /// Whether the kernel takes a packet from the client to the VIP by that link, or why not;
    /// nothing where it was not asked.
    pub taken: Option<Result<(), String>>,
    /// Who answers for the VIP, by the index of the link; or why nobody could be asked.
    pub owners: Result<BTreeMap<u32, BTreeSet<[u8; 6]>>, String>,
    /// How many links nobody was asked on, because there are too many.
    pub left_out: usize,
    /// Who answers for the gateway of the way back; or why nobody could be asked.
    pub gateway_macs: Result<BTreeSet<[u8; 6]>, String>,
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
    /// The interface that is to hold the VIPs, if one was named.
    pub interface: Option<String>,
    /// The service's protocol.
    pub protocol: Listens,
    /// Its sockets; or why they cannot be read.
    pub listeners: Result<Vec<Listener>, String>,
}

/// What is to say of a VIP.
pub fn check(known: &Known, of: &Surroundings) -> Vec<Finding> {
    let facts = &known.facts;
    let vip = of.vip.address;
    let mut findings = address(known, of);
    if vip.is_ipv4() {
        findings.extend(arp(known, vip));
        findings.extend(unnumbered(facts, of));
    } else {
        findings.push(solicitations(vip));
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

/// The command that sets up what is missing: on the interface that was named, else where the VIP
/// is.
fn setup(known: &Known, vip: IpAddr) -> String {
    let places = known.facts.places(vip).map(|(link, _)| link);
    let mut silent = places.filter(|link| !link.answers).map(|link| link.name.as_str());
    setup_on(vip, known.interface.as_deref().or_else(|| silent.next()).unwrap_or(LOOPBACK))
}

fn setup_on(vip: IpAddr, interface: &str) -> String {
    match interface {
        LOOPBACK => format!("`shunt rs setup --vip {vip}`"),
        other => format!("`shunt rs setup --vip {vip} --interface {other}`"),
    }
}

fn address(known: &Known, of: &Surroundings) -> Vec<Finding> {
    let vip = of.vip.address;
    let subject = vip.to_string();
    let places: Vec<(&LinkFacts, &Held)> = known.facts.places(vip).collect();
    let mut findings: Vec<Finding> =
        places.iter().map(|(link, held)| place(&subject, link, held)).collect();
    let problem = |sentence: String| Finding::problem(Area::Address, &subject, sentence);
    match (places.first(), &known.interface) {
        (None, _) => {
            let fate = match of.forwards {
                true => {
                    "and this machine forwards: packets for it go back to the director, and round and round until their TTL is used up"
                }
                false => "so packets for it are dropped: clients wait in vain",
            };
            let sentence = format!("{vip} is on no interface, {fate}");
            findings.push(problem(sentence).mended_by(setup(known, vip)));
        }
        (Some((link, held)), Some(wanted)) if places.iter().all(|(at, _)| at.name != *wanted) => {
            let (name, prefix) = (&link.name, held.prefix);
            findings.push(problem(format!("{vip} is on {name}, and not on {wanted}")).mended_by(
                format!("`ip address del {vip}/{prefix} dev {name}`, then {}", setup(known, vip)),
            ));
        }
        _ => {}
    }
    findings
}

fn place(subject: &str, link: &LinkFacts, held: &Held) -> Finding {
    let Held { address: vip, prefix, readiness, .. } = held;
    let name = &link.name;
    let home = if link.answers { LOOPBACK } else { name.as_str() };
    let again =
        format!("`ip address del {vip}/{prefix} dev {name}`, then {}", setup_on(*vip, home));
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

/// Linux, net/ipv6/ndisc.c, ndisc_recv_ns: the address is looked for on the asked interface only.
fn solicitations(vip: IpAddr) -> Finding {
    let sentence = format!(
        "no other interface than its own answers neighbor solicitations for {vip}: IPv6 needs no setting"
    );
    Finding::ok(Area::Arp, &vip.to_string(), sentence)
}

/// An interface without an address asks from one of another interface whatever is set: the kernel
/// takes the first that is not of host scope (Linux, net/ipv4/devinet.c, inet_select_addr).
fn unnumbered(facts: &Facts, of: &Surroundings) -> Option<Finding> {
    let vip = of.vip.address;
    let link = facts.link_at(of.back.as_ref().ok()?.link).filter(|link| link.answers)?;
    let usable = |held: &&Held| held.address.is_ipv4() && !held.address.is_loopback();
    if link.addresses.iter().any(|held| usable(&held)) {
        return None;
    }
    let first = facts.links.iter().flat_map(|link| &link.addresses).find(usable)?;
    if first.address != vip {
        return None;
    }
    let name = &link.name;
    let sentence = format!(
        "{name} has no IPv4 address of its own, so it asks by ARP from {vip}, and others learn this machine's MAC address for it"
    );
    let remedy =
        format!("`ip address add ADDRESS/PREFIX dev {name}`, an address of this machine's");
    Some(Finding::problem(Area::Arp, name, sentence).mended_by(remedy))
}

fn arp(known: &Known, vip: IpAddr) -> Vec<Finding> {
    let facts = &known.facts;
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
        findings.extend(wrong.into_iter().map(|key| talkative(known, link, key, vip)));
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
fn talkative(known: &Known, link: &LinkFacts, key: Key, vip: IpAddr) -> Finding {
    let facts = &known.facts;
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
        setup(known, vip)
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
        Err(why) => {
            let what = format!("who has {vip} on the wire");
            return unasked(Area::Director, &subject, &what, why);
        }
        Ok(owners) => owners,
    };
    let left_out = match of.left_out {
        0 => String::new(),
        number => format!("; {number} more interfaces were not asked on"),
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
                "nobody answers for {vip} on this machine's networks: no director is at work there{left_out}"
            ),
        )
        .mended_by("on the director: `shunt doctor`"),
        [one] => Finding::ok(
            Area::Director,
            &subject,
            format!("{one} answers for {vip}: the director{left_out}"),
        ),
        several => Finding::warning(
            Area::Director,
            &subject,
            format!(
                "{} answer for {vip}: one of them is the director, the others take traffic from it{left_out}",
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
    if strict && of.taken != Some(Ok(())) {
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
    if let Some(Err(why)) = &of.taken {
        let vip = of.vip.address;
        let sentence = format!(
            "the kernel does not take packets from {client} to {vip} by {name} ({why}; rp_filter {effective} in effect)"
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
        Err(why) => {
            return unseen(Area::Listener, &subject, "who listens", why)
                .mended_by(format!("`ss -ln{} sport = {port}`", &protocol.to_string()[..1]));
        }
        Ok(listeners) => listeners,
    };
    let mut others = Vec::new();
    for listener in listeners.iter().filter(|listener| listener.address.port() == port) {
        match misses(&known.facts, of, listener) {
            None => {
                let mut sentence = format!("{} listens for {subject}", listener.address);
                if protocol == Listens::Udp && listener.address.ip().is_unspecified() {
                    sentence +=
                        "; it must answer from the address that it was asked at (IP_PKTINFO)";
                }
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
    if facts.link_at(way.link).is_some_and(|link| !link.answers) {
        let sentence = format!(
            "the way back to {client} leads by {gateway} on {by}, a link without neighbors, so not by the director"
        );
        return Finding::ok(Area::WayBack, &subject, sentence);
    }
    let replace = format!("`ip route replace default via GATEWAY dev {by}`, the network's router");
    if gateway == vip {
        return problem(format!(
            "the way back to {client} leads by {gateway}, the VIP itself, which ends on this machine"
        ))
        .mended_by(replace);
    }
    let (owners, gateway_macs) = match (&of.owners, &of.gateway_macs) {
        (Ok(owners), Ok(macs)) => (owners.get(&way.link), macs),
        (Err(why), _) | (_, Err(why)) => {
            let what = format!("whether {gateway}, the way back to {client}, is the director");
            return unasked(Area::WayBack, &subject, &what, why);
        }
    };
    let shared = owners.and_then(|owners| owners.intersection(gateway_macs).next());
    if let Some(mac) = shared {
        return problem(format!(
            "the way back to {client} leads by {gateway}, which is the director ({} answers for it and for {vip}): what comes from its own VIP it does not forward",
            mac_text(*mac)
        ))
        .mended_by(replace);
    }
    if gateway_macs.is_empty() {
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
        let headers = if of.vip.address.is_ipv4() { HEADERS_V4 } else { HEADERS_V6 };
        let via = way.gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
        let remedy = format!(
            "`ip route change default{via} dev {} advmss {}`, if clients can send such",
            back.name,
            MTU_USUAL - headers
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
