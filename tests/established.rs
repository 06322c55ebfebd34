//! Two thousand connections at once, and what is said about them.

mod common;

use common::{HTTP, Site, http, http_rr};
use lab::{Config, Family, HttpClient, Plan, Topology};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 2_000;
/// Threads that share them: each sends to all of its connections, then takes the answers.
const THREADS: usize = 4;
/// Requests on each connection, one a second.
const ROUNDS: u32 = 20;
const ROUND: Duration = Duration::from_secs(1);
/// Both ends of all connections are in this process.
const FILES: u64 = 3 * CONNECTIONS as u64;

/// One thread's connections with the real server that each went to.
type Held = Vec<(HttpClient, String)>;

fn open(topology: &Topology) -> Held {
    (0..CONNECTIONS / THREADS)
        .map(|_| {
            let mut client = HttpClient::connect(&topology.client, http(Family::V4)).unwrap();
            let answer = client.get("/").unwrap();
            (client, answer.real_server)
        })
        .collect()
}

/// Sends a request on every connection, then checks every answer; again each second.
fn ask_each_second(held: &mut Held) {
    let begun = Instant::now();
    for round in 0..ROUNDS {
        for (client, _) in held.iter_mut() {
            client.send_get("/").unwrap();
        }
        for (client, real_server) in held.iter_mut() {
            let answer = client.take_answer().unwrap();
            assert_eq!(answer.status, 200);
            assert_eq!(answer.real_server, *real_server);
            assert_eq!(answer.body, format!("{real_server}\n").into_bytes());
        }
        thread::sleep((ROUND * (round + 1)).saturating_sub(begun.elapsed()));
    }
}

/// Established connections by real server, as the real servers' own `ss` has them.
fn counted_by_ss(topology: &Topology) -> BTreeMap<String, usize> {
    (1..=2)
        .map(|number| {
            let lines = topology
                .real_server(number)
                .exec(&format!("ss -Htn state established sport = :{HTTP}"))
                .unwrap();
            let address = lab::real_server_address(number, Family::V4);
            (address.to_string(), lines.lines().count())
        })
        .collect()
}

/// The same, as `shunt list --flows` has them: the columns of `ipvsadm -Lnc` are protocol,
/// expiry, state, source, virtual, destination.
fn counted_by_shunt(flows: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in flows.lines().filter(|line| line.contains("ESTABLISHED")) {
        let destination = line.split_whitespace().nth(5).unwrap();
        let (address, port) = destination.rsplit_once(':').unwrap();
        assert_eq!(port, HTTP.to_string(), "{line}");
        *counts.entry(address.to_owned()).or_default() += 1;
    }
    counts
}

#[test]
fn two_thousand_connections_are_served_and_counted() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(FILES), hard).unwrap();
    let site = Site::build(Plan::new("many").queues(2), &[Family::V4]);
    let director = site.start(&Config::of(vec![http_rr(2)]));

    let topology = &site.topology;
    let mut held: Vec<Held> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| open(topology))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    thread::scope(|scope| {
        for held in &mut held {
            scope.spawn(|| ask_each_second(held));
        }
    });

    let by_ss = counted_by_ss(topology);
    let by_shunt = counted_by_shunt(&director.shunt("list --flows").unwrap());
    assert_eq!(by_ss.values().sum::<usize>(), CONNECTIONS, "{by_ss:?}");
    assert_eq!(by_shunt, by_ss);
    drop(held);
}
