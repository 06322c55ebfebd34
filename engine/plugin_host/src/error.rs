//! What can go wrong on the control thread, and what to do about it.

use shunt_abi::{ABI_VERSION, CAPACITY_MAX};
use std::time::Duration;

/// Why a plugin cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The engine does not start with these limits.
    #[error("the WebAssembly engine does not start with these limits: {reason}")]
    Engine {
        /// What it says.
        reason: String,
    },
    /// No stock plugin has this name.
    #[error("no stock plugin is called {name:?}; there are {}", crate::STOCK.join(", "))]
    UnknownStock {
        /// The name asked for.
        name: String,
    },
    /// The plugin breaks the contract.
    #[error("plugin {plugin}: {refusal}")]
    Refused {
        /// The plugin's name.
        plugin: String,
        /// What its author has to change.
        refusal: Refusal,
    },
    /// The plugin does not take these parameters.
    #[error("plugin {plugin}: {reason}")]
    Params {
        /// The plugin's name.
        plugin: String,
        /// Why, and what to change: in the plugin's own words where it has some.
        reason: String,
    },
    /// A dump cannot be read.
    #[error("this is no dump of a failed call ({reason}): copy the whole file, or dump it again")]
    Dump {
        /// What is wrong with it.
        reason: String,
    },
    /// The compiler still works on a plugin that took too long.
    #[error(
        "plugin {plugin}: the compiler is still busy with an earlier plugin that took too long: \
         load this one again in a while"
    )]
    CompilerBusy {
        /// The plugin's name.
        plugin: String,
    },
    /// There is no room for all the instances that are needed.
    #[error("there is no room for all instances: {reason}")]
    NoRoom {
        /// Which limit is in the way, and what raises it.
        reason: String,
    },
    /// There is no room for another instance.
    #[error(
        "plugin {plugin}: no room for another instance ({reason}): each takes 4.1 GiB of address \
         space, so raise `ulimit -v` and vm.max_map_count"
    )]
    Instantiate {
        /// The plugin's name.
        plugin: String,
        /// What the engine says.
        reason: String,
    },
}

/// How a plugin breaks the contract, in one sentence that tells its author what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The file is too large.
    #[error(
        "the file has {size} bytes and the limit is {limit}: strip names and debug information \
         from it, or raise the limit"
    )]
    FileTooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The file is WebAssembly text with a mistake in it.
    #[error("the file is WebAssembly text with a mistake in it ({reason}): mend it")]
    Text {
        /// What and where.
        reason: String,
    },
    /// The file is something else.
    #[error(
        "the file is no WebAssembly module, which would begin with \\0asm and version 1: build a \
         cdylib for wasm32-unknown-unknown"
    )]
    NotWasm,
    /// The file is a component.
    #[error(
        "the file is a component and a plugin is a core module: build it for \
         wasm32-unknown-unknown and leave the component tools out"
    )]
    Component,
    /// The module is damaged, or uses a proposal that is off.
    #[error(
        "the module is damaged or uses a WebAssembly feature that shunt leaves out ({reason}): \
         build it again for WebAssembly 2.0 and copy the whole file"
    )]
    Malformed {
        /// What the engine says.
        reason: String,
    },
    /// Compiling takes too long.
    #[error(
        "compiling it takes longer than {limit:?}: make its largest function ({largest_function} \
         of its {size} bytes) smaller, or raise the limit"
    )]
    CompileTime {
        /// The limit.
        limit: Duration,
        /// Size of the module in bytes.
        size: usize,
        /// Size of its largest function in bytes.
        largest_function: usize,
    },
    /// The compiler gives up.
    #[error("the compiler fails on it ({reason}): report that, and build it with other flags")]
    Compiler {
        /// What it says.
        reason: String,
    },
    /// The module imports something that there is not.
    #[error(
        "it imports {name} from {module} and there are only log, now_ms and random from shunt: \
         remove it, and build without WASI"
    )]
    Import {
        /// The module that it names.
        module: String,
        /// The item that it names.
        name: String,
    },
    /// An import is not what it should be.
    #[error(
        "its import {name} is {found}: make it {expected} (there are log: (i32, i32) -> (), \
         now_ms: () -> i64 and random: () -> i64)"
    )]
    WrongImport {
        /// The import's name.
        name: &'static str,
        /// What it has to be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// An export is missing.
    #[error("it has no export {name}: export it as {expected}")]
    MissingExport {
        /// The export's name.
        name: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
    /// An export is not what it should be.
    #[error("its export {name} is {found}: make it {expected}")]
    WrongExport {
        /// The export's name.
        name: &'static str,
        /// What it has to be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// The memory has 64-bit addresses.
    #[error("its memory has 64-bit addresses: build it for wasm32")]
    Memory64,
    /// The memory is shared.
    #[error("its memory is shared: build it without threads and atomics")]
    SharedMemory,
    /// The memory is too large.
    #[error(
        "its memory has {declared} bytes from the start and the limit is {limit}: declare less \
         (static data and the linker's -zstack-size count), or raise the limit"
    )]
    MemoryTooLarge {
        /// Its size at the start in bytes.
        declared: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// The tables are too large.
    #[error(
        "its tables have {declared} elements from the start and the limit is {limit}: declare \
         fewer, or raise the limit"
    )]
    TableTooLarge {
        /// Elements of all tables at the start.
        declared: u64,
        /// The limit.
        limit: usize,
    },
    /// The custom section with the version holds something else.
    #[error("its custom section shunt.version is not 1 to 64 printable ASCII characters: mend it")]
    VersionSection,
    /// The plugin follows another version of the ABI.
    #[error(
        "it follows version {found} of the ABI and this shunt has version {ABI_VERSION}: build it \
         with an SDK of version {ABI_VERSION}"
    )]
    AbiVersion {
        /// The version.
        found: u32,
    },
    /// A function that runs at load time does not end.
    #[error(
        "{function} did not end within its {fuel} units of fuel: make it do less, or end at all"
    )]
    OutOfFuel {
        /// The function.
        function: &'static str,
        /// Its fuel.
        fuel: u64,
    },
    /// A function that runs at load time traps.
    #[error("{function} trapped ({trap}): mend it so that it returns")]
    Trap {
        /// The function.
        function: &'static str,
        /// The trap.
        trap: String,
    },
    /// A record is not within the memory.
    #[error(
        "its {record} at address {address} reaches beyond its {memory} bytes of memory: give the \
         address of static memory"
    )]
    OutOfBounds {
        /// The record.
        record: &'static str,
        /// Its address.
        address: u32,
        /// Size of the memory in bytes.
        memory: usize,
    },
    /// A record is not aligned.
    #[error("its {record} at address {address} is not aligned: align it to {alignment} bytes")]
    Misaligned {
        /// The record.
        record: &'static str,
        /// Its address.
        address: u32,
        /// The alignment in bytes.
        alignment: usize,
    },
    /// The capacity is of no use.
    #[error("its table has a capacity of {capacity}: make it 1 to {CAPACITY_MAX}")]
    Capacity {
        /// The capacity in slots.
        capacity: u32,
    },
    /// Room for bytes that is none, or too much.
    #[error("its {record} has {capacity} bytes: make it 1 to {limit}")]
    Room {
        /// What it is for.
        record: &'static str,
        /// How many bytes.
        capacity: u32,
        /// The most that it may have.
        limit: usize,
    },
    /// It wants something that this version does not have.
    #[error(
        "its table wants {wants:#x} and version {ABI_VERSION} knows no bit but 0: clear the others"
    )]
    Wants {
        /// The field.
        wants: u32,
    },
}
