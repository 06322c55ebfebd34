//! Compiling within a time.
//!
//! The compiler cannot be stopped, so it runs on a thread of its own that is left behind when its
//! time is up. There is one of these at most: whoever uploads slow plugins takes one core, no more.

use crate::{Error, Refusal};
use std::any::Any;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use wasmtime::{Engine, Module};

/// Stack of the compiler's thread: more than it needs, since running out of it ends the process.
const STACK: usize = 16 << 20;

/// The compiler, for one plugin after the other.
#[derive(Default)]
pub(crate) struct Compiler {
    /// The thread that was left behind.
    abandoned: Mutex<Option<JoinHandle<()>>>,
}

/// Why there is no result.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// A thread that was left behind is still at work.
    Busy,
    /// There is no thread for it.
    NoThread(String),
    /// It takes too long, and is left behind.
    TooLong,
    /// It panicked, and said this.
    Panicked(String),
}

impl Compiler {
    /// Compiles a checked module whose largest function has so many bytes.
    pub fn compile(
        &self,
        engine: &Engine,
        plugin: &str,
        wasm: &[u8],
        largest_function: usize,
        limit: Duration,
    ) -> Result<Module, Error> {
        let (engine, bytes) = (engine.clone(), wasm.to_vec());
        let plugin = plugin.to_owned();
        let refusal = match self.run(limit, move || Module::new(&engine, bytes)) {
            Ok(Ok(module)) => return Ok(module),
            Ok(Err(error)) => Refusal::Malformed { reason: error.root_cause().to_string() },
            Err(Stopped::Busy) => return Err(Error::CompilerBusy { plugin }),
            Err(Stopped::NoThread(reason)) => return Err(Error::Instantiate { plugin, reason }),
            Err(Stopped::TooLong) => {
                Refusal::CompileTime { limit, size: wasm.len(), largest_function }
            }
            Err(Stopped::Panicked(reason)) => Refusal::Compiler { reason },
        };
        Err(Error::Refused { plugin, refusal })
    }

    /// Does some work within a time. Who comes meanwhile waits, for the limit at most.
    pub fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let mut abandoned = self.abandoned.lock().unwrap_or_else(PoisonError::into_inner);
        if abandoned.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Err(Stopped::Busy);
        }
        *abandoned = None;
        let (send, receive) = mpsc::sync_channel(1);
        // Nobody listens any more if it took too long.
        let work = move || drop(send.send(work()));
        let thread = thread::Builder::new().name("shunt-compile".to_owned()).stack_size(STACK);
        let thread = thread
            .spawn(work)
            .map_err(|error| Stopped::NoThread(format!("no thread for the compiler: {error}")))?;
        match receive.recv_timeout(limit) {
            Ok(result) => Ok(result),
            Err(RecvTimeoutError::Timeout) => {
                *abandoned = Some(thread);
                Err(Stopped::TooLong)
            }
            // Without an answer, the thread has panicked.
            Err(RecvTimeoutError::Disconnected) => {
                Err(Stopped::Panicked(thread.join().err().map_or_else(String::new, said)))
            }
        }
    }
}

/// What a panic said.
fn said(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn a_panic_is_an_answer() {
        let compiler = Compiler::default();
        let panicked = compiler.run(LONG, || -> u8 { panic!("register {}", 7) });
        assert_eq!(panicked, Err(Stopped::Panicked("register 7".to_owned())));
        let panicked = compiler.run(LONG, || -> u8 { panic!("plain") });
        assert_eq!(panicked, Err(Stopped::Panicked("plain".to_owned())));
        assert_eq!(compiler.run(LONG, || 5), Ok(5), "and the next one is served");
    }

    #[test]
    fn one_is_left_behind_and_the_next_is_sent_away() {
        let compiler = Compiler::default();
        let (finish, wait) = mpsc::channel::<()>();
        let slow = compiler.run(Duration::ZERO, move || wait.recv().is_ok());
        assert_eq!(slow, Err(Stopped::TooLong));
        assert_eq!(compiler.run(LONG, || 5), Err(Stopped::Busy));
        finish.send(()).unwrap();
        while compiler.run(LONG, || 5) == Err(Stopped::Busy) {
            thread::yield_now();
        }
    }
}
