//! The engine, and plugins from bytes.

use crate::{Error, Limits, Plugin};

/// Names of the plugins that are part of the program.
pub const STOCK: &[&str] = &["rr", "wrr", "lc"];

/// Loads plugins. Cheap to clone; every clone shares one engine.
#[derive(Clone)]
pub struct PluginHost {
    limits: Limits,
}

impl PluginHost {
    /// A host whose plugins keep to `limits`.
    pub fn new(limits: Limits) -> Result<PluginHost, Error> {
        Ok(PluginHost { limits })
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Checks and compiles the module in `wasm` and runs its start function and `shunt_init` once
    /// as a trial. Takes milliseconds: for the control thread.
    pub fn load(&self, name: &str, wasm: &[u8]) -> Result<Plugin, Error> {
        let _ = wasm;
        Err(Error::UnknownStock { name: name.to_owned() })
    }

    /// The stock plugin of this name, compiled when first asked for.
    pub fn stock(&self, name: &str) -> Result<Plugin, Error> {
        Err(Error::UnknownStock { name: name.to_owned() })
    }
}

/// Prepares the calling thread for plugin calls, so that the first one has nothing to set up.
/// Every worker calls it once before its first turn.
pub fn prepare_worker_thread() {
    wasmtime::Engine::tls_eager_initialize();
}
