//! Clients that do not wait for each other while something is broken: new connections at an even
//! pace, whatever becomes of those before, and connections that are held open, each with its own
//! thread. What fails is known by the moment at which it began.

use lab::{HttpClient, Topology};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// From one new connection to the next.
const PACE: Duration = Duration::from_millis(20);
/// From one request on a held connection to the next.
const HELD_PACE: Duration = Duration::from_millis(100);
/// How long a client waits for a new connection, and then for its answer: a lost SYN is sent again
/// after a second, so that a single lost packet is no failure.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// How long a client of a held connection waits for an answer. TCP sends again and again meanwhile.
const SILENCE: Duration = Duration::from_secs(4);

/// A new connection with one request.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// When it was begun.
    pub begun: Instant,
    /// Who answered, or why nobody did.
    pub answer: Result<String, String>,
}

/// A connection that was held open.
#[derive(Debug, Clone)]
pub struct HeldEnd {
    /// Who holds the other end.
    pub real_server: String,
    /// Its requests.
    pub answers: usize,
    /// When its last request was begun and what became of it, if it failed.
    pub broken: Option<(Instant, String)>,
}

/// What became of all.
#[derive(Debug, Default)]
pub struct Outcome {
    /// In the order in which they were begun.
    pub attempts: Vec<Attempt>,
    /// The held connections.
    pub held: Vec<HeldEnd>,
}

/// Running clients.
pub struct Pressure {
    stop: Arc<AtomicBool>,
    attempts: Arc<Mutex<Vec<Attempt>>>,
    pacer: JoinHandle<()>,
    held: Vec<JoinHandle<HeldEnd>>,
}

impl Pressure {
    /// Opens `held` connections, then goes on until stopped.
    pub fn start(topology: &Topology, address: SocketAddr, held: usize) -> Pressure {
        let stop = Arc::new(AtomicBool::new(false));
        let attempts = Arc::default();
        let (stopped, kept) = (Arc::clone(&stop), Arc::clone(&attempts));
        // A thread that is started inside a namespace stays there.
        let start = move || {
            let held = (0..held).map(|_| hold(address, &stopped)).collect();
            (thread::spawn(move || keep_pace(address, &stopped, &kept)), held)
        };
        let (pacer, held) = topology.client.run(start).unwrap();
        Pressure { stop, attempts, pacer, held }
    }

    /// The new connections that have ended so far.
    pub fn so_far(&self) -> Vec<Attempt> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until connections that were begun from now on have been answered by all of these.
    pub fn wait_for_answers(&self, of: &[&str]) {
        let now = Instant::now();
        lab::wait_until(super::PATIENCE, &format!("{of:?} answer"), || {
            let answers = self.so_far();
            let since = answers.iter().filter(|attempt| attempt.begun >= now);
            let since: Vec<&String> = since.filter_map(|it| it.answer.as_ref().ok()).collect();
            of.iter().all(|name| since.iter().any(|answer| answer == name))
        })
        .unwrap();
    }

    /// Goes on for so long.
    pub fn go_on_for(&self, time: Duration) {
        let until = Instant::now() + time;
        let ended = |attempt: &Attempt| attempt.begun >= until;
        let seen = || self.so_far().iter().any(ended);
        lab::wait_until(super::PATIENCE + time, "the clients go on", seen).unwrap();
    }

    /// Ends it.
    pub fn finish(self) -> Outcome {
        self.stop.store(true, Relaxed);
        self.pacer.join().unwrap();
        let held = self.held.into_iter().map(|thread| thread.join().unwrap()).collect();
        let mut attempts =
            std::mem::take(&mut *self.attempts.lock().unwrap_or_else(PoisonError::into_inner));
        attempts.sort_by_key(|attempt| attempt.begun);
        Outcome { attempts, held }
    }
}

/// Begins a connection at each turn and joins all at the end.
fn keep_pace(address: SocketAddr, stop: &AtomicBool, kept: &Arc<Mutex<Vec<Attempt>>>) {
    let mut running: Vec<JoinHandle<()>> = Vec::new();
    let mut due = Instant::now();
    while !stop.load(Relaxed) {
        let kept = Arc::clone(kept);
        running.push(thread::spawn(move || {
            let begun = Instant::now();
            let ask = || HttpClient::connect_here_within(address, PATIENCE, PATIENCE)?.get("/");
            let answer = ask().map(|answer| answer.real_server).map_err(|e| e.to_string());
            let attempt = Attempt { begun, answer };
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(attempt);
        }));
        running.retain(|thread| !thread.is_finished());
        due += PACE;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    for thread in running {
        thread.join().unwrap();
    }
}

fn hold(address: SocketAddr, stop: &Arc<AtomicBool>) -> JoinHandle<HeldEnd> {
    let mut client = HttpClient::connect_here_within(address, SILENCE, SILENCE).unwrap();
    let real_server = client.get("/").unwrap().real_server;
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let mut end = HeldEnd { real_server, answers: 0, broken: None };
        while !stop.load(Relaxed) {
            let begun = Instant::now();
            match client.get("/") {
                Ok(answer) => {
                    assert_eq!(answer.real_server, end.real_server, "a flow has changed servers");
                    end.answers += 1;
                }
                Err(error) => {
                    end.broken = Some((begun, error.to_string()));
                    break;
                }
            }
            thread::sleep(HELD_PACE);
        }
        end
    })
}

impl Outcome {
    /// New connections that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| attempt.answer.is_err())
    }

    /// How long after `broken` the last connection was begun that failed; nothing if none did.
    pub fn last_failure(&self, broken: Instant) -> Duration {
        let last = self.failed().map(|attempt| attempt.begun.saturating_duration_since(broken));
        last.max().unwrap_or_default()
    }

    /// The new connections begun after `broken` that went past the director: `thief` answered them
    /// as no scheduler would have chosen, four and more times in turn.
    pub fn past_the_director(&self, thief: &str, broken: Instant) -> Vec<&Attempt> {
        let since: Vec<&Attempt> =
            self.attempts.iter().filter(|attempt| attempt.begun >= broken).collect();
        let by = |attempt: &&Attempt| attempt.answer.as_deref() == Ok(thief);
        let runs = since.chunk_by(|one, other| by(one) == by(other));
        runs.filter(|run| run.len() >= 4 && by(&run[0])).flatten().copied().collect()
    }

    /// Held connections that broke.
    pub fn broken(&self) -> usize {
        self.held.iter().filter(|end| end.broken.is_some()).count()
    }

    /// New connections by who answered, those that failed as "nobody".
    pub fn by_answer(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for attempt in &self.attempts {
            let name = attempt.answer.clone().unwrap_or_else(|_| "nobody".into());
            *counts.entry(name).or_default() += 1;
        }
        counts
    }
}
