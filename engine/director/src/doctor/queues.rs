//! The NIC's queues: whether a worker can serve each, and how packets spread over them.

use super::finding::{Area, Finding, Read, list};
use std::collections::BTreeMap;
use xsk::HashedKind;

/// How uneven the shares of RSS may be: the largest over the smallest.
const UNEVEN: usize = 2;

/// What was read of an interface's queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueFacts {
    /// The interface.
    pub interface: String,
    /// Its driver.
    pub driver: String,
    /// The queues that a start would serve, or why none, in a start's own words.
    pub served: Read<Vec<u32>>,
    /// Receive queues in use, and the most that there can be; 0: not known.
    pub in_use: u32,
    /// See above.
    pub most: u32,
    /// The cores of this machine.
    pub cores: u32,
    /// The queue of each entry of the RSS indirection table.
    pub rss: Read<Vec<u32>>,
    /// Whether the NIC's hash counts ports in, for each kind of packets that virtual services have;
    /// nothing: its driver does not say.
    pub hashes: Vec<(HashedKind, Read<Option<bool>>)>,
    /// Queues that AF_XDP sockets have, anybody's; not all kernels say.
    pub taken: Read<Vec<u32>>,
    /// It is this director's own interface already.
    pub running: bool,
}

/// What follows from it.
pub fn findings(facts: &QueueFacts) -> Vec<Finding> {
    let served = match &facts.served {
        Ok(served) => served,
        Err(why) => {
            let finding = Finding::problem(Area::Queues, &facts.interface, why.as_str());
            let remedy =
                quoted(why).unwrap_or("set queues = \"all\" in [[interface]] of the config");
            return vec![finding.mended_by(remedy)];
        }
    };
    let count = served.len();
    let what = if count == 1 { "its queue is" } else { "all its queues are" };
    let sentence = format!("{what} served: {}", list(served));
    let mut findings = vec![Finding::ok(Area::Queues, &facts.interface, sentence)];
    findings.extend(spare(facts));
    findings.extend(taken(facts));
    if count > 1 {
        findings.push(spread(facts, served));
        findings.extend(hashing(facts));
    }
    findings
}

/// The command that a sentence has between backticks.
fn quoted(sentence: &str) -> Option<&str> {
    sentence.split('`').nth(1)
}

/// virtio_net puts further queues to use for an XDP program if it has one to spare for each core
/// (virtnet_xdp_set in drivers/net/virtio_net.c); a start detaches the program again.
fn spare(facts: &QueueFacts) -> Option<Finding> {
    let would = facts.driver == "virtio_net" && facts.most >= facts.in_use + facts.cores;
    if facts.running || !would {
        return None;
    }
    let sentence = format!(
        "it has {} of {} queues in use, and its driver takes more for the XDP program, where \
         packets would reach no worker: a start is refused",
        facts.in_use, facts.most
    );
    let finding = Finding::problem(Area::Queues, &facts.interface, sentence);
    Some(finding.mended_by(format!("ethtool -L {} combined {}", facts.interface, facts.most)))
}

fn taken(facts: &QueueFacts) -> Option<Finding> {
    let taken = facts.taken.as_ref().ok().filter(|taken| !taken.is_empty() && !facts.running)?;
    let sentence = format!(
        "queue {} has an AF_XDP socket of another program: a start is refused",
        list(taken)
    );
    let finding = Finding::problem(Area::Queues, &facts.interface, sentence);
    Some(finding.mended_by("end the program that `ss --xdp -p` names"))
}

fn spread(facts: &QueueFacts, served: &[u32]) -> Finding {
    let interface = facts.interface.as_str();
    let table = match &facts.rss {
        Ok(table) => table,
        Err(why) => {
            return Finding::unread(Area::Queues, interface, "its RSS indirection table", why);
        }
    };
    if table.is_empty() {
        let sentence = "it has no RSS indirection table: how packets spread is the driver's matter";
        return Finding::ok(Area::Queues, interface, sentence);
    }
    let mut shares: BTreeMap<u32, usize> = served.iter().map(|&queue| (queue, 0)).collect();
    for &queue in table {
        *shares.entry(queue).or_default() += 1;
    }
    let idle: Vec<u32> =
        shares.iter().filter(|(_, share)| **share == 0).map(|(&queue, _)| queue).collect();
    let remedy = format!("ethtool -X {interface} equal {}", served.len());
    if !idle.is_empty() {
        let sentence = format!("RSS sends nothing to queue {}: its worker idles", list(idle));
        return Finding::warning(Area::Queues, interface, sentence).mended_by(remedy);
    }
    let (least, most) = (shares.values().min(), shares.values().max());
    if most.zip(least).is_some_and(|(most, least)| *most >= UNEVEN * least) {
        let shares = shares.iter().map(|(queue, share)| format!("{share} to queue {queue}"));
        let sentence = format!("RSS spreads unevenly: of {} entries {}", table.len(), list(shares));
        return Finding::warning(Area::Queues, interface, sentence).mended_by(remedy);
    }
    Finding::ok(Area::Queues, interface, format!("RSS spreads over {} queues", served.len()))
}

/// By default most NICs hash UDP by its addresses alone: as if all of a resolver's or a proxy's flows
/// were one.
fn hashing(facts: &QueueFacts) -> Option<Finding> {
    let interface = facts.interface.as_str();
    let those = |wanted: bool| {
        let hashes = facts.hashes.iter().filter(move |(_, ports)| *ports == Ok(Some(wanted)));
        hashes.map(|(kind, _)| kind.name()).collect::<Vec<_>>()
    };
    let without = those(false);
    if !without.is_empty() {
        let sentence = format!(
            "RSS does not count the ports of {} in: all flows of one client come to one queue",
            list(&without)
        );
        let commands =
            without.iter().map(|kind| format!("ethtool -N {interface} rx-flow-hash {kind} sdfn"));
        let finding = Finding::warning(Area::Queues, interface, sentence);
        return Some(finding.mended_by(commands.collect::<Vec<_>>().join("; ")));
    }
    if let Some(why) = facts.hashes.iter().find_map(|(_, ports)| ports.as_ref().err()) {
        return Some(Finding::unread(Area::Queues, interface, "what RSS hashes", why));
    }
    let with = those(true);
    let sentence = format!("RSS counts addresses and ports of {} in", list(&with));
    (!with.is_empty()).then(|| Finding::ok(Area::Queues, interface, sentence))
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    fn facts() -> QueueFacts {
        QueueFacts {
            interface: "eth0".into(),
            driver: "mlx5_core".into(),
            served: Ok(vec![0, 1]),
            in_use: 2,
            most: 8,
            cores: 4,
            rss: Ok([0, 1].repeat(64)),
            hashes: vec![(HashedKind::Tcp4, Ok(Some(true))), (HashedKind::Udp4, Ok(None))],
            taken: Ok(vec![]),
            running: false,
        }
    }

    fn worst(facts: &QueueFacts) -> Finding {
        findings(facts).into_iter().max_by_key(|finding| finding.state).unwrap()
    }

    #[test]
    fn queues_that_are_all_served_are_ok() {
        assert_eq!(worst(&facts()).state, State::Ok);
        let one = QueueFacts { served: Ok(vec![0]), in_use: 1, rss: Err("no".into()), ..facts() };
        assert_eq!(worst(&one).state, State::Ok);
    }

    #[test]
    fn a_starts_refusal_is_the_only_finding() {
        let refused = |why: &str| QueueFacts { served: Err(why.into()), ..facts() };
        let one = findings(&refused("queue 1 would reach no worker"));
        assert_eq!((one.len(), one[0].state), (1, State::Problem));
        assert!(one[0].remedy.as_ref().unwrap().contains("queues = \"all\""), "{one:?}");
        let named = worst(&refused("too many; `ethtool -L eth0 combined 2` mends it"));
        assert_eq!(named.remedy.as_deref(), Some("ethtool -L eth0 combined 2"));
    }

    #[test]
    fn rss_that_leaves_a_queue_out_or_favours_one_is_named() {
        let rss = |table: &[u32]| worst(&QueueFacts { rss: Ok(table.to_vec()), ..facts() });
        assert_eq!(rss(&[]).state, State::Ok);
        assert_eq!(rss(&[0, 1, 0]).state, State::Warning);
        let idle = rss(&[0, 0, 0, 0]);
        assert!(idle.sentence.contains("nothing to queue 1"), "{idle:?}");
        assert_eq!(idle.remedy.as_deref(), Some("ethtool -X eth0 equal 2"));
        assert_eq!(worst(&QueueFacts { rss: Err("no".into()), ..facts() }).state, State::Warning);
    }

    #[test]
    fn a_hash_that_leaves_ports_out_is_named_with_what_counts_them_in() {
        let with = |hashes: &[(HashedKind, Read<Option<bool>>)]| {
            hashing(&QueueFacts { hashes: hashes.to_vec(), ..facts() })
        };
        let (tcp, udp) = (HashedKind::Tcp4, HashedKind::Udp6);
        assert_eq!(with(&[(tcp, Ok(None))]), None);
        assert_eq!(
            hashing(&facts()).unwrap().sentence,
            "RSS counts addresses and ports of tcp4 in"
        );
        let without = with(&[(tcp, Ok(Some(false))), (udp, Ok(Some(false)))]).unwrap();
        assert_eq!(without.state, State::Warning);
        assert_eq!(
            without.remedy.as_deref(),
            Some("ethtool -N eth0 rx-flow-hash tcp4 sdfn; ethtool -N eth0 rx-flow-hash udp6 sdfn")
        );
        let unread = with(&[(tcp, Ok(Some(true))), (udp, Err("no".into()))]).unwrap();
        assert_eq!(unread.state, State::Warning);
    }

    #[test]
    fn virtio_with_queues_to_spare_is_refused() {
        let spare = |cores, running| {
            worst(&QueueFacts { driver: "virtio_net".into(), cores, running, ..facts() })
        };
        assert_eq!(spare(7, false).state, State::Ok);
        assert_eq!(spare(6, false).remedy.as_deref(), Some("ethtool -L eth0 combined 8"));
        assert_eq!(spare(6, true).state, State::Ok);
    }

    #[test]
    fn a_queue_that_another_program_has_is_a_problem() {
        let taken = QueueFacts { taken: Ok(vec![1]), ..facts() };
        assert_eq!(worst(&taken).state, State::Problem);
        assert_eq!(worst(&QueueFacts { running: true, ..taken }).state, State::Ok);
        assert_eq!(worst(&QueueFacts { taken: Err("no".into()), ..facts() }).state, State::Ok);
    }
}
