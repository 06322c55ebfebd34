//! The engine, and plugins from bytes.

use crate::compile::Compiler;
use crate::room::room_for;
use crate::{About, Error, Limits, Plugin};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use wasmtime::{Config, Engine, OptLevel};

macro_rules! stock {
    ($($name:literal)*) => {
        /// Names of the plugins that are part of the program.
        pub const STOCK: &[&str] = &[$($name),*];

        /// Their files, as plugins/build wrote them.
        const STOCK_FILES: [&[u8]; STOCK.len()] = [$(include_bytes!(
            concat!("../../../plugins/", $name, "/", $name, ".wasm")
        )),*];
    };
}

// In the order of ipvsadm's manual page.
stock!(
    "rr" "wrr" "lc" "wlc" "lblc" "lblcr" "dh" "sh" "sed" "nq" "fo" "ovf" "mh" "twos"
);

/// Loads plugins. Cheap to clone; every clone shares one engine.
#[derive(Clone)]
pub struct PluginHost {
    engine: Engine,
    compiler: Arc<Compiler>,
    /// Of what was accepted before: an upload that takes long must not keep a service from it.
    own_compiler: Arc<Compiler>,
    limits: Limits,
    /// Stock plugins that were asked for.
    stock: Arc<[OnceLock<Plugin>; STOCK.len()]>,
}

impl PluginHost {
    /// A host whose plugins keep to `limits`.
    pub fn new(limits: Limits) -> Result<PluginHost, Error> {
        let engine = Engine::new(&config(&limits))
            .map_err(|error| Error::Engine { reason: format!("{error:#}") })?;
        let (compiler, own_compiler) = Default::default();
        Ok(PluginHost { engine, compiler, own_compiler, limits, stock: Arc::default() })
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Checks and compiles the module in `file`, which may be text (.wat), and runs its start
    /// function and `shunt_init` once as a trial. Takes milliseconds, and never longer than the
    /// limits allow: for the control thread.
    pub fn load(&self, name: &str, file: &[u8]) -> Result<Plugin, Error> {
        Plugin::load(&self.engine, &self.compiler, self.limits, name, file)
    }

    /// Loads what was loaded before, by this process or an earlier one: neither waits for
    /// [`load`](PluginHost::load) nor is refused because the compiler is busy there.
    pub fn load_again(&self, name: &str, file: &[u8]) -> Result<Plugin, Error> {
        Plugin::load(&self.engine, &self.own_compiler, self.limits, name, file)
    }

    /// The stock plugin of this name, compiled when first asked for.
    pub fn stock(&self, name: &str) -> Result<Plugin, Error> {
        let index = stock_index(name)?;
        if let Some(plugin) = self.stock[index].get() {
            return Ok(plugin.clone());
        }
        let file = STOCK_FILES[index];
        let plugin =
            Plugin::load(&self.engine, &self.own_compiler, self.stock_limits(), name, file)?;
        Ok(self.stock[index].get_or_init(|| plugin).clone())
    }

    /// Whether so many instances fit into the process beside what it has now: to be asked before
    /// any of them is made. The error names the limit that is in the way and what raises it.
    pub fn room_for(&self, instances: usize) -> Result<(), Error> {
        room_for(instances)
    }

    /// What is known of the stock plugin of this name without compiling it.
    pub fn about_stock(&self, name: &str) -> Result<About, Error> {
        About::of(STOCK_FILES[stock_index(name)?], &self.stock_limits())
            .map_err(|refusal| Error::Refused { plugin: name.to_owned(), refusal })
    }

    /// An operator's limits on what is loaded are for files of others.
    fn stock_limits(&self) -> Limits {
        Limits { file_size: usize::MAX, compile_time: Duration::from_secs(60), ..self.limits }
    }
}

fn stock_index(name: &str) -> Result<usize, Error> {
    STOCK
        .iter()
        .position(|&stock| stock == name)
        .ok_or_else(|| Error::UnknownStock { name: name.to_owned() })
}

/// Prepares the calling thread for plugin calls, so that the first one has nothing to set up.
/// Every worker calls it once before its first turn.
pub fn prepare_worker_thread() {
    Engine::tls_eager_initialize();
}

fn config(limits: &Limits) -> Config {
    let mut config = Config::new();
    config
        // Fuel rather than a clock: no thread that ticks, and a replay stops where the call did.
        .consume_fuel(true)
        .max_wasm_stack(limits.stack)
        // A trap is counted, not traced: a backtrace would cost every failed call.
        .wasm_backtrace_max_frames(None)
        .cranelift_opt_level(OptLevel::Speed)
        // Nothing runs beside a call.
        .concurrency_support(false)
        // What a scheduler has no use for.
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_tail_call(false)
        // Its results differ between machines, and a replay would, too.
        .wasm_relaxed_simd(false);
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn an_upload_that_compiles_for_ever_keeps_nothing_else_from_compiling() {
        let host = PluginHost::new(Limits::default()).unwrap();
        let (finish, wait) = mpsc::channel::<()>();
        let slow = host.compiler.run(Duration::ZERO, move || wait.recv().is_ok());
        assert!(slow.is_err());
        let file = STOCK_FILES[0];
        assert!(matches!(host.load("my", file), Err(Error::CompilerBusy { .. })));
        host.load_again("my", file).unwrap();
        host.stock("rr").unwrap();
        drop(finish);
    }
}
