//! A failed call with all that it saw, to be looked into elsewhere.

use crate::wasm_scheduler::{FailedCall, Function, WasmScheduler};
use crate::{Error, Params, Placement};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use dataplane::{Failure, Instance, NewFlow};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use shunt_abi::{CAPACITY_MAX, export};
use std::any::Any;
use std::net::{IpAddr, Ipv6Addr};

/// The version of the format that is written.
const VERSION: u32 = 1;
/// Bytes of a page in a dump.
const PAGE: usize = 4096;
/// Linear memory ends there.
const MEMORY_MAX: usize = 1 << 32;

/// A call of a plugin that failed, and all that it saw. Written as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dump {
    /// Version of this format: 1.
    pub version: u32,
    /// The plugin's name.
    pub plugin: String,
    /// The version that its author gave it.
    pub label: Option<String>,
    /// SHA-256 of the module, in hexadecimal.
    pub digest: String,
    /// The service's parameters.
    pub params: Params,
    /// Where the instance worked.
    pub placement: Placement,
    /// The call.
    pub call: DumpedCall,
    /// By slot, the servers that the instance knew when it came back.
    pub servers: Vec<DumpedServer>,
    /// How often it was told of servers.
    pub generation: u32,
    /// What was in its memory when it came back: after the call, and if that did not end its work
    /// (an answer out of range), after those that followed.
    pub memory: DumpedMemory,
}

/// The call in a [`Dump`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DumpedCall {
    /// The function: one of those that are called on a worker.
    pub function: String,
    /// How it failed.
    #[serde(serialize_with = "write_failure", deserialize_with = "read_failure")]
    pub failure: Failure,
    /// What the engine says of a trap.
    pub trap: Option<String>,
    /// What the function answered, if it did.
    pub answer: Option<i32>,
    /// The flow, if the function was `shunt_schedule`.
    pub flow: Option<DumpedFlow>,
    /// What `now_ms` answered.
    pub now: u64,
    /// Random numbers drawn before the call.
    pub draws: u64,
    /// Calls of `shunt_schedule` before this one.
    pub calls_before: u64,
    /// Bytes of state that `shunt_restore` was given, 0 for the others.
    pub length: usize,
    /// Fuel that the call had.
    pub fuel: u64,
}

/// A flow in a [`Dump`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DumpedFlow {
    /// The client's address.
    pub source: IpAddr,
    /// The client's port.
    pub source_port: u16,
    /// The VIP.
    pub destination: IpAddr,
    /// The service's port.
    pub destination_port: u16,
    /// IP protocol number: 6 TCP, 17 UDP.
    pub protocol: u8,
}

/// A server in a [`Dump`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DumpedServer {
    /// Its address.
    pub address: IpAddr,
    /// Its weight.
    pub weight: u32,
    /// Its active connections, as the instance was told.
    pub active: u32,
    /// Its inactive connections, as the instance was told.
    pub inactive: u32,
}

/// Linear memory in a [`Dump`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DumpedMemory {
    /// All bytes.
    pub size: usize,
    /// The pages that are not all zeros, by address.
    pub pages: Vec<DumpedPage>,
}

/// A page of 4096 bytes in a [`DumpedMemory`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DumpedPage {
    /// Its address.
    pub at: usize,
    /// Its bytes, in base64.
    #[serde(serialize_with = "write_bytes", deserialize_with = "read_bytes")]
    pub bytes: Vec<u8>,
}

impl Dump {
    /// The last failed call of an instance that a worker has given back. `None` if none of its
    /// calls failed, and for a scheduler that is no plugin.
    pub fn of(instance: Box<Instance>) -> Option<Dump> {
        let scheduler: Box<dyn Any> = instance.into_scheduler();
        Dump::of_scheduler(scheduler.downcast_ref()?)
    }

    fn of_scheduler(scheduler: &WasmScheduler) -> Option<Dump> {
        let (failed, origin) = (scheduler.failed()?, scheduler.origin()?);
        let fuel = match failed.function {
            Function::Update => scheduler.update_fuel,
            _ => scheduler.schedule_fuel,
        };
        let servers = scheduler.servers().iter().map(|server| DumpedServer {
            address: address(server.address),
            weight: server.weight,
            active: server.active,
            inactive: server.inactive,
        });
        Some(Dump {
            version: VERSION,
            plugin: origin.plugin.name().to_owned(),
            label: origin.plugin.label().map(str::to_owned),
            digest: origin.plugin.digest().to_owned(),
            params: origin.params.clone(),
            placement: origin.placement,
            call: DumpedCall::of(failed, fuel),
            servers: servers.collect(),
            generation: scheduler.generation(),
            memory: DumpedMemory::of(scheduler.memory()),
        })
    }

    /// The dump as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and lists of them")
    }

    /// Reads a dump and checks all that a replay relies on.
    pub fn read(json: &[u8]) -> Result<Dump, Error> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let unreadable = |error: serde_json::Error| Error::Dump { reason: error.to_string() };
        let Versioned { version } = serde_json::from_slice(json).map_err(unreadable)?;
        if version != VERSION {
            let reason = format!("it has version {version} of the format and this is {VERSION}");
            return Err(Error::Dump { reason });
        }
        let dump: Dump = serde_json::from_slice(json).map_err(unreadable)?;
        dump.check().map_err(|reason| Error::Dump { reason })?;
        Ok(dump)
    }

    /// Whether the parts fit each other.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (call, memory) = (&self.call, &self.memory);
        let Some(function) = Function::named(&call.function) else {
            return Err(format!("there is no function {:?}", call.function));
        };
        if (function == Function::Schedule) != call.flow.is_some() {
            return Err(format!("{} and a flow do not go together", call.function));
        }
        if matches!(call.failure, Failure::Declined | Failure::Benched) {
            return Err(format!("no call fails by being {}", call.failure.name()));
        }
        if self.servers.len() > CAPACITY_MAX {
            return Err(format!("a table has no {} servers", self.servers.len()));
        }
        if memory.size > MEMORY_MAX || call.length > memory.size {
            return Err(format!("{} bytes are not in the memory", memory.size.max(call.length)));
        }
        let mut end = 0;
        for page in &memory.pages {
            let fits = page.at >= end && page.at.is_multiple_of(PAGE) && page.bytes.len() == PAGE;
            end = page.at.saturating_add(PAGE);
            if !fits || end > memory.size {
                return Err(format!("there is no page at {}", page.at));
            }
        }
        Ok(())
    }
}

impl DumpedCall {
    fn of(failed: &FailedCall, fuel: u64) -> DumpedCall {
        DumpedCall {
            function: failed.function.name().to_owned(),
            failure: failed.failure,
            trap: failed.trap.map(|trap| trap.to_string()),
            answer: failed.answer,
            flow: (failed.function == Function::Schedule).then(|| DumpedFlow::of(&failed.flow)),
            now: failed.now,
            draws: failed.draws,
            calls_before: failed.calls_before,
            length: failed.length,
            fuel,
        }
    }
}

impl DumpedFlow {
    fn of(flow: &NewFlow) -> DumpedFlow {
        DumpedFlow {
            source: address(flow.source),
            source_port: flow.source_port,
            destination: address(flow.destination),
            destination_port: flow.destination_port,
            protocol: flow.protocol,
        }
    }

    /// The flow as a plugin sees it.
    pub fn new_flow(&self) -> NewFlow {
        NewFlow {
            source: octets(self.source),
            destination: octets(self.destination),
            source_port: self.source_port,
            destination_port: self.destination_port,
            protocol: self.protocol,
        }
    }
}

impl DumpedMemory {
    fn of(memory: &[u8]) -> DumpedMemory {
        let (pages, _) = memory.as_chunks::<PAGE>();
        let pages = pages.iter().enumerate().filter(|(_, bytes)| bytes.iter().any(|&b| b != 0));
        DumpedMemory {
            size: memory.len(),
            pages: pages
                .map(|(page, bytes)| DumpedPage { at: page * PAGE, bytes: bytes.to_vec() })
                .collect(),
        }
    }

    /// Puts it in the place of a memory of the same size.
    pub(crate) fn put(&self, memory: &mut [u8]) {
        memory.fill(0);
        for page in &self.pages {
            memory[page.at..page.at + PAGE].copy_from_slice(&page.bytes);
        }
    }
}

impl Function {
    const ALL: [Function; 4] =
        [Function::Schedule, Function::Update, Function::Save, Function::Restore];

    /// The export.
    pub fn name(self) -> &'static str {
        match self {
            Function::Schedule => export::SCHEDULE,
            Function::Update => export::UPDATE,
            Function::Save => export::SAVE,
            Function::Restore => export::RESTORE,
        }
    }

    /// The function of this name.
    pub fn named(name: &str) -> Option<Function> {
        Function::ALL.into_iter().find(|function| function.name() == name)
    }
}

/// The address that the ABI writes in these bytes.
fn address(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

pub(crate) fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn write_failure<S: Serializer>(failure: &Failure, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(failure.name())
}

fn read_failure<'de, D: Deserializer<'de>>(from: D) -> Result<Failure, D::Error> {
    let name = String::deserialize(from)?;
    let failure = Failure::ALL.into_iter().find(|failure| failure.name() == name);
    failure.ok_or_else(|| de::Error::custom(format!("there is no failure {name:?}")))
}

fn write_bytes<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&BASE64_STANDARD.encode(bytes))
}

fn read_bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(from)?;
    BASE64_STANDARD.decode(text).map_err(de::Error::custom)
}
