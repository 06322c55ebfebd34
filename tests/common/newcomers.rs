//! New connections that go on while something else happens, with the time of each.

use lab::{Topology, get_once_here};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Time from one connection to the next.
const PACE: Duration = Duration::from_millis(10);

/// A new connection with one request.
#[derive(Debug, Clone)]
pub struct Newcomer {
    /// When it began.
    pub begun: Instant,
    /// Who answered, or what failed.
    pub answer: Result<String, String>,
}

/// A thread of the client that connects anew, again and again.
pub struct Newcomers {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Newcomer>>>,
    thread: Option<JoinHandle<()>>,
}

impl Newcomers {
    /// Goes on until it is dropped.
    pub fn start(topology: &Topology, address: SocketAddr) -> Newcomers {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<_>>>::default());
        let (stopped, noted) = (stop.clone(), seen.clone());
        let connect = move || {
            while !stopped.load(Relaxed) {
                let begun = Instant::now();
                let answer = get_once_here(address, "/");
                let answer = answer.map(|a| a.real_server).map_err(|error| error.to_string());
                noted.lock().unwrap().push(Newcomer { begun, answer });
                thread::sleep(PACE.saturating_sub(begun.elapsed()));
            }
        };
        // A thread that is started inside a namespace stays there.
        let thread = topology.client.run(|| thread::spawn(connect)).unwrap();
        Newcomers { stop, seen, thread: Some(thread) }
    }

    /// Those that began between two moments and have ended.
    pub fn between(&self, from: Instant, to: Instant) -> Vec<Newcomer> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|new| new.begun >= from && new.begun < to).cloned().collect()
    }

    /// Waits until so many more have ended, and returns those that began meanwhile.
    pub fn next(&self, count: usize) -> Vec<Newcomer> {
        let from = Instant::now();
        lab::wait_until(super::PATIENCE * 3, "the newcomers go on", || {
            self.between(from, Instant::now()).len() >= count
        })
        .unwrap();
        self.between(from, Instant::now())
    }
}

impl Drop for Newcomers {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What failed of these.
pub fn failed(newcomers: &[Newcomer]) -> Vec<&Newcomer> {
    newcomers.iter().filter(|new| new.answer.is_err()).collect()
}

/// The share of these that a real server answered.
pub fn share(newcomers: &[Newcomer], real_server: &str) -> f64 {
    let its = newcomers.iter().filter(|new| new.answer.as_deref() == Ok(real_server));
    its.count() as f64 / newcomers.len().max(1) as f64
}
