//! VIPs: who holds each, and who else answers for it on the wire.

use super::finding::{Area, Finding, Read};
use crate::layer2;
use std::net::IpAddr;

/// Where this machine has a VIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The link's name.
    pub link: String,
    /// The link is a served interface, or a VLAN on one.
    pub served: bool,
    /// shunt has added it.
    pub by_shunt: bool,
}

/// Another machine that answers for a VIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimant {
    /// Its MAC address.
    pub mac: String,
    /// The real server that has this MAC address.
    pub server: Option<IpAddr>,
}

/// What was read of a VIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VipFacts {
    /// The VIP.
    pub vip: IpAddr,
    /// The interface, or VLAN on one, where it belongs.
    pub home: String,
    /// Where this machine has it.
    pub held: Read<Vec<Held>>,
    /// An address of this machine's own whose network has the VIP.
    pub beside: Option<IpAddr>,
    /// Other links of this machine's own that answer for it on that network.
    pub also_on: Vec<String>,
    /// Who else answers for it.
    pub claimants: Read<Vec<Claimant>>,
    /// IPv6 is switched off where it belongs.
    pub ipv6_off: bool,
    /// Whether shunt adds and removes it (`manage_vip`).
    pub managed: bool,
    /// A start ends where another machine has the VIP (`duplicate_vip`).
    pub refuses: bool,
    /// A director runs.
    pub running: bool,
    /// It is known that none runs.
    pub ended: bool,
}

/// What follows from it.
pub fn findings(facts: &VipFacts) -> Vec<Finding> {
    let subject = facts.vip.to_string();
    let mut findings = vec![held(facts, &subject)];
    if facts.vip.is_ipv6() && facts.ipv6_off {
        let sentence = format!("IPv6 is switched off on {}", facts.home);
        findings.push(Finding::problem(Area::Vip, &subject, sentence).mended_by(format!(
            "sysctl -w net.ipv6.conf.{}.disable_ipv6=0",
            facts.home.replace('.', "/")
        )));
    }
    findings.push(beside(facts, &subject));
    findings.extend(claims(facts, &subject));
    findings.extend(facts.also_on.iter().map(|link| also_on(facts, link, &subject)));
    findings
}

/// The kernel answers for each of its addresses on each of its links, unless told otherwise.
fn also_on(facts: &VipFacts, link: &str, subject: &str) -> Finding {
    let how = layer2::question(facts.vip);
    let sentence = format!(
        "this machine answers {how} for it on {link}, too: packets of clients that come there do \
         not reach the real servers"
    );
    Finding::problem(Area::Vip, subject, sentence)
        .mended_by(format!("sysctl -w net.ipv4.conf.{}.arp_ignore=1", link.replace('.', "/")))
}

fn width(vip: IpAddr) -> u8 {
    if vip.is_ipv4() { 32 } else { 128 }
}

fn held(facts: &VipFacts, subject: &str) -> Finding {
    let VipFacts { vip, home, managed, running, .. } = facts;
    let held = match &facts.held {
        Ok(held) => held,
        Err(why) => return Finding::unread(Area::Vip, subject, "the machine's addresses", why),
    };
    let add = format!("ip address add {vip}/{} dev {home}", width(*vip));
    if let Some(Held { link, by_shunt, .. }) = held.iter().find(|held| held.served) {
        let whose = match (by_shunt, managed) {
            (true, _) => ", added by shunt",
            (false, true) => ", by other hands, which shunt leaves it to",
            (false, false) => ", by other hands",
        };
        return match (by_shunt, facts.ended) {
            (true, true) => {
                let sentence = format!(
                    "it is on {link}, where a director that was killed left it: the kernel resets \
                     every client"
                );
                Finding::warning(Area::Vip, subject, sentence).mended_by(format!(
                    "start shunt, which takes it over; else ip address del {vip}/{} dev {link}",
                    width(*vip)
                ))
            }
            _ => Finding::ok(Area::Vip, subject, format!("it is on {link}{whose}")),
        };
    }
    if let Some(Held { link, .. }) = held.first() {
        let sentence = format!("it is on {link}, which is not served, and not on {home}");
        return Finding::problem(Area::Vip, subject, sentence)
            .mended_by(format!("ip address del {vip}/{} dev {link}; {add}", width(*vip)));
    }
    match (managed, running) {
        (true, false) => {
            let sentence = format!("it is not here yet: a start adds it to {home}");
            Finding::ok(Area::Vip, subject, sentence)
        }
        (true, true) => {
            let sentence =
                "it is nowhere on this machine, so that nobody sends packets for it here";
            Finding::problem(Area::Vip, subject, sentence)
                .mended_by(format!("look in the director's log why it was not added, or {add}"))
        }
        (false, _) => {
            let sentence = "it is not here: this director is a backup, or its VIP was forgotten";
            Finding::warning(Area::Vip, subject, sentence)
                .mended_by(format!("{add}, unless another machine is the master"))
        }
    }
}

fn beside(facts: &VipFacts, subject: &str) -> Finding {
    match facts.beside {
        Some(own) => Finding::ok(
            Area::Vip,
            subject,
            format!("{own} is beside it, the director's own address on its network"),
        ),
        None => Finding::ok(
            Area::Vip,
            subject,
            "its network has no address of the director's own; its router must send it here",
        ),
    }
}

fn claims(facts: &VipFacts, subject: &str) -> Vec<Finding> {
    let VipFacts { vip, home, .. } = facts;
    let how = layer2::question(*vip);
    let claimants = match &facts.claimants {
        Ok(claimants) => claimants,
        Err(why) => {
            let what = format!("who answers {how} for it on {home}");
            return vec![Finding::unread(Area::Vip, subject, &what, why)];
        }
    };
    let here = facts.held.as_ref().is_ok_and(|held| held.iter().any(|held| held.served));
    if claimants.is_empty() {
        let sentence = match here {
            true => format!("nobody else answers {how} for it on {home}"),
            false => format!("nobody answers {how} for it on {home}"),
        };
        return vec![Finding::ok(Area::Vip, subject, sentence)];
    }
    if let [Claimant { mac, server: None }] = claimants.as_slice()
        && !here
        && !facts.managed
    {
        let sentence = format!("{mac} answers {how} for it: the master, while this is a backup");
        return vec![Finding::ok(Area::Vip, subject, sentence)];
    }
    // A VIP that other hands have put here is not asked about by a start.
    let others = facts.held.as_ref().is_ok_and(|held| held.iter().any(|held| !held.by_shunt));
    let start = if facts.refuses && facts.managed && !facts.running && !others {
        "; a start is refused"
    } else {
        ""
    };
    let claimed = |claimant: &Claimant| match claimant.server {
        Some(server) => {
            let sentence = format!(
                "real server {server} ({}) answers {how} for it and takes clients to itself{start}",
                claimant.mac
            );
            Finding::problem(Area::Vip, subject, sentence)
                .mended_by(format!("on {server}: shunt rs setup --vip {vip}"))
        }
        None => {
            let sentence = format!(
                "another machine ({}) answers {how} for it and takes clients to itself{start}",
                claimant.mac
            );
            Finding::problem(Area::Vip, subject, sentence).mended_by(format!(
                "find {} in the switch's table (`bridge fdb`), and take the VIP away there",
                claimant.mac
            ))
        }
    };
    claimants.iter().map(claimed).collect()
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    fn facts() -> VipFacts {
        VipFacts {
            vip: [172, 17, 100, 100].into(),
            home: "eth0".into(),
            held: Ok(vec![Held { link: "eth0".into(), served: true, by_shunt: true }]),
            beside: Some([172, 17, 100, 3].into()),
            also_on: vec![],
            claimants: Ok(vec![]),
            ipv6_off: false,
            managed: true,
            refuses: true,
            running: true,
            ended: false,
        }
    }

    fn worst(facts: &VipFacts) -> Finding {
        findings(facts).into_iter().max_by_key(|finding| finding.state).unwrap()
    }

    #[test]
    fn a_vip_where_it_belongs_is_ok() {
        for by_shunt in [true, false] {
            for (managed, running) in [(true, true), (true, false), (false, true)] {
                let held = Ok(vec![Held { link: "eth0".into(), served: true, by_shunt }]);
                assert_eq!(worst(&VipFacts { held, managed, running, ..facts() }).state, State::Ok);
            }
        }
        let killed = VipFacts { running: false, ended: true, ..facts() };
        assert_eq!(worst(&killed).state, State::Warning, "the kernel answers clients");
        let other: IpAddr = [172, 17, 100, 2].into();
        let flux = Claimant { mac: "02:00:00:00:00:09".into(), server: Some(other) };
        let claimed = VipFacts { claimants: Ok(vec![flux]), ..killed };
        assert!(worst(&claimed).sentence.ends_with("; a start is refused"), "{claimed:?}");
        let not_yet = VipFacts { held: Ok(vec![]), running: false, ..facts() };
        assert!(held(&not_yet, "").sentence.contains("a start adds it to eth0"));
        assert_eq!(worst(&not_yet).state, State::Ok);
    }

    #[test]
    fn a_vip_that_is_missing_or_elsewhere_is_named() {
        assert_eq!(worst(&VipFacts { held: Ok(vec![]), ..facts() }).state, State::Problem);
        let backup = VipFacts { held: Ok(vec![]), managed: false, ..facts() };
        assert_eq!(worst(&backup).state, State::Warning);
        let on_lo = Held { link: "lo".into(), served: false, by_shunt: false };
        let elsewhere = worst(&VipFacts { held: Ok(vec![on_lo]), ..facts() });
        assert_eq!(elsewhere.state, State::Problem);
        assert!(elsewhere.remedy.unwrap().contains("address del 172.17.100.100/32 dev lo"));
        let unread = VipFacts { held: Err("no".into()), ..facts() };
        assert_eq!(worst(&unread).state, State::Warning);
    }

    #[test]
    fn those_who_answer_for_it_are_named() {
        let claimant = |server: Option<[u8; 4]>| Claimant {
            mac: "02:00:00:00:00:09".into(),
            server: server.map(IpAddr::from),
        };
        let flux =
            worst(&VipFacts { claimants: Ok(vec![claimant(Some([172, 17, 100, 2]))]), ..facts() });
        assert_eq!(flux.state, State::Problem);
        assert_eq!(
            flux.remedy.as_deref(),
            Some("on 172.17.100.2: shunt rs setup --vip 172.17.100.100")
        );
        let duplicate = VipFacts { claimants: Ok(vec![claimant(None)]), ..facts() };
        assert_eq!(worst(&duplicate).state, State::Problem);
        assert!(worst(&duplicate).sentence.contains("another machine (02:00:00:00:00:09)"));
        let before = VipFacts { held: Ok(vec![]), running: false, ..duplicate.clone() };
        assert!(worst(&before).sentence.ends_with("; a start is refused"), "{before:?}");
        let takes = VipFacts { refuses: false, ..before };
        assert!(!worst(&takes).sentence.contains("refused"));
        let master = VipFacts { held: Ok(vec![]), managed: false, ..duplicate };
        assert!(claims(&master, "")[0].sentence.contains("the master"));
        // There is one master; whoever else answers has the VIP by mistake.
        let second = Claimant { mac: "02:00:00:00:00:0a".into(), server: None };
        let two = VipFacts { claimants: Ok(vec![claimant(None), second]), ..master };
        let found = claims(&two, "");
        assert_eq!((found.len(), found[1].state), (2, State::Problem), "{found:?}");
        let unread = VipFacts { claimants: Err("no".into()), ..facts() };
        assert_eq!(worst(&unread).state, State::Warning);
    }

    #[test]
    fn another_link_of_its_own_that_answers_is_a_problem() {
        let found = worst(&VipFacts { also_on: vec!["eth1.5".into()], ..facts() });
        assert_eq!(found.state, State::Problem);
        assert_eq!(found.remedy.as_deref(), Some("sysctl -w net.ipv4.conf.eth1/5.arp_ignore=1"));
    }

    #[test]
    fn ipv6_that_is_off_is_a_problem_of_ipv6_alone() {
        assert_eq!(worst(&VipFacts { ipv6_off: true, ..facts() }).state, State::Ok);
        let off = VipFacts { vip: "fd00::100".parse().unwrap(), ipv6_off: true, ..facts() };
        assert_eq!(worst(&off).state, State::Problem);
    }
}
