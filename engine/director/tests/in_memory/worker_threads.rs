//! The thread around a worker: its core, its sleep, its end.

use dataplane::{Capacity, Seeds, Worker, WorkerMemory};
use director::config::Poll;
use director::worker_thread::{EMPTY_TURNS_BEFORE_SLEEP, SLEEP, WorkerThread};
use frames::DIRECTOR_MAC;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use xsk::{Census, MemoryPort, Packet, Port, PortCounters};

/// More than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the worker of [`Quiet`] does in its next turn.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Work,
    Panic,
}

/// A port on which nothing arrives, and which sleeps as long as it is told.
struct Quiet {
    port: MemoryPort,
    fate: Fate,
}

impl Port for Quiet {
    fn reclaim(&mut self) {
        assert!(self.fate == Fate::Work, "a fault of this test's making");
        self.port.reclaim();
    }
    fn receive(&mut self, burst: &mut Vec<Packet>) -> usize {
        self.port.receive(burst)
    }
    fn prefetch(&self, packet: &Packet) {
        self.port.prefetch(packet);
    }
    fn bytes(&self, packet: &Packet) -> &[u8] {
        self.port.bytes(packet)
    }
    fn bytes_mut(&mut self, packet: &Packet) -> &mut [u8] {
        self.port.bytes_mut(packet)
    }
    fn send(&mut self, burst: &mut Vec<Packet>) -> usize {
        self.port.send(burst)
    }
    fn make(&mut self, length: usize) -> Option<Packet> {
        self.port.make(length)
    }
    fn release(&mut self, packet: Packet) {
        self.port.release(packet);
    }
    fn flush(&mut self) {
        self.port.flush();
    }
    fn refill(&mut self) {
        self.port.refill();
    }
    fn wait(&mut self, timeout: Duration) {
        thread::sleep(timeout);
    }
    fn census(&self) -> Census {
        self.port.census()
    }
    fn counters(&self) -> PortCounters {
        self.port.counters()
    }
    fn mac(&self) -> [u8; 6] {
        self.port.mac()
    }
}

fn worker(fate: Fate) -> (Worker<Quiet>, Arc<WorkerMemory>) {
    let port = Quiet { port: MemoryPort::new(DIRECTOR_MAC, 16), fate };
    let capacity = Capacity { flows_v4: 1024, flows_v6: 1024 };
    let made = dataplane::workers(vec![port], capacity, Seeds([1, 2])).unwrap();
    let (worker, handle) = made.into_iter().next().unwrap();
    (worker, handle.memory)
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_idle_adaptive_worker_sleeps_and_stops_at_once() {
    let (worker, memory) = worker(Fate::Work);
    let core = director::cores::available()[0];
    let thread = WorkerThread::start(worker, "sleepy".into(), core, Poll::Adaptive).unwrap();
    wait_until("it sleeps", || memory.counters().read().sleeps >= 10);
    let counts = memory.counters().read();
    // Before the first sleep it looked often, after each of them once.
    let looked = u64::from(EMPTY_TURNS_BEFORE_SLEEP) + counts.sleeps;
    assert!(counts.empty_polls.abs_diff(looked) <= 2, "{counts:?}");
    let begun = Instant::now();
    thread.stop();
    thread.join();
    assert!(begun.elapsed() < PATIENCE / 4 + SLEEP, "{:?}", begun.elapsed());
}

#[test]
fn a_busy_worker_never_sleeps() {
    let (worker, memory) = worker(Fate::Work);
    let core = director::cores::available()[0];
    let thread = WorkerThread::start(worker, "busy".into(), core, Poll::Busy).unwrap();
    let many = 20 * u64::from(EMPTY_TURNS_BEFORE_SLEEP);
    wait_until("it turns", || memory.counters().read().empty_polls > many);
    thread.stop();
    thread.join();
    assert_eq!(memory.counters().read().sleeps, 0);
}

#[test]
fn a_worker_runs_on_its_core_under_its_name() {
    let (worker, memory) = worker(Fate::Work);
    let core = *director::cores::available().last().unwrap();
    let thread = WorkerThread::start(worker, "eth0/77".into(), core, Poll::Adaptive).unwrap();
    wait_until("it turns", || memory.counters().read().empty_polls > 0);
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let statuses =
        tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).ok());
    let status =
        statuses.into_iter().find(|status| status.starts_with("Name:\teth0/77\n")).unwrap();
    assert!(status.contains(&format!("\nCpus_allowed_list:\t{core}\n")), "{status}");
    thread.stop();
    thread.join();
}

#[test]
fn a_core_that_cannot_be_had_is_an_error() {
    let (worker, _) = worker(Fate::Work);
    let error = WorkerThread::start(worker, "w".into(), 1000, Poll::Adaptive).err().unwrap();
    assert!(error.to_string().contains("core 1000"), "{error}");
}

#[test]
fn a_worker_that_panics_ends_the_process() {
    let test = "worker_threads::dies_of_its_worker";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    let signal = std::os::unix::process::ExitStatusExt::signal(&child.status);
    assert_eq!(signal, Some(6), "SIGABRT: {:?} {said}", child.status);
    assert!(said.contains("a fault of this test's making"), "{said}");
    assert!(said.contains("the kernel has its packets back"), "{said}");
}

#[test]
#[ignore = "it is the child of the test above, and dies"]
fn dies_of_its_worker() {
    let (worker, _) = worker(Fate::Panic);
    let core = director::cores::available()[0];
    let thread = WorkerThread::start(worker, "doomed".into(), core, Poll::Busy).unwrap();
    thread.join();
    thread::sleep(PATIENCE);
}
