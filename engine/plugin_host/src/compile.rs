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
        let refused = |refusal| Error::Refused { plugin: plugin.to_owned(), refusal };
        // Whoever loads a plugin meanwhile waits here, for the limit at most.
        let mut abandoned = self.abandoned.lock().unwrap_or_else(PoisonError::into_inner);
        if abandoned.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Err(Error::CompilerBusy { plugin: plugin.to_owned() });
        }
        *abandoned = None;
        let (send, receive) = mpsc::sync_channel(1);
        let (engine, bytes) = (engine.clone(), wasm.to_vec());
        let compile = move || drop(send.send(Module::new(&engine, bytes)));
        let thread = thread::Builder::new().name("shunt-compile".to_owned()).stack_size(STACK);
        let thread = thread.spawn(compile).map_err(|error| Error::Instantiate {
            plugin: plugin.to_owned(),
            reason: format!("no thread for the compiler: {error}"),
        })?;
        match receive.recv_timeout(limit) {
            Ok(Ok(module)) => Ok(module),
            Ok(Err(error)) => {
                Err(refused(Refusal::Malformed { reason: error.root_cause().to_string() }))
            }
            Err(RecvTimeoutError::Timeout) => {
                *abandoned = Some(thread);
                let size = wasm.len();
                Err(refused(Refusal::CompileTime { limit, size, largest_function }))
            }
            Err(RecvTimeoutError::Disconnected) => {
                let reason = thread.join().map_or_else(said, |()| "it gave no answer".to_owned());
                Err(refused(Refusal::Compiler { reason }))
            }
        }
    }
}

/// What a panic said.
fn said(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
