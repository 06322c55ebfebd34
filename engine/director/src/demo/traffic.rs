//! The demo's client: one thread that makes requests one after another, so that what a scheduler
//! decides can be told from the order of the answers.

use lab::{Answer, HttpClient, Netns, get_once};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

/// Time from one request to the next while something is being changed.
const PACE: Duration = Duration::from_millis(10);

/// A connection that stays open.
struct LongConnection {
    client: HttpClient,
    real_server: String,
}

/// Requests made so far, and the connections held open.
pub(super) struct Traffic<'a> {
    netns: &'a Netns,
    vip: SocketAddr,
    /// Which RS answered each new connection, in order.
    answered_by: Vec<String>,
    long: Vec<LongConnection>,
    next_long: usize,
    long_answers: usize,
    failures: Vec<String>,
}

impl<'a> Traffic<'a> {
    pub(super) fn new(netns: &'a Netns, vip: SocketAddr) -> Traffic<'a> {
        Traffic {
            netns,
            vip,
            answered_by: Vec::new(),
            long: Vec::new(),
            next_long: 0,
            long_answers: 0,
            failures: Vec::new(),
        }
    }

    /// One request on a connection of its own.
    pub(super) fn request(&mut self) -> Option<Answer> {
        match get_once(self.netns, self.vip, "/") {
            Ok(answer) => {
                self.answered_by.push(answer.real_server.clone());
                Some(answer)
            }
            Err(error) => {
                self.failures.push(error.to_string());
                None
            }
        }
    }

    /// Opens a connection that stays open, and returns who answered its first request.
    pub(super) fn open_long(&mut self) -> Option<String> {
        let open = HttpClient::connect(self.netns, self.vip)
            .and_then(|mut client| client.get("/").map(|answer| (client, answer)));
        match open {
            Ok((client, answer)) => {
                let real_server = answer.real_server;
                self.long_answers += 1;
                self.long.push(LongConnection { client, real_server: real_server.clone() });
                Some(real_server)
            }
            Err(error) => {
                self.failures.push(format!("opening a long connection: {error}"));
                None
            }
        }
    }

    /// A request on a new connection and one on a connection that is held open.
    fn tick(&mut self) {
        let begun = Instant::now();
        self.request();
        self.ask_long();
        thread::sleep(PACE.saturating_sub(begun.elapsed()));
    }

    /// So many ticks.
    pub(super) fn go_on(&mut self, ticks: usize) {
        (0..ticks).for_each(|_| self.tick());
    }

    /// Goes on while `change` is being made, and returns its outcome.
    pub(super) fn during<T: Send>(&mut self, change: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let changing = scope.spawn(change);
            while !changing.is_finished() {
                self.tick();
            }
            changing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Asks the next connection that is held open; the same RS must answer as ever.
    fn ask_long(&mut self) {
        if self.long.is_empty() {
            return;
        }
        self.next_long = (self.next_long + 1) % self.long.len();
        let connection = &mut self.long[self.next_long];
        match connection.client.get("/") {
            Ok(answer) if answer.real_server == connection.real_server => self.long_answers += 1,
            Ok(answer) => self.failures.push(format!(
                "a connection held by {} was answered by {}",
                connection.real_server, answer.real_server
            )),
            Err(error) => self.failures.push(format!("a connection that was held open: {error}")),
        }
    }

    /// Who answered the last `count` new connections, in order.
    pub(super) fn last(&self, count: usize) -> &[String] {
        &self.answered_by[self.answered_by.len().saturating_sub(count)..]
    }

    /// Connections held open that `real_server` answers.
    pub(super) fn held_by(&self, real_server: &str) -> usize {
        self.long.iter().filter(|connection| connection.real_server == real_server).count()
    }

    /// Connections held open.
    pub(super) fn held(&self) -> usize {
        self.long.len()
    }

    /// Requests answered: (on connections of their own, on connections held open).
    pub(super) fn answered(&self) -> (usize, usize) {
        (self.answered_by.len(), self.long_answers)
    }

    /// What failed.
    pub(super) fn failures(&self) -> &[String] {
        &self.failures
    }
}
