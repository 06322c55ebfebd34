//! Two queues with a worker each: TCP and UDP, IPv4 and IPv6, and flows that change queues.

mod common;

use common::metrics::Metrics;
use common::{PATIENCE, Site, dns, http, service, steer};
use lab::{Config, Director, Family, HttpClient, Plan, Topology, UdpClient, get_once};
use std::collections::BTreeMap;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const REQUESTS: usize = 200;
/// The least share of the packets that each worker must see.
const SHARE_MIN: f64 = 0.3;

fn start() -> (Director, Site) {
    let site = Site::build(Plan::new("queues").queues(2).ipv6(), &FAMILIES);
    let config = Config::of(
        FAMILIES
            .into_iter()
            .flat_map(|family| ["tcp", "udp"].map(|protocol| service(protocol, family, "rr", 2)))
            .collect(),
    );
    let director = site.start(&config);
    (director, site)
}

fn received(topology: &Topology) -> [f64; 2] {
    let metrics = Metrics::fetch(&topology.director);
    ["0", "1"]
        .map(|worker| metrics.sum("shunt_worker_packets_received_total", &[("worker", worker)]))
}

/// Requests on connections, or sockets, of their own; who answered, in order.
fn ask(topology: &Topology, protocol: &str, family: Family, count: usize) -> Vec<String> {
    let ask_once = |number: usize| match protocol {
        "tcp" => get_once(&topology.client, http(family), "/").unwrap().real_server,
        _ => {
            let client = UdpClient::connect(&topology.client, dns(family), PATIENCE).unwrap();
            client.ask(&format!("question {number}")).unwrap()
        }
    };
    (0..count).map(ask_once).collect()
}

fn shares(answers: &[String]) -> BTreeMap<&str, usize> {
    let mut shares = BTreeMap::new();
    for answer in answers {
        *shares.entry(answer.as_str()).or_default() += 1;
    }
    shares
}

#[test]
fn each_worker_has_its_share_and_alternates() {
    let (_director, site) = start();
    for protocol in ["tcp", "udp"] {
        for family in FAMILIES {
            let before = received(&site.topology);
            let answers = ask(&site.topology, protocol, family, REQUESTS);
            let after = received(&site.topology);
            let share = |worker: usize| {
                (after[worker] - before[worker]) / (after[0] + after[1] - before[0] - before[1])
            };
            for worker in 0..2 {
                let share = share(worker);
                assert!(share >= SHARE_MIN, "{protocol} {family:?}: worker {worker} has {share}");
            }
            // Each of two workers that alternate can be one ahead, so two together.
            let shares = shares(&answers);
            let difference = shares["rs1"].abs_diff(shares["rs2"]);
            assert!(difference <= 2, "{protocol} {family:?}: {shares:?}");
        }
    }
    for queue in 0..2 {
        steer(&site.topology, 2, queue);
        for protocol in ["tcp", "udp"] {
            for family in FAMILIES {
                let answers = ask(&site.topology, protocol, family, 20);
                assert!(
                    answers.windows(2).all(|pair| pair[0] != pair[1]),
                    "{protocol} {family:?} on queue {queue}: {answers:?}"
                );
            }
        }
    }
}

/// A flow that is held open.
enum Flow {
    Tcp(HttpClient),
    Udp(UdpClient),
}

impl Flow {
    fn open(topology: &Topology, protocol: &str, family: Family) -> Flow {
        match protocol {
            "tcp" => Flow::Tcp(HttpClient::connect(&topology.client, http(family)).unwrap()),
            _ => Flow::Udp(UdpClient::connect(&topology.client, dns(family), PATIENCE).unwrap()),
        }
    }

    fn ask(&mut self, question: &str) -> String {
        match self {
            Flow::Tcp(client) => client.get("/").unwrap().real_server,
            Flow::Udp(client) => client.ask(question).unwrap(),
        }
    }
}

#[test]
fn a_flow_that_changes_queues_keeps_its_real_server() {
    let (director, site) = start();
    steer(&site.topology, 2, 0);
    let mut flows: Vec<(Flow, String)> = Vec::new();
    for protocol in ["tcp", "udp"] {
        for family in FAMILIES {
            for _ in 0..20 {
                let mut flow = Flow::open(&site.topology, protocol, family);
                let real_server = flow.ask("first");
                flows.push((flow, real_server));
            }
        }
    }
    let count = flows.len() as f64;
    let mut counted = received(&site.topology);
    for (round, queue) in [1, 0, 1, 0].into_iter().enumerate() {
        steer(&site.topology, 2, queue);
        for (number, (flow, real_server)) in flows.iter_mut().enumerate() {
            assert_eq!(
                flow.ask(&format!("round {round}")),
                *real_server,
                "flow {number} in round {round}\n{}",
                director.process().output()
            );
        }
        let now = received(&site.topology);
        // The packets did arrive on the other queue, but for a late acknowledgment or so.
        let (here, there) = (now[queue] - counted[queue], now[1 - queue] - counted[1 - queue]);
        assert!(here >= count && there < count / 10.0, "{here} here, {there} there");
        counted = now;
    }
    let metrics = Metrics::fetch(&site.topology.director);
    let adopted = metrics.sum("shunt_worker_flows_adopted_total", &[]);
    assert!(adopted >= 4.0 * count, "{adopted} flows were adopted by the other worker");
}
