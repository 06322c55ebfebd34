//! Requests that go on while something else happens.

use lab::{HttpClient, Topology, get_once_here};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Time from one round to the next.
const PACE: Duration = Duration::from_millis(5);

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Report {
    /// Answers on connections of their own, by real server.
    pub new: BTreeMap<String, usize>,
    /// Answers on connections that are held open.
    pub held: usize,
    /// What failed.
    pub failures: Vec<String>,
}

/// A thread of the client that makes requests: in each round one on a new connection, if wanted,
/// and one on the next of the connections that it holds open.
pub struct Load {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    thread: JoinHandle<Report>,
}

struct Held {
    client: HttpClient,
    real_server: String,
}

impl Load {
    /// Opens `held` connections, then goes on until stopped.
    pub fn start(topology: &Topology, address: SocketAddr, held: usize, new: bool) -> Load {
        let connections: Vec<Held> = (0..held)
            .map(|_| {
                let mut client = HttpClient::connect(&topology.client, address).unwrap();
                let real_server = client.get("/").unwrap().real_server;
                Held { client, real_server }
            })
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicUsize::new(0));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&rounds));
        // A thread that is started inside a namespace stays there.
        let start =
            move || thread::spawn(move || go_on(address, connections, new, &stopped, &counted));
        let thread = topology.client.run(start).unwrap();
        Load { stop, rounds, thread }
    }

    /// Rounds so far.
    pub fn rounds(&self) -> usize {
        self.rounds.load(Relaxed)
    }

    /// Waits until so many more rounds were made.
    pub fn wait_for_rounds(&self, count: usize) {
        let target = self.rounds() + count;
        lab::wait_until(super::PATIENCE * 3, "the load goes on", || {
            self.rounds() >= target || self.thread.is_finished()
        })
        .unwrap();
    }

    /// Ends it.
    pub fn finish(self) -> Report {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap()
    }
}

fn go_on(
    address: SocketAddr,
    mut held: Vec<Held>,
    new: bool,
    stop: &AtomicBool,
    rounds: &AtomicUsize,
) -> Report {
    let mut report = Report::default();
    let mut next = 0;
    while !stop.load(Relaxed) {
        let begun = Instant::now();
        if new {
            match get_once_here(address, "/") {
                Ok(answer) => *report.new.entry(answer.real_server).or_default() += 1,
                Err(error) => report.failures.push(format!("a new connection: {error}")),
            }
        }
        if !held.is_empty() {
            next = (next + 1) % held.len();
            let Held { client, real_server } = &mut held[next];
            match client.get("/") {
                Ok(answer) if answer.real_server == *real_server => report.held += 1,
                Ok(answer) => {
                    let other = answer.real_server;
                    report.failures.push(format!("held by {real_server}, answered by {other}"));
                }
                Err(error) => report.failures.push(format!("held by {real_server}: {error}")),
            }
        }
        rounds.fetch_add(1, Relaxed);
        thread::sleep(PACE.saturating_sub(begun.elapsed()));
    }
    report
}
