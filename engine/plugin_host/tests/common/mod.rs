//! Plugins in WebAssembly text, and servers to choose from.

#![allow(dead_code)] // each test file uses some of it

use dataplane::{Candidate, NewFlow, Scheduler};
use plugin_host::{Limits, Params, Placement, Plugin, PluginHost};
use std::net::Ipv4Addr;

pub const ALONE: Placement = Placement { worker: 0, workers: 1, seed: 1 };

pub const FLOW: NewFlow = NewFlow {
    source: Ipv4Addr::new(192, 168, 100, 11).to_ipv6_mapped().octets(),
    destination: Ipv4Addr::new(172, 17, 100, 100).to_ipv6_mapped().octets(),
    source_port: 40_000,
    destination_port: 80,
    protocol: 6,
};

pub const ABI_VERSION: &str = r#"(func (export "shunt_abi_version") (result i32) (i32.const 1))"#;
pub const INIT: &str =
    r#"(func (export "shunt_init") (param i32 i32 i64) (result i32) (i32.const 64))"#;
pub const SCHEDULE: &str = r#"(func (export "shunt_schedule") (result i32) (i32.const 0))"#;
pub const MEMORY: &str = r#"(memory (export "memory") 1)"#;
/// A table at 64 for 1024 servers at 4096, without load and flow.
pub const TABLE: &str =
    r#"(data (i32.const 64) "\01\00\00\00\00\00\00\00\00\04\00\00\00\10\00\00")"#;

/// A module of these fields.
pub fn module(fields: &[&str]) -> Vec<u8> {
    wat::parse_str(format!("(module {})", fields.join("\n"))).unwrap()
}

/// A module that keeps the contract, with these fields instead of `SCHEDULE`.
pub fn plugin(fields: &str) -> Vec<u8> {
    module(&[MEMORY, TABLE, ABI_VERSION, INIT, fields])
}

/// A module that keeps the contract, with this body of `shunt_schedule`.
pub fn schedule(body: &str) -> Vec<u8> {
    plugin(&format!(r#"(func (export "shunt_schedule") (result i32) {body})"#))
}

/// The words in memory from `address` on.
pub fn words(address: u32, words: &[u32]) -> String {
    let bytes: String = words
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .map(|byte| format!("\\{byte:02x}"))
        .collect();
    format!(r#"(data (i32.const {address}) "{bytes}")"#)
}

pub fn host() -> PluginHost {
    PluginHost::new(Limits::default()).unwrap()
}

pub fn load(wasm: &[u8]) -> Plugin {
    host().load("test", wasm).unwrap()
}

pub fn scheduler(wasm: &[u8]) -> Box<dyn Scheduler> {
    load(wasm).scheduler(ALONE, &Params::new()).unwrap().0
}

pub fn candidates(weights: &[u32]) -> Vec<Candidate> {
    (0u16..)
        .zip(weights)
        .map(|(slot, &weight)| {
            let [high, low] = slot.to_be_bytes();
            Candidate { address: Ipv4Addr::new(10, 0, high, low).into(), weight }
        })
        .collect()
}
