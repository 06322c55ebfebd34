//! Real servers: whether each is on the link, has one MAC address, serves the VIPs and is up.

use super::finding::{Area, Finding, Read, State, list};
use crate::layer2;
use crate::service_name::ServiceName;
use crate::views::{QuorumView, ServiceView};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// How a real server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// On a served interface or a VLAN on one.
    OnLink {
        /// The link's name.
        link: String,
        /// The address that the kernel asks from.
        source: Option<IpAddr>,
        /// That address is a VIP.
        source_is_vip: bool,
    },
    /// Not in a way that direct routing can use: why.
    Impossible(String),
    /// It could not be looked up: why.
    Unknown(String),
}

/// How a real server answers for one virtual service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// The virtual service.
    pub service: ServiceName,
    /// Whether it took a connection to the VIP; nothing: it was not asked, because the service is
    /// not TCP or because it has no MAC address.
    pub dr: Option<Result<(), Asked>>,
    /// Its weight.
    pub weight: u16,
    /// Why its flows do not get there, as the running director says.
    pub problem: Option<String>,
    /// What the running director's checks say of it.
    pub health: Option<Health>,
}

/// What the running director's checks say of a real server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// up, down, or that it is not known yet.
    pub state: String,
    /// Why it is down.
    pub error: Option<String>,
    /// Why the last check could not be made, if so; the state is from before.
    pub unmade: Option<String>,
}

/// Why a real server did not take a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// It did not.
    Failed(String),
    /// It could not be asked.
    Unable(String),
}

/// What was read of a real server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// Its address.
    pub server: IpAddr,
    /// How it is reached.
    pub way: Way,
    /// The MAC addresses that answer for it.
    pub answering: Read<BTreeSet<String>>,
    /// The MAC address that the running director has.
    pub known: Option<String>,
    /// Other real servers, of the same family, that have the same MAC address.
    pub alike: Vec<IpAddr>,
    /// Its virtual services.
    pub services: Vec<Serving>,
}

/// What follows from it.
pub fn findings(facts: &ServerFacts) -> Vec<Finding> {
    let subject = facts.server.to_string();
    let mut findings = vec![way(&facts.way, &subject)];
    if matches!(facts.way, Way::OnLink { .. }) {
        findings.push(mac(facts, &subject));
        findings.extend(alike(facts, &subject));
    }
    for serving in &facts.services {
        // One that cannot be reached at all was said to be so.
        if matches!(facts.way, Way::OnLink { .. }) {
            findings.extend(lost_flows(serving, &subject));
        }
        findings.extend(direct_routing(serving, &subject));
        findings.extend(health(serving, &subject));
        findings.extend(unmade(serving, &subject));
        findings.extend(drain(serving, &subject));
    }
    // Who was drained everywhere may be switched off.
    if facts.services.iter().all(|serving| serving.weight == 0) && !facts.services.is_empty() {
        for finding in &mut findings {
            finding.state = finding.state.min(State::Warning);
        }
    }
    findings
}

/// A router that answers ARP for machines behind it (proxy_arp) gives all of them its MAC address.
fn alike(facts: &ServerFacts, subject: &str) -> Option<Finding> {
    if facts.alike.is_empty() {
        return None;
    }
    let sentence = format!(
        "it has the MAC address of {}, too: they are one machine, or behind a router that answers \
         for them, which direct routing cannot pass",
        list(&facts.alike)
    );
    let finding = Finding::warning(Area::Servers, subject, sentence);
    Some(
        finding
            .mended_by("look on which machine `ip link` shows it; switch a router's proxy_arp off"),
    )
}

/// Whether enough real servers of a virtual service are up, where its config has a quorum or a sorry
/// server, or its servers are checked.
pub fn quorum(service: &ServiceView) -> Option<Finding> {
    let name = service.service.to_string();
    let QuorumView { up, servers, quorum, lost, sorry, .. } = service.quorum.as_ref()?;
    if !lost {
        let sentence = format!("{up} of {servers} real servers are up, of which it needs {quorum}");
        return Some(Finding::ok(Area::Servers, &name, sentence));
    }
    let then = match sorry {
        true => "its sorry server takes the new flows",
        false => "those that are left take its new flows, if any are",
    };
    let sentence = format!("{up} of {servers} real servers are up and it needs {quorum}: {then}");
    Some(Finding::problem(Area::Servers, &name, sentence).mended_by("mend its real servers, below"))
}

fn way(way: &Way, subject: &str) -> Finding {
    match way {
        // Neighbor solicitations come from the link-local address (ndisc_solicit in net/ipv6/ndisc.c).
        Way::OnLink { link, source: Some(source), source_is_vip: true } if source.is_ipv6() => {
            let sentence = format!(
                "what the kernel sends to it, command checks among that, comes from the VIP {source}, \
                 and the answers never come back"
            );
            Finding::warning(Area::Servers, subject, sentence).mended_by(format!(
                "ip address change {source}/128 dev {link} preferred_lft 0, so that the kernel \
                 takes another"
            ))
        }
        Way::OnLink { link, source: Some(source), source_is_vip: true } => {
            let sentence = format!(
                "the kernel asks for its MAC address from the VIP {source}, which it drops as its \
                 own: this machine has no address of its own on that network"
            );
            Finding::problem(Area::Servers, subject, sentence).mended_by(format!(
                "ip address add ADDRESS/PREFIX dev {link}, an address of its own"
            ))
        }
        Way::OnLink { link, .. } => {
            Finding::ok(Area::Servers, subject, format!("it is on the network of {link}"))
        }
        Way::Impossible(why) => Finding::problem(Area::Servers, subject, why.as_str())
            .mended_by("put both on one network, by a VLAN if need be"),
        Way::Unknown(why) => Finding::unread(Area::Servers, subject, "the way to it", why),
    }
}

fn mac(facts: &ServerFacts, subject: &str) -> Finding {
    let how = layer2::question(facts.server);
    let answering: Vec<&String> = match &facts.answering {
        Ok(answering) => answering.iter().collect(),
        Err(why) => {
            let what = match &facts.known {
                Some(mac) => format!("the director knows it as {mac}; whether it answers {how}"),
                None => "its MAC address".to_owned(),
            };
            return Finding::unread(Area::Servers, subject, &what, why);
        }
    };
    match answering.as_slice() {
        [] => {
            let sentence = format!("it does not answer {how}: it is down, or not on this network");
            Finding::problem(Area::Servers, subject, sentence)
                .mended_by("look whether it runs, its cable and its address")
        }
        [mac] => match &facts.known {
            Some(known) if known != *mac => {
                let sentence = format!("it answers {how} with {mac}, and the director has {known}");
                Finding::warning(Area::Servers, subject, sentence)
                    .mended_by("look at mac of this real server in the config, if it is there")
            }
            _ => Finding::ok(Area::Servers, subject, format!("it answers {how} with {mac}")),
        },
        several => {
            let sentence =
                format!("{} machines answer {how} for it: {}", several.len(), list(several));
            Finding::problem(Area::Servers, subject, sentence)
                .mended_by("give one of them another address")
        }
    }
}

fn lost_flows(serving: &Serving, subject: &str) -> Option<Finding> {
    let problem = serving.problem.as_ref()?;
    let sentence = format!("flows of {} do not get there: {problem}", serving.service);
    let finding = Finding::problem(Area::Servers, subject, sentence);
    Some(finding.mended_by("look at `ip address` and `ip route get` on the director"))
}

fn direct_routing(serving: &Serving, subject: &str) -> Option<Finding> {
    let Serving { service, dr, .. } = serving;
    Some(match dr.as_ref()? {
        Ok(()) => {
            let sentence = format!("it takes connections to {service}");
            Finding::ok(Area::Servers, subject, sentence)
        }
        Err(Asked::Failed(why)) => Finding::problem(Area::Servers, subject, why.as_str())
            .mended_by(format!("on {subject}: {}", check(*service))),
        Err(Asked::Unable(why)) => {
            let what = format!("whether it takes connections to {service}");
            Finding::unread(Area::Servers, subject, &what, why)
        }
    })
}

fn check(service: ServiceName) -> String {
    let text = service.to_string();
    let (protocol, vip) = text.split_once(':').unwrap_or(("tcp", &text));
    format!("shunt rs check --vip {vip} --protocol {protocol}")
}

fn health(serving: &Serving, subject: &str) -> Option<Finding> {
    let Serving { service, health, .. } = serving;
    let Health { state, error, .. } = health.as_ref()?;
    Some(match state.as_str() {
        "down" => {
            let because = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            let sentence = format!("the director's check of {service} has it down{because}");
            let finding = Finding::problem(Area::Servers, subject, sentence);
            finding.mended_by(format!("on {subject}: {}", check(*service)))
        }
        "up" => {
            let sentence = format!("the director's check of {service} has it up");
            Finding::ok(Area::Servers, subject, sentence)
        }
        other => {
            let sentence = format!("the director's check of {service} says {other}");
            Finding::warning(Area::Servers, subject, sentence).mended_by("ask again in a moment")
        }
    })
}

fn unmade(serving: &Serving, subject: &str) -> Option<Finding> {
    let why = serving.health.as_ref()?.unmade.as_ref()?;
    let sentence = format!(
        "the director's check of {} cannot be made, whatever has become of it: {why}",
        serving.service
    );
    let finding = Finding::warning(Area::Servers, subject, sentence);
    Some(finding.mended_by("mend that on the director; the real server is not at fault"))
}

fn drain(serving: &Serving, subject: &str) -> Option<Finding> {
    let Serving { service, weight, .. } = serving;
    let sentence = format!("it drains: its weight in {service} is 0");
    let finding = Finding::warning(Area::Servers, subject, sentence).mended_by(format!(
        "shunt server set {service} {subject} --weight 1, if it is to have new flows"
    ));
    (*weight == 0).then_some(finding)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: &str = "02:00:00:00:00:01";

    fn service() -> ServiceName {
        "tcp:172.17.100.100:80".parse().unwrap()
    }

    fn serving() -> Serving {
        let (dr, problem, health) = (Some(Ok(())), None, None);
        Serving { service: service(), dr, weight: 1, problem, health }
    }

    fn facts() -> ServerFacts {
        ServerFacts {
            server: [172, 17, 100, 1].into(),
            way: Way::OnLink {
                link: "eth0".into(),
                source: Some([172, 17, 100, 3].into()),
                source_is_vip: false,
            },
            answering: Ok(BTreeSet::from([MAC.to_owned()])),
            known: None,
            alike: vec![],
            services: vec![serving()],
        }
    }

    fn worst(facts: &ServerFacts) -> Finding {
        findings(facts).into_iter().max_by_key(|finding| finding.state).unwrap()
    }

    #[test]
    fn a_server_that_is_there_and_serves_is_ok() {
        assert_eq!(worst(&facts()).state, State::Ok);
        assert_eq!(worst(&ServerFacts { known: Some(MAC.into()), ..facts() }).state, State::Ok);
    }

    #[test]
    fn a_server_that_direct_routing_cannot_reach_is_a_problem() {
        let behind = Way::Impossible("it is behind the gateway 172.17.100.253".into());
        let found = findings(&ServerFacts { way: behind, services: vec![], ..facts() });
        assert_eq!((found.len(), found[0].state), (1, State::Problem));
        assert!(found[0].sentence.contains("gateway"));
        let unknown = ServerFacts { way: Way::Unknown("no".into()), ..facts() };
        assert_eq!(worst(&unknown).state, State::Warning);
    }

    #[test]
    fn flows_that_the_director_says_are_lost_are_a_problem() {
        let apart = Serving { problem: Some("it is on eth0.5".into()), ..serving() };
        let facts = ServerFacts { services: vec![apart], ..facts() };
        assert!(worst(&facts).sentence.ends_with("do not get there: it is on eth0.5"));
        let way = Way::Impossible("it is behind a gateway".into());
        let behind = findings(&ServerFacts { way, ..facts });
        assert_eq!(behind.iter().filter(|found| found.state == State::Problem).count(), 1);
    }

    #[test]
    fn a_question_from_the_vip_is_a_problem() {
        let way = Way::OnLink {
            link: "eth0".into(),
            source: Some([172, 17, 100, 100].into()),
            source_is_vip: true,
        };
        let found = worst(&ServerFacts { way, ..facts() });
        assert_eq!(found.state, State::Problem);
        assert!(found.sentence.contains("from the VIP 172.17.100.100"), "{found:?}");
        let way = Way::OnLink {
            link: "eth0".into(),
            source: Some("fd00::100".parse().unwrap()),
            source_is_vip: true,
        };
        let found = worst(&ServerFacts { way, ..facts() });
        assert_eq!(found.state, State::Warning);
        assert!(found.remedy.unwrap().contains("fd00::100/128 dev eth0 preferred_lft 0"));
    }

    #[test]
    fn silence_and_several_answers_are_problems_and_another_mac_a_warning() {
        let with = |macs: &[&str], known: Option<&str>| {
            let answering = Ok(macs.iter().map(|&mac| mac.to_owned()).collect());
            worst(&ServerFacts { answering, known: known.map(str::to_owned), ..facts() })
        };
        assert!(with(&[], None).sentence.contains("does not answer ARP"));
        assert_eq!(with(&[], None).state, State::Problem);
        let two = with(&[MAC, "02:00:00:00:00:02"], None);
        assert!(two.state == State::Problem && two.sentence.contains("2 machines"), "{two:?}");
        assert_eq!(with(&[MAC], Some("02:00:00:00:00:02")).state, State::Warning);
        let unread = ServerFacts { answering: Err("no".into()), ..facts() };
        assert_eq!(worst(&unread).state, State::Warning);
        let known = ServerFacts { known: Some(MAC.into()), ..unread };
        assert_eq!(worst(&known).state, State::Warning);
    }

    #[test]
    fn a_server_that_does_not_serve_the_vip_is_told_what_to_run() {
        let with =
            |dr| worst(&ServerFacts { services: vec![Serving { dr, ..serving() }], ..facts() });
        let failed = with(Some(Err(Asked::Failed("no answer for 172.17.100.100:80".into()))));
        assert_eq!(failed.state, State::Problem);
        assert_eq!(
            failed.remedy.as_deref(),
            Some("on 172.17.100.1: shunt rs check --vip 172.17.100.100:80 --protocol tcp")
        );
        assert_eq!(with(Some(Err(Asked::Unable("no".into())))).state, State::Warning);
        assert_eq!(with(None).state, State::Ok);
    }

    #[test]
    fn a_lost_quorum_is_a_problem() {
        let view = |quorum: &str| -> ServiceView {
            let text = format!(
                r#"{{"service": "tcp:172.17.100.100:80", "scheduler": "rr", "benched": false,
                    "removed": false, "run_time": null, "quorum": {quorum}, "servers": [],
                    "counts": {{"connections": 0, "packets": 0, "bytes": 0, "active": 0,
                                "inactive": 0}}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        assert_eq!(quorum(&view("null")), None);
        let with = |lost: bool, sorry: bool| {
            let text = format!(
                r#"{{"up": 1, "servers": 3, "quorum": 2, "lost": {lost}, "sorry": {sorry}}}"#
            );
            quorum(&view(&text)).unwrap()
        };
        assert_eq!(with(false, false).state, State::Ok);
        assert_eq!(with(true, false).state, State::Problem);
        assert!(with(true, true).sentence.contains("sorry server takes the new flows"));
    }

    #[test]
    fn health_is_the_directors_word() {
        let with = |state: &str, error: Option<&str>, weight| {
            let error = error.map(str::to_owned);
            let health = Some(Health { state: state.to_owned(), error, unmade: None });
            worst(&ServerFacts {
                services: vec![Serving { health, weight, ..serving() }],
                ..facts()
            })
        };
        assert_eq!(with("up", None, 1).state, State::Ok);
        assert_eq!(with("checking", None, 1).state, State::Warning);
        let down = with("down", Some("connect: refused"), 1);
        assert_eq!(down.state, State::Problem);
        assert!(down.sentence.ends_with("down: connect: refused"), "{down:?}");
        let drained = Serving { weight: 0, ..serving() };
        let drained = worst(&ServerFacts { services: vec![drained], ..facts() });
        assert!(drained.state == State::Warning && drained.sentence.contains("drains"));
    }

    #[test]
    fn a_check_that_could_not_be_made_does_not_hide_the_last_that_was() {
        let with = |state: &str| {
            let unmade = Some("too many open files".to_owned());
            let health = Some(Health { state: state.into(), error: None, unmade });
            let services = vec![Serving { health, ..serving() }];
            findings(&ServerFacts { services, ..facts() })
        };
        let states = |found: Vec<Finding>| {
            let of_check = found.into_iter().filter(|found| found.sentence.contains("check of"));
            of_check.map(|found| found.state).collect::<Vec<_>>()
        };
        assert_eq!(states(with("up")), [State::Ok, State::Warning]);
        assert_eq!(states(with("down")), [State::Problem, State::Warning]);
    }

    #[test]
    fn a_drained_server_may_be_switched_off() {
        let health = Some(Health { state: "down".into(), error: None, unmade: None });
        let off = |weights: &[u16]| {
            let serving = |&weight: &u16| Serving { weight, health: health.clone(), ..serving() };
            let services = weights.iter().map(serving).collect();
            worst(&ServerFacts { answering: Ok(BTreeSet::new()), services, ..facts() }).state
        };
        assert_eq!(off(&[0, 0]), State::Warning);
        assert_eq!(off(&[0, 1]), State::Problem);
        assert_eq!(off(&[]), State::Problem);
    }

    #[test]
    fn servers_that_share_a_mac_address_may_be_behind_a_router() {
        let found = worst(&ServerFacts { alike: vec![[172, 17, 100, 2].into()], ..facts() });
        assert_eq!(found.state, State::Warning);
        assert!(found.sentence.contains("172.17.100.2, too"), "{found:?}");
    }
}
