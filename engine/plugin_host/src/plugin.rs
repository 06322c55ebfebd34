//! A checked and compiled plugin, and instances of it.

use crate::check::{Facts, check, wasm_of};
use crate::compile::Compiler;
use crate::imports::{Context, link};
use crate::log::{Log, LogWriter, log};
use crate::pages::Pages;
use crate::running::Running;
use crate::table::Layout;
use crate::wasm_scheduler::{Origin, WasmScheduler};
use crate::{Error, Limits, Params, Refusal};
use dataplane::{Instance, Latency, Scheduler};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use shunt_abi::import;
use std::fmt;
use std::sync::Arc;
use wasmtime::{Engine, InstancePre};

/// A checked and compiled plugin. Cheap to clone; every clone is the same plugin.
#[derive(Clone)]
pub struct Plugin {
    inner: Arc<Inner>,
}

struct Inner {
    module: InstancePre<Context>,
    limits: Limits,
    facts: Facts,
    name: String,
    version: String,
    digest: String,
    size: usize,
    /// Of the trial instance.
    layout: Layout,
    /// Bytes, of the trial instance.
    memory: usize,
    /// Those that a worker's calls write.
    pages: Pages,
}

/// Where an instance will work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Number of the worker, from 0.
    pub worker: u32,
    /// Workers that serve the same virtual service.
    pub workers: u32,
    /// What the plugin's random choices, if it makes any, begin with. Each instance should get
    /// another, or all of them choose alike.
    pub seed: u64,
}

/// Of the instance that a plugin is tried with.
const TRIAL: Placement = Placement { worker: 0, workers: 1, seed: 0 };

/// An instance, ready for a worker.
pub struct Prepared {
    /// Goes to the worker.
    pub instance: Box<Instance>,
    /// How long its calls take: `choose`, one call in 64. Stays with the control thread.
    pub latency: Arc<Latency>,
    /// What it says. Stays with the control thread.
    pub log: Log,
}

impl Plugin {
    pub(crate) fn load(
        engine: &Engine,
        compiler: &Compiler,
        limits: Limits,
        name: &str,
        file: &[u8],
    ) -> Result<Plugin, Error> {
        let refused = |refusal| Error::Refused { plugin: name.to_owned(), refusal };
        check_size(file, &limits).map_err(refused)?;
        let wasm = &*wasm_of(file).map_err(refused)?;
        check_size(wasm, &limits).map_err(refused)?;
        let facts = check(wasm, &limits).map_err(refused)?;
        let largest = facts.largest_function;
        let module = compiler.compile(engine, name, wasm, largest, limits.compile_time)?;
        let module = link(engine, &module, name)?;
        let running = Running::start(&module, &facts, &limits, TRIAL, None)
            .map_err(|failed| failed.of(name))?;
        let layout = running.layout;
        let memory = running.memory.data_size(&running.store);
        let digest = digest(wasm);
        let inner = Inner {
            module,
            limits,
            name: name.to_owned(),
            version: facts.version.clone().unwrap_or_else(|| digest[..12].to_owned()),
            facts,
            digest,
            size: wasm.len(),
            layout,
            memory,
            pages: Pages::written_by_calls(running, &limits),
        };
        Ok(Plugin { inner: Arc::new(inner) })
    }

    /// The name that it was loaded under.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The version that its author gave it (custom section `shunt.version`), else the first 12
    /// digits of the digest.
    pub fn version(&self) -> &str {
        &self.inner.version
    }

    /// The version that its author gave it, if any.
    pub fn label(&self) -> Option<&str> {
        self.inner.facts.version.as_deref()
    }

    /// SHA-256 of the module, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.inner.digest
    }

    /// Size of the module in bytes.
    pub fn size(&self) -> usize {
        self.inner.size
    }

    /// The version of the ABI that it follows.
    pub fn abi(&self) -> u32 {
        shunt_abi::ABI_VERSION
    }

    /// The most slots that it can choose from, at most 1024. A service with more real servers
    /// gets the native fallback for every flow.
    pub fn capacity(&self) -> usize {
        self.inner.layout.capacity
    }

    /// Bytes of linear memory that an instance has, from its start on.
    pub fn memory(&self) -> usize {
        self.inner.memory
    }

    /// Whether it takes parameters.
    pub fn takes_params(&self) -> bool {
        self.inner.layout.params().is_some()
    }

    /// Whether its instances hand state to those that take their place.
    pub fn keeps_state(&self) -> bool {
        let Inner { facts, layout, .. } = &*self.inner;
        layout.state().is_some() && facts.has_save && facts.has_restore
    }

    /// Names of the functions that it imports, of module `shunt`.
    pub fn imports(&self) -> &[&'static str] {
        &self.inner.facts.imports
    }

    /// Whether it looks at connections.
    pub fn wants_load(&self) -> bool {
        self.inner.layout.wants_load
    }

    /// Whether it takes these parameters: asks an instance that is dropped again.
    pub fn check_params(&self, params: &Params) -> Result<(), Error> {
        self.start(TRIAL, params, None).map(drop)
    }

    /// Makes an instance for one virtual service on one worker. Maps memory, touches what the
    /// worker's calls will, and runs the plugin's `shunt_init` and, if there are any parameters,
    /// `shunt_configure`: for the control thread.
    pub fn instantiate(&self, placement: Placement, params: &Params) -> Result<Prepared, Error> {
        let (writer, log) = if self.inner.facts.imports.contains(&import::LOG) {
            let (writer, log) = log();
            (Some(writer), log)
        } else {
            (None, Log::silent())
        };
        let (scheduler, latency) = self.wasm_scheduler(placement, params, writer)?;
        Ok(Prepared { instance: Instance::new(Box::new(scheduler)), latency, log })
    }

    /// The same without what a worker keeps beside it, and without a log: for whoever asks the
    /// scheduler directly.
    pub fn scheduler(
        &self,
        placement: Placement,
        params: &Params,
    ) -> Result<(Box<dyn Scheduler>, Arc<Latency>), Error> {
        let (scheduler, latency) = self.wasm_scheduler(placement, params, None)?;
        Ok((Box::new(scheduler), latency))
    }

    pub(crate) fn wasm_scheduler(
        &self,
        placement: Placement,
        params: &Params,
        log: Option<LogWriter>,
    ) -> Result<(WasmScheduler, Arc<Latency>), Error> {
        let latency = Arc::new(Latency::default());
        let mut running = self.start(placement, params, log)?;
        self.inner.pages.touch(&mut running);
        let origin = Origin { plugin: self.clone(), placement, params: params.clone() };
        let scheduler = WasmScheduler::new(running, &self.inner.limits, latency.clone());
        Ok((scheduler.of(origin), latency))
    }

    fn start(
        &self,
        placement: Placement,
        params: &Params,
        log: Option<LogWriter>,
    ) -> Result<Running, Error> {
        let Inner { module, facts, limits, name, .. } = &*self.inner;
        let mut running = Running::start(module, facts, limits, placement, log)
            .map_err(|failed| failed.of(name))?;
        running.configure(params, name)?;
        Ok(running)
    }
}

fn check_size(file: &[u8], limits: &Limits) -> Result<(), Refusal> {
    if file.len() > limits.file_size {
        return Err(Refusal::FileTooLarge { size: file.len(), limit: limits.file_size });
    }
    Ok(())
}

/// What is known of a module without compiling it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// The version that its author gave it.
    pub label: Option<String>,
    /// SHA-256 of the file, in hexadecimal.
    pub digest: String,
    /// Size of the file in bytes.
    pub size: usize,
}

impl About {
    pub(crate) fn of(wasm: &[u8], limits: &Limits) -> Result<About, Refusal> {
        let label = check(wasm, limits)?.version;
        Ok(About { label, digest: digest(wasm), size: wasm.len() })
    }
}

/// SHA-256 in hexadecimal.
pub fn digest(wasm: &[u8]) -> String {
    Sha256::digest(wasm).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Debug for Plugin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Plugin")
            .field("name", &self.inner.name)
            .field("version", &self.inner.version)
            .field("digest", &self.inner.digest)
            .finish_non_exhaustive()
    }
}
