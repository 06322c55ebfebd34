//! Everything the lab makes outside its own process is removed: by `Drop`, and by a thread that
//! waits for SIGINT, SIGTERM, SIGHUP and SIGQUIT.
//!
//! The two must not run into each other. A thread that makes something holds the gate while it
//! does, so that what exists is also registered when a signal is answered. Once it is, whoever
//! tries to make or remove something is put to sleep: the process ends in a moment.

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

/// How long a removal that `Drop` has begun may take after a signal.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(5);

type Removal = Box<dyn FnOnce() + Send>;

struct Registry {
    /// In the order in which things were made; removed in the opposite one.
    removals: Vec<(u64, Removal)>,
    next_id: u64,
    /// Removals under way in a `Drop`.
    running: usize,
    interrupted: bool,
}

static REGISTRY: Mutex<Registry> =
    Mutex::new(Registry { removals: Vec::new(), next_id: 0, running: 0, interrupted: false });
static REMOVED: Condvar = Condvar::new();
static GATE: RwLock<()> = RwLock::new(());
static CATCHER: OnceLock<Result<(), io::ErrorKind>> = OnceLock::new();

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thing that exists outside this process. Dropping the guard removes it.
#[derive(Debug)]
#[must_use = "dropping the guard removes the thing"]
pub(crate) struct Guard {
    id: u64,
}

/// Makes something with `make` and sees to it that `remove` runs, when the guard is dropped or a
/// signal ends the process. `remove` also runs when `make` fails, so it must cope with a thing
/// that is not there, or only half.
pub(crate) fn make<T, E>(
    remove: impl FnOnce() + Send + 'static,
    make: impl FnOnce() -> Result<T, E>,
) -> Result<(T, Guard), E> {
    let gate = GATE.read().unwrap_or_else(PoisonError::into_inner);
    let guard = register(Box::new(remove));
    let made = make();
    drop(gate);
    made.map(|made| (made, guard))
}

fn register(removal: Removal) -> Guard {
    let mut registry = registry();
    let id = registry.next_id;
    registry.next_id += 1;
    registry.removals.push((id, removal));
    Guard { id }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut registered = registry();
        if registered.interrupted {
            drop(registered);
            sleep_until_the_process_ends();
        }
        let Some(position) = registered.removals.iter().position(|(id, _)| *id == self.id) else {
            return;
        };
        let (_, removal) = registered.removals.remove(position);
        registered.running += 1;
        drop(registered);
        removal();
        registry().running -= 1;
        REMOVED.notify_all();
    }
}

/// Sees to it, from now on, that a signal that ends the process first removes what the lab has
/// made; `announce` is called before that. Only the first call of a process counts.
pub fn catch_signals(announce: impl FnOnce() + Send + 'static) -> io::Result<()> {
    CATCHER
        .get_or_init(|| {
            let signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT]);
            let mut signals = signals.map_err(|error| error.kind())?;
            thread::Builder::new()
                .name("lab-signals".into())
                .spawn(move || {
                    if let Some(signal) = signals.forever().next() {
                        end_by(signal, announce);
                    }
                })
                .map(|_| ())
                .map_err(|error| error.kind())
        })
        .map_err(io::Error::from)
}

/// Whether a signal is ending the process. What fails from then on fails because of that.
pub fn interrupted() -> bool {
    registry().interrupted
}

/// Puts the caller to sleep if a signal is ending the process, so that it does not complain about
/// things that vanish under it.
pub fn sleep_if_interrupted() {
    if interrupted() {
        sleep_until_the_process_ends();
    }
}

fn sleep_until_the_process_ends() -> ! {
    loop {
        thread::park();
    }
}

fn end_by(signal: i32, announce: impl FnOnce()) {
    // Held until the process ends: nothing new is made.
    let _gate = GATE.write().unwrap_or_else(PoisonError::into_inner);
    let removals = {
        let mut registry = registry();
        registry.interrupted = true;
        std::mem::take(&mut registry.removals)
    };
    announce();
    for (_, removal) in removals.into_iter().rev() {
        removal();
    }
    let waited =
        REMOVED.wait_timeout_while(registry(), REMOVAL_PATIENCE, |registry| registry.running > 0);
    drop(waited);
    // Ends the process as the signal would have without us, so that a shell sees what it expects.
    if emulate_default_handler(signal).is_err() {
        std::process::exit(128 + signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    #[test]
    fn a_thing_is_removed_once_when_its_guard_is_dropped() {
        let removed = Arc::new(AtomicUsize::new(0));
        let count = removed.clone();
        let (made, guard) = make::<_, io::Error>(
            move || {
                count.fetch_add(1, SeqCst);
            },
            || Ok(7),
        )
        .unwrap();
        assert_eq!((made, removed.load(SeqCst)), (7, 0));
        drop(guard);
        assert_eq!(removed.load(SeqCst), 1);
    }

    #[test]
    fn what_could_be_made_only_half_is_removed_too() {
        let removed = Arc::new(AtomicUsize::new(0));
        let count = removed.clone();
        let result = make::<(), _>(
            move || {
                count.fetch_add(1, SeqCst);
            },
            || Err("no"),
        );
        assert_eq!(result.unwrap_err(), "no");
        assert_eq!(removed.load(SeqCst), 1);
    }
}
