//! The thread that a worker turns on.
//!
//! Once it turns it allocates nothing, takes no lock and makes no system call but those of its
//! port: wake-ups, and poll(2) when idle.

use crate::clock;
use crate::config::Poll;
use core_affinity::CoreId;
use dataplane::Worker;
use std::hint::{black_box, spin_loop};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use xsk::Port;

/// Turns without a packet after which a worker with `poll = "adaptive"` goes to sleep: about
/// 0.1 ms, longer than the gaps of anything worth calling load.
pub const EMPTY_TURNS_BEFORE_SLEEP: u32 = 1_000;

/// How long it sleeps at most. Flows expire and wander between queues meanwhile, a little at each
/// turn, so it must not be long; it must not be short either, or an idle director would be busy.
pub const SLEEP: Duration = Duration::from_millis(10);

/// How long it sleeps at most while it has no flow: none expires, and nobody has news of any. So
/// a director that stands by for another takes next to nothing, however many queues it has.
pub const SLEEP_WITHOUT_FLOWS: Duration = Duration::from_millis(100);

/// The worker's stack: enough for the deepest call of a plugin, several times over.
const STACK: usize = 2 << 20;

/// As much of the stack as is touched at the start, so that no page fault comes later. More than
/// a plugin may use (`plugin_host::Limits::stack`) and the worker's own frames.
const STACK_TOUCHED: usize = 512 << 10;

/// The largest stack that a plugin's call may be allowed: what is touched, less the worker's own
/// frames below it and the engine's on the way in.
pub const PLUGIN_STACK_MAX: usize = STACK_TOUCHED - (128 << 10);

/// Turns the worker until `stop`. The loop of every worker thread, and of the tests that watch
/// what it does.
pub fn turn_until_stopped<P: Port>(worker: &mut Worker<P>, poll: Poll, stop: &AtomicBool) {
    let mut empty_turns = 0;
    while !stop.load(Relaxed) {
        if worker.turn(clock::now()) > 0 {
            empty_turns = 0;
        } else if poll == Poll::Busy || empty_turns < EMPTY_TURNS_BEFORE_SLEEP {
            empty_turns += u32::from(empty_turns < EMPTY_TURNS_BEFORE_SLEEP);
            spin_loop();
        } else {
            // After a sleep that nothing ended, one turn is enough to know.
            worker.sleep(if worker.has_flows() { SLEEP } else { SLEEP_WITHOUT_FLOWS });
        }
    }
}

/// Prepares the calling thread for [`turn_until_stopped`], so that the loop finds everything in
/// place: thread-local memory of the plugin engine, pages of the stack.
pub fn prepare() {
    plugin_host::prepare_worker_thread();
    touch_stack();
    clock::now();
}

#[inline(never)]
fn touch_stack() {
    black_box(&mut [0u8; STACK_TOUCHED]);
}

/// A worker's thread.
pub struct WorkerThread {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl WorkerThread {
    /// Starts a thread, pins it to `core` and lets `worker` turn on it.
    pub fn start<P: Port + Send + 'static>(
        mut worker: Worker<P>,
        name: String,
        core: usize,
        poll: Poll,
    ) -> io::Result<WorkerThread> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let (pinned_in, pinned) = mpsc::sync_channel(1);
        let run = move || {
            let _guard = EndsProcess;
            let pinned = core_affinity::set_for_current(CoreId { id: core });
            let _ = pinned_in.send(pinned);
            drop(pinned_in);
            if pinned {
                prepare();
                turn_until_stopped(&mut worker, poll, &stopped);
            }
        };
        let thread = thread::Builder::new().name(name.clone()).stack_size(STACK).spawn(run)?;
        if pinned.recv() != Ok(true) {
            return Err(io::Error::other(format!(
                "worker {name} cannot be pinned to core {core}: choose another with cores in the config"
            )));
        }
        Ok(WorkerThread { stop, thread })
    }

    /// Tells the worker to stop after its turn. One that sleeps wakes up by itself soon.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Waits until it has stopped.
    pub fn join(self) {
        // A panic has ended the process already.
        let _ = self.thread.join();
    }
}

/// Ends the process when a worker panics. Its queue would take packets and forward none; without
/// a process, the kernel has them back.
struct EndsProcess;

impl Drop for EndsProcess {
    fn drop(&mut self) {
        if thread::panicking() {
            crate::log::line(
                "",
                format_args!(
                    "a worker has failed (see above): ending, so that the kernel has its packets back"
                ),
            );
            std::process::abort();
        }
    }
}
